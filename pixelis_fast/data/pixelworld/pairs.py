"""Two objects of one shape whose areas differ by a set share."""

from __future__ import annotations

from dataclasses import replace

from pixelis_fast.data.pixelworld.canvas import Canvas, Look
from pixelis_fast.data.pixelworld.plates import marker_look
from pixelis_fast.data.pixelworld.words import SOLID


def unequal_looks(canvas: Canvas, colors: tuple[str, str]) -> tuple[tuple[Look, Look], float]:
    """((first, second), share by which the larger is larger); which is larger is chance."""
    brief = canvas.brief
    shape = SOLID[brief.whole(0, len(SOLID) - 1)]
    difference = brief.real(*brief.config.area_difference)
    small = marker_look(canvas, (colors[0], shape), masked=True)
    large = replace(small, diameter_px=small.diameter_px * (1 + difference) ** 0.5)
    pair = (small, large) if brief.chance(0.5) else (large, small)
    first, second = (
        replace(look, color=color, angle_deg=brief.real(-180, 180))
        for look, color in zip(pair, colors, strict=True)
    )
    return (first, second), difference


def hardness(canvas: Canvas, difference: float) -> float:
    """1 where the difference is the smallest there is, 0 where it is the largest."""
    least, most = canvas.brief.config.area_difference
    return (most - difference) / max(most - least, 1e-9)
