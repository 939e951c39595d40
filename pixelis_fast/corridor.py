"""Keeps a learning policy within reach of its own average: measure, decide, and turn beta.

The one quantity: the mean exact KL(candidate‖EMA) in nats per token, full vocabulary, over the
tokens that the policy sampled in the probe trajectories (forced tokens, prompts and observations
left out). "Candidate" is the bank that would be served next, "EMA" the average as it is before this
update; after a publish the average follows, so the KL is a distance to a moving point and settles
where drift per update and pull balance. k3 of the same tokens is logged beside it, never decided
on. An update above the corridor is scaled back or dropped, one below it published as it is.

Shapes: N = tokens, D = hidden, V = vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from pixelis_fast.kernels.token_kl import corridor, token_kl

MIN_PART = 0.1


@dataclass(frozen=True)
class CorridorConfig:
    """The corridor, the controller of beta, and how far an update is scaled back.

    Example:
        CorridorConfig(beta=0.1, searches=6)
    """

    low: float = 0.10
    """nats per token."""
    high: float = 0.20
    beta: float = 0.1
    """Of the first update."""
    beta_min: float = 1e-3
    beta_max: float = 10.0
    factor: float = 1.1
    """beta is multiplied or divided by it, once per observation outside."""
    smoothing: float = 0.3
    """Share of the old mean in the new one; 0 follows every measurement."""
    hysteresis: float = 0.25
    """Share of the corridor's width that the mean must come back inside before beta holds."""
    searches: int = 5
    """Measurements spent to find how much of a step too far still fits; 0 drops it at once."""
    nearly: float = 0.8
    """Share of `high` from which on a part that fits is not made larger."""

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high:
            raise ValueError(f"low: expected 0 <= low < high={self.high}, got {self.low}")
        if not 0 < self.beta_min <= self.beta <= self.beta_max:
            raise ValueError(
                f"beta: expected beta_min={self.beta_min} <= beta <= beta_max={self.beta_max}, "
                f"got {self.beta}"
            )
        if self.factor <= 1:
            raise ValueError(f"factor: expected > 1, got {self.factor}")
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"smoothing: expected a number in [0, 1), got {self.smoothing}")
        if not 0 <= self.hysteresis < 0.5:
            raise ValueError(f"hysteresis: expected a number in [0, 0.5), got {self.hysteresis}")
        if self.searches < 0:
            raise ValueError(f"searches: expected >= 0, got {self.searches}")
        if not 0 < self.nearly < 1:
            raise ValueError(f"nearly: expected a number in (0, 1), got {self.nearly}")


@dataclass(frozen=True)
class Drift:
    """What one probe measurement found, in nats per token."""

    exact: float
    """Mean exact KL: what is decided on."""
    sampled: float
    """Mean k3 of the sampled tokens."""
    median: float
    p90: float
    maximum: float
    num_tokens: int

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.exact)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Verdict(Enum):
    PUBLISH = "publish"
    SCALE_BACK = "scale_back"
    """Publish a part of the step."""
    DROP = "drop"


@dataclass(frozen=True)
class Decision:
    """What becomes of an update."""

    verdict: Verdict
    step: float
    """Share of the update that fits, 0 where none does."""
    drift: Drift
    """Of what is published; of the whole update where nothing is."""
    full: Drift
    """Of the whole update: what the controller learns from."""
    num_measured: int
    reason: str


class KlController:
    """beta: up above the corridor, down below it, still inside.

    Example:
        beta = controller.observe(decision.full.exact)
    """

    def __init__(self, config: CorridorConfig) -> None:
        self.config, self.beta = config, config.beta
        self.mean: float | None = None
        """Smoothed KL."""
        self.direction = 0
        """1 while beta rises, -1 while it falls, 0 while it holds."""

    def observe(self, kl: float) -> float:
        """The next update's beta; a KL that is no number counts as far above."""
        config = self.config
        kl = kl if math.isfinite(kl) else 10 * config.high
        old = kl if self.mean is None else self.mean
        self.mean = config.smoothing * old + (1 - config.smoothing) * kl
        self.direction = self._direction(self.mean)
        beta = self.beta * config.factor**self.direction
        self.beta = min(config.beta_max, max(config.beta_min, beta))
        return self.beta

    def state(self) -> dict[str, Any]:
        return {"beta": self.beta, "mean": self.mean, "direction": self.direction}

    def restore(self, state: dict[str, Any]) -> None:
        self.beta, self.mean, self.direction = state["beta"], state["mean"], state["direction"]

    def _direction(self, mean: float) -> int:
        """Once moving, beta moves until the mean is well inside: no flutter at the edge."""
        config = self.config
        margin = config.hysteresis * (config.high - config.low)
        if mean > config.high or (self.direction > 0 and mean > config.high - margin):
            return 1
        if mean < config.low or (self.direction < 0 and mean < config.low + margin):
            return -1
        return 0


def decide(measure: Callable[[float], Drift], config: CorridorConfig) -> Decision:
    """Whole, in part, or not at all; `measure(share)` is the drift with that share of the step.

    The largest share found whose drift was itself measured and does not leave the corridor at the
    top. KL grows with about the square of a step: its root is about linear, and the first guess
    mostly fits.
    """
    full = measure(1.0)
    if not full.is_finite:
        return Decision(Verdict.DROP, 0.0, full, full, 1, "KL is not finite")
    if full.exact <= config.high:
        place = "below" if full.exact < config.low else "inside"
        return Decision(Verdict.PUBLISH, 1.0, full, full, 1, f"{place} the corridor")
    fits, too_far, best, tried = (0.0, 0.0), (1.0, full.exact), full, 1
    while tried <= config.searches and fits[1] < config.nearly * config.high:
        share = between(fits, too_far, config)
        found, tried = measure(share), tried + 1
        if found.is_finite and found.exact <= config.high:
            fits, best = (share, found.exact), found
        else:
            too_far = share, found.exact
    if fits[0] == 0.0:
        return Decision(Verdict.DROP, 0.0, full, full, tried, "no share of the step fits")
    return Decision(Verdict.SCALE_BACK, fits[0], best, full, tried, "the whole step is above")


def between(
    fits: tuple[float, float], too_far: tuple[float, float], config: CorridorConfig
) -> float:
    """The share to measure next, between two (share, KL): where the root of KL, drawn as a line
    through both, is in the middle of what is near enough to the top."""
    low, high = (math.sqrt(max(kl, 0.0)) for _, kl in (fits, too_far))
    aim = math.sqrt((1 + config.nearly) / 2 * config.high)
    part = (aim - low) / (high - low) if math.isfinite(high) else 0.5
    if fits[0] == 0.0 and too_far[0] < 1.0:
        # The line was wrong once, as where KL is not 0 without the step.
        part = min(part, 0.5)
    # Some of the room on both sides: a line that is wrong must still shrink it.
    part = min(max(part, MIN_PART), 1 - MIN_PART)
    return fits[0] + part * (too_far[0] - fits[0])


@torch.no_grad()
def measure_drift(
    hidden_p_ND: Tensor,
    hidden_q_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    valid_N: Tensor,
    config: CorridorConfig,
    *,
    temperature: float = 1.0,
) -> Drift:
    """Drift of p from q under one head, over the valid rows; targets are the sampled tokens."""
    report = corridor(
        hidden_p_ND,
        weight_VD,
        hidden_q_ND,
        None,
        valid_N=valid_N,
        low=config.low,
        high=config.high,
        quantiles=(0.5, 0.9),
        temperature=temperature,
    )
    drawn_N = torch.where(valid_N, targets_N, 0)
    k3_N = token_kl(
        hidden_p_ND,
        weight_VD,
        hidden_q_ND,
        None,
        drawn_N,
        valid_N=valid_N,
        value="k3",
        gradient="k3",
        temperature=temperature,
    )
    num_tokens = int(valid_N.sum())
    median, p90 = report.quantiles.tolist()
    return Drift(
        exact=float(report.mean),
        sampled=float(k3_N.double().sum()) / max(1, num_tokens),
        median=median,
        p90=p90,
        maximum=float(report.maximum),
        num_tokens=num_tokens,
    )


@dataclass(frozen=True)
class CanaryScore:
    """How a version did on the canary samples."""

    accuracy: float
    invalid_rate: float
    """Share of its calls that could not be run."""
    num_samples: int
    broken: str = ""
    """How those ended that the machine ended, not the policy; with any, this is no measure."""


@dataclass(frozen=True)
class CanaryGate:
    """Refuses what has become worse on fixed samples than the version learning began with.

    Example:
        reason = gate.refusal(before, after)  # None: publish
    """

    max_accuracy_drop: float = 0.05
    max_invalid_rise: float = 0.05

    def refusal(self, reference: CanaryScore, candidate: CanaryScore) -> str | None:
        """Why not, or None."""
        if broken := reference.broken or candidate.broken:
            return f"canary: {broken}"
        drop = reference.accuracy - candidate.accuracy
        rise = candidate.invalid_rate - reference.invalid_rate
        # Written so that NaN refuses.
        if not drop <= self.max_accuracy_drop:
            return f"accuracy fell by {drop:.3f}, allowed {self.max_accuracy_drop}"
        if not rise <= self.max_invalid_rise:
            return f"invalid calls rose by {rise:.3f}, allowed {self.max_invalid_rise}"
        return None
