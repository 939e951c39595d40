"""One update of the candidate bank: gradient, drift from the EMA, and how much of it stays.

L = policy gradient on pseudo-rewards + imitation of the exemplars + beta · KL(candidate‖EMA), one
pass over the vocabulary. Between updates candidate and published bank are equal bit for bit: what
is not published is undone here, the optimizer's moments included. Knows no engine and no memory.

Shapes: N = rows, D = hidden.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pixelis_fast.advantages import learned_tokens, token_advantages
from pixelis_fast.corridor import Decision, Drift, KlController, Verdict, decide, measure_drift
from pixelis_fast.imitation import RoleWeights, token_weights
from pixelis_fast.kernels.linear_loss import ReferenceHead
from pixelis_fast.kernels.policy_loss import PolicyLoss, linear_policy_loss
from pixelis_fast.phases.ttrl_batch import LearnerBatch, Rules, learner_batch
from pixelis_fast.phases.ttrl_lesson import Lesson
from pixelis_fast.phases.ttrl_probe import ProbeSet
from pixelis_fast.phases.ttrl_types import TtrlConfig
from pixelis_fast.policy.adapters import AdapterBank
from pixelis_fast.policy.mismatch import Mismatch, MismatchAlarm, measure
from pixelis_fast.policy.model import Policy
from pixelis_fast.training_batch import LoadPatches
from pixelis_fast.types import Trajectory

ROLE_WEIGHTS = RoleWeights()
PARTS = ("loss", "policy", "imitation", "clipped_low", "clipped_high")


@dataclass(frozen=True)
class Step:
    """What the gradient step did; drift is decided on, if it was taken."""

    losses: dict[str, float]
    gradient_norm: float
    decision: Decision | None
    """None: the gradient was not finite or the lessons were stale, and nothing changed."""
    stale: str | None = None
    """How far the lessons are from the bank's own words, where arithmetic does not explain it."""

    def details(self, number: int) -> dict[str, Any]:
        """As the log has it."""
        found: dict[str, Any] = {
            "number": number,
            "losses": self.losses,
            "gradient_norm": self.gradient_norm,
        }
        decision = self.decision
        if decision is None:
            return found
        return found | {
            "verdict": decision.verdict.value,
            "step": decision.step,
            "drift": decision.drift.to_json(),
            "full_drift": decision.full.to_json(),
            "num_measured": decision.num_measured,
        }


class Updater:
    """Candidate, EMA, optimizer and controller.

    Example:
        step = updater.learn(lessons)
        updater.keep() if published else updater.undo()
    """

    def __init__(
        self, policy: Policy, config: TtrlConfig, *, load_patches: LoadPatches, rules: Rules
    ) -> None:
        """The policy's own weights are frozen from here on."""
        self.policy, self.config = policy.requires_grad_(False), config
        policy.recompute = config.recompute
        self._rules = rules
        self.bank = AdapterBank(
            policy.config,
            rank=config.rank,
            alpha=config.alpha,
            seed=config.seed,
            device=policy.device,
        )
        self.ema = self.bank.copy().freeze()
        self.alarm = MismatchAlarm.for_dtype(policy.dtype)
        self.controller = KlController(config.corridor)
        self.optimizer = torch.optim.AdamW(
            self.bank.parameters(), lr=config.learning_rate, weight_decay=0.0
        )
        self.probes = ProbeSet(load_patches, size=config.probe_trajectories)
        self._before = self._keepsake()

    def await_update(self, lesson: Lesson) -> None:
        """Before the `learn` that takes it: a server lets media go once their query is answered."""
        self.probes.hold(lesson.trajectories)

    def let_go(self) -> None:
        """No lesson waits any more."""
        self.probes.let_go()

    def learn(self, lessons: Sequence[Lesson]) -> Step:
        """Moves the candidate as far as the corridor lets it; follow with `keep` or `undo`."""
        self._before = self._keepsake()
        trajectories = [t for lesson in lessons for t in lesson.trajectories]
        batch = learner_batch(
            self.policy, [*trajectories, *self.probes.trajectories], self.probes.load, self._rules
        )
        with torch.no_grad():
            ema_NE, _ = batch.head(batch.hidden(self.ema))
        taught = sum(sum(learned_tokens(trajectory)) for trajectory in trajectories)
        share = taught / max(1, int(batch.valid_N.sum()))
        found = self._loss(batch, lessons, ema_NE, share)
        found.loss.backward()
        norm = float(nn.utils.clip_grad_norm_(self.bank.parameters(), self.config.max_norm))
        mismatch = self._mismatch(batch, trajectories, found)
        told = {"mismatch": mismatch.mean_abs, "mismatch_max": mismatch.max_abs, "beta": self.beta}
        losses = losses_of(found, share) | told
        is_finite = math.isfinite(norm) and math.isfinite(losses["loss"])
        stale = self.alarm.refusal(mismatch) if is_finite else None
        if stale or not is_finite:
            self.undo()
            return Step(losses, norm, None, stale)
        self.optimizer.step()
        self.optimizer.zero_grad()
        decision = self._decide(batch, ema_NE)
        self.probes.add(lesson.trajectories[lesson.exemplar or 0] for lesson in lessons)
        return Step(losses, norm, decision)

    @property
    def beta(self) -> float:
        return self.controller.beta if self.config.safety else 0.0

    def keep(self) -> None:
        """The candidate was published: the average follows."""
        self.ema.ema_update(self.bank, self.config.ema_decay)
        self._before = self._keepsake()

    def undo(self) -> None:
        """Bank and moments as before the update, bit for bit."""
        bank, optimizer = self._before
        self.bank.copy_(bank)
        self.optimizer.load_state_dict(deepcopy(optimizer))
        self.optimizer.zero_grad()

    def go_back(self, bank: AdapterBank, ema: AdapterBank) -> None:
        """To an earlier published bank and its average, with fresh moments."""
        self.bank.copy_(bank)
        self.ema.copy_(ema)
        self.optimizer.state.clear()
        self.probes.let_go()
        self._before = self._keepsake()

    def state(self) -> dict[str, Any]:
        """All that the next update depends on."""
        return {
            "bank": [p.detach().cpu().clone() for p in self.bank.parameters()],
            "ema": [p.detach().cpu().clone() for p in self.ema.parameters()],
            "optimizer": self.optimizer.state_dict(),
            "controller": self.controller.state(),
            "probes": self.probes.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        fill(self.bank, state["bank"])
        fill(self.ema, state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.controller.restore(state["controller"])
        self.probes.restore(state["probes"])
        self._before = self._keepsake()

    def _loss(
        self, batch: LearnerBatch, lessons: Sequence[Lesson], ema_NE: Tensor, share: float
    ) -> PolicyLoss:
        """Policy gradient over the lessons' tokens; KL over these and the probes', as measured."""
        config = self.config
        advantages = [
            token_advantages(trajectory, advantage)
            for lesson in lessons
            for trajectory, advantage in zip(lesson.trajectories, lesson.advantages, strict=True)
        ]
        hidden_NE, weight_VE = batch.head(batch.hidden(self.bank))
        return linear_policy_loss(
            hidden_NE,
            weight_VE,
            batch.tree.targets_N,
            batch.rows(self._beside_probes(advantages)),
            batch.rows([t.logprobs for t in batch.trajectories]),
            valid_N=batch.valid_N,
            normalizer=(share * batch.valid_N.sum()).clamp(min=1).float(),
            clip=config.clip,
            reference=ReferenceHead(ema_NE),
            # Divided by the lessons' tokens, meant over all.
            kl_weight=self.beta * share,
            imitation_weights_N=batch.rows(self._beside_probes(imitation_rows(lessons))),
            imitation_weight=config.imitation_weight,
            temperature=config.temperature,
        )

    def _mismatch(
        self, batch: LearnerBatch, taught: Sequence[Trajectory], found: PolicyLoss
    ) -> Mismatch:
        """Of the lessons' tokens, here and when sampled: nobody learns between query and update."""
        learned = [[float(each) for each in learned_tokens(t)] for t in taught]
        taught_N = batch.rows(self._beside_probes(learned)) > 0
        sampled_N = batch.rows([t.logprobs for t in batch.trajectories])
        return measure(sampled_N[taught_N], found.logprob_N[taught_N])

    def _beside_probes(self, values: list[list[float]]) -> list[list[float]]:
        """Probes teach nothing."""
        return [*values, *([0.0] * len(t.ids) for t in self.probes.trajectories)]

    @torch.no_grad()
    def _decide(self, batch: LearnerBatch, ema_NE: Tensor) -> Decision:
        """Leaves the share of the step that fits in the bank."""
        start, end = self._before[0], self.bank.copy()

        def measure(share: float) -> Drift:
            self.bank.copy_(start.lerp_toward(end, share))
            hidden_NE, weight_VE = batch.head(batch.hidden(self.bank))
            return measure_drift(
                hidden_NE,
                ema_NE,
                weight_VE,
                batch.tree.targets_N,
                batch.valid_N,
                self.config.corridor,
                temperature=self.config.temperature,
            )

        if not self.config.safety:
            full = measure(1.0)
            return Decision(Verdict.PUBLISH, 1.0, full, full, 1, "no corridor")
        decision = decide(measure, self.config.corridor)
        self.bank.copy_(start.lerp_toward(end, decision.step))
        self.controller.observe(decision.full.exact)
        return decision

    def _keepsake(self) -> tuple[AdapterBank, dict[str, Any]]:
        return self.bank.copy().freeze(), deepcopy(self.optimizer.state_dict())


@torch.no_grad()
def fill(bank: AdapterBank, tensors: Sequence[Tensor]) -> None:
    """With the numbers that a state has of it."""
    for parameter, tensor in zip(bank.parameters(), tensors, strict=True):
        parameter.copy_(tensor)


def imitation_rows(lessons: Sequence[Lesson]) -> list[list[float]]:
    """Role weights on the exemplars' own choices in steps that worked, 0 elsewhere."""
    return [
        exemplar_weights(trajectory) if index == lesson.exemplar else [0.0] * len(trajectory.ids)
        for lesson in lessons
        for index, trajectory in enumerate(lesson.trajectories)
    ]


def exemplar_weights(trajectory: Trajectory) -> list[float]:
    worked = [s.observation is None or s.observation.error is None for s in trajectory.steps]
    weights = token_weights(trajectory, worked, ROLE_WEIGHTS)
    return [
        weight if learned else 0.0
        for weight, learned in zip(weights, learned_tokens(trajectory), strict=True)
    ]


def losses_of(found: PolicyLoss, share: float) -> dict[str, float]:
    """`share` of the tokens were the lessons': KL and entropy become means over all of them."""
    over_all = {name: float(getattr(found, name)) * share for name in ("kl", "entropy")}
    over_lessons = {name: float(getattr(found, name).detach()) for name in PARTS}
    return over_lessons | over_all
