"""Launches the Triton kernels of the all-pairs ops: tiles, key ranges, scratch, and NaN for rows
that are not finite.

How keys are split into ranges depends on their number alone, so a query's result does not depend
on the queries beside it; queries beyond a scratch budget run in further launches.

Shapes: N = queries, M = keys, D = width of a row, K = neighbours, A = answers, S = key ranges.
"""

from typing import Any

import torch
import triton
from torch import Tensor

from pixelis_fast.kernels.coherence.pairs_kernel import (
    merge_kernel,
    top_k_kernel,
    vote_kernel,
    vote_sum_kernel,
)
from pixelis_fast.kernels.coherence.pairs_problem import Ballot, Pairs
from pixelis_fast.kernels.coherence.pairs_tile import row_scale_kernel
from pixelis_fast.kernels.triton_support import INTERPRETED

BLOCK_N = 64
BLOCK_M = 64
BLOCK_A = 32
NUM_WARPS = 8
NUM_STAGES = 3
KEYS_PER_RANGE = 1024
"""At least; a range starts with empty slots, which its first tiles pay for."""
MAX_RANGES = 128
MERGED_SLOTS = 4096
SCRATCH_BYTES = 64 * 2**20


class TritonPairs:
    def top_k(self, pairs: Pairs, k: int) -> tuple[Tensor, Tensor]:
        queries_ND = pairs.queries_ND
        shape = (queries_ND.shape[0], k)
        similarity_NK = queries_ND.new_empty(shape, dtype=torch.float32)
        index_NK = queries_ND.new_empty(shape, dtype=torch.int64)
        scale_N, scale_M = row_scale(queries_ND), row_scale(pairs.keys_MD)
        num_slots = triton.next_power_of_2(k)
        ranges = num_ranges(pairs.keys_MD.shape[0])
        for rows in _slabs(queries_ND.shape[0], ranges * num_slots * 8):
            packed_NSK = queries_ND.new_empty(
                (rows.stop - rows.start, ranges, num_slots), dtype=torch.int64
            )
            _fill_slots(packed_NSK, pairs, rows, scale_N, scale_M)
            _merge_slots(packed_NSK, similarity_NK[rows], index_NK[rows])
        return poisoned_rows(similarity_NK, scale_N, scale_M, pairs), index_NK

    def vote(self, pairs: Pairs, ballot: Ballot) -> Tensor:
        num_queries, num_answers = pairs.queries_ND.shape[0], ballot.num_answers
        votes_NA = pairs.queries_ND.new_empty((num_queries, num_answers), dtype=torch.float32)
        scale_N, scale_M = row_scale(pairs.queries_ND), row_scale(pairs.keys_MD)
        tally = _Tally(pairs, ballot)
        for rows in _slabs(num_queries, tally.num_ranges * num_answers * 4):
            partial_SNA = votes_NA.new_empty(
                (tally.num_ranges, rows.stop - rows.start, num_answers)
            )
            tally.fill(partial_SNA, rows, scale_N, scale_M)
            votes = partial_SNA[0].numel()
            vote_sum_kernel[(triton.cdiv(votes, 1024),)](
                partial_SNA,
                votes_NA[rows],
                votes,
                tally.num_ranges,
                BLOCK=1024,
                num_warps=NUM_WARPS,
            )
        return poisoned_rows(votes_NA, scale_N, scale_M, pairs)


def merge_block(num_slots: int) -> tuple[int, int]:
    """Queries and slots of a program of the merge."""
    slots = triton.next_power_of_2(num_slots)
    return max(MERGED_SLOTS // slots, 1), slots


def num_ranges(num_keys: int, *, answer_blocks: int = 1) -> int:
    return min(max(triton.cdiv(num_keys, KEYS_PER_RANGE * answer_blocks), 1), MAX_RANGES)


def block_d(dtype: torch.dtype) -> int:
    """Columns per step; float32 operands are split in three, so twice 16 of them spill on sm_80."""
    return 64 if dtype == torch.bfloat16 else 16


def block_m(dtype: torch.dtype, num_slots: int) -> int:
    """Keys per tile; 64 slots beside 64 keys of float32 spill on sm_80."""
    return BLOCK_M // 2 if dtype == torch.float32 and num_slots > 32 else BLOCK_M


def row_scale(rows_RD: Tensor) -> Tensor:
    """1 / norm of each row, float32; NaN where the norm is not finite."""
    num_rows, width = rows_RD.shape
    scale_R = rows_RD.new_empty(num_rows, dtype=torch.float32)
    if num_rows:
        row_scale_kernel[(triton.cdiv(num_rows, 4),)](
            rows_RD,
            scale_R,
            num_rows,
            width,
            rows_RD.stride(0),
            BLOCK_ROWS=4,
            BLOCK_D=256,
            num_warps=NUM_WARPS,
        )
    return scale_R


def poisoned_rows(out_NX: Tensor, scale_N: Tensor, scale_M: Tensor, pairs: Pairs) -> Tensor:
    """NaN for a query that is not finite, and everywhere for a key that is not."""
    bad_M = scale_M.isnan()
    if pairs.valid_M is not None:
        bad_M = bad_M & pairs.valid_M
    return torch.where((scale_N.isnan() | bad_M.any())[:, None], float("nan"), out_NX)


def _slabs(num_queries: int, bytes_per_query: int) -> list[slice]:
    """Blocks of queries whose scratch fits the budget; whole tiles of them."""
    rows = max(SCRATCH_BYTES // bytes_per_query // BLOCK_N, 1) * BLOCK_N
    return [slice(at, min(at + rows, num_queries)) for at in range(0, num_queries, rows)]


def _tile_options(pairs: Pairs) -> dict[str, Any]:
    width, block = pairs.queries_ND.shape[1], block_d(pairs.queries_ND.dtype)
    return {
        "HAS_GROUPS": pairs.first_N is not None,
        "EXCLUDE_SELF": pairs.exclude_self,
        "BLOCK_N": BLOCK_N,
        "BLOCK_D": block,
        "EVEN_D": width % block == 0,
        "INTERPRET": INTERPRETED,
        "num_warps": NUM_WARPS,
        "num_stages": NUM_STAGES,
    }


def _fill_slots(
    packed_NSK: Tensor, pairs: Pairs, rows: slice, scale_N: Tensor, scale_M: Tensor
) -> None:
    num_queries, ranges, num_slots = packed_NSK.shape
    num_keys, width = pairs.keys_MD.shape
    top_k_kernel[(triton.cdiv(num_queries, BLOCK_N), ranges)](
        pairs.queries_ND[rows],
        pairs.keys_MD,
        scale_N[rows],
        scale_M,
        pairs.valid_M,
        None if pairs.first_N is None else pairs.first_N[rows],
        None if pairs.last_N is None else pairs.last_N[rows],
        packed_NSK,
        num_queries,
        num_keys,
        rows.start,
        triton.cdiv(triton.cdiv(num_keys, BLOCK_M), ranges) * BLOCK_M,
        width,
        pairs.queries_ND.stride(0),
        pairs.keys_MD.stride(0),
        HAS_VALID=pairs.valid_M is not None,
        NUM_SLOTS=num_slots,
        BLOCK_M=block_m(pairs.queries_ND.dtype, num_slots),
        **_tile_options(pairs),
    )


def _merge_slots(packed_NSK: Tensor, similarity_NK: Tensor, index_NK: Tensor) -> None:
    num_queries, ranges, num_slots = packed_NSK.shape
    block_n, block_slots = merge_block(ranges * num_slots)
    merge_kernel[(triton.cdiv(num_queries, block_n),)](
        packed_NSK,
        similarity_NK,
        index_NK,
        num_queries,
        ranges * num_slots,
        index_NK.shape[1],
        BLOCK_N=block_n,
        BLOCK_SLOTS=block_slots,
        BLOCK_K=num_slots,
        num_warps=NUM_WARPS,
    )


class _Tally:
    """The keys sorted by answer, so that a block of answers is a range of them.

    Keys that do not vote come last and belong to no block.
    """

    def __init__(self, pairs: Pairs, ballot: Ballot) -> None:
        answers_M, blocks = ballot.answers_M, triton.cdiv(ballot.num_answers, BLOCK_A)
        self.pairs, self.floor, self.blocks = pairs, ballot.floor, blocks
        self.num_ranges = num_ranges(answers_M.shape[0], answer_blocks=blocks)
        votes_M = (answers_M >= 0) & (answers_M < ballot.num_answers)
        if pairs.valid_M is not None:
            votes_M &= pairs.valid_M
        answers_M = torch.where(votes_M, answers_M.long(), ballot.num_answers)
        self.answers_M, self.order_M = answers_M.sort(stable=True)
        edges = torch.arange(blocks + 1, device=answers_M.device) * BLOCK_A
        edges = edges.clamp_max(ballot.num_answers)
        self.block_start = torch.searchsorted(self.answers_M, edges)
        weights_M = ballot.weights_M
        self.weights_M = torch.ones_like(answers_M, dtype=torch.float32)
        if weights_M is not None:
            self.weights_M = weights_M

    def fill(self, partial_SNA: Tensor, rows: slice, scale_N: Tensor, scale_M: Tensor) -> None:
        pairs = self.pairs
        ranges, num_queries, num_answers = partial_SNA.shape
        vote_kernel[(triton.cdiv(num_queries, BLOCK_N), self.blocks * ranges)](
            pairs.queries_ND[rows],
            pairs.keys_MD,
            scale_N[rows],
            scale_M,
            self.order_M,
            self.answers_M,
            self.weights_M,
            self.block_start,
            None if pairs.first_N is None else pairs.first_N[rows],
            None if pairs.last_N is None else pairs.last_N[rows],
            partial_SNA,
            num_queries,
            num_answers,
            rows.start,
            ranges,
            pairs.queries_ND.shape[1],
            pairs.queries_ND.stride(0),
            pairs.keys_MD.stride(0),
            self.floor,
            BLOCK_M=BLOCK_M,
            BLOCK_A=BLOCK_A,
            **_tile_options(pairs),
        )
