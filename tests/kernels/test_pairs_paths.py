"""Around the all-pairs kernels: instruction sets, threads, scratch slabs, operators, errors.

Shapes: N = queries, M = keys, D = width of a row, K = neighbours, A = answers.
"""

import pytest
import torch

from pixelis_fast.kernels.coherence import pairs_triton
from pixelis_fast.kernels.coherence.pairs_cpu import CpuPairs
from pixelis_fast.kernels.coherence.pairs_inputs import make_ballot, make_pairs
from pixelis_fast.kernels.coherence.pairs_op import similarity_vote, top_k
from pixelis_fast.kernels.coherence.pairs_reference import (
    similarity_reference,
    top_k_reference,
    visible_reference,
    vote_reference,
)

TOLERANCE = 2e-6
DTYPES = (torch.bfloat16, torch.float32)
LEVELS = ("baseline", "avx2", "avx512", "avx512bf16", "amx")


def _cpu_levels() -> str:
    """From the error that lists them."""
    nothing = make_pairs(torch.zeros(1, 8), torch.zeros(1, 8), None, None, None, False)
    with pytest.raises(ValueError, match="simd: expected one of") as error:
        CpuPairs(simd="none").top_k(nothing, 1)
    return str(error.value)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("level", LEVELS)
def test_every_instruction_set(level, dtype):
    """Width 70 leaves a tail in every vector; 140 queries need a second group of them."""
    queries_ND, keys_MD = torch.randn(140, 70).to(dtype), torch.randn(333, 70).to(dtype)
    answers_M = torch.randint(0, 9, (333,))
    pairs = make_pairs(queries_ND, keys_MD, None, None, None, False)
    path = CpuPairs(simd=level)
    if level not in _cpu_levels():
        pytest.skip(f"this CPU has no {level}")
    similarity_NK, index_NK = path.top_k(pairs, 5)
    votes_NA = path.vote(pairs, make_ballot(answers_M, None, None, 9, 0.1))
    similarity_NM, visible_NM = (
        similarity_reference(queries_ND, keys_MD),
        visible_reference(140, 333),
    )
    want = top_k_reference(similarity_NM, visible_NM, 5)
    assert torch.equal(index_NK, want.index_NK)
    assert float((similarity_NK - want.similarity_NK).abs().max()) <= TOLERANCE
    want_NA = vote_reference(similarity_NM, visible_NM, answers_M, num_answers=9, floor=0.1)
    assert float((votes_NA - want_NA).abs().max()) <= TOLERANCE * 333


@pytest.mark.parametrize("N", [2, 300], ids=["keys split", "queries split"])
def test_threads_change_no_bit(N):
    queries_ND, keys_MD = torch.randn(N, 96), torch.randn(1000, 96).repeat(2, 1)
    answers_M = torch.randint(0, 9, (2000,))
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        votes_NA = similarity_vote(queries_ND, keys_MD, answers_M, num_answers=9)
        results.append((*top_k(queries_ND, keys_MD, 8), votes_NA))
    torch.set_num_threads(1)
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


def test_several_ranges_and_slabs(monkeypatch):
    """Ranges of keys are merged and added up; queries beyond the scratch run afterwards."""
    monkeypatch.setattr(pairs_triton, "KEYS_PER_RANGE", 64)
    monkeypatch.setattr(pairs_triton, "SCRATCH_BYTES", 64 * 64)
    rows_ND, answers_N = torch.randn(150, 64), torch.randint(0, 4, (150,)) * 10
    similarity_NM = similarity_reference(rows_ND, rows_ND)
    visible_NM = visible_reference(150, 150, exclude_self=True)
    found = top_k(rows_ND, rows_ND, 3, exclude_self=True, implementation="triton")
    want = top_k_reference(similarity_NM, visible_NM, 3)
    assert torch.equal(found.index_NK, want.index_NK)
    assert float((found.similarity_NK - want.similarity_NK).abs().max()) <= TOLERANCE
    votes_NA = similarity_vote(
        rows_ND,
        rows_ND,
        answers_N,
        num_answers=40,
        exclude_self=True,
        implementation="triton",
    )
    want_NA = vote_reference(similarity_NM, visible_NM, answers_N, num_answers=40)
    assert float((votes_NA - want_NA).abs().max()) <= TOLERANCE * 150


@pytest.mark.parametrize("implementation", ["cpu", "triton"])
def test_operators(implementation):
    queries, keys = torch.randn(2, 64), torch.randn(5, 64)
    bounds = torch.tensor([0, 1, 2]), torch.tensor([0, 2, 5])
    seen = (torch.ones(5, dtype=torch.bool), *bounds, False, implementation)
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(
        torch.ops.pixelis_fast.pairs_top_k.default, (queries, keys, 2, *seen), test_utils=checks
    )
    ballot = (torch.zeros(5, dtype=torch.int64), torch.ones(5), 3, 0.0, 0)
    torch.library.opcheck(
        torch.ops.pixelis_fast.pairs_vote.default,
        (queries, keys, *ballot, *seen),
        test_utils=checks,
    )


def test_compiled_as_one_graph():
    def nearest(queries_ND, keys_MD, answers_M):
        found = top_k(queries_ND * 2, keys_MD, 3)
        votes_NA = similarity_vote(queries_ND, keys_MD, answers_M, num_answers=4)
        return found.similarity_NK + 1, found.index_NK, votes_NA.argmax(1)

    arguments = torch.randn(3, 64), torch.randn(9, 64), torch.randint(0, 4, (9,))
    compiled = torch.compile(nearest, fullgraph=True, backend="eager")
    for got, want in zip(compiled(*arguments), nearest(*arguments), strict=True):
        assert torch.equal(got, want)


Q, M = torch.zeros(3, 8), torch.ones(5, 8)
WRONG = {
    "queries_ND: expected shape": (lambda: top_k(Q[0], M, 1)),
    "queries_ND: expected dtype": (lambda: top_k(Q.half(), M.half(), 1)),
    "queries_ND: expected a width": (lambda: top_k(Q[:, :0], M[:, :0], 1)),
    "queries_ND: expected no gradient": (lambda: top_k(Q.clone().requires_grad_(), M, 1)),
    "keys_MD: expected no gradient": (lambda: top_k(Q, M.clone().requires_grad_(), 1)),
    "keys_MD: expected width 8": (lambda: top_k(Q, M[:, :4], 1)),
    "keys_MD: expected dtype torch.float32": (lambda: top_k(Q, M.bfloat16(), 1)),
    "k: expected a whole number": (lambda: top_k(Q, M, 0)),
    "k: expected at most 64": (lambda: top_k(Q, M, 65)),
    "valid_keys_M: expected shape": (
        lambda: top_k(Q, M, 1, valid_keys_M=torch.ones(3, dtype=torch.bool))
    ),
    "valid_keys_M: expected dtype": (lambda: top_k(Q, M, 1, valid_keys_M=torch.ones(5))),
    "exclude_self: expected": (lambda: top_k(Q, M, 1, exclude_self=True)),
    "expected both or neither": (lambda: top_k(Q, M, 1, key_cu_seqlens=torch.tensor([0, 5]))),
    "key_cu_seqlens: expected bounds rising": (
        lambda: top_k(
            Q,
            M,
            1,
            query_cu_seqlens=torch.tensor([0, 1, 3]),
            key_cu_seqlens=torch.tensor([0, 6, 5]),
        )
    ),
    "key_cu_seqlens: expected 2 bounds": (
        lambda: top_k(
            Q,
            M,
            1,
            query_cu_seqlens=torch.tensor([0, 3]),
            key_cu_seqlens=torch.tensor([0, 2, 5]),
        )
    ),
    "implementation: expected one of": (lambda: top_k(Q, M, 1, implementation="numpy")),
    "keys_MD: expected rows with a finite norm": (lambda: top_k(Q, M / 0, 1)),
    "answers_M: expected dtype": (lambda: similarity_vote(Q, M, torch.ones(5), num_answers=2)),
    "answers_M: expected ids": (lambda: similarity_vote(Q, M, torch.full((5,), 2), num_answers=2)),
    "weights_M: expected finite": (
        lambda: similarity_vote(
            Q, M, torch.zeros(5).long(), num_answers=2, weights_M=torch.full((5,), torch.nan)
        )
    ),
    "num_answers: expected": (lambda: similarity_vote(Q, M, torch.zeros(5).long(), num_answers=0)),
    "floor: expected": (
        lambda: similarity_vote(Q, M, torch.zeros(5).long(), num_answers=2, floor=float("nan"))
    ),
}


@pytest.mark.parametrize("message", WRONG)
def test_errors_say_what_was_expected(message):
    with pytest.raises(ValueError, match=message):
        WRONG[message]()


def test_rows_that_want_a_gradient_pass_without_one():
    with torch.no_grad():
        found = top_k(Q.clone().requires_grad_(), M.clone().requires_grad_(), 1)
    assert not found.similarity_NK.requires_grad


def test_kernels_spoil_what_they_cannot_count():
    """On a GPU nothing raises: NaN shows where a row, an answer or a weight was wrong."""
    queries_ND, keys_MD = torch.randn(3, 64), torch.randn(5, 64)
    queries_ND[1, 7] = torch.nan
    pairs = make_pairs(queries_ND, keys_MD, None, None, None, False)
    similarity_NK, index_NK = pairs_triton.TritonPairs().top_k(pairs, 2)
    assert similarity_NK.isnan().any(1).tolist() == [False, True, False]
    assert bool(((index_NK >= -1) & (index_NK < 5)).all())
    keys_MD[4, 0] = torch.inf
    pairs = make_pairs(queries_ND, keys_MD, None, None, None, False)
    assert bool(pairs_triton.TritonPairs().top_k(pairs, 2)[0].isnan().all())
