"""What the compile-only gate builds: every kernel of the coherence op as a launch would build it.

Widths are those of published language models; the two paths of each optional argument are covered
by one case with all of them and one with as few as training uses.
"""

from collections.abc import Iterator
from typing import Any

from pixelis_fast.kernels.coherence import pool_triton, steps_triton
from pixelis_fast.kernels.coherence.pool_kernels import (
    segment_mean_bwd_kernel,
    segment_mean_fwd_kernel,
)
from pixelis_fast.kernels.coherence.steps_bwd_kernels import coherence_bwd_kernel
from pixelis_fast.kernels.coherence.steps_kernels import (
    cosine_fwd_kernel,
    means_fwd_kernel,
    trajectory_fwd_kernel,
)
from pixelis_fast.kernels.offline import CompileCase

WIDTHS = (96, 4096, 16384)
"""No power of two, usual, the widest there is."""
TYPES = ("bf16", "fp32")


def cases() -> list[CompileCase]:
    found = [means_case(weights=False), means_case(weights=True)]
    for width in WIDTHS:
        for kind in TYPES:
            found += row_cases(width, kind)
            found += pool_cases(width, kind)
    return found


def row_cases(width: int, kind: str) -> Iterator[CompileCase]:
    block, warps = steps_triton.row_block(width)
    constants = {"D": width, "BLOCK_D": block}
    rows = {"steps_ptr": f"*{kind}:16", "stride_t": "i32:16", "bounds_ptr": "*i64:16"}
    per_row = pointers("cosine_ptr", "rnorm_ptr") | {"owner_ptr": "*i32:16"}
    counts = ("num_steps", "num_trajectories", "search_steps", "rows_per_program")
    yield CompileCase(
        f"coherence_cosine_{width}_{kind}",
        cosine_fwd_kernel,
        rows | per_row | dict.fromkeys(counts, "i32"),
        constants,
        num_warps=warps,
        num_stages=3,
    )
    yield CompileCase(
        f"coherence_trajectory_{width}_{kind}",
        trajectory_fwd_kernel,
        rows | per_row | means_signature() | pointers("weights_ptr"),
        constants,
        num_warps=warps,
        num_stages=3,
    )
    yield backward_case(width, kind, full=True)
    yield backward_case(width, kind, full=False)


def means_case(*, weights: bool) -> CompileCase:
    signature = {"bounds_ptr": "*i32:16"} | pointers("cosine_ptr") | means_signature()
    constants: dict[str, Any] = {"BLOCK_T": steps_triton.MEANS_BLOCK}
    if weights:
        signature |= pointers("weights_ptr")
    else:
        constants["weights_ptr"] = None
    name = f"coherence_means_{'weighted' if weights else 'plain'}"
    return CompileCase(name, means_fwd_kernel, signature, constants, num_warps=4, num_stages=3)


def backward_case(width: int, kind: str, *, full: bool) -> CompileCase:
    """full: weights and all four gradients; otherwise the reward's alone."""
    optional = ("weights_ptr", "grad_mean_ptr", "grad_hinge_ptr", "grad_cosine_ptr")
    signature = {"steps_ptr": f"*{kind}:16", "grad_steps_ptr": f"*{kind}:16", "stride_t": "i32:16"}
    signature |= pointers("cosine_ptr", "rnorm_ptr", "scale_ptr", "grad_reward_ptr")
    signature |= {"owner_ptr": "*i32:16", "num_steps": "i32"}
    signature |= {"threshold": "fp32", "repetition_weight": "fp32"}
    tile = {"BLOCK_R": steps_triton.TILE_ROWS, "BLOCK_C": steps_triton.TILE_COLUMNS}
    constants: dict[str, Any] = {"D": width, **tile}
    if full:
        signature |= pointers(*optional)
    else:
        constants |= dict.fromkeys(optional)
    return CompileCase(
        f"coherence_backward_{width}_{kind}_{'full' if full else 'reward'}",
        coherence_bwd_kernel,
        signature,
        constants,
        num_warps=steps_triton.TILE_WARPS,
        num_stages=3,
    )


def pool_cases(width: int, kind: str) -> Iterator[CompileCase]:
    yield CompileCase(
        f"coherence_pool_{width}_{kind}",
        segment_mean_fwd_kernel,
        {"hidden_ptr": f"*{kind}:16", "stride_n": "i32:16", "offsets_ptr": "*i64:16"}
        | pointers("steps_ptr")
        | {"num_tokens": "i32"},
        {"D": width, "BLOCK_N": pool_triton.SUM_TOKENS, "BLOCK_C": pool_triton.SUM_COLUMNS},
        num_warps=pool_triton.WARPS,
        num_stages=3,
    )
    yield CompileCase(
        f"coherence_pool_backward_{width}_{kind}",
        segment_mean_bwd_kernel,
        {"grad_hidden_ptr": f"*{kind}:16", "stride_t": "i32:16", "offsets_ptr": "*i64:16"}
        | pointers("grad_steps_ptr")
        | dict.fromkeys(("num_tokens", "num_steps", "search_steps"), "i32"),
        {"D": width, "BLOCK_N": pool_triton.SPREAD_TOKENS, "BLOCK_C": pool_triton.SPREAD_COLUMNS},
        num_warps=pool_triton.WARPS,
        num_stages=3,
    )


def means_signature() -> dict[str, str]:
    numbers = {"threshold": "fp32", "repetition_weight": "fp32", "num_steps": "i32"}
    return pointers("reward_ptr", "mean_ptr", "hinge_ptr", "scale_ptr") | numbers


def pointers(*names: str) -> dict[str, str]:
    return dict.fromkeys(names, "*fp32:16")
