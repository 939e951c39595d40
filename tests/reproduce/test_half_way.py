"""Chains, drills alone, half-way between both, chains again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pixelis_fast.agent import TRAINED_PRESETS, AgentConfig, open_policy
from pixelis_fast.checkpoint_folder import save_folder
from pixelis_fast.phases import sft
from pixelis_fast.policy.config import PRESETS
from pixelis_fast.policy.weights import random_policy
from pixelis_fast.reproduce import runner
from pixelis_fast.reproduce.budget import BUDGETS
from pixelis_fast.reproduce.half_way import save_half_way
from pixelis_fast.reproduce.recipes import CHAINS
from pixelis_fast.reproduce.runner import Reproduction

PRESET = "pixelworld-5m"


def saved(folder: Path, seed: int, **changes) -> Path:
    config = PRESETS[PRESET]
    policy = random_policy(replace(config, **changes) if changes else config, seed=seed)
    opened = open_policy(AgentConfig(policy=PRESET, random_weights=True))
    return save_folder(
        folder, policy.to(torch.bfloat16), tokenizer=opened.tokenizer, limits=opened.limits
    )


def weights(folder: Path) -> list[torch.Tensor]:
    return list(open_policy(AgentConfig(policy=str(folder))).policy.parameters())


def test_every_weight_is_the_mean_of_both(tmp_path):
    first, second = saved(tmp_path / "a", 1), saved(tmp_path / "b", 2)
    out = save_half_way(first, second, tmp_path / "c")
    apart = 0.0
    for a, b, c in zip(weights(first), weights(second), weights(out), strict=True):
        torch.testing.assert_close(c, ((a + b) / 2).bfloat16().float(), rtol=0, atol=0)
        apart += float((a - b).detach().abs().max())
    assert apart > 0
    assert (out / "tokenizer.json").read_bytes() == (first / "tokenizer.json").read_bytes()


def test_policies_of_other_shapes_have_no_mean(tmp_path):
    first = saved(tmp_path / "a", 1)
    second = saved(tmp_path / "b", 2, tied=False)
    with pytest.raises(ValueError, match="expected two of one shape"):
        save_half_way(first, second, tmp_path / "c")
    assert not (tmp_path / "c").exists()


class Unprepared(Reproduction):
    """Nothing to train on."""

    def _prepare(self, kind):
        pass


class Grounded(Unprepared):
    """And a policy to start from."""

    def _grounded(self, seed, *, plain=False):
        return saved(self.out / "grounded", 0)


def test_drills_stand_between_two_goes_of_chains(tmp_path, monkeypatch):
    configs = []

    def trained(config):
        configs.append(config)
        return saved(Path(config.out) / sft.POLICY, len(configs))

    monkeypatch.setattr(runner.sft, "main", trained)
    run = Grounded(tmp_path, BUDGETS["quick"])
    policy = run._chains(0, "sft", CHAINS)
    first, drills, again = configs
    assert policy == Path(again.out) / sft.POLICY
    assert first.policy == str(tmp_path / "grounded")
    assert [Path(folder).name for folder in drills.data] == ["drills"]
    assert drills.policy == str(Path(first.out) / sft.POLICY)
    halves = [Path(config.out) / sft.POLICY for config in (first, drills)]
    for a, b, c in zip(*(weights(folder) for folder in (*halves, Path(again.policy))), strict=True):
        torch.testing.assert_close(c, ((a + b) / 2).bfloat16().float(), rtol=0, atol=0)
    assert again.data == first.data
    assert again.seed != first.seed, "what a step sees follows from the seed"
    assert run._chains(0, "sft", CHAINS) == policy
    assert len(configs) == 3, "each is trained once"


def test_a_policy_that_is_there_already_is_the_trained_one(tmp_path, monkeypatch):
    monkeypatch.setattr(runner.sft, "main", pytest.fail)
    run = Unprepared(tmp_path, BUDGETS["short"])
    assert "sft, uniform weights, no heads" not in run.arms()
    assert run._sft_policy(0) == TRAINED_PRESETS[BUDGETS["short"].start]
