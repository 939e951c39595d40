"""The main job's plumbing with fake arms, and both real arms once on the smallest policy."""

import pytest

from bench.ablations import ABLATIONS, PACKED, SAM2_ENGINE, TEXT_BACKEND, WIDTH, chosen_ablations
from bench.cases import RECHECK, Case, answer, step
from bench.harness import Report, Samples, parse_options, progress_bar
from bench.latency import (
    Bench,
    ablation_table,
    chain_goal,
    checks_of,
    cpu_table,
    main,
    run_case,
    stage_percentiles,
    stage_table,
    timing,
)
from bench.naive import NaiveArm
from bench.naive_tools import NaiveTools
from bench.ours import OursArm, reference
from bench.outputs import ChainRun, compare
from bench.scenes import fresh, scene
from pixelis_fast.agent import AgentConfig, build_agent

CASE = Case(
    "short",
    ("coins",),
    "Which coin?",
    (
        step("This one.", "segment", media=0, box=[785, 30, 970, 265]),
        step("Its size.", "properties", mask=0),
        step("Closer.", "zoom", media=0, box=[760, 0, 1000, 290]),
        answer("", "the first"),
    ),
)


class FakeArm:
    """Takes a fixed time and remembers its media."""

    def __init__(self, name: str, total_ms: float) -> None:
        self.name = name
        self._total_ms = total_ms
        self.seen: list[bytes] = []

    def run(self, case, scenes):
        self.seen.append(scenes[0].encoded)
        stages = {"decode": self._total_ms / 2}
        return ChainRun(stages, self._total_ms, self._total_ms, [1], {0: -1.0}, 0, ())


def fake_bench() -> Bench:
    arms = {"naive": FakeArm("naive", 40.0), "ours": FakeArm("ours", 8.0)}
    return Bench(AgentConfig(policy="unit"), arms, {}, ())


def run(case: Case, bench: Bench):
    with progress_bar() as bar:
        return run_case(case, bench, runs=3, device="cpu", bar=bar)


def test_arms_see_the_same_new_media_each_run():
    bench = fake_bench()
    samples = run(CASE, bench)
    naive, ours = bench.arms["naive"].seen, bench.arms["ours"].seen
    assert naive == ours
    assert len(set(naive)) == 3
    assert samples["naive"].ms == [40.0] * 3


def test_tables_and_goal():
    options = parse_options("test", arms=("naive", "ours"), argv=[])
    report = Report("latency", options, ours="ours", baseline="naive")
    samples = run(CASE, fake_bench())
    report.timings = [timing(CASE, arm, sample) for arm, sample in samples.items()]
    assert chain_goal(report)[0].value == 5.0
    table = stage_table(report)
    assert table["columns"] == ["stage", "naive p50", "naive p90", "ours p50", "ours p90"]
    assert table["rows"] == [["decode", "20.0", "20.0", "4.0", "4.0"]]
    assert cpu_table(report)["rows"][1] == ["short", "ours", "8", "8"]
    for name in ABLATIONS:
        report.timings.append(timing(CASE, name, samples["naive"]))
    table = ablation_table(report)
    assert table["columns"] == ["arm", "sum of p50 ms", "all", "all, processor", "short"]
    assert table["rows"][1] == [next(iter(ABLATIONS)), "40", "5.00", "5.00", "5.00"]


def test_stages_have_percentiles_over_all_runs():
    runs = [ChainRun({"decode": float(ms)}, 0.0, 0.0, [], {}, 0, ()) for ms in range(10)]
    runs.append(ChainRun({"decode": 10.0, "vision": 11.0}, 0.0, 0.0, [], {}, 0, ()))
    found = stage_percentiles(runs)
    assert found["decode"] == {"p50": 5.0, "p90": 9.0, "p99": 9.9}
    assert found["vision"] == {"p50": 0.0, "p90": 0.0, "p99": 9.9}


@pytest.fixture(scope="module")
def agents():
    return {"classical": build_agent(AgentConfig(policy="unit"))}


def test_both_arms_do_equal_work(agents):
    agent = agents["classical"]
    pinned = {"short": reference(agents, CASE, [scene("coins")])}
    tools = NaiveTools(None, None)
    limits = agent.opened.limits
    naive = NaiveArm(
        agent.policy, agent.tokenizer, limits=limits, tools=tools, pinned=pinned, device="cpu"
    )
    ours = OursArm(agents, pinned)
    media = [fresh(scene("coins"), 1)]
    runs = [arm.run(CASE, media) for arm in (naive, ours)]
    checks = compare(CASE, [runs[0]], [runs[1]], dtype="float32")
    assert [(c.check, c.value) for c in checks if not c.passed] == []
    assert runs[0].ids == runs[1].ids == pinned["short"].ids
    for stage in ("vision", "prefill", "decode", "parse", "tool.zoom.run", "transport"):
        assert all(run.stage_ms[stage] > 0 for run in runs), stage


def test_stages_add_up_to_the_total(agents):
    pinned = {"short": reference(agents, CASE, [scene("coins")])}
    run = OursArm(agents, pinned).run(CASE, [fresh(scene("coins"), 2)])
    assert sum(run.stage_ms.values()) <= run.total_ms


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_changes_time_only(agents, name):
    pinned = {"short": reference(agents, CASE, [scene("coins")])}
    ablated = {segmenter: ABLATIONS[name](agent) for segmenter, agent in agents.items()}
    media = [fresh(scene("coins"), 3)]
    whole = OursArm(agents, pinned).run(CASE, media)
    without = OursArm(ablated, pinned, name=name).run(CASE, media)
    checks = checks_of(
        CASE, {"ours": Samples([], [whole]), name: Samples([], [without])}, fake_bench()
    )
    assert len(checks) == 3 + len(CASE.calls)
    assert [(c.check, c.value) for c in checks if not c.passed] == []


@pytest.mark.parametrize("name", ["- result memo", WIDTH, TEXT_BACKEND])
def test_the_reader_s_settings_reach_the_reader(agents, name):
    pinned = {"recheck": reference(agents, RECHECK, [scene("invoice")])}
    ablated = {segmenter: ABLATIONS[name](agent) for segmenter, agent in agents.items()}
    media = [fresh(scene("invoice"), 3)]
    whole = OursArm(agents, pinned).run(RECHECK, media)
    without = OursArm(ablated, pinned, name=name).run(RECHECK, media)
    samples = {"ours": Samples([], [whole]), name: Samples([], [without])}
    checks = checks_of(RECHECK, samples, fake_bench())
    assert [(c.check, c.value) for c in checks if not c.passed] == []
    text = [check for check in checks if "text distance" in check.check]
    assert len(text) == (0 if name == "- result memo" else 2)


def test_each_engine_setting_reaches_its_agent(agents):
    agent = agents["classical"]
    for name, setting in (("- shared prefix", "share_prefix"), (PACKED, "packed_weights")):
        assert getattr(agent.config.engine, setting)
        assert not getattr(ABLATIONS[name](agent).config.engine, setting)


def test_ablations_by_name():
    config = AgentConfig(policy="unit")
    chosen = chosen_ablations(config, ["prefetch", "session KV"], uses_sam2=False)
    assert chosen == ["- prefetch", "- session KV"]
    everything = chosen_ablations(config, [], uses_sam2=True)
    assert everything == list(ABLATIONS)
    assert SAM2_ENGINE not in chosen_ablations(config, [], uses_sam2=False)
    with pytest.raises(ValueError, match=r"expected some of session KV, .*, got telepathy"):
        chosen_ablations(config, ["prefetch", "telepathy"], uses_sam2=True)
    on_gpu = AgentConfig(policy="unit", device="cuda", dtype="bfloat16")
    with pytest.raises(ValueError, match="got packed weights"):
        chosen_ablations(on_gpu, ["packed weights"], uses_sam2=False)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--ablate", "--arms", "naive"], "--ablate: expected ours"),
        (["--record", "--runs", "4"], "expected at least 5 with --record, got 4"),
        (["--ablations", "prefetch"], "--ablations: expected --ablate"),
        (["--ablate", "--ablations", "telepathy"], "--ablations: expected some of .*telepathy"),
        (["--cases", "nothing"], "--cases: expected some of .*nothing"),
    ],
    ids=str,
)
def test_options_that_cannot_be_are_refused_at_once(argv, message):
    with pytest.raises(SystemExit, match=message):
        main(argv)
