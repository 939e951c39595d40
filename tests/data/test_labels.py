"""What visual tokens are labelled with, in a picture and in a crop of it."""

from __future__ import annotations

import pytest

from pixelis_fast.data.labels import (
    COLORS,
    KINDS,
    NUM_LABELS,
    SHAPES,
    cell_labels,
    cell_shares,
    place_of,
    seen,
)
from pixelis_fast.data.pixelworld import PixelWorld, PixelWorldConfig
from pixelis_fast.data.prepared import SEEN, UNKNOWN


def task_of(family: str, number: int = 1):
    config = PixelWorldConfig(backgrounds="procedural", families={family: 1.0})
    return PixelWorld(config).task("train", number)


def test_cells_are_labelled_by_what_covers_them():
    shares = cell_shares((250, 0, 750, 500), 2, 4)
    assert shares.tolist() == [[0.0, 1.0, 1.0, 0.0], [0.0] * 4]
    task = task_of("compare")
    labels = cell_labels(task, 6, 6)
    assert labels.shape == (36, KINDS + 8)
    shown = labels[:, 0] > 0
    assert shown.sum() >= 2
    assert (labels[~shown, KINDS : KINDS + 4] == UNKNOWN).all()
    centres = {((t.box[0] + t.box[2]) // 2, (t.box[1] + t.box[3]) // 2) for t in task.objects}
    assert {tuple(row) for row in labels[shown, KINDS : KINDS + 2].tolist()} <= centres
    assert (labels[:, 2] == 0).all()
    assert (labels[:, KINDS + 4 :] == UNKNOWN).all()


def test_a_sign_is_told_by_the_cell_it_lies_in():
    task = task_of("read")
    labels = cell_labels(task, 6, 6)
    signs = [place_of(thing.box) for thing in task.objects if thing.kind == "sign"]
    held = labels[:, 2] == 1
    assert {tuple(row) for row in labels[held, KINDS + 4 :].tolist()} == set(signs)
    cells = [y * 6 // 1000 * 6 + x * 6 // 1000 for x, y, *_ in signs]
    assert held[cells].all()
    assert (labels[~held, KINDS + 4 :] == UNKNOWN).all()


def around(box, slack):
    x0, y0, x1, y1 = box
    return max(x0 - slack, 0), max(y0 - slack, 0), min(x1 + slack, 1000), min(y1 + slack, 1000)


@pytest.mark.parametrize("number", range(4))
def test_dots_are_counted_where_a_crop_shows_them(number):
    task = task_of("count", number)
    assert (cell_labels(task, 6, 6)[:, SEEN:KINDS] == UNKNOWN).all()
    panel = task.evidence[0].box
    labels = cell_labels(task, 6, 6, view=around(panel, 20))
    told = labels[labels[:, SEEN] >= 0]
    assert told[:, SEEN:KINDS].tolist() == [[int(task.answer), *[0] * 6]]
    assert tuple(told[0, 2:3]) == (2,)
    assert (labels < [*NUM_LABELS, *[2000] * 8]).all()


@pytest.mark.parametrize("number", range(6))
def test_glyphs_are_named_in_order_where_a_crop_shows_them(number):
    task = task_of("spatial", number)
    panel = task.evidence[0].box
    labels = cell_labels(task, 6, 6, view=around(panel, 40))
    [told] = labels[labels[:, SEEN] >= 0][:, SEEN:KINDS].tolist()
    places = ("left", "top"), ("middle",), ("right", "bottom")
    [asked] = [i for i, words in enumerate(places) if any(w in task.question for w in words)]
    names = [list(COLORS)[i - 1] if i else None for i in told[1:4]]
    shapes = [SHAPES[i - 1] for i in told[4:]]
    assert task.answer in (names[asked], shapes[asked])
    assert told[0] == 0


def test_contents_are_not_told_of_a_panel_that_is_cut_or_far():
    task = task_of("spatial", 2)
    x0, y0, x1, y1 = task.evidence[0].box
    for view in ((0, 0, 1000, 1000), ((x0 + x1) // 2, y0 - 20, x1 + 60, y1 + 20)):
        assert (cell_labels(task, 6, 6, view=view)[:, SEEN:KINDS] == UNKNOWN).all()


def test_only_the_part_of_a_thing_that_a_view_shows_is_told():
    task = task_of("read")
    marker = task.objects[0]
    x0, y0, x1, y1 = marker.box
    [(_, box)] = [(t, b) for t, b in seen(task, (x0, y0, (x0 + x1) // 2, y1)) if t is marker]
    assert box == (0, 0, 1000, 1000)
    assert all(t is not marker for t, _ in seen(task, (x1, y1, 1000, 1000)))
