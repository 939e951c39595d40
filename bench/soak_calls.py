"""Mixed calls on real pictures and clips, part of them repeated, drawn from a seed.

The mix is that of rollouts: many siblings ask the same of one picture, some ask something new.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from bench.scenes import scene, scene_names
from pixelis_fast.tools_trt.geometry import box_to_px
from pixelis_fast.tools_trt.pixels.media import MediaInfo
from pixelis_fast.tools_trt.results import RleMask
from pixelis_fast.tools_trt.rle import encode_mask
from pixelis_fast.tools_trt.store import MediaStore

TOOLS = ("zoom", "segment", "track", "read_text", "localize", "properties")
OF_VIDEOS = ("track", "localize")
SHARES = {
    "zoom": 0.34,
    "segment": 0.2,
    "read_text": 0.16,
    "properties": 0.2,
    "track": 0.04,
    "localize": 0.06,
}
REPEATED = 0.5
"""Share of calls that were made before."""
RECENT = 200
"""A repeated call is one of the latest so many."""
GRID = 50
"""Corners of new boxes lie on multiples of this: a policy points at things, not at random."""


@dataclass(frozen=True)
class SoakCall:
    """One call.

    Example:
        SoakCall("zoom", ("3f…", (0, 0, 500, 500)), {"time_s": None})
    """

    tool: str
    arguments: tuple[Any, ...]
    options: Mapping[str, Any] = field(default_factory=dict)


def add_media(store: MediaStore) -> list[MediaInfo]:
    """Every scene of the latency benchmark, pictures and clips."""
    scenes = [scene(name) for name in scene_names()]
    adds = {"video": store.add_video, "image": store.add_image}
    return [adds[each.kind](each.encoded) for each in scenes]


def draw_calls(rng: random.Random, media: list[MediaInfo], *, count: int) -> list[SoakCall]:
    """Calls in the order in which clients take them."""
    calls: list[SoakCall] = []
    while len(calls) < count:
        is_repeat = calls and rng.random() < REPEATED
        calls.append(rng.choice(calls[-RECENT:]) if is_repeat else fresh_call(rng, media))
    return calls


def fresh_call(rng: random.Random, media: list[MediaInfo]) -> SoakCall:
    tool = rng.choices(TOOLS, [SHARES[name] for name in TOOLS])[0]
    info = rng.choice([each for each in media if tool not in OF_VIDEOS or each.kind == "video"])
    is_video = info.kind == "video"
    time_s = round(rng.random() * info.duration_s, 1) if is_video else None
    if tool == "track":
        start_s = rng.randrange(int(info.duration_s * 10) - 5) / 10
        span = {"start_s": start_s, "end_s": start_s + 0.4, "max_frames": 4}
        return SoakCall(tool, (info.id, box(rng)), span)
    if tool == "localize":
        event = rng.choice(("change", "motion"))
        return SoakCall(tool, (info.id, event), {"box": rng.choice((None, box(rng)))})
    if tool == "segment":
        return SoakCall(tool, (info.id,), {"box": box(rng), "time_s": time_s})
    if tool == "properties":
        return SoakCall(tool, (info.id, ellipse(rng, info)), {"time_s": time_s})
    return SoakCall(tool, (info.id, box(rng)), {"time_s": time_s})


def box(rng: random.Random) -> tuple[int, ...]:
    """At most 300 units a side."""
    x0, y0 = rng.randrange(0, 800, GRID), rng.randrange(0, 800, GRID)
    return x0, y0, x0 + rng.randrange(50, 300, GRID), y0 + rng.randrange(50, 300, GRID)


def ellipse(rng: random.Random, info: MediaInfo) -> RleMask:
    """The mask of an ellipse in a box."""
    x0, y0, x1, y1 = box_to_px(box(rng), info.width, info.height)
    mask_HW = np.zeros((info.height, info.width), np.uint8)
    centre, axes = ((x0 + x1) // 2, (y0 + y1) // 2), ((x1 - x0) // 2, (y1 - y0) // 2)
    cv2.ellipse(mask_HW, centre, axes, 0, 0, 360, 1, cv2.FILLED)
    return encode_mask(mask_HW)
