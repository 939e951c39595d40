"""A whole comparison with a random policy: answered once, resumed, reported without a script."""

import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from pixelis_fast.agent import AgentConfig
from pixelis_fast.data.cota import CotaRecord, write_records
from pixelis_fast.eval import arm_run
from pixelis_fast.eval import run as eval_run
from pixelis_fast.eval.arm_run import Plan
from pixelis_fast.eval.arms import Answerer, Arm, open_agents, toolless
from pixelis_fast.eval.cases import benchmark_cases, file_cases
from pixelis_fast.eval.command import arms, evaluate, num_failed, results_table
from pixelis_fast.eval.journal import Journal
from pixelis_fast.eval.run import EvalConfig, main
from pixelis_fast.options import takes_agent_options
from pixelis_fast.policy.sampling import Sampling
from pixelis_fast.rollout import RolloutConfig
from pixelis_fast.types import AnswerKind, Evidence, RolloutStatus
from tests.eval import releases

ROLLOUT = RolloutConfig(
    max_steps=2,
    max_tokens=60,
    max_thought_tokens=6,
    sampling=Sampling(temperature=1.0),
    overlap=False,
)
UNIT = AgentConfig(policy="unit", rollout=ROLLOUT)
ARMS = (Arm("without tools", UNIT, tools=False), Arm("with <tools>", UNIT))
QUESTION = "How many <b>disks</b> & signs?"


opened = cache(open_agents)


@pytest.fixture(scope="module", autouse=True)
def opened_once():
    """Opening the tools' engines is most of these tests' time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(eval_run, "open_agents", opened)
        yield


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """A CoTA file of three questions about one drawn picture."""
    folder = tmp_path_factory.mktemp("cota")
    releases.put_picture(folder / "picture.png")
    evidence = (Evidence("zoom", box=(300, 600, 450, 900)),)
    records = [
        CotaRecord(
            id=f"q{number}",
            task="count" if number else "read",
            media=("picture.png",),
            question=QUESTION,
            answer="1",
            answer_kind=AnswerKind.NUMBER,
            evidence=evidence,
        )
        for number in range(3)
    ]
    write_records(folder / "records.jsonl", records)
    return folder / "records.jsonl"


def config_of(samples, out, **changes) -> EvalConfig:
    config = EvalConfig(out=out, arms=ARMS, samples=samples, plan=Plan(batch=2, traces=2))
    return replace(config, **changes)


@pytest.fixture(scope="module")
def finished(samples, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    return out, main(config_of(samples, out))


def test_figures_of_both_arms(finished):
    out, found = finished
    assert found == json.loads((out / "results.json").read_text())
    assert found["baseline"] == "without tools"
    assert found["cases"] == 3
    baseline, ours = (found["arms"][arm.name] for arm in ARMS)
    assert baseline["chains"]["length"] == 0
    assert ours["chains"]["length"] > 0
    assert set(ours["scores"]) == {"overall", "read", "count"}
    assert set(ours["latency_ms"]["total"]) == {"p50", "p90", "p99"}
    assert "gain" in ours
    assert "gain" not in baseline
    assert sum(ours["statuses"].values()) == 3


def test_answers_have_what_coherence_is_measured_by(finished):
    assert not ROLLOUT.embeddings
    entries = Journal(finished[0] / "with <tools>/answers.jsonl").entries()
    steps = [step for entry in entries for step in entry.trajectory.steps]
    assert all(step.embedding for step in steps)
    assert max(len(step.embedding) for step in steps) <= ROLLOUT.max_steps + 1


def test_the_report_needs_nothing_else_and_escapes_all_text(finished):
    page = (finished[0] / "report.html").read_text()
    assert "&lt;b&gt;disks&lt;/b&gt; &amp; signs?" in page
    assert "<b>" not in page
    assert "with &lt;tools&gt;" in page
    assert "<script" not in page
    assert set(re.findall(r'src="(\w+):', page)) == {"data"}
    assert not re.search(r"(?:href|url\()", page)
    assert page.count('<details class="trace">') == 4


def test_a_run_goes_on_where_it_was_killed(finished, samples, tmp_path, monkeypatch):
    asked, run = [], Answerer.run

    def counted(self, samples, *, numbers, seed):
        asked.append((self.arm.name, list(numbers)))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return run(self, samples, numbers=numbers, seed=seed)

    monkeypatch.setattr(arm_run.Answerer, "run", counted)
    with pytest.raises(KeyboardInterrupt):
        main(config_of(samples, tmp_path))
    journal = tmp_path / "without tools/answers.jsonl"
    with journal.open("a") as file:
        file.write('{"case": "q2", "sco')
    found = main(config_of(samples, tmp_path))
    assert asked[2:] == [("without tools", [2]), ("with <tools>", [0, 1]), ("with <tools>", [2])]
    # Questions draw the same however they were batched, so the scores are the whole run's.
    for name in found["arms"]:
        assert found["arms"][name]["scores"] == finished[1]["arms"][name]["scores"]
        answers = [e.trajectory.ids for e in Journal(tmp_path / name / "answers.jsonl").entries()]
        whole = Journal(finished[0] / name / "answers.jsonl").entries()
        assert answers == [e.trajectory.ids for e in whole]
    asked.clear()
    main(config_of(samples, tmp_path))
    assert asked == []


def test_media_leave_the_store_with_their_batch(finished):
    for arm, agent in zip(ARMS, opened(ARMS), strict=True):
        for entry in Journal(finished[0] / arm.name / "answers.jsonl").entries():
            [media] = entry.trajectory.sample.media
            assert media.id not in agent.tools.store


def test_another_runs_folder_is_refused(finished, samples):
    with pytest.raises(ValueError, match="out: expected a new folder"):
        main(config_of(samples, finished[0], arms=ARMS[:1]))


def test_seeds_give_an_interval(samples, tmp_path):
    plan = Plan(seeds=(0, 1), traces=0, batch=8)
    found = main(config_of(samples, tmp_path, plan=plan))
    arm = found["arms"]["with <tools>"]
    assert arm["over_seeds"]["low"] <= arm["scores"]["overall"] <= arm["over_seeds"]["high"]
    entries = Journal(tmp_path / "with <tools>/answers.jsonl").entries()
    assert [(e.case, e.seed) for e in entries] == [(f"q{n}", s) for s in (0, 1) for n in range(3)]
    assert entries[0].trajectory.ids != entries[3].trajectory.ids


def test_greedy_arms_have_one_seed(samples, tmp_path):
    greedy = replace(UNIT, rollout=replace(ROLLOUT, sampling=Sampling()))
    arms = (ARMS[0], Arm("greedy", greedy))
    with pytest.raises(ValueError, match="seeds: expected one for the greedy arm greedy, got 2"):
        config_of(samples, tmp_path, arms=arms, plan=Plan(seeds=(0, 1)))
    call_sampling = replace(greedy.rollout, call_sampling=Sampling(temperature=1.0))
    drawn = Arm("calls are drawn", replace(greedy, rollout=call_sampling))
    config_of(samples, tmp_path, arms=(drawn,), plan=Plan(seeds=(0, 1)))


def test_a_benchmark_runs(tmp_path):
    folder = releases.vstar(tmp_path / "vstar")
    config = EvalConfig(out=tmp_path / "out", arms=ARMS, benchmark="vstar", folder=folder, limit=1)
    found = main(config)
    assert found["cases"] == 1
    assert set(found["arms"]["without tools"]["scores"]) == {"overall", "direct_attributes"}


def failing(trajectory):
    return replace(trajectory, status=RolloutStatus.FAILED, error="out of memory", answer=None)


def test_what_the_machine_failed_on_is_told_and_asked_again(samples, tmp_path, monkeypatch):
    run = Answerer.run

    def broken(self, samples, **named):
        first, *others = run(self, samples, **named)
        return [failing(first), *others]

    config = config_of(samples, tmp_path, arms=ARMS[1:])
    with monkeypatch.context() as patch:
        patch.setattr(arm_run.Answerer, "run", broken)
        found = main(config)
    assert num_failed(found["arms"]["with <tools>"]) == 2, "the first of two batches each"
    assert "2" in list(results_table(found).columns[-1].cells)
    again = main(config)
    assert num_failed(again["arms"]["with <tools>"]) == 0
    assert sum(again["arms"]["with <tools>"]["statuses"].values()) == 3


def test_a_batch_that_fails_as_a_whole_ends_the_run(samples, tmp_path, monkeypatch):
    run = Answerer.run
    monkeypatch.setattr(
        arm_run.Answerer, "run", lambda self, *a, **n: [failing(t) for t in run(self, *a, **n)]
    )
    with pytest.raises(RuntimeError, match="none of 2 ran to its end; the first: out of memory"):
        main(config_of(samples, tmp_path))


def test_every_seed_draws_its_own_calls(samples):
    """Also where only calls are drawn."""
    rollout = replace(ROLLOUT, sampling=Sampling(), call_sampling=Sampling(temperature=1.0))
    arm = Arm("calls are drawn", replace(UNIT, rollout=rollout))
    answerer = Answerer(arm, opened((arm,))[0])
    sample = file_cases(samples).cases[0].sample(answerer.agent.tools)
    seeds = [answerer._request(sample, seed).call_sampling.seed for seed in range(3)]
    assert len(set(seeds)) == 3


def test_without_tools_there_is_nothing_to_call(samples):
    agent = opened(ARMS)[0]
    answerer = Answerer(ARMS[0], agent)
    sample = file_cases(samples).cases[0].sample(agent.tools)
    for seed in range(3):
        [trajectory] = answerer.run([sample], numbers=[0], seed=seed)
        assert all(step.call is None for step in trajectory.steps)
        assert all(step.observation is None for step in trajectory.steps)
    prompt = agent.tokenizer.decode(trajectory.ids[: trajectory.roles.index(1)])
    assert "read_text" not in prompt
    assert QUESTION in prompt
    assert toolless(sample).evidence == sample.evidence


def test_equal_policies_are_opened_once():
    one, other = opened(ARMS)
    assert one.policy is other.policy


def test_plain_samples_are_a_file_too(tmp_path):
    releases.put_picture(tmp_path / "a.png")
    row = {"id": "a", "media": ["a.png"], "question": "where?", "answer": "left"}
    releases.put_lines(tmp_path / "rows.jsonl", [row])
    [case] = file_cases(tmp_path / "rows.jsonl").cases
    assert case.score("Left.") == 1
    assert case.score(None) == 0
    releases.put_lines(tmp_path / "rows.jsonl", [{**row, "answer": None}])
    with pytest.raises(ValueError, match=r"rows.jsonl:1: answer: expected a value"):
        file_cases(tmp_path / "rows.jsonl")
    releases.put_lines(tmp_path / "rows.jsonl", [row, {**row, "answer": "right"}])
    with pytest.raises(ValueError, match=r"rows.jsonl: expected each id once, got a 2 times"):
        file_cases(tmp_path / "rows.jsonl")
    (tmp_path / "rows.jsonl").write_text("")
    with pytest.raises(ValueError, match="expected at least one sample"):
        file_cases(tmp_path / "rows.jsonl")


def test_benchmark_cases_score_by_the_benchmark(tmp_path):
    cases = benchmark_cases("vsibench", releases.vsibench(tmp_path), cache=tmp_path / "cache")
    assert [case.score("5") for case in cases.cases] == [pytest.approx(0.6), 0]
    assert cases.summary([1.0, 0.0])["overall"] == 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": ()}, "arms: expected one or more"),
        ({"arms": (ARMS[0], ARMS[0])}, "arms: expected one or more with different names"),
        ({"benchmark": "vstar"}, "expected either a benchmark or a file"),
        ({"folder": Path("vstar")}, "folder: expected one with a benchmark"),
        ({"limit": 0}, "limit: expected >= 1"),
    ],
)
def test_settings_are_checked(changes, message, samples, tmp_path):
    with pytest.raises(ValueError, match=message):
        config_of(samples, tmp_path, **changes)


@pytest.mark.parametrize("wrong", [{"seeds": ()}, {"seeds": (1, 1)}, {"batch": 0}, {"traces": -1}])
def test_plans_are_checked(wrong):
    with pytest.raises(ValueError, match="expected"):
        Plan(**wrong)


def test_arm_names_are_folders():
    with pytest.raises(ValueError, match="arm: expected a name without slashes"):
        Arm("a/b", UNIT)


def test_the_command(samples, tmp_path):
    app = typer.Typer()
    app.command("eval")(takes_agent_options(evaluate))
    options = ["--policy", "unit", "--max-tokens", "60", "--max-thought", "4", "--max-steps", "1"]
    given = ["samples", str(samples), "--out", str(tmp_path), "--limit", "1", *options]
    told = CliRunner().invoke(app, given)
    assert told.exit_code == 0, told.output
    assert "without tools" in told.output
    assert "report in" in told.output
    assert (tmp_path / "report.html").is_file()


def test_baselines_by_name():
    assert [arm.tools for arm in arms(UNIT, "no-tools")] == [False, True]
    assert [arm.agent.policy for arm in arms(UNIT, "runs/other")] == ["runs/other", "unit"]
    assert [arm.name for arm in arms(UNIT, "nothing")] == ["ours"]
