"""Synthetic experiences: unit embeddings and small trajectories, the same for the same number."""

from __future__ import annotations

from typing import Any

import numpy as np

from pixelis_fast.memory import Experience, MemoryConfig, MemoryKey, Outcome, Provenance, Source
from pixelis_fast.types import (
    Mask,
    Media,
    MediaKind,
    Observation,
    RolloutStatus,
    Sample,
    Step,
    TokenRole,
    ToolCall,
    Trajectory,
)

TEXT, PIXEL = 16, 8
"""Dimensions where nothing is timed."""
MEDIA = Media("ab" * 32, MediaKind.IMAGE, 640, 480)
OBSERVED = Observation(
    '{"mask":0}', masks=(Mask(MEDIA.id, None, (480, 640), "0123"),), stage_ms={"run": 1.5}
)


def small_config(**changes: Any) -> MemoryConfig:
    return MemoryConfig(**{"pixel_dimension": PIXEL, "text_dimension": TEXT} | changes)


def unit(size: int, seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal(size, dtype=np.float32)
    return values / np.linalg.norm(values)


def key(seed: int, config: MemoryConfig | None = None) -> MemoryKey:
    config = config or small_config()
    text_T, pixel_P = (
        unit(config.text_dimension, 2 * seed),
        unit(config.pixel_dimension, 2 * seed + 1),
    )
    return MemoryKey(text_T, pixel_P)


def trajectory(seed: int = 0) -> Trajectory:
    """Two turns: segment, answer."""
    call = ToolCall("segment", {"media": 0, "box": [10, 10, 200, 200 + seed % 700]})
    return Trajectory(
        sample=Sample(f"sample-{seed}", (MEDIA,), "how many coins?", "24"),
        policy_version="sft-1",
        seed=seed,
        ids=[1, 2, 3],
        roles=[TokenRole.PROMPT, TokenRole.OPERATION, TokenRole.ANSWER],
        logprobs=[0.0, -0.5, -0.25],
        forced=[False, True, False],
        steps=[Step(0, 2, call, OBSERVED, (0.5, -0.5)), Step(2, 3, None, None, (0.25, 1.0))],
        answer="24",
        status=RolloutStatus.ANSWERED,
    )


def experience(
    number: int = 0,
    *,
    tenant: str = "lab",
    config: MemoryConfig | None = None,
    **changes: Any,
) -> Experience:
    """Its id is its number; `changes` are other fields."""
    values = {
        "id": str(number),
        "tenant": tenant,
        "sample_id": f"sample-{number}",
        "question": "how many coins?",
        "trajectory": trajectory(number),
        "key": key(number, config),
        "outcome": Outcome("24", confidence=0.75, success=1.0),
        "visfid": 0.5,
        "provenance": Provenance("sft-1", 1.7e9 + number, Source.TTRL),
    }
    return Experience(**values | changes)
