"""Beginnings by longest common prefix: whose they are, where they end, what they cost."""

import numpy as np
import pytest

from pixelis_fast.policy import prefix_cache
from pixelis_fast.policy.cache import KVCache
from pixelis_fast.policy.chunk import Chunk, VisionSlot
from pixelis_fast.policy.config import PRESETS
from pixelis_fast.policy.prefix_cache import TOKEN_BYTES, PrefixCache, common_length
from pixelis_fast.policy.segments import Segment

TEXT = list(range(100, 130))
GRID = (1, 4, 6)
SPAN = 6


def segment(num_tokens: int) -> Segment:
    cache = KVCache(PRESETS["unit"].text, capacity=num_tokens)
    cache.advance(num_tokens)
    [whole] = cache.snapshot()
    return whole


def pictured(media_id: str, *behind: int, frame: int = 0, grid=GRID) -> Chunk:
    slot = VisionSlot(len(TEXT), SPAN, media_id, frame, grid)
    return Chunk([*TEXT, *[7] * SPAN, *behind], (slot,), opens_turn=True)


def lengths(segments) -> list[int]:
    return [each.length for each in segments]


@pytest.fixture
def prefixes() -> PrefixCache:
    cache = PrefixCache(byte_budget=1 << 30)
    chunk = pictured("1", 50, 51)
    cache.keep("owner", chunk, [segment(20), segment(len(chunk.ids) - 20)])
    return cache


def test_the_longest_common_beginning_is_found(prefixes):
    found = prefixes.find("owner", pictured("1", 50, 52))
    assert lengths(found) == [20, len(TEXT) + SPAN + 1 - 20]
    # At least one token is left to compute.
    assert sum(lengths(prefixes.find("owner", pictured("1", 50, 51)))) == len(TEXT) + SPAN + 1
    assert lengths(prefixes.find("owner", Chunk([*TEXT[:20], 1]))) == [20]
    assert prefixes.find("owner", Chunk([*TEXT[:15], 1, 2, 3])) == ()
    assert prefixes.find("owner", pictured("1", 50, 52), longer_than=len(TEXT) + SPAN + 1) == ()


def test_a_hit_inside_a_span_ends_before_it(prefixes):
    assert sum(lengths(prefixes.find("owner", pictured("1")))) == len(TEXT)


@pytest.mark.parametrize(
    "other", [pictured("2", 50), pictured("1", 50, frame=1), pictured("1", 50, grid=(1, 6, 4))]
)
def test_another_picture_is_another_beginning(prefixes, other):
    assert sum(lengths(prefixes.find("owner", other))) == len(TEXT)


def test_placeholders_without_a_picture_are_not_the_picture(prefixes):
    bare = Chunk(pictured("1", 50, 51).ids)
    assert sum(lengths(prefixes.find("owner", bare))) == len(TEXT)


def test_equal_hashes_of_unequal_pictures_are_seen(prefixes, monkeypatch):
    class Constant:
        def __init__(self, *args, **kwargs):
            pass

        def digest(self):
            return bytes(8)

    monkeypatch.setattr(prefix_cache.hashlib, "blake2b", Constant)
    cache = PrefixCache(byte_budget=1 << 30)
    chunk = pictured("1", 50, 51)
    cache.keep("owner", chunk, [segment(len(chunk.ids))])
    assert sum(lengths(cache.find("owner", pictured("2", 50, 51)))) == len(TEXT)


def test_other_owners_see_nothing(prefixes):
    assert prefixes.find("somebody else", pictured("1", 50, 52)) == ()


def test_sessions_that_hit_the_same_beginning_share_its_segments(prefixes):
    one, other = (prefixes.find("owner", pictured("1", 50, n)) for n in (60, 61))
    assert [id(each) for each in one] == [id(each) for each in other]


def test_a_continued_beginning_takes_the_place_of_the_old(prefixes):
    before = prefixes.nbytes
    longer = pictured("1", 50, 51, 52, 53)
    prefixes.keep("owner", longer, [segment(len(longer.ids))])
    assert prefixes.nbytes == len(longer.ids) * before // (len(TEXT) + SPAN + 2)
    prefixes.keep("owner", pictured("1", 50), [segment(len(TEXT) + SPAN + 1)])
    found = prefixes.find("owner", pictured("1", 50, 51, 52, 54))
    assert sum(lengths(found)) == len(TEXT) + SPAN + 3


def test_the_least_recently_used_goes_first():
    size = segment(20).tensor.nbytes + 20 * TOKEN_BYTES
    cache = PrefixCache(byte_budget=2 * size)
    chunks = [Chunk([start, *range(200, 219)]) for start in range(3)]
    for chunk in chunks[:2]:
        cache.keep("owner", chunk, [segment(20)])
    assert cache.find("owner", chunks[0] + Chunk([1]))
    cache.keep("owner", chunks[2], [segment(20)])
    assert cache.nbytes <= 2 * size
    hits = [bool(cache.find("owner", chunk + Chunk([1]))) for chunk in chunks]
    assert hits == [True, False, True]
    cache.keep("owner", Chunk(list(range(300, 400))), [segment(100)])
    assert [bool(cache.find("owner", chunk + Chunk([1]))) for chunk in chunks] == hits
    with pytest.raises(ValueError, match="byte_budget: expected >= 0, got -1"):
        PrefixCache(byte_budget=-1)


def test_common_length():
    one = np.array([1, 2, 3])
    assert common_length(one, np.array([1, 2, 4, 5])) == 2
    assert common_length(one, np.array([1, 2])) == 2
    assert common_length(one, one) == 3
    assert common_length(one, np.array([], dtype=np.int64)) == 0
