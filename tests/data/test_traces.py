"""Traces become the trajectories a rollout would have recorded, and come back from disk exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pixelis_fast.agent import AgentConfig, build_agent
from pixelis_fast.data.cota import CotaTurn
from pixelis_fast.data.pixelworld.config import PixelWorldConfig
from pixelis_fast.data.pixelworld.world import PixelWorld
from pixelis_fast.data.prepare import (
    PrepareConfig,
    Preparer,
    cell_labels,
    cell_shares,
    prepare,
    rounded,
)
from pixelis_fast.data.prepared import (
    EXAMPLES,
    UNKNOWN,
    Example,
    Prepared,
    PreparedWriter,
    labels_of,
)
from pixelis_fast.data.traces import TraceBuilder
from pixelis_fast.data.traps import moved
from pixelis_fast.imitation import RoleWeights, token_weights
from pixelis_fast.policy.limits import PatchShape
from pixelis_fast.prompt import PromptBuilder
from pixelis_fast.rollout import RolloutConfig
from pixelis_fast.schemas import TOOL_SCHEMAS
from pixelis_fast.script import Script
from pixelis_fast.types import Sample, TokenRole, ToolCall
from tests.media import picture

TURNS = (
    CotaTurn("i look", ToolCall("zoom", {"media": 0, "box": [100, 100, 400, 400]})),
    CotaTurn("i segment it", ToolCall("segment", {"media": 0, "box": [60, 60, 220, 260]})),
)
PLAIN = PixelWorldConfig(backgrounds="procedural")


@pytest.fixture(scope="module")
def agent():
    config = AgentConfig(
        policy="pixelworld-5m", random_weights=True, rollout=RolloutConfig(overlap=False)
    )
    return build_agent(config)


@pytest.fixture(scope="module")
def builder(agent):
    prompt = PromptBuilder(agent.tokenizer, TOOL_SCHEMAS)
    return TraceBuilder(agent.tokenizer, prompt=prompt, views=agent.views, tools=agent.tools)


@pytest.fixture(scope="module")
def sample(agent):
    return Sample("1", (agent.tools.add_media(picture("coins.png")),), "how many?", answer="24")


def test_a_trace_is_what_the_loop_records(agent, builder, sample):
    built = builder.build(sample, TURNS, answer="24", thought="so")
    said = [i for step in built.steps for i in built.ids[step.start : step.end]]
    [rolled] = agent.rollout.run([sample], make_chooser=lambda index: Script(said))
    for name in ("ids", "roles", "spans", "answer", "status"):
        assert getattr(built, name) == getattr(rolled, name), name
    assert [s.call for s in built.steps] == [s.call for s in rolled.steps]
    texts = [s.observation.text for s in built.steps[:-1]]
    assert texts == [s.observation.text for s in rolled.steps[:-1]]


def test_without_an_answer_the_last_call_is_not_run(builder, sample):
    built = builder.build(sample, TURNS, answer=None)
    assert built.steps[0].observation is not None
    assert built.steps[1].observation is None
    assert built.steps[-1].end == len(built.ids)
    assert built.answer is None


def test_a_records_own_observation_is_shown(agent, builder, sample):
    turn = CotaTurn("i read", ToolCall("read_text", {"media": 0}), '{"lines":[]}')
    built = builder.build(sample, [turn], answer="none")
    step = built.steps[0]
    assert '{"lines":[]}' in agent.tokenizer.decode(built.ids[step.end : built.steps[1].start])


def test_weights_follow_roles_and_leave_traps_out(builder, sample):
    built = builder.build(sample, TURNS, answer="24", thought="so")
    found = token_weights(built, (False, True, True), RoleWeights())
    first, second = built.steps[0], built.steps[1]
    assert not any(found[: second.start])
    assert found[first.start : first.end] == [0.0] * (first.end - first.start)
    pairs = list(zip(found[second.start :], built.roles[second.start :], strict=True))
    by_role = {role: {w for w, r in pairs if r is role} for role in TokenRole}
    assert by_role[TokenRole.THOUGHT] == {1.0}
    assert by_role[TokenRole.OPERATION] == by_role[TokenRole.ARGUMENT] == {2.0}
    assert by_role[TokenRole.ANSWER] == {1.5}
    assert by_role[TokenRole.OBSERVATION] == {0.0}
    with pytest.raises(ValueError, match=r"imitated: expected one per step \(3\), got 1"):
        token_weights(built, (True,), RoleWeights())


def test_examples_come_back_exactly(agent, builder, sample, tmp_path):
    built = builder.build(sample, TURNS, answer="24")
    grid = agent.views.grid_thw(sample.media[0])
    rows, columns = grid[1] // 2, grid[2] // 2
    count = rows * columns
    labels = np.arange(count * 6).reshape(count, 6)
    with PreparedWriter(tmp_path, header={"policy": "p"}, patch=PatchShape()) as out:
        example = Example(built, (True, True, True), "count", 0.5)
        known = {sample.media[0].id: labels}
        out.add(example, agent.views.patches, labels=known, number=0)
    data = Prepared([tmp_path], PatchShape())
    [back] = data.examples
    assert back.imitated == (True, True, True)
    for name in ("ids", "roles", "spans", "steps", "sample", "answer"):
        left, right = getattr(back.trajectory, name), getattr(built, name)
        if name == "steps":
            left, right = (
                [(s.start, s.end, s.call) for s in left],
                [(s.start, s.end, s.call) for s in right],
            )
        assert left == right, name
    for media_id in {span.media_id for span in built.spans}:
        one, other = data.patches(media_id), agent.views.patches(media_id)
        assert one.grid_thw == other.grid_thw
        torch.testing.assert_close(one.patches_PK, other.patches_PK, atol=1e-6, rtol=0)
    crop = next(s.media_id for s in built.spans if s.media_id != sample.media[0].id)
    found = labels_of(data, [crop, sample.media[0].id], 2, 2)
    assert (found.kinds_ML[:-count] == UNKNOWN).all()
    assert (found.boxes_M4[:-count] < 0).all()
    assert torch.equal(found.kinds_ML[-count:], torch.from_numpy(labels[:, :2]))
    torch.testing.assert_close(
        found.boxes_M4[-count:], torch.from_numpy(labels[:, 2:]).float() / 1000
    )
    second = found.cells_M4[-count + 1].tolist()
    assert second == pytest.approx([1.5 / columns, 0.5 / rows, 1 / columns, 1 / rows])


def test_a_torn_line_is_cut_and_writing_goes_on(agent, builder, sample, tmp_path):
    built = builder.build(sample, TURNS[:1], answer=None)
    example = Example(built, (True,), "count", 0.5)

    def write(number: int) -> None:
        with PreparedWriter(tmp_path, header={"policy": "p"}, patch=PatchShape()) as out:
            out.add(example, agent.views.patches, number=number)

    write(3)
    with (tmp_path / EXAMPLES).open("a") as file:
        file.write('{"torn": ')
    with (tmp_path / "pixels.bin").open("ab") as file:
        file.write(b"torn")
    write(4)
    data = Prepared([tmp_path], PatchShape())
    assert len(data.examples) == 2
    with PreparedWriter(tmp_path, header={"policy": "p"}, patch=PatchShape()) as out:
        assert out.last_number == 4
    with pytest.raises(ValueError, match="expected the header"):
        PreparedWriter(tmp_path, header={"policy": "q"}, patch=PatchShape())


def test_pixelworld_is_prepared_and_goes_on_where_it_stopped(tmp_path):
    config = PrepareConfig(whole=4, grounding=4, seed=3)
    prepare(tmp_path / "once", config, PLAIN)
    prepare(tmp_path / "twice", PrepareConfig(whole=2, grounding=2, seed=3), PLAIN)
    prepare(tmp_path / "twice", config, PLAIN)
    once, twice = (Prepared([tmp_path / name], PatchShape()) for name in ("once", "twice"))
    assert [e.trajectory.ids for e in once.examples] == [e.trajectory.ids for e in twice.examples]
    assert any(e.is_whole for e in once.examples)
    assert sum(not e.is_whole for e in once.examples) >= 4


def test_every_family_gives_whole_chains_whose_calls_are_the_plans():
    preparer = Preparer(PrepareConfig(trap_share=0.0))
    world = PixelWorld(PixelWorldConfig(backgrounds="procedural", families={"read": 1.0}))
    from pixelis_fast.data.prepare import stored

    task = world.task("train", 0)
    media = stored(preparer.tools, task)
    example = preparer.whole(task, media)
    assert example is not None
    assert example.trajectory.answer == task.answer
    # What was read is what is answered: the observation shows the answer.
    assert task.answer in example.trajectory.steps[-2].observation.text


def test_coordinates_are_rounded_so_that_the_target_stays_inside():
    call = rounded(ToolCall("zoom", {"media": 0, "box": [101, 209, 991, 993]}))
    assert call.arguments["box"] == [80, 180, 1000, 1000]
    track = ToolCall("track", {"media": 0, "box": [101, 209, 391, 493], "start": 0.0, "end": 1.0})
    assert rounded(track).arguments["box"] == [100, 200, 400, 500]
    assert rounded(ToolCall("segment", {"media": 0, "point": [14, 996]})).arguments["point"] == [
        10,
        1000,
    ]


def test_a_moved_box_keeps_its_size_and_leaves_the_place():
    rng = np.random.default_rng(0)
    for _ in range(50):
        x0, y0, x1, y1 = moved([200, 300, 420, 380], rng)
        assert (x1 - x0, y1 - y0) == (220, 80)
        assert x0 >= 420 or x1 <= 200 or y0 >= 380 or y1 <= 300
        assert min(x0, y0) >= 0
        assert max(x1, y1) <= 1000


def test_cells_are_labelled_by_what_covers_them():
    shares = cell_shares((250, 0, 750, 500), 2, 4)
    assert shares.tolist() == [[0.0, 1.0, 1.0, 0.0], [0.0] * 4]
    task = PixelWorld(PixelWorldConfig(backgrounds="procedural", families={"compare": 1.0})).task(
        "train", 1
    )
    labels = cell_labels(task, 6, 6)
    assert labels.shape == (36, 6)
    shown = labels[:, 0] > 0
    assert shown.sum() >= 2
    assert (labels[~shown, 2:] == UNKNOWN).all()
    centres = {((t.box[0] + t.box[2]) // 2, (t.box[1] + t.box[3]) // 2) for t in task.objects}
    assert {tuple(row) for row in labels[shown, 2:4].tolist()} <= centres
