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
def coherence_forward(
    steps: NDArray[np.float32] | NDArray[np.int16],
    bounds: NDArray[np.int64],
    weights: NDArray[np.float32] | None,
    threshold: float,
    repetition_weight: float,
    reward: NDArray[np.float32],
    mean: NDArray[np.float32],
    hinge: NDArray[np.float32],
    cosine: NDArray[np.float32],
    rnorm: NDArray[np.float32],
    owner: NDArray[np.int32],
    scale: NDArray[np.float32],
    threads: int,
    *,
    simd: str | None = None,
) -> None: ...
def coherence_backward(
    steps: NDArray[np.float32] | NDArray[np.int16],
    weights: NDArray[np.float32] | None,
    cosine: NDArray[np.float32],
    rnorm: NDArray[np.float32],
    owner: NDArray[np.int32],
    scale: NDArray[np.float32],
    grad_reward: NDArray[np.float32] | None,
    grad_mean: NDArray[np.float32] | None,
    grad_hinge: NDArray[np.float32] | None,
    grad_cosine: NDArray[np.float32] | None,
    threshold: float,
    repetition_weight: float,
    out: NDArray[np.float32] | NDArray[np.int16],
    threads: int,
    *,
    simd: str | None = None,
) -> None: ...
def segment_mean_forward(
    hidden: NDArray[np.float32] | NDArray[np.int16],
    bounds: NDArray[np.int64],
    out: NDArray[np.float32],
    threads: int,
    *,
    simd: str | None = None,
) -> None: ...
def segment_mean_backward(
    grad: NDArray[np.float32],
    bounds: NDArray[np.int64],
    out: NDArray[np.float32] | NDArray[np.int16],
    threads: int,
    *,
    simd: str | None = None,
) -> None: ...
def pairs_top_k(
    queries: NDArray[np.float32] | NDArray[np.int16],
    keys: NDArray[np.float32] | NDArray[np.int16],
    k: int,
    valid: NDArray[np.bool_] | None,
    first: NDArray[np.int64] | None,
    last: NDArray[np.int64] | None,
    exclude_self: bool,
    threads: int,
    *,
    simd: str | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]: ...
def pairs_vote(
    queries: NDArray[np.float32] | NDArray[np.int16],
    keys: NDArray[np.float32] | NDArray[np.int16],
    answers: NDArray[np.int64],
    weights: NDArray[np.float32] | None,
    num_answers: int,
    floor: float,
    valid: NDArray[np.bool_] | None,
    first: NDArray[np.int64] | None,
    last: NDArray[np.int64] | None,
    exclude_self: bool,
    threads: int,
    *,
    simd: str | None = None,
) -> NDArray[np.float32]: ...
def linear_levels() -> list[str]: ...
def linear_forward(
    hidden: NDArray[np.float32] | NDArray[np.int16],
    weight: NDArray[np.float32] | NDArray[np.int16],
    targets: NDArray[np.int64],
    *,
    reference_hidden: NDArray[np.float32] | NDArray[np.int16] | None,
    reference_weight: NDArray[np.float32] | NDArray[np.int16] | None,
    scale: float,
    softcap: float,
    logits: NDArray[np.float32],
    deltas: NDArray[np.float32],
    statistics: NDArray[np.float32],
    threads: int,
    simd: str | None = None,
) -> None: ...
def linear_backward(
    hidden: NDArray[np.float32] | NDArray[np.int16],
    weight: NDArray[np.float32] | NDArray[np.int16],
    targets: NDArray[np.int64],
    *,
    reference_hidden: NDArray[np.float32] | NDArray[np.int16] | None,
    reference_weight: NDArray[np.float32] | NDArray[np.int16] | None,
    scale: float,
    softcap: float,
    logits: NDArray[np.float32],
    deltas: NDArray[np.float32],
    coefficients: NDArray[np.float32],
    plain: bool,
    hidden_gradient: NDArray[np.float32] | NDArray[np.int16] | None,
    weight_gradient: NDArray[np.float32] | NDArray[np.int16] | None,
    threads: int,
    simd: str | None = None,
) -> None: ...
def has_tile_attention() -> bool: ...
def tile_attention(
    queries: NDArray[np.int16],
    keys: NDArray[np.int16],
    values: NDArray[np.int16],
    bias: NDArray[np.float32] | None,
    threads: int,
) -> NDArray[np.int16]: ...
