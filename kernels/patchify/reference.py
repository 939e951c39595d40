"""The textbook patchify: resize every frame, normalise, then one reshape and transpose.

Shapes: T = frames, G = temporal groups, h, w = resized size, y, x = patch rows and columns,
Tp, P, m = patch sizes and merge, C = 3.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pixelis_fast.kernels.resize.reference import resize_reference


def patchify_reference(
    frames_THWC: NDArray[np.uint8],
    *,
    height: int,
    width: int,
    patch_size: int = 16,
    temporal_patch_size: int = 2,
    merge_size: int = 2,
    mean: Sequence[float] = (0.5, 0.5, 0.5),
    std: Sequence[float] = (0.5, 0.5, 0.5),
) -> NDArray[np.float32]:
    resized_ThwC = np.stack([resize_reference(frame, height, width) for frame in frames_THWC])
    missing = -len(resized_ThwC) % temporal_patch_size
    resized_ThwC = np.concatenate([resized_ThwC, *[resized_ThwC[-1:]] * missing])
    normalised_ThwC = (resized_ThwC / 255 - np.asarray(mean)) / np.asarray(std)
    Tp, P, m = temporal_patch_size, patch_size, merge_size
    y, x = height // P, width // P
    blocks = normalised_ThwC.reshape(-1, Tp, y // m, m, P, x // m, m, P, 3)
    # G Tp y m P x m P C -> G y x m m | C Tp P P
    patches = blocks.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7)
    return patches.reshape(-1, 3 * Tp * P * P).astype(np.float32)
