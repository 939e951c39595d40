"""What the micro model is taught when: phases by share of the training, and the learning rate.

Small pictures first: the same scenes at half the side cost a quarter, and no weight changes its
shape with the side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

WARM_UP_STEPS = 100
LAST_RATE = 0.02
"""Share of the peak that the cosine ends at."""


@dataclass(frozen=True)
class Phase:
    """Clips of several frames alternate with pictures where `frames` exceeds 1."""

    until: float
    """Share of the whole training."""
    side: int
    pictures: int
    clips: int
    frames: int
    objects: int
    """Taken of each picture or clip."""


PHASES = (
    Phase(until=0.5, side=128, pictures=4, clips=0, frames=1, objects=6),
    Phase(until=0.7, side=128, pictures=4, clips=1, frames=4, objects=6),
    Phase(until=1.0, side=256, pictures=2, clips=1, frames=4, objects=4),
)


def phase_at(progress: float, phases: tuple[Phase, ...] = PHASES) -> Phase:
    return next((phase for phase in phases if progress < phase.until), phases[-1])


def is_clip_step(phase: Phase, step: int) -> bool:
    return phase.clips > 0 and step % 2 == 1


def rate_at(step: int, progress: float, *, peak: float) -> float:
    """Linear warm-up by steps, then a cosine over the training."""
    cosine = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return peak * min(1.0, (step + 1) / WARM_UP_STEPS) * (LAST_RATE + (1 - LAST_RATE) * cosine)
