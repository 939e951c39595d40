"""Giving freed memory back: once in so many works, and the system gets it."""

import ctypes

import pytest

from bench.process import resident_mb
from pixelis_fast.tools_trt import heap
from pixelis_fast.tools_trt.heap import Heap, trim
from pixelis_fast.tools_trt.pixels.tiers import TierStore
from pixelis_fast.tools_trt.scheduler import Scheduler, Work


class Library:
    def __init__(self) -> None:
        self.calls: list[int] = []

    def malloc_trim(self, pad: int) -> int:
        self.calls.append(pad)
        return 1


@pytest.fixture
def library(monkeypatch) -> Library:
    fake = Library()
    monkeypatch.setattr(heap, "c_library", lambda: fake)
    return fake


def test_memory_is_given_back_once_in_so_many_works(library):
    kept = Heap(every=3)
    for done in range(1, 8):
        kept.worked()
        assert len(library.calls) == done // 3


def test_a_compute_thread_counts_its_works(library, monkeypatch):
    monkeypatch.setattr(Heap.__init__, "__defaults__", (2,))
    with Scheduler(TierStore(host_bytes=1 << 16)) as scheduler:
        for number in range(5):
            assert scheduler.submit(Work("add", lambda n=number: n + 1)).result(10) == number + 1
    assert len(library.calls) == 2


def test_without_the_call_nothing_is_given_back(monkeypatch):
    monkeypatch.setattr(heap, "c_library", object)
    assert trim() is False


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs glibc")
def test_holes_below_what_is_still_used_go_back_to_the_system():
    library = ctypes.CDLL(None)
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    library.free.argtypes = [ctypes.c_void_p]
    blocks = [library.malloc(64 << 10) for _ in range(2000)]
    for block in blocks:
        ctypes.memset(block, 1, 64 << 10)
    for block in blocks[:-1]:
        library.free(block)
    held = resident_mb()
    assert trim()
    assert held - resident_mb() > 60, "of 125 MB that are free"
    library.free(blocks[-1])
