"""What one query teaches, and the same on disk for as long as it waits for its update."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pixelis_fast.memory.rows import trajectory_body
from pixelis_fast.trace import trajectory_from_json
from pixelis_fast.types import Trajectory


@dataclass(frozen=True)
class Lesson:
    """One query's trajectories, what each is to be made of, and the one to imitate."""

    trajectories: tuple[Trajectory, ...]
    advantages: tuple[float, ...]
    exemplar: int | None
    tenant: str

    def state(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "trajectories": [trajectory_body(trajectory) for trajectory in self.trajectories],
            "advantages": list(self.advantages),
            "exemplar": self.exemplar,
            "tenant": self.tenant,
        }

    @staticmethod
    def of(state: dict[str, Any]) -> Lesson:
        """The one whose state it is."""
        return Lesson(
            tuple(trajectory_from_json(json.loads(body)) for body in state["trajectories"]),
            tuple(state["advantages"]),
            state["exemplar"],
            state["tenant"],
        )
