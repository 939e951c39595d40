"""Regions' benchmark: the outlines are where they should be, and a bad mask shows as one."""

import numpy as np
import pytest

from bench import regions
from bench.harness import Report, parse_options
from bench.region_objects import (
    GROUNDS,
    coins,
    cut_outs,
    drawn,
    enlarged,
    moved,
    moving_objects,
    outlined_objects,
    patch,
    photograph,
    straight,
)
from bench.regions import (
    ARMS,
    by_box,
    by_point,
    checks_of,
    constant,
    flood_fill,
    full_size_grabcut,
    goals,
    iou_table,
    measure,
    measure_shrink,
    our_track,
    segment_iou,
    track_iou,
    with_size,
)
from pixelis_fast.tools_trt.classical import segment as classical_segment


def report(*argv: str) -> Report:
    return Report("regions", parse_options("test", arms=ARMS, argv=argv), ours="ours", baseline={})


def test_objects_lie_in_their_pictures():
    objects = outlined_objects(quick=True)
    assert {thing.group for thing in objects} == {"coins", "photographs", "drawn", "cut-outs"}
    assert len(coins()) == 24
    for thing in objects:
        x, y = thing.point_px
        assert thing.mask_HW[y, x]
        assert thing.mask_HW.shape == thing.image_HWC.shape[:2]
        x0, y0, x1, y1 = thing.box_px
        assert thing.mask_HW[y0:y1, x0:x1].sum() == thing.mask_HW.sum()


def test_moving_objects_keep_their_size():
    for thing in moving_objects(quick=True):
        assert len({int(mask.sum()) for mask in thing.masks}) == 1
        assert len({mask.shape for mask in thing.masks}) == 1
        assert len(thing.frames) == len(thing.masks)
    assert enlarged(patch(), 3).mask_HW.sum() == pytest.approx(9 * patch().mask_HW.sum(), rel=0.02)


def test_engines_and_the_usual_methods_find_a_drawn_object():
    seal = next(drawn())
    for call in (by_box, by_point, flood_fill):
        assert segment_iou(seal, call(seal)) > 0.9, call.__name__
    small = next(cut_outs())
    assert segment_iou(small, full_size_grabcut(small)) > 0.9


def test_ours_follows_a_cut_out():
    thing = moving_objects(quick=True)[2]
    assert len(thing.frames) == 4
    found = our_track(thing)
    assert track_iou(thing, found) > 0.9
    assert track_iou(thing, [None, *found[1:]]) < 0.76


def test_a_constant_is_put_back():
    with constant(classical_segment, "BOX_SIDE", 96):
        assert classical_segment.BOX_SIDE == 96
    assert classical_segment.BOX_SIDE == 128
    seen = with_size(lambda _: classical_segment.BOX_SIDE, classical_segment, "BOX_SIDE", 7)
    assert seen(patch()) == 7


def test_scores_reach_the_table_and_the_checks():
    things = coins()[:2]
    arms = {
        "ours": lambda thing: thing.mask_HW,
        "usual": lambda thing: np.zeros_like(thing.mask_HW),
    }
    made = report()
    made.timings = measure("coins, by box", things, arms, score=segment_iou, tick=lambda _: None)
    assert [row[2:4] for row in iou_table(made)["rows"]] == [["1.000"] * 2, ["0.000"] * 2]
    assert [check.passed for check in checks_of(made)] == [True]
    assert [goal.met for goal in goals(made)] == [True]
    made.timings = measure(
        "coins, by box", things, {"ours": arms["usual"]}, score=segment_iou, tick=lambda _: None
    )
    assert [check.passed for check in checks_of(made)] == [False]


def test_shrink_is_held_against_the_area_average(monkeypatch):
    monkeypatch.setattr(regions, "SHRUNK", regions.SHRUNK[2:])
    timings, checks = measure_shrink(report("--runs", "1").options)
    assert {timing.arm for timing in timings} == set(ARMS)
    assert [check.passed for check in checks] == [True]


def test_paths_stay_inside():
    frames, masks = moved(patch(), photograph(GROUNDS[0]), straight((60, 60), (220, 140), 3))
    assert [frame.shape for frame in frames] == [(200, 280, 3)] * 3
    assert all(mask.sum() == patch().mask_HW.sum() for mask in masks)
