"""R(τ) part by part: what counts as invalid, what repetition is worth, when stages change."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixelis_fast.dynamics import Dynamics
from pixelis_fast.reproduce.budget import BUDGETS
from pixelis_fast.reward_stages import Stages, StagesConfig
from pixelis_fast.rewards import RewardConfig, Stage, invalid_share, score_group
from pixelis_fast.types import RewardParts, Trajectory
from tests.reward_chains import (
    READ,
    SIZE,
    TRACK,
    VIDEO,
    ZOOM,
    chain,
    direction,
    noise,
    refused,
    unparsed,
    valid,
)


def score(
    trajectory: Trajectory, config: RewardConfig | None = None, stage: Stage = Stage.CURIOSITY
) -> RewardParts:
    [parts] = score_group([trajectory], config or RewardConfig(), Dynamics(SIZE), stage)
    return parts


def shaped(trajectory: Trajectory, config: RewardConfig | None = None) -> float:
    """All that is not the answer's."""
    config = config or RewardConfig()
    parts = score(trajectory, config)
    return parts.total - config.task * parts.task


def test_the_total_is_the_weighted_sum_of_its_parts():
    config = RewardConfig(task=2, coherence=3, curiosity=5, length=7, invalid=11)
    parts = score(chain(valid(), valid(READ, direction(0.3)), refused(), last=noise(1)), config)
    assert parts.task == 1.0
    assert parts.length == pytest.approx((3 - 2) / 2)
    assert parts.invalid == pytest.approx(1 / 3)
    assert parts.total == pytest.approx(
        2 * parts.task + 3 * parts.coherence + 5 * parts.curiosity - 7 * 0.5 - 11 / 3
    )


def test_each_stage_adds_a_part():
    config = RewardConfig(task=1, coherence=10, curiosity=100, length=0, invalid=0)
    trajectory = chain(valid(), last=direction(0.25))
    dynamics = Dynamics(SIZE)
    dynamics.rewards = lambda transitions: [0.5] * len(transitions)  # type: ignore[method-assign]
    totals = [score_group([trajectory], config, dynamics, stage)[0].total for stage in Stage]
    assert totals == pytest.approx([1.0, 1.0 + 2.5, 1.0 + 2.5 + 50.0])


def test_task_only_pays_the_answer_alone():
    for answer, expected in (("7", 1.0), ("8", 0.0), (None, 0.0)):
        parts = score(chain(valid(), refused(), valid(), answer=answer), RewardConfig.task_only())
        assert parts.total == expected


@pytest.mark.parametrize(
    ("steps", "media", "share"),
    [
        ([], None, 0.0),
        ([valid()], None, 0.0),
        ([valid(), refused()], None, 0.5),
        ([unparsed()], None, 1.0),
        ([valid(TRACK)], None, 1.0),
        ([valid(TRACK)], (VIDEO,), 0.0),
        ([valid(), valid(), valid(TRACK)], None, 1 / 3),
    ],
    ids=["none", "valid", "refused", "unparsed", "track-still", "track-video", "one-of-three"],
)
def test_invalid_share(steps, media, share):
    trajectory = chain(*steps) if media is None else chain(*steps, media=media)
    assert invalid_share(trajectory) == pytest.approx(share)


def test_a_malformed_last_turn_of_a_cut_chain_is_invalid():
    cut = chain(valid(), unparsed(), answer=None)
    cut.steps[-1].observation = None
    assert invalid_share(cut) == 0.5


@given(
    kinds=st.lists(st.sampled_from(["valid", "refused", "unparsed", "still"]), max_size=8),
    seed=st.integers(0, 99),
    weights=st.tuples(*[st.floats(0, 3)] * 3),
)
def test_an_invalid_call_scores_below_doing_nothing(kinds, seed, weights):
    make = {"valid": valid, "refused": refused, "still": lambda e: valid(TRACK, e)}
    steps = [
        unparsed(noise(seed + i)) if kind == "unparsed" else make[kind](embedding=noise(seed + i))
        if kind != "still" else valid(TRACK, noise(seed + i))
        for i, kind in enumerate([*kinds, "refused"])
    ]  # fmt: skip
    coherence, curiosity, length = weights
    config = RewardConfig(coherence=coherence, curiosity=curiosity, length=length, invalid=0.1)
    nothing = shaped(chain(), config)
    assert nothing == 0.0
    assert shaped(chain(*steps), config) < nothing


def test_an_invalid_call_earns_neither_coherence_nor_curiosity():
    smooth = [valid(embedding=direction(c)) for c in (1.0, 0.8)]
    assert score(chain(*smooth)).coherence > 0
    assert score(chain(*smooth, refused())).coherence == 0.0


def test_repeating_a_step_does_not_pay():
    moving = [direction(1.0), direction(0.7), direction(0.2)]
    distinct = chain(*(valid(embedding=e) for e in moving), last=direction(0.0))
    repeated = chain(*(valid(embedding=moving[0]) for _ in range(3)), last=moving[0])
    assert score(repeated).coherence == pytest.approx(0.0, abs=1e-5)
    assert score(distinct).coherence > 0.5
    longer = [chain(*[valid(embedding=moving[0])] * n, last=moving[0]) for n in (1, 2, 4, 8)]
    totals = [shaped(trajectory) for trajectory in longer]
    assert all(b <= a + 1e-6 for a, b in itertools.pairwise(totals))


def test_tool_hopping_pays_less_than_a_coherent_chain():
    hops = chain(*(valid(embedding=noise(i)) for i in range(4)), last=noise(9))
    smooth = chain(*(valid(embedding=direction(1 - 0.1 * i)) for i in range(4)))
    assert score(hops).coherence < score(smooth).coherence


def test_no_pair_has_no_coherence():
    assert score(chain()).coherence == 0.0
    assert score(chain(answer=None)).coherence == 0.0


def test_a_batch_scores_as_each_alone():
    dynamics, config = Dynamics(SIZE), RewardConfig()
    chains = [chain(valid(), valid(READ, noise(3))), chain(), chain(refused(), valid())]
    together = score_group(chains, config, dynamics)
    assert together == [score_group([each], config, dynamics)[0] for each in chains]


def test_turns_without_embeddings_are_an_error_where_they_pay():
    trajectory = chain(valid(), valid())
    trajectory.steps[0].embedding = None
    with pytest.raises(ValueError, match="embedding: expected one per turn"):
        score(trajectory)
    assert score(trajectory, stage=Stage.TASK).task == 1.0


def test_a_sample_without_truth_is_an_error():
    trajectory = chain(valid())
    object.__setattr__(trajectory.sample, "answer", None)
    with pytest.raises(ValueError, match="expected a true answer"):
        score(trajectory)


@pytest.mark.parametrize("wrong", [{"task": -1.0}, {"coherence": float("nan")}, {"free_calls": 0}])
def test_config_errors(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RewardConfig(**wrong)


def test_stages_are_entered_on_success():
    stages = Stages(StagesConfig(success=(0.5, 0.8), window=3, most_steps=(50, 50)))
    for success in (0.9, 0.9):
        assert stages.record(success) is Stage.TASK
    assert stages.record(0.9) is Stage.COHERENCE
    # The new stage's success is measured anew.
    for success in (0.7, 0.7, 0.7, 0.7):
        assert stages.record(success) is Stage.COHERENCE
    stages.record(0.9)
    assert stages.record(0.9) is Stage.CURIOSITY
    assert stages.record(0.0) is Stage.CURIOSITY


def test_stages_fall_back_on_their_limit():
    stages = Stages(StagesConfig(window=2, most_steps=(3, 4)))
    seen = [stages.record(0.0) for _ in range(8)]
    assert seen == [Stage.TASK] * 2 + [Stage.COHERENCE] * 4 + [Stage.CURIOSITY] * 2


def test_the_shortest_reproduction_spends_half_of_its_steps_on_the_whole_reward():
    stages, steps = Stages(), BUDGETS["cpu"].rft_steps
    seen = [stages.record(0.0) for _ in range(steps)]
    assert seen.count(Stage.CURIOSITY) >= steps / 2


def test_stages_go_on_from_their_state():
    config = StagesConfig(window=3, most_steps=(5, 5))
    one, other = Stages(config), Stages(config)
    for success in (0.1, 0.7, 0.6):
        one.record(success)
    other.load_state_dict(one.state_dict())
    successes = [0.4, 0.9, 0.2, 0.3, 0.9, 0.9]
    assert [one.record(s) for s in successes] == [other.record(s) for s in successes]


def test_calls_are_counted_without_the_answer():
    assert score(chain(*[valid(ZOOM, noise(i)) for i in range(2)])).length == 0.0
    assert score(chain(*[valid(ZOOM, noise(i)) for i in range(4)])).length == 1.0
