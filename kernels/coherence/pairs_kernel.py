"""Triton kernels of the all-pairs ops: streaming top-k and its merge, votes and their sum.

A program owns a block of queries and walks a range of keys in tiles; float32 accumulators of the
products are scaled by both norms after the last of them. No atomics: every scratch element has
one writer, and everything is added in an order that the keys alone decide.

Shapes: N = queries, M = keys, D = width of a row, K = neighbours, A = answers, S = key ranges.
"""

import triton
import triton.language as tl

from pixelis_fast.kernels.coherence.pairs_tile import EMPTY_HIGH, packed, similarities, unpacked

SPREAD = ("num_queries", "num_keys", "first_query", "keys_per_range", "num_ranges")
"""Sizes that change from call to call and must not compile a kernel each."""


@triton.jit(do_not_specialize=SPREAD)
def top_k_kernel(
    queries_ptr,
    keys_ptr,
    query_scale_ptr,
    key_scale_ptr,
    valid_ptr,
    first_ptr,
    last_ptr,
    packed_ptr,
    num_queries,
    num_keys,
    first_query,
    keys_per_range,
    width,
    stride_query,
    stride_key,
    HAS_VALID: tl.constexpr,
    HAS_GROUPS: tl.constexpr,
    EXCLUDE_SELF: tl.constexpr,
    NUM_SLOTS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
    EVEN_D: tl.constexpr,
    INTERPRET: tl.constexpr,
):
    """packed (N, S, NUM_SLOTS): the largest neighbours of each query in each range of keys."""
    row = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    is_row = row < num_queries
    begin = tl.program_id(1) * keys_per_range
    end = tl.minimum(begin + keys_per_range, num_keys)
    if HAS_GROUPS:
        first = tl.load(first_ptr + row, mask=is_row, other=0x7FFFFFFF).to(tl.int32)
        last = tl.load(last_ptr + row, mask=is_row, other=0).to(tl.int32)
        # Keys that no row of the block may see are not read.
        begin = tl.maximum(begin, tl.min(first, axis=0))
        end = tl.minimum(end, tl.max(last, axis=0))
    # Rows and keys past the end read row 0 and are not counted: loads without a mask can be
    # copied asynchronously.
    row_at = tl.where(is_row, row, 0).to(tl.int64)
    slot = tl.arange(0, NUM_SLOTS)
    top = tl.full((BLOCK_N, NUM_SLOTS), EMPTY_HIGH, tl.int64) << 32
    top += slot.to(tl.int64)[None, :]
    for start in range(begin, end, BLOCK_M):
        key = start + tl.arange(0, BLOCK_M)
        is_key = key < end
        key_at = tl.where(is_key, key, 0)
        similarity = similarities(
            queries_ptr + row_at * stride_query,
            keys_ptr + key_at.to(tl.int64) * stride_key,
            query_scale_ptr + row_at,
            key_scale_ptr + key_at,
            width,
            BLOCK_N,
            BLOCK_M,
            BLOCK_D,
            EVEN_D,
            INTERPRET,
        )
        if HAS_VALID:
            is_key = is_key & (tl.load(valid_ptr + key_at) != 0)
        sees = is_row[:, None] & is_key[None, :]
        if HAS_GROUPS:
            # Loaded again: held across the products they cost registers.
            first = tl.load(first_ptr + row, mask=is_row, other=0).to(tl.int32)
            last = tl.load(last_ptr + row, mask=is_row, other=0).to(tl.int32)
            sees = sees & (key[None, :] >= first[:, None]) & (key[None, :] < last[:, None])
        if EXCLUDE_SELF:
            sees = sees & (key[None, :] != (first_query + row)[:, None])
        sees = sees & (similarity == similarity)
        similarity = tl.where(sees, similarity, -float("inf"))
        best, column = tl.max(similarity, axis=1, return_indices=True)
        neighbour = packed(best, start + column)
        worst = tl.min(top, axis=1)
        enters = (neighbour > worst) & (best > -float("inf"))
        # Usually no key of a later tile enters, so taking the best one by one beats a sort.
        while tl.max(enters.to(tl.int32), axis=0) > 0:
            replaced = enters[:, None] & (top == worst[:, None])
            top = tl.where(replaced, neighbour[:, None], top)
            taken = tl.arange(0, BLOCK_M)[None, :] == column[:, None]
            similarity = tl.where(taken, -float("inf"), similarity)
            best, column = tl.max(similarity, axis=1, return_indices=True)
            neighbour = packed(best, start + column)
            worst = tl.min(top, axis=1)
            enters = (neighbour > worst) & (best > -float("inf"))
    at = (row.to(tl.int64) * tl.num_programs(1) + tl.program_id(1)) * NUM_SLOTS
    tl.store(packed_ptr + at[:, None] + slot[None, :], top, mask=is_row[:, None])


@triton.jit(do_not_specialize=["num_queries", "num_slots", "k"])
def merge_kernel(
    packed_ptr,
    similarity_ptr,
    index_ptr,
    num_queries,
    num_slots,
    k,
    BLOCK_N: tl.constexpr,
    BLOCK_SLOTS: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """The k largest of num_slots neighbours, largest first."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    slot, rank = tl.arange(0, BLOCK_SLOTS), tl.arange(0, BLOCK_K)
    inside = (row < num_queries)[:, None] & (slot < num_slots)[None, :]
    empty = tl.full((BLOCK_N, BLOCK_SLOTS), EMPTY_HIGH, tl.int64) << 32
    left = tl.load(packed_ptr + row[:, None] * num_slots + slot[None, :], mask=inside, other=0)
    left = tl.where(inside, left, empty)
    ranked = tl.full((BLOCK_N, BLOCK_K), EMPTY_HIGH, tl.int64) << 32
    for place in range(k):
        largest = tl.max(left, axis=1)
        ranked = tl.where((rank == place)[None, :], largest[:, None], ranked)
        left = tl.where(left == largest[:, None], empty, left)
    similarity, index = unpacked(ranked)
    at = row[:, None] * k + rank[None, :]
    inside = (row < num_queries)[:, None] & (rank < k)[None, :]
    tl.store(similarity_ptr + at, similarity, mask=inside)
    tl.store(index_ptr + at, index, mask=inside)


@triton.jit(do_not_specialize=SPREAD)
def vote_kernel(
    queries_ptr,
    keys_ptr,
    query_scale_ptr,
    key_scale_ptr,
    order_ptr,
    answer_ptr,
    weight_ptr,
    block_start_ptr,
    first_ptr,
    last_ptr,
    votes_ptr,
    num_queries,
    num_answers,
    first_query,
    num_ranges,
    width,
    stride_query,
    stride_key,
    floor,
    HAS_GROUPS: tl.constexpr,
    EXCLUDE_SELF: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_A: tl.constexpr,
    EVEN_D: tl.constexpr,
    INTERPRET: tl.constexpr,
):
    """votes (S, N, A) of one block of answers and one range of the keys that gave them.

    order and answer list the keys sorted by answer; block_start says where each block begins.
    """
    row = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    is_row = row < num_queries
    block, part = tl.program_id(1) // num_ranges, tl.program_id(1) % num_ranges
    block_begin = tl.load(block_start_ptr + block).to(tl.int32)
    block_end = tl.load(block_start_ptr + block + 1).to(tl.int32)
    tiles = tl.cdiv(tl.cdiv(block_end - block_begin, BLOCK_M), num_ranges)
    begin = block_begin + part * tiles * BLOCK_M
    end = tl.minimum(begin + tiles * BLOCK_M, block_end)
    row_at = tl.where(is_row, row, 0).to(tl.int64)
    answer = block * BLOCK_A + tl.arange(0, BLOCK_A)
    votes = tl.zeros((BLOCK_N, BLOCK_A), tl.float32)
    for start in range(begin, end, BLOCK_M):
        at = start + tl.arange(0, BLOCK_M)
        is_key = at < end
        key = tl.load(order_ptr + at, mask=is_key, other=0).to(tl.int32)
        similarity = similarities(
            queries_ptr + row_at * stride_query,
            keys_ptr + key.to(tl.int64) * stride_key,
            query_scale_ptr + row_at,
            key_scale_ptr + key,
            width,
            BLOCK_N,
            BLOCK_M,
            BLOCK_D,
            EVEN_D,
            INTERPRET,
        )
        weight = tl.load(weight_ptr + key, mask=is_key, other=0.0)
        sees = is_row[:, None] & is_key[None, :]
        if HAS_GROUPS:
            first = tl.load(first_ptr + row, mask=is_row, other=0).to(tl.int32)
            last = tl.load(last_ptr + row, mask=is_row, other=0).to(tl.int32)
            sees = sees & (key[None, :] >= first[:, None]) & (key[None, :] < last[:, None])
        if EXCLUDE_SELF:
            sees = sees & (key[None, :] != (first_query + row)[:, None])
        sees = sees & (similarity > floor)
        share = tl.where(sees, weight[None, :] * (similarity - floor), 0.0)
        # Sorted, a tile holds few answers, mostly one: sums of its own columns, in float32.
        given = tl.load(answer_ptr + at, mask=is_key, other=-1).to(tl.int32)
        first_given = tl.load(answer_ptr + start).to(tl.int32)
        for one in range(first_given, tl.max(given, axis=0) + 1):
            total = tl.sum(tl.where((given == one)[None, :], share, 0.0), axis=1)
            votes += tl.where((answer == one)[None, :], total[:, None], 0.0)
    out = (part * num_queries + row).to(tl.int64) * num_answers
    inside = is_row[:, None] & (answer < num_answers)[None, :]
    tl.store(votes_ptr + out[:, None] + answer[None, :], votes, mask=inside)


@triton.jit(do_not_specialize=["num_votes", "num_ranges"])
def vote_sum_kernel(partial_ptr, votes_ptr, num_votes, num_ranges, BLOCK: tl.constexpr):
    """(S, N · A) -> (N · A), range after range."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    votes = tl.zeros((BLOCK,), tl.float32)
    for part in range(num_ranges):
        partial = partial_ptr + part * num_votes.to(tl.int64) + at
        votes += tl.load(partial, mask=at < num_votes, other=0.0)
    tl.store(votes_ptr + at, votes, mask=at < num_votes)
