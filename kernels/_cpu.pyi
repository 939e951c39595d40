"""What csrc/bindings.cpp exports. simd=None runs the best level this CPU has."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

def simd_levels() -> list[str]: ...
def simd_level() -> str: ...
def resize(
    image: NDArray[np.uint8],
    height: int,
    width: int,
    filter: str,
    threads: int,
    *,
    simd: str | None = None,
) -> NDArray[np.uint8]: ...
def patchify(
    frames: NDArray[np.uint8],
    height: int,
    width: int,
    patch_size: int,
    temporal_patch_size: int,
    merge_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    threads: int,
    *,
    simd: str | None = None,
) -> NDArray[np.float32]: ...
def region_properties(
    mask: NDArray[np.uint8], image: NDArray[np.uint8], *, simd: str | None = None
) -> tuple[
    int,
    tuple[int, int, int, int],
    tuple[float, float],
    tuple[float, float, float],
    float,
    float,
]: ...
