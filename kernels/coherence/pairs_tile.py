"""What the all-pairs kernels share: norms of rows, a tile of cosines, neighbours as integers.

A neighbour is one int64, larger for a larger similarity and, where equal, for a smaller index:
no two are equal, so any order of comparing them gives the same k.

Shapes: N = queries, M = keys, D = width of a row.
"""

import triton
import triton.language as tl

from pixelis_fast.kernels.coherence.pairs_problem import NORM_FLOOR

FLOOR = tl.constexpr(NORM_FLOOR)
EMPTY_HIGH = tl.constexpr(-0x7FFFFFFF)
"""Upper half of a slot without neighbour: below that of -inf."""
INDEX_BITS = tl.constexpr(0x7FFFFFFF)


@triton.jit(do_not_specialize=["num_rows"])
def row_scale_kernel(
    rows_ptr,
    scale_ptr,
    num_rows,
    width,
    stride_row,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """scale = 1 / max(norm, floor); NaN for a row whose norm is not finite."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    start_ptr = rows_ptr + row[:, None] * stride_row
    squares = tl.zeros((BLOCK_ROWS, BLOCK_D), tl.float32)
    for start in range(0, width, BLOCK_D):
        column = start + tl.arange(0, BLOCK_D)
        inside = (row < num_rows)[:, None] & (column < width)[None, :]
        values = tl.load(start_ptr + column[None, :], mask=inside, other=0.0).to(tl.float32)
        squares += values * values
    norm = tl.sqrt(tl.sum(squares, axis=1))
    scale = tl.where(norm < float("inf"), 1.0 / tl.maximum(norm, FLOOR), float("nan"))
    tl.store(scale_ptr + row, scale, mask=row < num_rows)


@triton.jit
def similarities(
    query_ptr,
    key_ptr,
    query_scale_ptr,
    key_scale_ptr,
    width,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
    EVEN_D: tl.constexpr,
    INTERPRET: tl.constexpr,
):
    """Pointers to rows and scales, (BLOCK_N) and (BLOCK_M) -> (BLOCK_N, BLOCK_M) cosines."""
    product = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    for start in range(0, width, BLOCK_D):
        column = start + tl.arange(0, BLOCK_D)
        if EVEN_D:
            query = tl.load(query_ptr[:, None] + column[None, :])
            key = tl.load(key_ptr[None, :] + column[:, None])
        else:
            query = tl.load(
                query_ptr[:, None] + column[None, :], mask=(column < width)[None, :], other=0.0
            )
            key = tl.load(
                key_ptr[None, :] + column[:, None], mask=(column < width)[:, None], other=0.0
            )
        if INTERPRET:
            query, key = query.to(tl.float32), key.to(tl.float32)
        product = tl.dot(query, key, product, input_precision="tf32x3")
    # Not before the loop, where they would hold registers.
    query_scale, key_scale = tl.load(query_scale_ptr), tl.load(key_scale_ptr)
    return product * (query_scale[:, None] * key_scale[None, :])


@triton.jit
def packed(similarity, index):
    """Neighbours as int64; -0 equals 0."""
    bits = tl.where(similarity == 0.0, 0.0, similarity).to(tl.int32, bitcast=True)
    ordered = bits ^ ((bits >> 31) & INDEX_BITS)
    return (ordered.to(tl.int64) << 32) | (index ^ INDEX_BITS).to(tl.int64)


@triton.jit
def unpacked(neighbour):
    high = (neighbour >> 32).to(tl.int32)
    bits = high ^ ((high >> 31) & INDEX_BITS)
    there = high > EMPTY_HIGH
    similarity = tl.where(there, bits.to(tl.float32, bitcast=True), -float("inf"))
    return similarity, tl.where(there, (neighbour & INDEX_BITS) ^ INDEX_BITS, -1)
