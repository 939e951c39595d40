"""The loop's benchmark: every arm computes the same group, and the checks can fail."""

from dataclasses import asdict, replace

import pytest
import torch

from bench.harness import Report, Samples, parse_options
from bench.pinned import PinnedChain
from bench.rollout import (
    ABLATIONS,
    Bench,
    arms_of,
    checks_of,
    main,
    may_force,
    own_tools,
    timings_of,
)
from bench.rollout_ablations import BFLOAT16, EVERY_TOKEN, PACKED, ablations_of
from bench.rollout_cases import SCENE, chosen_groups, group_case, largest
from bench.rollout_hf import ForcedRows, HfTwin, ResentArm
from bench.rollout_ours import GroupOurs, ToolsAlone, beginning, reference_group
from bench.rollout_report import (
    ablation_table,
    goals_of,
    loop_table,
    overlap,
    speed_table,
    stage_table,
)
from bench.rollout_runs import (
    LOCKSTEP,
    OURS,
    SERIAL,
    TOOLS_ALONE,
    GroupRun,
    MemberRun,
    agreement,
    check_computed,
    check_ids,
    compare,
    tokens_equal,
)
from bench.scenes import fresh, scene
from pixelis_fast.agent import AgentConfig, build_agent
from pixelis_fast.schemas import format_call, parse_call

CASE = group_case("G2-T2")
"""A picture, then text."""
SHORT = group_case("G2-T1")
"""One zoom each: no reader to load."""


def test_members_differ_in_words_and_boxes_and_their_calls_are_valid():
    group = group_case("G8-T8")
    assert (group.size, group.num_steps) == (8, 8)
    for number in range(group.num_steps):
        turns = [member.turns[number] for member in group.members]
        assert len({turn.thought for turn in turns}) == 8
        if "box" in turns[0].call.arguments:
            assert len({tuple(turn.call.arguments["box"]) for turn in turns}) == 8
    for member in group.members:
        assert [parse_call(format_call(call)) for call in member.calls] == member.calls
        assert member.turns[-1].answer is not None


def test_groups_are_chosen_by_name():
    assert [case.name for case in chosen_groups(quick=True, names="")] == ["G1-T2", "G2-T3"]
    assert {"G1-T8", "G8-T4", "G8-T5", "G8-T8"} <= {
        case.name for case in chosen_groups(quick=False, names="")
    }
    [only] = chosen_groups(quick=False, names="G3-T1")
    assert (only.size, only.num_steps) == (3, 1)


@pytest.mark.parametrize("name", ["G9-T4", "G0-T4", "G1-T9", "G1-T0", "8-5", "G8-T5x"])
def test_an_unknown_group_is_an_error(name):
    with pytest.raises(ValueError, match=r"expected G1\.\.G8 and T1\.\.T8"):
        group_case(name)


def test_forced_rows_leave_one_token_and_keep_nothing_behind_a_row_s_end():
    forced = ForcedRows([[2, 0], [1]], pad=3)
    scores_BV = torch.tensor([[0.0, 1.0, 0.5, 0.0], [3.0, 1.0, 2.0, 0.0]])
    assert forced(torch.zeros(2, 1), scores_BV).argmax(dim=-1).tolist() == [2, 1]
    assert forced(torch.zeros(2, 2), scores_BV).argmax(dim=-1).tolist() == [0, 3]
    assert forced.argmax == [[1, 1], [0]]
    logprobs_BV = scores_BV.log_softmax(dim=-1)
    assert forced.logprobs[0] == pytest.approx(logprobs_BV[0, [2, 0]].tolist())
    assert forced.logprobs[1] == pytest.approx(logprobs_BV[1, [1]].tolist())


def one_run(argmax: dict[int, int], *, logprob: float = -1.0, text: str = "{}") -> list[GroupRun]:
    member = MemberRun([1, 2, 3, 4], argmax, dict.fromkeys(argmax, logprob), (text,))
    return [GroupRun((member,), {"policy": 10.0, "tools": 4.0})]


def one_sample(run: GroupRun) -> Samples:
    return Samples([20.0], [run], [18.0])


def failed(checks) -> list[str]:
    return [check.check for check in checks if not check.passed]


def test_agreement_counts_flips_where_both_arms_have_logits():
    found = agreement(one_run({1: 5, 2: 6, 3: 7}), one_run({2: 6, 3: 8}, logprob=-1.5))
    assert (found.num_compared, found.num_flipped, found.share) == (2, 1, 0.5)
    assert found.largest_difference == 0.5


def test_equal_runs_pass_and_each_difference_fails_its_check():
    same = one_run({2: 6, 3: 7})

    def compared(runs, dtype="float32"):
        return failed(compare(CASE, "x", same, runs, dtype=dtype))

    assert compared(same) == []
    assert compared(one_run({2: 6, 3: 9})) == ["x: other greedy choices of 2"]
    assert compared(one_run({2: 6, 3: 9}), "bfloat16") == []
    assert compared(one_run({2: 6, 3: 7}, logprob=-1.001)) == ["x: largest log-prob difference"]
    assert compared(one_run({2: 6, 3: 7}, text="else")) == ["x: what the tools said"]
    assert compared(one_run({})) == ["x: largest log-prob difference"]


def test_tokens_are_not_equal_where_a_greedy_choice_differs_whatever_the_checks_allow():
    runs = {OURS: one_run({2: 6, 3: 7}), BFLOAT16: one_run({2: 6, 3: 9})}
    checks = compare(CASE, OURS, runs[OURS], runs[OURS], dtype="float32")
    checks += compare(CASE, BFLOAT16, runs[OURS], runs[BFLOAT16], dtype="bfloat16")
    assert failed(checks) == []
    timings = timings_of(CASE, {name: one_sample(run) for name, [run] in runs.items()}, checks)
    told = {t.arm: (t.extra["tokens_equal"], t.extra["same_greedy_choice"]) for t in timings}
    assert told == {OURS: (True, 1.0), BFLOAT16: (False, 0.5)}


def test_missing_positions_and_other_ids_are_seen():
    chain = PinnedChain([1, 2, 3, 4], ((2, 4),), (), (), (), 0)
    whole, part = one_run({2: 6, 3: 7}), one_run({2: 6})
    assert check_computed(CASE, "x", whole, [chain], may_force=False).passed
    assert not check_computed(CASE, "x", part, [chain], may_force=False).passed
    assert check_computed(CASE, "x", part, [chain], may_force=True).passed
    assert not check_computed(CASE, "x", one_run({}), [chain], may_force=True).passed
    assert check_ids(CASE, "x", whole, [chain]).passed
    assert not check_ids(CASE, "x", whole, [replace(chain, ids=[1, 2, 3, 5])]).passed


@pytest.fixture(scope="module")
def bench() -> Bench:
    agent = build_agent(AgentConfig(policy="unit"))
    chains = reference_group(agent, CASE, scene(SCENE))
    pinned = {case.name: beginning(chains, case) for case in (CASE, SHORT)}
    twin = HfTwin.of(agent)
    arms = {
        name: ResentArm(
            name, twin, own_tools(agent), agent=agent, pinned=pinned, lockstep=name == LOCKSTEP
        )
        for name in (SERIAL, LOCKSTEP)
    }
    arms[OURS] = GroupOurs(OURS, agent, pinned)
    arms[EVERY_TOKEN] = GroupOurs(EVERY_TOKEN, ABLATIONS[EVERY_TOKEN].change(agent), pinned)
    arms[TOOLS_ALONE] = ToolsAlone(own_tools(agent))
    return Bench(agent, arms, pinned)


@pytest.fixture(scope="module")
def samples(bench) -> dict[str, Samples]:
    picture = fresh(scene(SCENE), 1)
    return {name: one_sample(arm.run(CASE, picture)) for name, arm in bench.arms.items()}


def test_every_arm_computes_the_same_group(bench, samples):
    checks = checks_of(CASE, samples, bench)
    assert [(c.check, c.value) for c in checks if not c.passed] == []
    for arm in (SERIAL, LOCKSTEP, OURS, EVERY_TOKEN):
        assert tokens_equal(checks, CASE.name, arm)
    total = sum(end - start for chain in bench.pinned[CASE.name] for start, end in chain.turns)
    whole = agreement(samples[SERIAL].results, samples[EVERY_TOKEN].results)
    some = agreement(samples[SERIAL].results, samples[OURS].results)
    assert whole.num_compared == total
    assert 0.4 * total < some.num_compared < 0.9 * total


def test_the_beginning_of_a_chain_is_what_a_shorter_group_says(bench):
    chains = reference_group(bench.agent, SHORT, scene(SCENE))
    for chain, cut in zip(chains, bench.pinned[SHORT.name], strict=True):
        assert replace(cut, num_image_tokens=0) == replace(chain, num_image_tokens=0)
    one = group_case("G1-T2")
    assert beginning(bench.pinned[CASE.name], one) == bench.pinned[CASE.name][:1]
    assert largest([SHORT, one]) == CASE


def test_members_really_differ(bench):
    first, second = bench.pinned[CASE.name]
    assert first.ids != second.ids
    assert [end - start for start, end in first.turns] != [
        end - start for start, end in second.turns
    ]


def test_stages_are_measured(samples):
    for name, sample in samples.items():
        stages = sample.results[0].stage_ms
        assert stages["tools"] > 0
        assert (name == TOOLS_ALONE) == ("policy" not in stages)
        assert (name in (SERIAL, LOCKSTEP)) == ("prepare" in stages)


@pytest.fixture(scope="module")
def short_run(bench) -> GroupRun:
    return bench.arms[OURS].run(SHORT, fresh(scene(SCENE), 1))


def test_other_weights_are_not_equal(bench, short_run):
    other = build_agent(AgentConfig(policy="unit", weights_seed=1))
    run = GroupOurs("other", other, bench.pinned).run(SHORT, fresh(scene(SCENE), 1))
    samples = {OURS: one_sample(short_run), "other": one_sample(run)}
    checks = checks_of(SHORT, samples, bench)
    assert tokens_equal(checks, SHORT.name, OURS)
    assert tokens_equal(checks, SHORT.name, "other") is False


@pytest.mark.parametrize("name", [name for name in ABLATIONS if name != EVERY_TOKEN])
def test_an_ablation_changes_no_token(bench, short_run, name):
    ablation = ABLATIONS[name]
    agent = ablation.change(bench.agent)
    arm = GroupOurs(name, agent, bench.pinned, one_by_one=ablation.one_by_one)
    run = arm.run(SHORT, fresh(scene(SCENE), 1))
    checks = checks_of(SHORT, {OURS: one_sample(short_run), name: one_sample(run)}, bench)
    assert failed(checks) == []
    assert any("log-prob" in check.check for check in checks)


def test_each_run_starts_without_the_prefix_of_another(bench):
    arm, engine = bench.arms[OURS], bench.agent.engine
    before = engine.stats()
    arm.run(SHORT, fresh(scene(SCENE), 2))
    between = engine.stats()
    arm.run(SHORT, fresh(scene(SCENE), 3))
    after = engine.stats()
    first, second = (
        (later.tokens_prefilled - earlier.tokens_prefilled, later.prefix_hits - earlier.prefix_hits)
        for earlier, later in ((before, between), (between, after))
    )
    assert first == second
    assert first[1] == 0


def test_tables_and_goals(bench, samples):
    options = parse_options("test", arms=(SERIAL, LOCKSTEP, OURS), argv=[])
    report = Report("rollout", options, ours=OURS, baseline=SERIAL)
    named = replace(CASE, name="G8-T5")
    whole = Bench(bench.agent, bench.arms, {"G8-T5": bench.pinned[CASE.name]})
    slow = {**samples, SERIAL: Samples([120.0], samples[SERIAL].results, [90.0])}
    report.checks = checks_of(named, slow, whole)
    report.timings = timings_of(named, slow, report.checks)
    policy_ms = samples[OURS].results[0].stage_ms["policy"]
    assert overlap(report, "G8-T5") == round(20.0 / max(policy_ms, 20.0), 3)
    ratio, wall = goals_of(report, [named])
    assert (ratio.value, ratio.met) == (6.0, True)
    assert wall.met
    assert goals_of(report, [CASE]) == []
    rows = {row[1]: row[2:] for row in speed_table(report)["rows"]}
    assert rows[OURS][:5] == ["0.02", "0.02", "6.00", "5.00", "yes"]
    assert TOOLS_ALONE not in rows
    assert {row[1] for row in stage_table(report)["rows"]} == set(samples)
    assert [row[0] for row in ablation_table(report, "G8-T5")["rows"]] == [OURS, EVERY_TOKEN]


def test_the_loop_counts_what_it_did(bench, samples):
    counted = asdict(bench.agent.loop.stats())
    rows = dict(loop_table(counted)["rows"])
    assert int(rows["finished"]) == counted["finished"] > 0
    assert int(rows["forked"]) >= 1
    assert "failed" not in rows


def test_which_arms_run_on_which_group(bench):
    names = (SERIAL, LOCKSTEP, OURS, *ABLATIONS, TOOLS_ALONE)
    whole = Bench(bench.agent, dict.fromkeys(names), {})  # type: ignore[arg-type]

    def chosen(name, *, ablate=False, is_named=False):
        return set(arms_of(group_case(name), whole, ablate=ablate, is_named=is_named))

    always = {SERIAL, LOCKSTEP, OURS, EVERY_TOKEN, TOOLS_ALONE}
    assert chosen("G8-T5", ablate=True) == set(names)
    assert chosen("G8-T5") == chosen("G8-T8", is_named=True) == always
    assert chosen("G8-T8") == chosen("G1-T4", is_named=True) == always - {LOCKSTEP}


def test_only_ablations_that_change_something_run(bench):
    def left_out(**settings):
        config = replace(bench.agent.config, **settings)
        return set(ABLATIONS) - set(ablations_of(replace(bench.agent, config=config)))

    assert left_out() == set()
    assert left_out(dtype="bfloat16") == {BFLOAT16}
    assert left_out(device="cuda", dtype="bfloat16") == {BFLOAT16, PACKED}


def test_only_arms_with_forced_runs_may_lack_logits(bench):
    assert may_force(OURS, bench.agent)
    assert not may_force(EVERY_TOKEN, bench.agent)
    assert not may_force(SERIAL, bench.agent)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--ablate", "--arms", "hf serial"], "--ablate: expected ours"),
        (["--cases", "G9-T1"], "--cases: expected G1..G8"),
    ],
    ids=str,
)
def test_bad_options_say_what_was_expected(argv, message):
    with pytest.raises(SystemExit, match=message):
        main(argv)
