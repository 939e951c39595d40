"""Eviction: the least valuable leaves, doubles one at a time, the limits hold, the log tells."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.memory_experiences import experience, key, small_config
from pixelis_fast.memory import ExperienceMemory, Outcome, Provenance, Source, Worth
from pixelis_fast.memory.eviction import Candidate, Need, choose_leaving, value_of
from pixelis_fast.memory.rows import stored_bytes, trajectory_body

ALONE = (None, 0.0)


def candidate(number, **changes):
    values = {
        "number": number,
        "id": str(number),
        "success": 1.0,
        "visfid": 0.5,
        "confidence": 0.5,
        "created_s": 0.0,
        "bytes": 100,
        "redundancy": 0.0,
        "twin": None,
    }
    return Candidate(**values | changes)


def leaving_numbers(candidates, need, find=lambda number, gone: ALONE, **limits):
    leaving = choose_leaving("lab", candidates, need, small_config(**limits), find)
    return [each.number for each in leaving.evicted]


@pytest.mark.parametrize(
    "worse",
    [
        {"success": 0.9},
        {"visfid": 0.4},
        {"confidence": 0.4},
        {"created_s": -1000.0},
        {"redundancy": 0.1, "twin": 3},
    ],
    ids=lambda change: next(iter(change)),
)
def test_each_part_of_the_value_counts(worse):
    candidates = [candidate(1), candidate(2, **worse), candidate(3)]
    assert leaving_numbers(candidates, Need(1, 0), max_experiences=3, slack=0) == [2]


def test_weights_decide_what_counts():
    old, doubtful = candidate(1, created_s=-1e6), candidate(2, success=0.6)
    assert leaving_numbers([old, doubtful], Need(1, 0), max_experiences=2, slack=0) == [2]
    worth = Worth(recency=2.0)
    found = leaving_numbers([old, doubtful], Need(1, 0), max_experiences=2, slack=0, worth=worth)
    assert found == [1]


def test_equal_values_leave_oldest_first():
    candidates = [candidate(number) for number in (5, 3, 4)]
    assert leaving_numbers(candidates, Need(2, 0), max_experiences=3, slack=0) == [3, 4]


def test_of_two_doubles_one_stays():
    def find(number, gone):
        return (1, 0.1) if 2 in gone or 3 in gone else (5 - number, 1.0)

    doubles = [candidate(2, redundancy=1.0, twin=3), candidate(3, redundancy=1.0, twin=2)]
    others = [candidate(1, success=0.6), candidate(4)]
    found = leaving_numbers([*doubles, *others], Need(2, 0), find, max_experiences=4, slack=0)
    assert found == [2, 1]


def test_a_twin_that_left_earlier_counts_no_more():
    stale = candidate(1, redundancy=1.0, twin=77)
    doubtful = candidate(2, success=0.8)
    assert leaving_numbers([stale, doubtful], Need(1, 0), max_experiences=2, slack=0) == [2]


def test_bytes_are_a_limit_of_their_own():
    candidates = [candidate(1, bytes=900, success=0.2), candidate(2), candidate(3, success=0.1)]
    limits = {"max_experiences": 100, "max_bytes": 1200, "slack": 0}
    assert leaving_numbers(candidates, Need(1, 150), **limits) == [3]
    assert leaving_numbers(candidates, Need(1, 900), **limits) == [3, 1]


def test_slack_makes_more_room_than_asked():
    candidates = [candidate(number) for number in range(10)]
    assert leaving_numbers(candidates, Need(1, 0), max_experiences=10, slack=0.3) == [0, 1, 2, 3]


shares = st.floats(0, 1)
rows = st.lists(
    st.tuples(shares, shares, shares, st.floats(-1e7, 0), st.integers(1, 500)), max_size=20
)


@given(rows, st.integers(1, 20), st.integers(100, 3000), st.randoms(use_true_random=False))
def test_whoever_leaves_is_worth_no_more_than_who_stays(rows, most, most_bytes, random):
    candidates = [
        candidate(n, success=s, visfid=v, confidence=c, created_s=t, bytes=size)
        for n, (s, v, c, t, size) in enumerate(rows)
    ]
    limits = {"max_experiences": most, "max_bytes": most_bytes, "slack": 0}
    need = Need(1, 100)
    gone = leaving_numbers(candidates, need, **limits)
    shuffled = random.sample(candidates, len(candidates))
    assert leaving_numbers(shuffled, need, **limits) == gone
    newest_s = max((each.created_s for each in candidates), default=0.0)
    value = {each.number: value_of(each, Worth(), newest_s=newest_s) for each in candidates}
    stay = [each for each in candidates if each.number not in gone]
    assert all(value[a] <= value[b.number] for a in gone for b in stay)
    assert len(stay) + 1 <= most
    assert sum(each.bytes for each in stay) + 100 <= most_bytes


def test_limits_hold_for_each_tenant_and_the_log_tells(tmp_path):
    config = small_config(max_experiences=8, slack=0.25)
    with ExperienceMemory(tmp_path, config) as memory:
        for number in range(3):
            memory.add(experience(number, tenant="shop"))
        told = []
        for number in range(30):
            told += memory.add(experience(number, visfid=0.2 if number % 2 else 0.9))
            assert memory.totals("lab").count <= 8
        assert memory.evictions("lab") == told
        assert {*memory.ids("lab")} | {each.id for each in told} == {str(n) for n in range(30)}
        assert len(told) + memory.totals("lab").count == 30
        assert {each.reason for each in told} == {"count"}
        # Faithful ones outlive the others.
        assert sum(int(each.id) % 2 for each in told) >= 14
        assert memory.totals("shop").count == 3
        assert memory.evictions("shop") == []
        assert memory.verify().problems == ()


def test_bytes_of_a_tenant_stay_below_their_limit(tmp_path):
    one = experience(10)
    size = stored_bytes(one, trajectory_body(one.trajectory))
    with ExperienceMemory(tmp_path, small_config(max_bytes=5 * size, slack=0)) as memory:
        reasons = set()
        for number in range(10, 22):
            reasons |= {each.reason for each in memory.add(experience(number))}
            assert memory.totals("lab").bytes <= 5 * size
        assert reasons == {"bytes"}
        assert memory.totals("lab").count >= 4
        with pytest.raises(ValueError, match=r"expected at most .* bytes at once"):
            memory.add(experience(99, question="why? " * size))


def test_a_double_leaves_before_what_is_alone(tmp_path):
    with ExperienceMemory(tmp_path, small_config(max_experiences=6, slack=0)) as memory:
        for number in (0, 1, 2, 3):
            memory.add(experience(number))
        for number in (4, 5):
            memory.add(experience(number, key=key(2)))
        gone = [memory.add(experience(number)) for number in (6, 7)]
        # Three of a kind: recency picks the two older ones; then the third is alone.
        assert [each.id for evicted in gone for each in evicted] == ["2", "4"]


def test_redundancies_equal_a_search_of_all(tmp_path):
    with ExperienceMemory(tmp_path, small_config(max_experiences=20, slack=0.1)) as memory:
        for number in range(50):
            seed = number % 5 if number % 3 == 0 else number
            memory.add(experience(number, key=key(seed)))
        rows = memory._truth.rows("SELECT number, redundancy, twin FROM experiences")
        found = memory._truth.experiences([number for number, _, _ in rows])
        # Where a twin has left, the value is looked up when it matters.
        assert sum(twin in found for _, _, twin in rows) > 10
        for number, redundancy, twin in rows:
            if twin not in found:
                continue
            others = memory.nearest(found[number].key, 2, "lab")
            expected = max(
                (n.similarity for n in others if n.experience.id != found[number].id), default=0.0
            )
            assert redundancy == pytest.approx(expected, abs=1e-6)


def test_the_same_stream_leaves_the_same(tmp_path):
    logs = []
    for run in range(2):
        with ExperienceMemory(tmp_path / str(run), small_config(max_experiences=10)) as memory:
            for number in range(40):
                outcome = Outcome("24", (number * 7 % 10) / 10, (number * 3 % 5) / 5)
                created = Provenance("sft-1", float(number * 1000), Source.TTRL)
                memory.add(experience(number, outcome=outcome, provenance=created))
            logs.append(memory.evictions("lab"))
    assert logs[0] == logs[1]
    assert len(logs[0]) >= 30
