"""The reward curriculum: task, then + coherence, then + curiosity.

A stage is entered when the mean success of the last steps reaches its bar, or when the one before
has had its steps. Deterministic, and its state is plain JSON.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from pixelis_fast.rewards import Stage


@dataclass(frozen=True)
class StagesConfig:
    """When to go on; two numbers each, for coherence and for curiosity."""

    success: tuple[float, float] = (0.5, 0.6)
    """Mean task reward over the window that enters the stage."""
    window: int = 10
    """Steps that success is measured over; no stage is shorter, unless its limit says so."""
    most_steps: tuple[int, int] = (30, 30)
    """Steps in the stage before, after which the next one comes anyway: early enough for a run of
    150 to spend most of them on the whole reward."""
    first: Stage = Stage.TASK
    """Where to begin; the last stage runs without a curriculum."""

    def __post_init__(self) -> None:
        if self.window < 1 or min(self.most_steps) < 1:
            raise ValueError(
                f"window, most_steps: expected >= 1, got {self.window}, {self.most_steps}"
            )


class Stages:
    """Where the curriculum stands.

    Example:
        stages.record(success=0.7)   # after a step
        parts = score_group(trajectories, config, dynamics, stages.stage)
    """

    def __init__(self, config: StagesConfig | None = None) -> None:
        self.config = config or StagesConfig()
        self.stage = Stage(self.config.first)
        self._steps = 0
        self._recent: deque[float] = deque(maxlen=self.config.window)

    def record(self, success: float) -> Stage:
        """The stage of the next step."""
        if not 0 <= success <= 1:
            raise ValueError(f"success: expected a number in [0, 1], got {success}")
        self._steps += 1
        self._recent.append(success)
        if self.stage < Stage.CURIOSITY and self._is_over():
            self.stage = Stage(self.stage + 1)
            self._steps = 0
            self._recent.clear()
        return self.stage

    def state_dict(self) -> dict[str, Any]:
        return {"stage": int(self.stage), "steps": self._steps, "recent": list(self._recent)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stage, self._steps = Stage(state["stage"]), state["steps"]
        self._recent = deque(state["recent"], maxlen=self.config.window)

    def _is_over(self) -> bool:
        if self._steps >= self.config.most_steps[self.stage]:
            return True
        is_measured = len(self._recent) == self.config.window
        return is_measured and fmean(self._recent) >= self.config.success[self.stage]
