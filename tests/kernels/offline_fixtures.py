"""Kernels whose machine code is known in advance: a wgmma GEMM fed by TMA, a row sum.

Only `tests/kernels/test_offline.py` compiles them, in a process that does not interpret. Shapes:
M rows, N columns, K = inner dimension.
"""

import triton
import triton.language as tl

from pixelis_fast.kernels.offline import CompileCase

BF16_TILE = "tensordesc<bf16[{}, {}]>"


@triton.jit
def matmul(
    a_MK, b_NK, c_MN, K, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr
):
    """c = a bᵀ, one tile per program, operands and result by host descriptors."""
    row = tl.program_id(0) * BLOCK_M
    column = tl.program_id(1) * BLOCK_N
    sums_MN = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k in tl.range(0, K, BLOCK_K):
        sums_MN = tl.dot(a_MK.load([row, k]), b_NK.load([column, k]).T, sums_MN)
    c_MN.store([row, column], sums_MN.to(tl.bfloat16))


@triton.jit
def row_sums(x_MN, sums_M, N, BLOCK_N: tl.constexpr):
    """One row per program."""
    row, column_N = tl.program_id(0), tl.arange(0, BLOCK_N)
    x_N = tl.load(x_MN + row * N + column_N, mask=column_N < N, other=0.0)
    tl.store(sums_M + row, tl.sum(x_N, axis=0))


def matmul_case(name: str, **changes: object) -> CompileCase:
    fields: dict = {
        "name": name,
        "kernel": matmul,
        "signature": {
            "a_MK": BF16_TILE.format(128, 64),
            "b_NK": BF16_TILE.format(128, 64),
            "c_MN": BF16_TILE.format(128, 128),
            "K": "i32",
        },
        "constants": {"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 64},
        "num_warps": 4,
        "num_stages": 3,
        "claims": frozenset({"mma", "hgmma", "tcgen05", "tma", "tma_store"}),
    }
    return CompileCase(**(fields | changes))


def sums_case(**changes: object) -> CompileCase:
    fields: dict = {
        "name": "row sums",
        "kernel": row_sums,
        "signature": {"x_MN": "*fp32:16", "sums_M": "*fp32:16", "N": "i32:16"},
        "constants": {"BLOCK_N": 1024},
        "num_warps": 4,
        "num_stages": 1,
    }
    return CompileCase(**(fields | changes))


def spilling_case() -> CompileCase:
    """On sm_90: 128 x 256 sums in 128 threads are 256 registers each, one more than there are."""
    signature = {
        "a_MK": BF16_TILE.format(128, 32),
        "b_NK": BF16_TILE.format(256, 32),
        "c_MN": BF16_TILE.format(128, 256),
        "K": "i32",
    }
    sizes = {"BLOCK_M": 128, "BLOCK_N": 256, "BLOCK_K": 32}
    return matmul_case("spilling", signature=signature, constants=sizes, targets=(90,))


def cases() -> list[CompileCase]:
    """Sound ones, for the gate as a whole."""
    return [
        matmul_case("matmul 128x128x64", targets=(90, 100)),
        matmul_case("matmul 128x128x64, 2 stages", num_stages=2, targets=(90, 100)),
        sums_case(),
    ]
