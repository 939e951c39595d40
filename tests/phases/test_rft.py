"""Reinforcement fine-tuning on a small policy: it learns, stops anywhere, and refuses bad steps."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
import torch

from pixelis_fast.agent import AgentConfig
from pixelis_fast.data.cota import FILE_NAME, CotaRecord, write_records
from pixelis_fast.phases.rft import Ablation, main, rewards_without
from pixelis_fast.phases.rft_config import RftConfig
from pixelis_fast.phases.rft_loss import LossConfig
from pixelis_fast.phases.rft_run import LOG, RftRun
from pixelis_fast.phases.rft_source import PixelWorldSamples, RecordSamples, ShuffledSamples
from pixelis_fast.policy.mismatch import MismatchError
from pixelis_fast.policy.sampling import Sampling
from pixelis_fast.policy.weights import load_policy
from pixelis_fast.reward_stages import StagesConfig
from pixelis_fast.rewards import RewardConfig, Stage
from pixelis_fast.rollout import RolloutConfig
from pixelis_fast.types import Sample, Trajectory
from tests.media import picture
from tests.rft_fixtures import Pictures, rft_config, unit_folder

ROOT = Path(__file__).parents[2]
KILLED_AT = 2


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> Path:
    return unit_folder(tmp_path_factory.mktemp("policy"))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_policy(folder).named_parameters())


def rows(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def snapshot(run: RftRun) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in run.agent.policy.parameters()]


def unchanged(run: RftRun, before: list[torch.Tensor]) -> bool:
    return all(
        torch.equal(old, new)
        for old, new in zip(before, run.agent.policy.parameters(), strict=True)
    )


def test_the_policy_learns_a_toy_reward(policy, tmp_path):
    config = rft_config(policy, tmp_path, max_tokens=8, steps=16, rewards=RewardConfig.task_only())
    main(replace(config, optimizer=replace(config.optimizer, learning_rate=4e-3)))
    solved = [row["reward/task"] for row in rows(tmp_path)]
    assert fmean(solved[:4]) < 0.3
    assert fmean(solved[-4:]) > fmean(solved[:4]) + 0.4


def thirds(trajectory: Trajectory) -> float:
    """Different within every group, whatever the policy says."""
    return trajectory.seed % 3 / 2


def test_lora_learns_and_leaves_the_base_alone(policy, tmp_path):
    config = rft_config(policy, tmp_path, steps=3, lora_rank=4, task_reward=thirds)
    run = RftRun(config)
    before = snapshot(run)
    folder = run.train()
    assert unchanged(run, before)
    first, _, third = rows(tmp_path)
    # The bank starts as nothing: the policy is its anchor, then moves away from it.
    assert first["update/kl"] == pytest.approx(0.0, abs=1e-6)
    assert third["update/kl"] > 1e-6
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    base, merged = weights(policy), weights(folder)
    moved = {name for name in base if not torch.equal(base[name], merged[name])}
    assert moved
    assert all(".qkv." in n or ".out." in n or ".gate_up." in n or ".down." in n for n in moved)


def run_code(policy: Path, out: Path) -> str:
    """A run that its own third step kills."""
    return f"""
import os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
import torch
torch.set_num_threads(1)
from pathlib import Path
from pixelis_fast.phases.rft import main
from tests.media import picture
from tests.rft_fixtures import Pictures, rft_config

class Killer(Pictures):
    def __call__(self, index, tools):
        if index >= {KILLED_AT} * 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(index, tools)

from dataclasses import replace
config = rft_config(Path({str(policy)!r}), Path({str(out)!r}), {SHORT_RUN})
main(replace(config, source=Killer()))
"""


SHORT_RUN = "max_tokens=16, steps=4, save_every=1, group=4"


def test_killed_and_started_again_it_ends_with_the_same_bits(policy, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    config = rft_config(policy, whole, max_tokens=16, steps=4, save_every=1, group=4)
    wanted = weights(main(config))
    killed = subprocess.run(
        [sys.executable, "-c", run_code(policy, parts)], env=os.environ, capture_output=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert len(rows(parts)) == KILLED_AT
    # A row that was logged after the last snapshot, and a torn one.
    with (parts / "log.jsonl").open("a") as log:
        log.write(json.dumps(rows(parts)[-1] | {"step": 3}) + '\n{"step": 4, "sta')
    found = weights(main(replace(config, out=str(parts))))
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)
    assert any(not torch.equal(wanted[name], old) for name, old in weights(policy).items())
    assert [row["step"] for row in rows(parts)] == [1, 2, 3, 4]
    assert [timeless(row) for row in rows(parts)] == [timeless(row) for row in rows(whole)]


def timeless(row: dict) -> dict:
    return {name: value for name, value in row.items() if not name.startswith("seconds/")}


def test_the_log_has_every_part(policy, tmp_path):
    config = rft_config(
        policy, tmp_path, steps=1, max_tokens=64, stages=StagesConfig(first=Stage.CURIOSITY)
    )
    main(config)
    [row] = rows(tmp_path)
    for name in ("task", "curiosity", "coherence", "length", "invalid", "total"):
        assert f"reward/{name}" in row
    for name in ("kl", "entropy", "clipped_low", "clipped_high", "gradient_norm", "skipped"):
        assert f"update/{name}" in row
    assert row["stage"] == "curiosity"
    assert 0 < row["rollout/calls"] <= 3
    assert 0 <= row["rollout/valid_calls"] < 1
    assert row["reward/invalid"] > 0
    assert row["mismatch/max"] <= 1e-6
    assert {"groups/dropped", "mismatch/mean", "seconds/rollout", "dynamics/error"} <= row.keys()


def test_a_gradient_that_is_not_finite_changes_nothing(policy, tmp_path):
    run = RftRun(rft_config(policy, tmp_path))
    before, backward = snapshot(run), run.maker.backward

    def poisoned(learnables):
        report = backward(learnables)
        run.agent.policy.norm.weight.grad[0] = float("nan")
        return report

    run.maker.backward = poisoned
    row = run.step()
    assert row["update/skipped"] == 1.0
    assert unchanged(run, before)
    run.maker.backward = backward
    assert run.step()["update/skipped"] == 0.0
    assert not unchanged(run, before)


def test_unanimous_groups_teach_nothing(policy, tmp_path):
    config = rft_config(
        policy, tmp_path, task_reward=lambda _: 1.0, rewards=RewardConfig.task_only()
    )
    run = RftRun(config)
    before = snapshot(run)
    row = run.step()
    assert row["groups/dropped"] == row["groups/all"] == 2.0
    assert "update/loss" not in row
    assert unchanged(run, before)


def test_stale_weights_are_noticed(policy, tmp_path):
    run = RftRun(rft_config(policy, tmp_path))
    roll_out = run.roll_out

    def stale():
        trajectories = roll_out()
        with torch.no_grad():
            run.agent.policy.head_weight.mul_(1.5)
        return trajectories

    run.roll_out = stale
    with pytest.raises(MismatchError, match="weights stale"):
        run.step()


def test_another_seed_draws_otherwise(policy, tmp_path):
    """Of the same questions; torch's generator on the CPU reads the lowest 32 bits of a seed."""
    first, again, other = (
        [t.ids for t in RftRun(rft_config(policy, tmp_path, seed=seed)).roll_out()]
        for seed in (0, 0, 1)
    )
    assert first == again
    assert all(one != another for one, another in zip(first, other, strict=True))


def test_no_clock_decides_what_is_learned(policy, tmp_path):
    config = rft_config(policy, tmp_path)
    hasty = replace(config.agent.rollout, max_time_s=1e-3)
    run = RftRun(replace(config, agent=replace(config.agent, rollout=hasty)))
    row = run.step()
    assert row["rollout/timed_out"] == 0.0
    assert row["groups/used_trajectories"] > 0
    late = RftRun(replace(config, max_time_s=1e-3))
    assert late.step()["rollout/timed_out"] == 1.0


def test_a_step_whose_every_rollout_failed_is_an_error(policy, tmp_path):
    run = RftRun(rft_config(policy, tmp_path))

    def broken(*_, **__):
        raise RuntimeError("device: expected memory, got none")

    run.agent.engine.extend = broken
    with pytest.raises(RuntimeError, match=r"none of 16 .* device: expected memory, got none"):
        run.step()
    assert run.step_number == 0


def test_media_that_no_later_step_needs_are_let_go(policy, tmp_path):
    record = CotaRecord("coins", "", (str(picture("coins.png")),), "how many?", "24")
    write_records(tmp_path / FILE_NAME, [record])
    source = RecordSamples(tmp_path)
    run = RftRun(replace(rft_config(policy, tmp_path / "out"), source=source))
    tools = run.agent.tools
    for _ in range(2):
        [media] = source(0, tools).media
        assert media.id in tools.store
        run.step()
        assert media.id not in tools.store


def test_drawn_tasks_leave_nothing_behind(policy, tmp_path):
    tools = RftRun(rft_config(policy, tmp_path / "out")).agent.tools
    source = PixelWorldSamples(tmp_path / "media")
    one, other = source(0, tools), source(1, tools)
    assert not list((tmp_path / "media").iterdir())
    source.release([one, one], tools)
    assert [each.media[0].id in tools.store for each in (one, other)] == [False, True]


def test_forwards_in_parts_add_up_to_one(policy, tmp_path):
    """Gradients of a mini-batch do not depend on how many forwards it took."""
    run = RftRun(rft_config(policy, tmp_path, task_reward=thirds))
    trajectories = run.roll_out()
    parts = run.score(trajectories)
    learnables = run.learnables(trajectories, parts, run.compare(trajectories, parts))
    gradients = []
    for tokens in (1, 1 << 20):
        run.maker.config = LossConfig(forward_tokens=tokens)
        run.agent.policy.zero_grad()
        report = run.maker.backward(learnables)
        gradients.append((report, [p.grad.clone() for p in run.agent.policy.layers.parameters()]))
    (small, one), (large, other) = gradients
    assert small.loss == pytest.approx(large.loss, abs=1e-5)
    assert small.num_tokens == large.num_tokens
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


def test_imitation_raises_the_solved_trajectories(policy, tmp_path):
    config = rft_config(policy, tmp_path, loss=LossConfig(imitation_weight=1.0, kl_weight=0.0))
    run = RftRun(replace(config, task_reward=lambda t: float(t.seed % 8 == 3)))
    trajectories = run.roll_out()
    parts = run.score(trajectories)
    learnables = run.learnables(trajectories, parts, run.compare(trajectories, parts))
    assert [each.trajectory.seed % 8 for each in learnables if each.imitated] == [3, 3]
    assert run.maker.backward(learnables).imitation > 0


def test_other_settings_do_not_resume(policy, tmp_path):
    run = RftRun(rft_config(policy, tmp_path))
    run.resume()
    run.save()
    run.config = replace(run.config, rewards=RewardConfig.task_only())
    with pytest.raises(ValueError, match="got another rewards"):
        run.resume()


def test_ablations_are_rewards():
    assert rewards_without(Ablation.NONE) == RewardConfig()
    assert rewards_without(Ablation.COHERENCE).coherence == 0.0
    assert rewards_without(Ablation.CURIOSITY).curiosity == 0.0
    assert rewards_without(Ablation.SHAPING) == RewardConfig.task_only()


@pytest.mark.parametrize(
    "wrong",
    [{"group": 1}, {"steps": 0}, {"temperature": 0.0}, {"lora_rank": -1}, {"max_time_s": 0}],
)
def test_config_errors(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RftConfig(AgentConfig(policy="unit"), Pictures(), out="x", **wrong)


def test_rollouts_without_the_grammar_are_refused():
    agent = AgentConfig(policy="unit", rollout=RolloutConfig(grammar=False, jump_ahead=False))
    with pytest.raises(ValueError, match="expected grammar"):
        RftConfig(agent, Pictures(), out="x")


def test_a_run_does_not_go_on_with_other_samples(policy, tmp_path):
    """And what the refused start found is as it was: rows behind the snapshot too."""
    config = rft_config(policy, tmp_path / "out", steps=1, save_every=1, prompts=1, group=2)
    main(config)
    log = tmp_path / "out" / LOG
    log.write_text(log.read_text() + '{"step": 2}\n')
    before = log.read_text()
    with pytest.raises(ValueError, match="got another source"):
        main(replace(config, source=PixelWorldSamples(tmp_path / "media")))
    assert log.read_text() == before


def test_a_source_is_known_by_what_it_gives(tmp_path):
    sources = [
        PixelWorldSamples(tmp_path / "media"),
        PixelWorldSamples(tmp_path / "media", first=7),
        ShuffledSamples([Sample("a", (), "q")]),
        ShuffledSamples([Sample("a", (), "q")], seed=1),
        ShuffledSamples([Sample("b", (), "q")]),
    ]
    texts = [json.dumps(source.settings()) for source in sources]
    assert len(set(texts)) == len(texts)
    assert PixelWorldSamples(tmp_path / "elsewhere").settings() == sources[0].settings()


def test_a_sampling_that_would_do_nothing_is_refused():
    rollout = RolloutConfig(sampling=Sampling(top_p=0.5))
    with pytest.raises(ValueError, match=r"agent\.rollout\.sampling: expected the default"):
        RftConfig(AgentConfig(policy="unit", rollout=rollout), Pictures(), out="x")


def test_policies_for_decoding_only_are_refused():
    agent = AgentConfig(policy="unit", dtype="bfloat16", int8=True)
    with pytest.raises(ValueError, match="int8: expected False"):
        RftConfig(agent, Pictures(), out="x")


def test_shuffled_samples_come_once_per_round():
    samples = [Sample(str(i), (), "q") for i in range(5)]
    source = ShuffledSamples(samples, seed=1)
    drawn = [source(i, None).id for i in range(10)]
    assert sorted(drawn[:5]) == sorted(drawn[5:]) == [s.id for s in samples]
    assert drawn[:5] != drawn[5:]
    again = ShuffledSamples(samples, seed=1)
    assert [again(i, None).id for i in reversed(range(10))] == drawn[::-1]
