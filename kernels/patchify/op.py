"""Frames to the vision tower's patches in one pass: resize, rescale, normalise, reorder.

The numbers are those of transformers' Qwen image and video processors (their torchvision
variants), bit for bit: torch's 16-bit resize weights, horizontal pass first, then
(byte - 255 mean) / (255 std). Knows nothing of how the size was chosen.

Shapes: T = frames, H, W = their size, C = 3, N = patches, K = 3 * Tp * P * P values of a patch,
Tp = temporal_patch_size, P = patch_size.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pixelis_fast.kernels import _cpu
from pixelis_fast.kernels.checks import check, check_count, check_per_channel, check_pixels


def patchify(
    frames_THWC: NDArray[np.uint8],
    *,
    height: int,
    width: int,
    patch_size: int = 16,
    temporal_patch_size: int = 2,
    merge_size: int = 2,
    mean: Sequence[float] = (0.5, 0.5, 0.5),
    std: Sequence[float] = (0.5, 0.5, 0.5),
    threads: int = 1,
) -> NDArray[np.float32]:
    """(T, H, W, 3) -> (N, K), patches ordered (T / Tp, height / P / m, width / P / m, m, m) with
    m = merge_size, values (C, Tp, P, P). The last frame fills up the last group of Tp."""
    check_pixels("frames_THWC", frames_THWC, ndim=4)
    for name, count in (
        ("patch_size", patch_size),
        ("temporal_patch_size", temporal_patch_size),
        ("merge_size", merge_size),
        ("height", height),
        ("width", width),
        ("threads", threads),
    ):
        check_count(name, count)
    block = patch_size * merge_size
    check(height % block == 0, "height", f"a multiple of {block}", height)
    check(width % block == 0, "width", f"a multiple of {block}", width)
    check_per_channel("mean", mean, positive=False)
    check_per_channel("std", std, positive=True)
    return _cpu.patchify(
        frames_THWC, height, width, patch_size, temporal_patch_size, merge_size, mean, std, threads
    )
