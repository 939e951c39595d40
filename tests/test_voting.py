"""The vote: one answer in many spellings, weights by hand, abstention, exemplars, no order."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixelis_fast.voting import VoteKind, VotingConfig, canonical, vote
from tests.voting_fixtures import acted, call, neighbour, zoom

LEFT, RIGHT = zoom(0, 0, 400, 400), zoom(600, 600, 1000, 1000)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Red", " RED. "),
        ("the  red\tone", "The red one!"),
        ('"KX-42"', "kx-42"),
        ("24", "24.0"),
        ("24", "+24."),
        ("1,024", "1024"),
        ("1024.50", "1,024.5"),
        ("-0", "0"),
        ("-0.0", "0"),
        (".5", "0.50"),
        ("[1, 2]", "1 2"),
        ("STRASSE", "straße"),
        ("ﬁve ①", "five 1"),
    ],
)
def test_spellings_of_one_answer(one, other):
    assert canonical(one) == canonical(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("24", "-24"),
        ("24", "240"),
        ("007", "7"),
        ("1.5", "15"),
        ("12,34", "1234"),
        ("red", "dark red"),
        ("50%", "50"),
        ("?", "!"),
        ("12345678901234567890123456789012345678.1", "12345678901234567890123456789012345678"),
    ],
)
def test_answers_that_differ(one, other):
    assert canonical(one) != canonical(other)


@given(st.text(max_size=40))
def test_a_canonical_answer_is_its_own(text):
    assert canonical(canonical(text)) == canonical(text)


@given(
    st.decimals(
        allow_nan=False, allow_infinity=False, places=3, min_value=-(10**9), max_value=10**9
    )
)
def test_numbers_keep_their_value(number):
    spelled = canonical(f"{number:,f}")
    assert float(spelled) == float(number)
    assert canonical(f"{number:f}000") == spelled


def test_without_neighbours_fidelity_and_length_weigh():
    group = [acted("24", LEFT), acted("24", *[LEFT] * 6), acted("25", RIGHT)]
    result = vote(group, [], [0.8, 0.5, 0.6], VotingConfig(free_steps=3, length_rate=0.5))
    long = 0.5 * math.exp(-0.5 * 1.0)
    assert result.weights_G == pytest.approx((0.8, long, 0.6))
    assert result.answer == "24"
    assert result.confidence == pytest.approx((0.8 + long - 0.6) / (0.8 + long + 0.6))
    assert [(c.answer, c.members) for c in result.clusters] == [("24", (0, 1)), ("25", (2,))]


def test_neighbours_weigh_what_acts_like_them():
    group = [acted("24", LEFT), acted("25", RIGHT, z=(0.0, 1.0))]
    around = [
        neighbour(acted("9", LEFT), similarity=0.8),
        neighbour(acted("9", RIGHT), similarity=-0.5),
        neighbour(acted("9", RIGHT), similarity=0.5, success=0.0),
    ]
    config = VotingConfig(neighbour_prior=0.4, operation_share=0.5)
    result = vote(group, around, [1.0, 1.0], config)
    # The second zooms elsewhere (half of a call) and its embedding is at a right angle (half).
    assert result.weights_G == pytest.approx((1.0, (0.4 + 0.8 * 0.25) / 1.2))


def test_a_prior_of_zero_is_the_bare_sum_up_to_scale():
    group = [acted("24", LEFT), acted("25", RIGHT)]
    around = [neighbour(acted("9", LEFT), similarity=s) for s in (0.8, 0.3)]
    weights = vote(group, around, [0.5, 0.5], VotingConfig(neighbour_prior=0)).weights_G
    assert weights[0] / weights[1] == pytest.approx(2)


def test_neighbours_that_failed_all_count_nothing():
    group = [acted("24", LEFT), acted("25", RIGHT)]
    around = [neighbour(acted("9", LEFT), success=0.0)]
    config = VotingConfig(neighbour_prior=0)
    assert vote(group, around, [0.5, 0.4], config).weights_G == (0.5, 0.4)


def test_the_ablations_leave_their_part_out():
    group = [acted("24", LEFT), acted("25", RIGHT), acted("25", RIGHT)]
    around = [neighbour(acted("9", LEFT)) for _ in range(8)]
    fidelities = [1.0, 0.45, 0.45]
    winner = {
        kind: vote(group, around, fidelities, VotingConfig(kind=kind, gate=0)).answer
        for kind in VoteKind
    }
    assert winner[VoteKind.MAJORITY] == "25"
    assert winner[VoteKind.NO_RETRIEVAL] == winner[VoteKind.TRAJECTORY] == "24"
    weights = vote(group, around, fidelities, VotingConfig(kind=VoteKind.NO_RETRIEVAL)).weights_G
    assert weights == tuple(fidelities)
    weights = vote(group, around, fidelities, VotingConfig(kind=VoteKind.TRAJECTORY)).weights_G
    assert weights[1] < 0.3


def test_retrieval_can_turn_a_vote():
    group = [acted("24", LEFT), acted("25", RIGHT), acted("25", RIGHT)]
    around = [neighbour(acted("9", LEFT)) for _ in range(8)]
    fidelities = [0.5, 0.4, 0.4]
    assert vote(group, [], fidelities, VotingConfig()).answer == "25"
    assert vote(group, around, fidelities, VotingConfig()).answer == "24"


def test_the_gate_abstains_but_answers():
    group = [acted("24", LEFT), acted("25", RIGHT)]
    for gate, abstained in ((0.1, False), (0.3, True)):
        result = vote(group, [], [0.6, 0.4], VotingConfig(gate=gate))
        assert (result.answer, result.abstained) == ("24", abstained)
        assert result.confidence == pytest.approx(0.2)


def test_a_tie_abstains_even_without_a_gate():
    group = [acted("25", LEFT), acted("24", RIGHT)]
    result = vote(group, [], [0.5, 0.5], VotingConfig(gate=0))
    assert (result.answer, result.confidence, result.abstained) == ("24", 0.0, True)


def test_silence_speaks_against_the_winner():
    group = [acted("24", LEFT), *[acted(None, LEFT)] * 3]
    result = vote(group, [], [0.5] * 4, VotingConfig())
    assert (result.answer, result.confidence, result.abstained) == ("24", 0.25, True)
    nothing = vote(group[1:], [], [0.5] * 3, VotingConfig())
    assert (nothing.answer, nothing.exemplar_index, nothing.abstained) == (None, None, True)


def test_no_fidelity_at_all_abstains():
    result = vote([acted("24", LEFT)], [], [0.0], VotingConfig(gate=0))
    assert (result.answer, result.confidence, result.abstained) == ("24", 0.0, True)


def test_the_exemplar_is_the_shortest_faithful_one():
    group = [
        acted("24"),
        acted("24", LEFT, LEFT),
        acted("24", LEFT, ids=[1] * 9),
        acted("24.0", LEFT, ids=[1] * 8),
        acted("25"),
    ]
    result = vote(group, [], [0.3, 0.9, 0.85, 0.8, 0.9], VotingConfig(fidelity_slack=0.1))
    assert result.exemplar_index == 3
    result = vote(group, [], [0.3, 0.9, 0.85, 0.79, 0.9], VotingConfig(fidelity_slack=0.1))
    assert result.exemplar_index == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], [], []), "trajectories: expected at least one"),
        (([acted("1")], [], []), "fidelities: expected 1, .*, got 0"),
        (([acted("1")], [], [math.nan]), "fidelities: .*, got nan at 0"),
        (([acted("1")], [], [1.5]), "fidelities: .*, got 1.5 at 0"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(ValueError, match=message):
        vote(*arguments, VotingConfig())


def test_a_step_without_embedding_is_refused_where_it_is_needed():
    bare = acted("24", LEFT)
    bare.steps[0] = replace(bare.steps[0], embedding=None)
    assert vote([bare], [], [0.5], VotingConfig()).answer == "24"
    with pytest.raises(ValueError, match="step 0: expected an embedding, got none"):
        vote([bare], [neighbour(acted("9", LEFT))], [0.5], VotingConfig())
    with pytest.raises(ValueError, match=r"one size, got \(2,\) and \(3,\)"):
        vote([acted("2")], [neighbour(acted("9", z=(1, 1, 1)))], [0.5], VotingConfig())


@pytest.mark.parametrize(
    "wrong", [{"gate": 1.1}, {"free_steps": 0}, {"length_rate": math.nan}, {"neighbour_prior": -1}]
)
def test_settings_are_checked(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}: expected"):
        VotingConfig(**wrong)


calls = st.sampled_from([LEFT, RIGHT, zoom(100, 0, 500, 400), call("read_text"), None])
vectors = st.tuples(*[st.floats(-1, 1)] * 3)
trajectories = st.builds(
    lambda answer, made, z: acted(answer, *made, z=z),
    st.sampled_from(["24", "24.0", "25", "red", None]),
    st.lists(calls, max_size=5),
    vectors,
)
groups = st.lists(st.tuples(trajectories, st.floats(0, 1)), min_size=1, max_size=6)
surroundings = st.lists(
    st.builds(
        lambda t, similarity, success: neighbour(t, similarity=similarity, success=success),
        trajectories,
        st.floats(-1, 1),
        st.floats(0, 1),
    ),
    max_size=5,
)


@given(groups, surroundings, st.sampled_from(VoteKind), st.randoms(use_true_random=False))
def test_order_changes_no_bit(group, around, kind, random):
    config = VotingConfig(kind=kind)
    one = vote([t for t, _ in group], around, [f for _, f in group], config)
    order = random.sample(range(len(group)), len(group))
    around = random.sample(around, len(around))
    moved = [group[i] for i in order]
    other = vote([t for t, _ in moved], around, [f for _, f in moved], config)
    assert other.weights_G == tuple(one.weights_G[i] for i in order)
    assert (other.answer, other.confidence, other.abstained) == (
        one.answer,
        one.confidence,
        one.abstained,
    )
    assert [(c.answer, c.weight) for c in other.clusters] == [
        (c.answer, c.weight) for c in one.clusters
    ]
    for a, b in zip(one.clusters, other.clusters, strict=True):
        assert {order[i] for i in b.members} == {*a.members}
    if one.exemplar_index is not None:
        ours, theirs = group[one.exemplar_index], moved[other.exemplar_index]
        assert ours[0].ids == theirs[0].ids
        assert ours[1] == theirs[1]


@given(groups, surroundings)
def test_a_vote_is_a_share(group, around):
    fidelities = [f for _, f in group]
    result = vote([t for t, _ in group], around, fidelities, VotingConfig())
    assert 0 <= result.confidence <= 1
    assert all(0 <= w <= f + 1e-12 for w, f in zip(result.weights_G, fidelities, strict=True))
    members = [i for c in result.clusters for i in c.members]
    assert sorted(members) == [i for i, (t, _) in enumerate(group) if t.answer is not None]


@given(groups, surroundings, st.floats(0.1, 4))
def test_neighbours_move_a_weight_within_a_bound(group, around, prior):
    """No memory, poisoned or not, can turn a vote whose margin is wider than this."""
    group, fidelities = [t for t, _ in group], [f for _, f in group]
    config = VotingConfig(neighbour_prior=prior)
    alone = vote(group, [], fidelities, config).weights_G
    beside = vote(group, around, fidelities, config).weights_G
    lowest = prior / (
        prior + sum(max(n.similarity, 0) * n.experience.outcome.success for n in around)
    )
    for a, b in zip(alone, beside, strict=True):
        assert a * lowest * (1 - 1e-9) <= b <= a * (1 + 1e-9)


def test_calls_that_did_not_parse_make_a_trajectory_longer():
    long = acted("24", None, None, None, None)
    assert vote([long], [], [1.0], VotingConfig()).weights_G[0] < 1
