"""Traces become the trajectories a rollout would have recorded, and come back from disk exactly."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from pixelis_fast.agent import AgentConfig, build_agent
from pixelis_fast.crops import outer_box
from pixelis_fast.data.cota import CotaTurn
from pixelis_fast.data.pixelworld.config import PixelWorldConfig
from pixelis_fast.data.pixelworld.world import PixelWorld
from pixelis_fast.data.plans import restated, restating, rounded, shaken, timed, weighing
from pixelis_fast.data.prepare import prepare, stored
from pixelis_fast.data.prepared import (
    EXAMPLES,
    PIXELS,
    UNKNOWN,
    Example,
    Prepared,
    PreparedWriter,
    labels_of,
)
from pixelis_fast.data.preparer import PrepareConfig, Preparer
from pixelis_fast.data.siblings import siblings
from pixelis_fast.data.traces import TraceBuilder
from pixelis_fast.data.traps import moved
from pixelis_fast.imitation import RoleWeights, token_weights
from pixelis_fast.policy.image import Patches
from pixelis_fast.policy.limits import PatchShape
from pixelis_fast.prompt import PromptBuilder
from pixelis_fast.rollout import RolloutConfig
from pixelis_fast.schemas import TOOL_SCHEMAS
from pixelis_fast.script import Script
from pixelis_fast.types import (
    Observation,
    Sample,
    Step,
    TokenRole,
    ToolCall,
    Trajectory,
    VisionSpan,
)
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
    labels = np.arange(count * 11).reshape(count, 11)
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
    found = labels_of(data, [crop, sample.media[0].id], 3, 2)
    assert (found.kinds_ML[:-count] == UNKNOWN).all()
    assert (found.boxes_MT4[:-count] < 0).all()
    assert torch.equal(found.kinds_ML[-count:], torch.from_numpy(labels[:, :3]))
    torch.testing.assert_close(
        found.boxes_MT4[-count:].flatten(1), torch.from_numpy(labels[:, 3:]).float() / 1000
    )
    with pytest.raises(ValueError, match="prepare the examples again"):
        labels_of(data, [sample.media[0].id], 5, 2)
    second = found.cells_M4[-count + 1].tolist()
    assert second == pytest.approx([1.5 / columns, 0.5 / rows, 1 / columns, 1 / rows])


def test_what_is_told_of_a_call_takes_the_place_of_running_it(builder, sample):
    turns = [replace(turn, observation=None) for turn in TURNS[:1]]
    said = '{"told":1}'
    built = builder.build(sample, turns, answer="3", told=[Observation(said)])
    assert [step.observation for step in built.steps] == [Observation(said), None]
    with pytest.raises(ValueError, match="told: expected one per call that is run, got 2"):
        builder.build(sample, turns, answer="3", told=[Observation(said)] * 2)


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


def test_an_interrupted_task_is_left_out_and_no_picture_is_torn(agent, builder, sample, tmp_path):
    built = builder.build(sample, TURNS[:1], answer=None)
    example = Example(built, (True,), "count", 0.5)

    on_disk = []

    def writer() -> PreparedWriter:
        return PreparedWriter(tmp_path, header={"policy": "p"}, patch=PatchShape())

    def interrupted() -> None:
        with writer() as out:
            for number in range(2):
                out.add(example, agent.views.patches, number=number)
                on_disk.append((tmp_path / PIXELS).stat().st_size)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert on_disk == [(tmp_path / PIXELS).stat().st_size] * 2
    assert on_disk[0] > 0
    assert len(Prepared([tmp_path], PatchShape()).examples) == 1
    with writer() as out:
        assert out.last_number == 0


def test_both_frames_of_a_short_video_are_kept(tmp_path):
    drawn = torch.randint(256, (2, 4, 3, 2, 256), generator=torch.Generator().manual_seed(0))
    drawn[1, :, :, 1] = drawn[1, :, :, 0]
    shown = {
        name: Patches(((pixels / 255 - 0.5) / 0.5).view(4, -1), (1, 2, 2), 2)
        for name, pixels in zip(("video", "picture"), drawn, strict=True)
    }
    spans = [VisionSpan(place, 1, name, (1, 2, 2)) for place, name in enumerate(shown)]
    trajectory = Trajectory(Sample("1", (), "?"), policy_version="", seed=0, spans=spans)
    with PreparedWriter(tmp_path, header={}, patch=PatchShape()) as out:
        out.add(Example(trajectory, (), "", 0.0), shown.__getitem__, number=0)
    data = Prepared([tmp_path], PatchShape())
    assert [data.pictures[name].still for name in shown] == [False, True]
    for name, patches in shown.items():
        torch.testing.assert_close(
            data.patches(name).patches_PK, patches.patches_PK, atol=1e-6, rtol=0
        )


def test_pixelworld_is_prepared_and_goes_on_where_it_stopped(tmp_path):
    config = PrepareConfig(whole=4, grounding=4, seed=3)
    prepare(tmp_path / "once", config, PLAIN)
    prepare(tmp_path / "twice", PrepareConfig(whole=2, grounding=2, seed=3), PLAIN)
    prepare(tmp_path / "twice", config, PLAIN)
    once, twice = (Prepared([tmp_path / name], PatchShape()) for name in ("once", "twice"))
    assert [e.trajectory.ids for e in once.examples] == [e.trajectory.ids for e in twice.examples]
    counts = [
        json.loads((tmp_path / name / "counts.json").read_text()) for name in ("once", "twice")
    ]
    assert counts[0] == counts[1]
    assert sum(counts[0].values()) - counts[0]["grounding"] == 4
    assert counts[0]["grounding"] == sum(not e.is_whole for e in once.examples)
    assert any(e.is_whole for e in once.examples)
    assert sum(not e.is_whole for e in once.examples) >= 4


@pytest.mark.parametrize("other", [{"trap_share": 0.5}, {"whole": 0}, {"asked_per_picture": 1}])
def test_a_folder_is_not_gone_on_with_by_another_recipe(tmp_path, other):
    config = PrepareConfig(whole=1, grounding=1)
    prepare(tmp_path, config, PLAIN)
    with pytest.raises(ValueError, match="expected the header"):
        prepare(tmp_path, replace(config, **other), PLAIN)


def test_every_family_gives_whole_chains_whose_calls_are_the_plans():
    preparer = Preparer(PrepareConfig(trap_share=0.0))
    world = PixelWorld(PixelWorldConfig(backgrounds="procedural", families={"read": 1.0}))
    task = world.task("train", 0)
    media = stored(preparer.tools, task)
    example = preparer.whole(task, media)
    assert example is not None
    assert example.trajectory.answer == task.answer
    # What was read is what is answered: the observation shows the answer.
    assert task.answer in example.trajectory.steps[-2].observation.text


@pytest.mark.parametrize("family", ["count", "spatial"])
def test_a_wide_look_wants_a_closer_one_and_that_gives_the_answer(family):
    config = PixelWorldConfig(backgrounds="procedural", families={family: 1.0})
    task = PixelWorld(config).task("train", 0)
    preparer = Preparer(PrepareConfig(close=1))
    found = list(preparer.close(task, stored(preparer.tools, task)))
    panel = task.evidence[0].box
    asked = len(list(siblings(task)))
    assert len(found) == 3 * (2 + asked)
    for example, view in found:
        assert holds(view, panel)
        assert len(example.trajectory.steps) == 1
        assert not example.is_whole
        assert example.trajectory.sample.media[0].width < task.frames.shape[2]
    for first in range(0, len(found), 2 + asked):
        (wide, around), (closer, inside), *near = found[first : first + 2 + asked]
        assert area(inside) < area(around) / 3 < 50_000
        for (close, view), one in zip(near, siblings(task), strict=True):
            assert area(view) < 0.8 * area(inside)
            assert close.trajectory.answer == one.answer
        for example, view in ((wide, around), (closer, inside)):
            [step] = example.trajectory.steps
            assert holds(outer_box(view, tuple(step.call.arguments["box"])), panel)


def holds(view, box) -> bool:
    return view[0] <= box[0] and view[1] <= box[1] and view[2] >= box[2] and view[3] >= box[3]


def area(box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


@pytest.mark.parametrize("family", ["count", "spatial"])
@pytest.mark.parametrize("trap_share", [0.0, 1.0])
def test_a_chain_about_a_panel_ends_with_a_look_inside_the_crop_before(family, trap_share):
    world = PixelWorld(PixelWorldConfig(backgrounds="procedural", families={family: 1.0}))
    preparer = Preparer(PrepareConfig(whole=4, trap_share=trap_share))
    for number in range(4):
        task = world.task("train", number)
        trajectory = preparer.whole(task, stored(preparer.tools, task)).trajectory
        *before, around, closer, last = [step for step in trajectory.steps if step.observation]
        zooms = [step for step in (*before, around, closer) if step.call.operation == "zoom"]
        assert (closer.call.crop, last.call.crop) == (len(zooms) - 2, len(zooms) - 1)
        views = [json.loads(s.observation.text)["view"] for s in (around, closer, last)]
        assert all(holds(view, task.evidence[0].box) for view in views)
        assert area(views[1]) < area(views[0]) / 2
        assert area(views[2]) < 0.8 * area(views[1])


@pytest.mark.parametrize("family", ["read", "multi"])
@pytest.mark.parametrize("trap_share", [0.0, 1.0])
def test_a_sign_is_read_in_the_crop_before(family, trap_share):
    world = PixelWorld(PixelWorldConfig(backgrounds="procedural", families={family: 1.0}))
    preparer = Preparer(PrepareConfig(whole=4, trap_share=trap_share))
    for number in range(4):
        task = world.task("train", number)
        trajectory = preparer.whole(task, stored(preparer.tools, task)).trajectory
        *before, look, read = [step for step in trajectory.steps if step.observation]
        zooms = [step for step in (*before, look) if step.call.operation == "zoom"]
        assert (look.call.operation, read.call.operation) == ("zoom", "read_text")
        assert read.call.crop == len(zooms) - 1
        assert holds(read.call.arguments["box"], task.evidence[-1].box)
        assert task.answer in read.observation.text


def test_a_wide_crop_wants_the_sign_in_it_to_be_read():
    config = PixelWorldConfig(backgrounds="procedural", families={"read": 1.0})
    task = PixelWorld(config).task("train", 0)
    preparer = Preparer(PrepareConfig(close=1))
    found = list(preparer.close(task, stored(preparer.tools, task)))
    assert len(found) == 3
    for example, view in found:
        [step] = example.trajectory.steps
        assert step.call.operation == "read_text"
        box = outer_box(view, tuple(step.call.arguments["box"]))
        assert holds(box, task.evidence[0].box)
        assert area(box) < area(view) / 2


def test_a_shaken_box_moves_and_what_lies_in_it_stays_shown():
    call, rng = (
        ToolCall("zoom", {"media": 0, "box": [410, 400, 440, 430]}),
        np.random.default_rng(0),
    )
    views = {tuple(rounded(shaken(call, rng)).arguments["box"]) for _ in range(20)}
    assert len(views) > 3
    assert all(x0 <= 410 and y0 <= 400 and x1 >= 440 and y1 >= 430 for x0, y0, x1, y1 in views)


def test_close_looks_are_labelled_by_what_they_show(tmp_path):
    world = PixelWorldConfig(backgrounds="procedural", families={"spatial": 1.0})
    prepare(tmp_path, PrepareConfig(whole=0, grounding=0, close=3), world)
    data = Prepared([tmp_path], PatchShape())
    # Three times three crops of each: two that want a closer look, and a near one with a question
    # about every glyph.
    assert len(data.examples) == 3 * 3 * 5
    # A panel is in each crop: one of its tokens says so.
    assert all(any(row[2] > 0 for row in stored.labels) for stored in data.pictures.values())


def test_a_task_whose_answer_no_crop_shows_has_no_close_look():
    config = PixelWorldConfig(backgrounds="procedural", families={"compare": 1.0})
    task = PixelWorld(config).task("train", 0)
    preparer = Preparer(PrepareConfig(close=1))
    assert list(preparer.close(task, stored(preparer.tools, task))) == []


def test_coordinates_are_rounded_so_that_the_target_stays_inside():
    call = rounded(ToolCall("zoom", {"media": 0, "box": [101, 209, 991, 993]}))
    assert call.arguments["box"] == [50, 150, 1000, 1000]
    track = ToolCall("track", {"media": 0, "box": [101, 209, 391, 493], "start": 0.0, "end": 1.0})
    assert rounded(track).arguments["box"] == [100, 200, 400, 500]
    point = rounded(ToolCall("segment", {"media": 0, "point": [24, 996]})).arguments["point"]
    assert point == [0, 1000]


def test_turns_behind_the_first_repeat_what_was_asked():
    call = ToolCall("zoom", {"media": 0, "box": [0, 0, 500, 500]})
    turns = [CotaTurn("i look", call), CotaTurn("i look again", call)]
    assert [t.thought for t in restating(turns, "how many?")] == [
        "i look",
        "how many?\ni look again",
    ]
    assert restating([], "how many?") == []


def test_who_chooses_by_area_says_the_areas_first():
    look = ToolCall("zoom", {"media": 0, "box": [0, 0, 500, 500]})
    mask = ToolCall("segment", {"media": 0, "point": [5, 5]})
    turns = restating([CotaTurn("one", mask), CotaTurn("two", mask), CotaTurn("see", look)], "q?")
    seen = [f'{{"mask":{n},"area":{area}}}' for n, area in enumerate((5.8, 10.3))]
    made = Trajectory(Sample("1", (), "q?"), policy_version="", seed=0)
    made.steps = [Step(0, 0, None, Observation(text)) for text in (*seen, '{"view":[0,0,9,9]}')]
    made.steps.append(Step(0, 0))
    weighed, thought = weighing(turns, restated("q?"), "q?", made)
    assert [turn.thought for turn in weighed] == ["one", "q?\ntwo", "q?\n5.8 10.3 the second\nsee"]
    assert thought == "q?\n5.8 10.3 the second\n"
    made.steps = made.steps[1:]
    assert weighing(turns, restated("q?"), "q?", made) == (turns, "q?\n"), "one mask is no choice"


def test_no_time_lies_behind_the_last_that_is_printed():
    arguments = {"media": 0, "box": [0, 0, 500, 500], "start": 1.5, "end": 3.1}
    track = ToolCall("track", arguments)
    assert timed(track, (0.14, 1.62, 2.96)).arguments == arguments | {"end": 3.0}
    still = ToolCall("zoom", {"media": 0, "box": [0, 0, 500, 500]})
    assert timed(still, ()) == still


def test_a_moment_is_one_that_is_printed():
    arguments = {"media": 0, "event": "appearance", "box": [0, 0, 500, 500]}
    found = timed(ToolCall("localize", arguments | {"time": 1.5}), (0.14, 1.62, 2.96))
    assert found.arguments == arguments | {"time": 1.6}


def test_a_moved_box_keeps_its_size_and_leaves_the_place():
    rng = np.random.default_rng(0)
    for _ in range(50):
        x0, y0, x1, y1 = moved([200, 300, 420, 380], rng)
        assert (x1 - x0, y1 - y0) == (220, 80)
        assert x0 >= 420 or x1 <= 200 or y0 >= 380 or y1 <= 300
        assert min(x0, y0) >= 0
        assert max(x1, y1) <= 1000
