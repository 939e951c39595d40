"""The all-pairs kernels as launches specialise them, for compilation without a GPU."""

from typing import Any

import torch

from pixelis_fast.kernels.coherence import pairs_kernel as kernel
from pixelis_fast.kernels.coherence import pairs_triton as launch
from pixelis_fast.kernels.coherence.pairs_tile import row_scale_kernel
from pixelis_fast.kernels.offline import CompileCase

TORCH = {"bf16": torch.bfloat16, "fp32": torch.float32}
DTYPES = {name: launch.block_d(dtype) for name, dtype in TORCH.items()}
"""triton's name -> columns of a row per step."""
FLAGS = {"plain": False, "masked": True}
TILES = {"BLOCK_N": launch.BLOCK_N, "INTERPRET": False}
SLOTS = (("plain", 1), ("plain", 16), ("masked", 64))
"""The last holds the most registers of all."""
MERGED = ((1, 1), (16, 16), (64, 64), (2048, 16), (8192, 64))
"""Slots and k."""


def cases() -> list[CompileCase]:
    return [
        *(_row_scale(dtype) for dtype in DTYPES),
        *(_top_k(dtype, name, slots) for dtype in DTYPES for name, slots in SLOTS),
        *(_vote(dtype, name) for dtype in DTYPES for name in FLAGS),
        *(_merge(slots, k) for slots, k in MERGED),
        _vote_sum(),
    ]


def _case(
    name: str,
    function: Any,
    signature: dict[str, str],
    constants: dict[str, Any],
    *,
    claims: frozenset[str] = frozenset(),
) -> CompileCase:
    warps, stages = launch.NUM_WARPS, launch.NUM_STAGES
    return CompileCase(name, function, signature, constants, warps, stages, claims)


def _row_scale(dtype: str) -> CompileCase:
    return _case(
        f"row scale {dtype}",
        row_scale_kernel,
        {
            "rows_ptr": f"*{dtype}:16",
            "scale_ptr": "*fp32:16",
            "num_rows": "i32",
            "width": "i32:16",
            "stride_row": "i32:16",
        },
        {"BLOCK_ROWS": 4, "BLOCK_D": 256},
    )


def _rows(dtype: str) -> dict[str, str]:
    return {
        "queries_ptr": f"*{dtype}:16",
        "keys_ptr": f"*{dtype}:16",
        "query_scale_ptr": "*fp32:16",
        "key_scale_ptr": "*fp32:16",
        "num_queries": "i32",
        "first_query": "i32",
        "width": "i32:16",
        "stride_query": "i32:16",
        "stride_key": "i32:16",
    }


def _tile(dtype: str, masked: bool) -> tuple[dict[str, str], dict[str, Any]]:
    """Signature and constants of what both tile kernels share."""
    constants: dict[str, Any] = {
        **TILES,
        "HAS_GROUPS": masked,
        "EXCLUDE_SELF": masked,
        "BLOCK_D": DTYPES[dtype],
        "EVEN_D": not masked,
    }
    if masked:
        return {**_rows(dtype), "first_ptr": "*i64:16", "last_ptr": "*i64:16"}, constants
    return _rows(dtype), {**constants, "first_ptr": None, "last_ptr": None}


def _claims(dtype: str) -> frozenset[str]:
    return frozenset({"mma"} if dtype == "fp32" else {"mma", "hgmma", "tcgen05"})


def _top_k(dtype: str, name: str, slots: int) -> CompileCase:
    masked = FLAGS[name]
    signature, constants = _tile(dtype, masked)
    signature |= {"packed_ptr": "*i64:16", "num_keys": "i32", "keys_per_range": "i32"}
    block_m = launch.block_m(TORCH[dtype], slots)
    constants |= {"HAS_VALID": masked, "NUM_SLOTS": slots, "BLOCK_M": block_m}
    if masked:
        signature["valid_ptr"] = "*i1:16"
    else:
        constants["valid_ptr"] = None
    title = f"top-k {dtype} {name} {slots} slots"
    return _case(title, kernel.top_k_kernel, signature, constants, claims=_claims(dtype))


def _vote(dtype: str, name: str) -> CompileCase:
    signature, constants = _tile(dtype, FLAGS[name])
    signature |= {
        "order_ptr": "*i64:16",
        "answer_ptr": "*i64:16",
        "weight_ptr": "*fp32:16",
        "block_start_ptr": "*i64:16",
        "votes_ptr": "*fp32:16",
        "num_answers": "i32",
        "num_ranges": "i32",
        "floor": "fp32",
    }
    constants |= {"BLOCK_M": launch.BLOCK_M, "BLOCK_A": launch.BLOCK_A}
    title = f"vote {dtype} {name}"
    return _case(title, kernel.vote_kernel, signature, constants, claims=_claims(dtype))


def _merge(slots: int, k: int) -> CompileCase:
    block_n, block_slots = launch.merge_block(slots)
    return _case(
        f"merge {slots} slots to {k}",
        kernel.merge_kernel,
        {
            "packed_ptr": "*i64:16",
            "similarity_ptr": "*fp32:16",
            "index_ptr": "*i64:16",
            "num_queries": "i32",
            "num_slots": "i32",
            "k": "i32",
        },
        {"BLOCK_N": block_n, "BLOCK_SLOTS": block_slots, "BLOCK_K": k},
    )


def _vote_sum() -> CompileCase:
    return _case(
        "vote sum",
        kernel.vote_sum_kernel,
        {
            "partial_ptr": "*fp32:16",
            "votes_ptr": "*fp32:16",
            "num_votes": "i32",
            "num_ranges": "i32",
        },
        {"BLOCK": 1024},
    )
