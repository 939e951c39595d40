"""Patches made ahead: handed over once, dropped when nobody waits, errors where they belong."""

import threading
from types import SimpleNamespace

import pytest

from pixelis_fast.loop_patches import PatchDesk
from pixelis_fast.loop_pictures import Pictures
from pixelis_fast.policy.engine import Chunk, VisionSlot
from pixelis_fast.spans import Spans
from tests.loop_fixtures import until


class Maker:
    """Makes the name of the media its patches, when the gate is open."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.made: list[str] = []

    def __call__(self, media_id: str):
        assert self.gate.wait(10)
        self.made.append(media_id)
        if media_id == "bad":
            raise OSError("the picture cannot be read")
        return media_id


def shows(*media_ids: str) -> SimpleNamespace:
    """A run as Pictures sees one."""
    slots = tuple(VisionSlot(i, 1, m, 0, (1, 2, 2)) for i, m in enumerate(media_ids))
    parts = [Chunk([0] * len(slots), slots, opens_turn=True)]
    return SimpleNamespace(parts=parts, missing=set(), showing=set(), spans=Spans())


def test_what_was_prepared_is_taken_once():
    make, woken = Maker(), threading.Event()
    desk = PatchDesk(make)
    desk.prepare("a", when_done=woken.set)
    desk.prepare("a", when_done=woken.set)
    assert woken.wait(10)
    assert desk.is_ready("a")
    assert desk.took_ms("a") > 0
    assert desk.take("a") == "a"
    assert make.made == ["a"]
    assert len(desk) == 0
    assert desk.took_ms("a") == 0
    assert desk.take("a") == "a"
    assert make.made == ["a", "a"]


def test_an_error_is_told_once_and_not_kept():
    desk = PatchDesk(Maker())
    desk.prepare("bad", when_done=lambda: None)
    with pytest.raises(OSError, match="cannot be read"):
        until(lambda: desk.is_ready("bad"))
    assert desk.is_ready("bad")
    assert len(desk) == 0


def test_pictures_are_dropped_with_the_last_who_wants_them():
    make = Maker()
    make.gate.clear()
    desk, live = PatchDesk(make), [shows("a", "b"), shows("b"), shows("kept")]
    engine = SimpleNamespace(vision={("kept", (1, 2, 2))})
    pictures = Pictures(engine, desk, live, wake=lambda: None)
    for run in live:
        pictures.begin(run)
    first, second, third = live
    assert (first.missing, second.missing, third.missing) == ({"a", "b"}, {"b"}, set())
    live.remove(first)
    pictures.drop(first)
    assert len(desk) == 1
    make.gate.set()
    until(lambda: (pictures.look(second), not second.missing)[1])
    assert second.spans.ms["vision"] > 0
    pictures.drop(second)
    assert len(desk) == 0
