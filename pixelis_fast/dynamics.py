"""Curiosity: a head that predicts the next step's embedding, and what its errors are worth.

`DynamicsHead` is f(z_t, a_t) -> z_{t+1}. Its error is |f - z_{t+1}|² / D, divided by a running
mean of its operation's errors, so that a tool whose results vary more pays no more. A step earns
learning progress: the error of an earlier snapshot of the head minus the error of the head now,
both before either has seen the step. Pure noise has no progress to sell, while its raw error pays
for ever; raw error is a switch. Embeddings are constants here: no gradient reaches the policy.

Shapes: T = transitions, D = embedding, A = action features.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, silu

from pixelis_fast.schemas import EVENTS, MAX_COORDINATE, TOOL_SCHEMAS
from pixelis_fast.types import Media, ToolCall

OPERATIONS = tuple(TOOL_SCHEMAS)
COORDINATES = {"box": 4, "point": 2}
SECONDS = ("start", "end", "time")
INDICES = ("media", "mask")
LARGEST_INDEX = 8
NUM_FEATURES = (
    len(OPERATIONS) + len(EVENTS) + sum(COORDINATES.values()) + len(COORDINATES)
    + 2 * len(SECONDS) + len(INDICES)
)  # fmt: skip


@dataclass(frozen=True)
class DynamicsConfig:
    """The head's size and training, and what an error is worth."""

    width: int = 128
    """Of the hidden layer."""
    learning_rate: float = 1e-3
    updates: int = 4
    """Gradient steps on each batch."""
    snapshot_every: int = 4
    """Batches between two snapshots; progress is measured against the older of the last two."""
    mean_decay: float = 0.95
    """Of the running mean error per operation."""
    clip: float = 1.0
    """No transition earns more than this, or less than its negative."""
    reward: str = "progress"
    """"progress", or "error" for the raw one."""

    def __post_init__(self) -> None:
        if self.reward not in ("progress", "error"):
            raise ValueError(f"reward: expected 'progress' or 'error', got {self.reward!r}")
        for name in ("width", "updates", "snapshot_every", "learning_rate", "clip"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: expected > 0, got {getattr(self, name)}")
        if not 0 <= self.mean_decay < 1:
            raise ValueError(f"mean_decay: expected a number in [0, 1), got {self.mean_decay}")


@dataclass(frozen=True)
class Transition:
    """One valid step and the step behind it.

    Example:
        Transition(call, media, before=step.embedding, after=following.embedding)
    """

    call: ToolCall
    media: tuple[Media, ...]
    """The sample's, which say how long a video is."""
    before: tuple[float, ...]
    after: tuple[float, ...]


class DynamicsHead(nn.Module):
    """f(z_t, a_t) -> z_{t+1}: z_t plus what a small network adds; at first nothing."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(size + NUM_FEATURES, width)
        self.second = nn.Linear(width, width)
        self.last = nn.Linear(width, size)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, before_TD: Tensor, action_TA: Tensor) -> Tensor:
        """(T, D), (T, A) -> (T, D)."""
        normed_TD = layer_norm(before_TD, before_TD.shape[1:])
        hidden = silu(self.first(torch.cat([normed_TD, action_TA], dim=1)))
        return before_TD + self.last(silu(self.second(hidden)))


@dataclass(frozen=True)
class Batch:
    """Transitions as tensors."""

    before_TD: Tensor
    action_TA: Tensor
    after_TD: Tensor
    operation_T: Tensor
    """Index into OPERATIONS."""


class Dynamics:
    """The head, its snapshots, its optimizer and its running means; on the CPU, in fp32.

    Example:
        earned = dynamics.rewards(transitions)   # before it learns from them
        loss = dynamics.learn(transitions)
    """

    def __init__(self, size: int, config: DynamicsConfig | None = None, *, seed: int = 0) -> None:
        self.config = config or DynamicsConfig()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head = DynamicsHead(size, self.config.width)
        self.snapshots = [copy.deepcopy(self.head) for _ in range(2)]
        """The older first."""
        self.optimizer = torch.optim.Adam(self.head.parameters(), lr=self.config.learning_rate)
        self.mean_O = torch.zeros(len(OPERATIONS))
        """Running mean error per operation; 0 before its first transition."""
        self.num_batches = 0

    @torch.no_grad()
    def rewards(self, transitions: Sequence[Transition]) -> list[float]:
        """What each transition earns; changes nothing."""
        if not transitions:
            return []
        batch = as_batch(transitions)
        now_T = errors(self.head, batch)
        earned_T = now_T
        if self.config.reward == "progress":
            earned_T = errors(self.snapshots[0], batch) - now_T
        scaled_T = earned_T / self._scale(batch, now_T)
        return scaled_T.clamp(-self.config.clip, self.config.clip).tolist()

    def learn(self, transitions: Sequence[Transition]) -> float:
        """Trains the head on the batch; its mean error before that."""
        if not transitions:
            return 0.0
        batch = as_batch(transitions)
        before_T = errors(self.head, batch).detach()
        self._follow_means(batch, before_T)
        for _ in range(self.config.updates):
            self._update(batch)
        self.num_batches += 1
        if self.num_batches % self.config.snapshot_every == 0:
            self.snapshots = [self.snapshots[1], copy.deepcopy(self.head)]
        return float(before_T.mean())

    def state_dict(self) -> dict[str, Any]:
        return {
            "head": self.head.state_dict(),
            "snapshots": [snapshot.state_dict() for snapshot in self.snapshots],
            "optimizer": self.optimizer.state_dict(),
            "mean_O": self.mean_O.clone(),
            "num_batches": self.num_batches,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.head.load_state_dict(state["head"])
        for snapshot, weights in zip(self.snapshots, state["snapshots"], strict=True):
            snapshot.load_state_dict(weights)
        # Adam keeps the tensors it is given.
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        self.mean_O = state["mean_O"].clone()
        self.num_batches = state["num_batches"]

    def _update(self, batch: Batch) -> None:
        self.optimizer.zero_grad()
        scaled_T = errors(self.head, batch) / self._scale(batch, self.mean_O[batch.operation_T])
        loss = scaled_T.mean()
        if not torch.isfinite(loss):
            raise ValueError(f"dynamics: expected finite embeddings, got a loss of {loss}")
        loss.backward()
        nn.utils.clip_grad_norm_(self.head.parameters(), 1.0)
        self.optimizer.step()

    def _scale(self, batch: Batch, unknown_T: Tensor) -> Tensor:
        """Running mean of each transition's operation; `unknown` where there is none yet."""
        mean_T = self.mean_O[batch.operation_T]
        return torch.where(mean_T > 0, mean_T, unknown_T).clamp(min=1e-12)

    def _follow_means(self, batch: Batch, error_T: Tensor) -> None:
        decay = self.config.mean_decay
        for operation in batch.operation_T.unique().tolist():
            found = error_T[batch.operation_T == operation].mean()
            old = self.mean_O[operation]
            self.mean_O[operation] = found if old == 0 else decay * old + (1 - decay) * found


def errors(head: DynamicsHead, batch: Batch) -> Tensor:
    """(T) |f(z_t, a_t) - z_{t+1}|² / D."""
    return (head(batch.before_TD, batch.action_TA) - batch.after_TD).square().mean(dim=1)


def as_batch(transitions: Sequence[Transition]) -> Batch:
    return Batch(
        torch.tensor([t.before for t in transitions]),
        torch.tensor([action_features(t.call, t.media) for t in transitions]),
        torch.tensor([t.after for t in transitions]),
        torch.tensor([OPERATIONS.index(t.call.operation) for t in transitions]),
    )


def action_features(call: ToolCall, media: Sequence[Media]) -> list[float]:
    """(A) numbers in [0, 1]: operation, event, places with a flag each, times with one, indices."""
    arguments = call.arguments
    features = one_hot(call.operation, OPERATIONS) + one_hot(arguments.get("event"), EVENTS)
    for name, count in COORDINATES.items():
        values = arguments.get(name)
        features += [float(values is not None)]
        features += [v / MAX_COORDINATE for v in values] if values else [0.0] * count
    duration_s = duration_of(call, media)
    for name in SECONDS:
        features += [float(name in arguments), min(1.0, arguments.get(name, 0.0) / duration_s)]
    return features + [min(arguments.get(n, 0), LARGEST_INDEX) / LARGEST_INDEX for n in INDICES]


def duration_of(call: ToolCall, media: Sequence[Media]) -> float:
    """Of the media that the call is about; 1 where it has no time."""
    index = call.arguments.get("media", 0)
    seconds = media[index].duration_s if index < len(media) else 0.0
    return seconds or 1.0


def one_hot(value: str | None, names: Sequence[str]) -> list[float]:
    return [float(value == name) for name in names]
