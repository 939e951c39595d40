"""Run-length masks: exact both ways, and broken ones refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixelis_fast.tools_trt.results import ToolInputError
from pixelis_fast.tools_trt.rle import decode_mask, encode_mask, run_lengths


@given(height=st.integers(1, 70), width=st.integers(1, 70), seed=st.integers(0, 99))
def test_round_trip(height, width, seed):
    coarse_HW = np.random.default_rng(seed).random((height, width)).cumsum(axis=0) % 3 > 1
    mask = encode_mask(coarse_HW)
    assert sum(run_lengths(mask["counts"])) == height * width
    assert np.array_equal(decode_mask(mask), coarse_HW)


@pytest.mark.parametrize("pixels_HW", [np.zeros((5, 7)), np.ones((5, 7))], ids=["none", "all"])
def test_plain_masks(pixels_HW):
    assert np.array_equal(decode_mask(encode_mask(pixels_HW)), pixels_HW.astype(bool))


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ("", "expected runs that fill 4x4"),
        ("5", "expected runs that fill 4x4, got 5"),
        ("~~~", "expected COCO's characters"),
        ("a", "cut in the middle"),
        ("O", "expected runs that fill"),
    ],
    ids=["empty", "short", "garbage", "cut", "negative"],
)
def test_broken_runs_are_refused(counts, message):
    with pytest.raises(ToolInputError, match=message):
        decode_mask({"size": [4, 4], "counts": counts})


def test_another_size_is_refused():
    mask = encode_mask(np.ones((4, 6)))
    with pytest.raises(ToolInputError, match="fill 5x6, got 24"):
        decode_mask({"size": [5, 6], "counts": mask["counts"]})
