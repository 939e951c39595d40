"""What a phase's own loss recomputes is what its rollout recorded; where not, nothing is learned.

Not by `policy.mismatch.trainer_logprobs`, which repeats every prompt: by the shared forward, the
constrained head and the kernel that RFT and test-time RL train with.
"""

from copy import deepcopy
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pixelis_fast.advantages import learned_tokens
from pixelis_fast.constrained import choices_of
from pixelis_fast.phases.rft_loss import Learnable, LossReport, mask_rows
from pixelis_fast.phases.rft_run import RftRun
from pixelis_fast.phases.ttrl_types import TtrlStatus
from pixelis_fast.policy.engine import EngineConfig
from pixelis_fast.policy.mismatch import Mismatch, MismatchAlarm, measure
from pixelis_fast.policy.published import Published
from pixelis_fast.tree_batch import tree_batch
from pixelis_fast.types import Trajectory
from tests.phases.ttrl_fixtures import VERSION, events, greedy, served
from tests.rft_fixtures import rft_config, unit_folder

CLOSE = 1e-6
"""Nats, for every token: two roundings of a log-probability near -8."""
TRAINED = Path("pixelworld-5m")
TRAINED_CLOSE, TRAINED_MEAN = 3e-5, 3e-6
"""Its logits are tens, and one rounding of 40 is 4e-6."""


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> Path:
    return unit_folder(tmp_path_factory.mktemp("policy"))


def retraced(run: RftRun) -> tuple[list[Trajectory], LossReport]:
    """A rollout of the run, and what its loss finds of it."""
    trajectories = run.roll_out()
    return trajectories, run.maker.backward([Learnable(t, 1.0, False) for t in trajectories])


def apart(report: LossReport) -> Mismatch:
    return measure(report.rollout_M, report.trainer_M)


@pytest.mark.parametrize(
    ("engine", "temperature", "lora_rank"),
    [
        (EngineConfig(), 1.0, 0),
        (EngineConfig(), 0.7, 4),
        (EngineConfig(prefill_chunk=16), 1.0, 0),
        (EngineConfig(packed_weights=False, share_prefix=False), 1.0, 0),
    ],
    ids=["defaults", "bank", "pieces", "plain"],
)
def test_the_loss_of_rft_recomputes_the_rollout(policy, tmp_path, engine, temperature, lora_rank):
    config = rft_config(
        policy, tmp_path, max_tokens=32, temperature=temperature, lora_rank=lora_rank
    )
    run = RftRun(replace(config, agent=replace(config.agent, engine=engine)))
    _, report = retraced(run)
    assert apart(report).num_tokens > 300
    assert apart(report).max_abs <= CLOSE


def test_it_still_does_once_a_bank_was_learned_and_published(policy, tmp_path):
    run = RftRun(rft_config(policy, tmp_path, lora_rank=4, task_reward=lambda t: t.seed % 3 / 2))
    rows = [run.step() for _ in range(3)]
    assert rows[-1]["update/kl"] > 1e-6
    assert max(row["mismatch/max"] for row in rows) <= CLOSE


def exact_logprobs(run: RftRun, trajectories: list[Trajectory]) -> Tensor:
    """(M) of the learned tokens: the same policy, computed in fp64 throughout."""
    maker, policy = run.maker, deepcopy(run.maker.policy).double()
    batch = tree_batch(policy, trajectories, run.agent.views.patches)
    batch = replace(batch, patches_PK=batch.patches_PK.double())
    choices = choices_of(trajectories, maker._grammar, maker._banned_ids)
    valid_N = batch.rows([learned_tokens(t) for t in trajectories]) > 0
    allowed_MV = choices.allowed_KV[mask_rows(batch, choices)[valid_N]]
    with torch.no_grad():
        logits_MV = batch.hidden(policy)[valid_N] @ policy.head_weight.T
    logprobs_MV = torch.log_softmax(logits_MV.masked_fill(~allowed_MV, -torch.inf), dim=-1)
    return logprobs_MV.gather(1, batch.targets_N[valid_N][:, None])[:, 0]


def test_on_trained_weights_only_rounding_parts_them(tmp_path):
    """Each side is as far from fp64 as from the other: neither has another policy."""
    run = RftRun(rft_config(TRAINED, tmp_path, max_tokens=32, prompts=2, group=4))
    trajectories, report = retraced(run)
    exact_M = exact_logprobs(run, trajectories)
    sides = (report.rollout_M, report.trainer_M, exact_M)
    for one_M, other_M in combinations(sides, 2):
        found = measure(one_M, other_M)
        assert found.num_tokens > 100
        assert found.max_abs <= TRAINED_CLOSE
        assert found.mean_abs <= TRAINED_MEAN


def test_the_loss_of_test_time_rl_recomputes_the_rollout(bench):
    """Under the base, and under every bank that was published since."""
    learning = bench(queries_per_update=2)
    statuses = [learning.step(number).status for number in range(6)]
    assert statuses == [TtrlStatus.WAITING, TtrlStatus.PUBLISHED] * 3
    updates = [row["update"] for row in events(learning, "query") if row["update"]]
    assert len(updates) == 3
    assert max(update["losses"]["mismatch_max"] for update in updates) <= CLOSE


class Unseen:
    """A publisher that tells the engine a version's name and forgets its weights."""

    def __init__(self, publisher) -> None:
        self._publisher = publisher

    def __getattr__(self, name):
        return getattr(self._publisher, name)

    def publish(self, published: Published) -> float:
        spoken = self._publisher._engine.shelf.serving()
        return self._publisher.publish(replace(published, bank=spoken.bank))


def test_a_publish_that_the_rollout_did_not_see_teaches_nothing(bench, monkeypatch):
    learning = bench()
    versions, publisher = learning.learner.versions, learning.parts.publisher
    monkeypatch.setattr(versions, "_publisher", Unseen(publisher))
    assert learning.step(0).status is TtrlStatus.PUBLISHED
    assert served(learning) is None
    state, said = learning.updater.state(), greedy(learning)
    event = learning.step(1)
    assert event.status is TtrlStatus.STALE
    assert "are the weights stale" in event.reason
    assert event.update["losses"]["mismatch"] > MismatchAlarm.for_dtype(torch.float32).mean_limit
    assert "drift" not in event.update
    assert event.answer == "24"
    assert unmoved(state, learning.updater.state())
    assert greedy(learning) == said
    assert events(learning, "query")[-1]["status"] == "stale"
    assert learning.memory.ids("lab") == ["coins-0#0", "coins-1#1"]
    monkeypatch.setattr(versions, "_publisher", publisher)
    learning.learner.rollback(VERSION)
    assert learning.step(2).status is TtrlStatus.PUBLISHED


def unmoved(before: dict, after: dict) -> bool:
    """Banks and moments, bit for bit."""
    pairs = [*zip(before["bank"] + before["ema"], after["bank"] + after["ema"], strict=True)]
    return all(torch.equal(*pair) for pair in pairs) and str(before["optimizer"]) == str(
        after["optimizer"]
    )


def test_after_a_stale_update_a_restart_serves_what_was_learned(bench, monkeypatch):
    learning = bench()
    with monkeypatch.context() as patch:
        patch.setattr(learning.learner.versions, "_publisher", Unseen(learning.parts.publisher))
        learning.step(0)
        assert learning.step(1).status is TtrlStatus.STALE
    learning.close()
    resumed = bench()
    assert resumed.learner.num_queries == 2
    assert served(resumed).equals(resumed.updater.bank)
    assert resumed.step(2).status is TtrlStatus.PUBLISHED
