"""AdamW on fp32 copies of parameters that compute in another dtype, with a schedule and a guard.

The forward runs in bf16 without casts; steps far below bf16's resolution still add up in the
copies. A step whose gradient is not finite changes nothing and says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class OptimizerConfig:
    """Example:
    OptimizerConfig(learning_rate=1e-3, warmup_steps=100, total_steps=3000)
    """

    learning_rate: float = 1e-3
    warmup_steps: int = 100
    total_steps: int = 1000
    """The cosine ends here, at `final_share` of the rate."""
    final_share: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.05
    """On matrices; vectors (norms, biases) have none."""
    max_norm: float = 1.0
    """Gradients are scaled down to this norm."""

    def __post_init__(self) -> None:
        if self.learning_rate <= 0 or self.total_steps < 1 or self.max_norm <= 0:
            raise ValueError(f"optimizer: expected rate, steps and norm above 0, got {self}")
        if not 0 <= self.warmup_steps <= self.total_steps:
            raise ValueError(
                f"warmup_steps: expected 0..{self.total_steps}, got {self.warmup_steps}"
            )

    def rate(self, step: int) -> float:
        """Linear warm-up, then a cosine."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        rest = max(self.total_steps - self.warmup_steps, 1)
        share = min((step - self.warmup_steps) / rest, 1.0)
        falling = (1 + math.cos(math.pi * share)) / 2
        return self.learning_rate * (self.final_share + (1 - self.final_share) * falling)


@dataclass(frozen=True)
class StepReport:
    """What one step did."""

    gradient_norm: float
    rate: float
    skipped: bool
    """The gradient was not finite; nothing changed."""


class MasterAdamW:
    """Steps fp32 masters and copies them back.

    Example:
        optimizer = MasterAdamW(policy.parameters(), OptimizerConfig())
        loss.backward()
        report = optimizer.step()
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        config: OptimizerConfig,
        *,
        slow: Iterable[nn.Parameter] = (),
        slow_share: float = 1.0,
    ) -> None:
        """Those of `parameters` that are in `slow` move at this share of the rate."""
        self.config, self.num_steps = config, 0
        self._parameters = [p for p in parameters if p.requires_grad]
        self._masters = [master_of(parameter) for parameter in self._parameters]
        held = {id(parameter) for parameter in slow} if slow_share != 1 else set()
        slowly = [id(parameter) in held for parameter in self._parameters]
        self._adam = torch.optim.AdamW(
            by_decay(picked(self._masters, slowly, False), config.weight_decay, share=1.0)
            + by_decay(picked(self._masters, slowly, True), config.weight_decay, share=slow_share),
            lr=config.learning_rate,
            betas=config.betas,
            fused=True,
        )

    def step(self) -> StepReport:
        """One step with the parameters' gradients, which it clears."""
        rate = self.config.rate(self.num_steps)
        self._take_gradients()
        norm = nn.utils.clip_grad_norm_(self._masters, self.config.max_norm)
        skipped = not bool(torch.isfinite(norm))
        if not skipped:
            for group in self._adam.param_groups:
                group["lr"] = rate * group["share"]
            self._adam.step()
            self._give_back()
        self._adam.zero_grad()
        self.num_steps += 1
        return StepReport(float(norm), rate, skipped)

    def state(self) -> dict[str, Any]:
        """All that the next step depends on."""
        return {
            "num_steps": self.num_steps,
            "masters": [master.detach() for master in self._masters],
            "adam": self._adam.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        self.num_steps = state["num_steps"]
        with torch.no_grad():
            for master, saved in zip(self._masters, state["masters"], strict=True):
                master.copy_(saved)
        self._adam.load_state_dict(state["adam"])
        self._give_back()

    def _take_gradients(self) -> None:
        for parameter, master in zip(self._parameters, self._masters, strict=True):
            gradient, parameter.grad = parameter.grad, None
            master.grad = None if gradient is None else gradient.float()

    @torch.no_grad()
    def _give_back(self) -> None:
        for parameter, master in zip(self._parameters, self._masters, strict=True):
            parameter.copy_(master)


def master_of(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(parameter.detach().float().clone())


def picked(masters: Sequence[Tensor], marks: Sequence[bool], wanted: bool) -> list[Tensor]:
    return [master for master, mark in zip(masters, marks, strict=True) if mark is wanted]


def by_decay(
    masters: Sequence[Tensor], weight_decay: float, *, share: float
) -> list[dict[str, Any]]:
    matrices = [master for master in masters if master.ndim > 1]
    vectors = [master for master in masters if master.ndim <= 1]
    groups = [(matrices, weight_decay), (vectors, 0.0)]
    return [
        {"params": group, "weight_decay": decay, "share": share} for group, decay in groups if group
    ]
