"""Neighbours and votes of all pairs against the textbook, in the interpreter and in C++.

Shapes: N = queries, M = keys, D = width of a row, K = neighbours, A = answers.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pixelis_fast.kernels.coherence.pairs_op import similarity_vote, top_k
from pixelis_fast.kernels.coherence.pairs_problem import TopK
from pixelis_fast.kernels.coherence.pairs_reference import (
    similarity_reference,
    top_k_reference,
    visible_reference,
    vote_reference,
)

TOLERANCE = 2e-6
"""Of a cosine and of a vote per unit of weight, both dtypes: the inputs are exact."""
IMPLEMENTATIONS = ("cpu", "triton")
DTYPES = (torch.bfloat16, torch.float32)
SHAPES = [
    (1, 5, 64, 5),  # fewer keys than a tile
    (63, 1, 96, 5),  # more neighbours asked for than there are keys
    (129, 64, 96, 1),
    (70, 333, 64, 5),  # ragged queries and keys
    (1, 1000, 96, 5),
]
"""N, M, D, K."""


def rows(count: int, width: int, dtype: torch.dtype) -> Tensor:
    """Of all lengths: a cosine that forgets a norm is far off."""
    return (torch.randn(count, width) * torch.rand(count, 1).mul(8).exp2()).to(dtype)


def assert_top_k(found: TopK, similarity_NM: Tensor, visible_NM: Tensor) -> None:
    """Where two keys are closer than the tolerance either may come first."""
    want = top_k_reference(similarity_NM, visible_NM, found.index_NK.shape[1])
    there_NK = want.index_NK >= 0
    assert torch.equal(found.index_NK >= 0, there_NK)
    assert torch.equal(found.similarity_NK == -torch.inf, ~there_NK)
    index_NK = found.index_NK.clamp_min(0)
    assert visible_NM.gather(1, index_NK)[there_NK].all()
    for similarity_NK in (want.similarity_NK, similarity_NM.gather(1, index_NK)):
        error_NK = (found.similarity_NK - similarity_NK).abs()
        assert bool((error_NK[there_NK] <= TOLERANCE).all())
    empty_K = -1 - torch.arange(index_NK.shape[1])
    ordered_NK = torch.where(there_NK, index_NK, empty_K).sort(dim=1).values
    assert not (ordered_NK.diff(dim=1) == 0).any()


def assert_votes(found_NA: Tensor, want_NA: Tensor, *, weight: float) -> None:
    assert found_NA.dtype == torch.float32
    assert float((found_NA - want_NA).abs().max()) <= TOLERANCE * max(weight, 1.0)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("N", "M", "D", "K"), SHAPES, ids=str)
def test_top_k(N, M, D, K, dtype, implementation):
    queries_ND, keys_MD = rows(N, D, dtype), rows(M, D, dtype)
    found = top_k(queries_ND, keys_MD, K, implementation=implementation)
    assert (found.similarity_NK.dtype, found.index_NK.dtype) == (torch.float32, torch.int64)
    assert_top_k(found, similarity_reference(queries_ND, keys_MD), visible_reference(N, M))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_most_neighbours(implementation):
    queries_ND, keys_MD = rows(2, 64, torch.float32), rows(129, 64, torch.float32)
    found = top_k(queries_ND, keys_MD, 64, implementation=implementation)
    assert_top_k(found, similarity_reference(queries_ND, keys_MD), visible_reference(2, 129))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("N", "M", "D", "A"), [(1, 5, 64, 3), (70, 129, 96, 40), (129, 64, 64, 1)])
def test_similarity_vote(N, M, D, A, dtype, implementation):
    queries_ND, keys_MD = rows(N, D, dtype), rows(M, D, dtype)
    answers_M, weights_M = torch.randint(0, A, (M,)), torch.randn(M)
    found_NA = similarity_vote(
        queries_ND,
        keys_MD,
        answers_M,
        num_answers=A,
        weights_M=weights_M,
        floor=0.05,
        implementation=implementation,
    )
    want_NA = vote_reference(
        similarity_reference(queries_ND, keys_MD),
        visible_reference(N, M),
        answers_M,
        num_answers=A,
        weights_M=weights_M,
        floor=0.05,
    )
    assert_votes(found_NA, want_NA, weight=float(weights_M.abs().sum()))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_who_sees_whom(implementation):
    """Groups, one of them empty, left-out keys and no self, all at once."""
    bounds = torch.tensor([0, 3, 3, 61, 70])
    rows_ND, valid_N, answers_N = (
        rows(70, 64, torch.float32),
        torch.rand(70) < 0.7,
        torch.arange(70) % 9,
    )
    options = {"query_cu_seqlens": bounds, "key_cu_seqlens": bounds, "exclude_self": True}
    options["valid_keys_M"] = valid_N
    visible_NM = visible_reference(70, 70, **options)
    similarity_NM = similarity_reference(rows_ND, rows_ND)
    found = top_k(rows_ND, rows_ND, 5, **options, implementation=implementation)
    assert_top_k(found, similarity_NM, visible_NM)
    found_NA = similarity_vote(
        rows_ND, rows_ND, answers_N, num_answers=9, **options, implementation=implementation
    )
    want_NA = vote_reference(similarity_NM, visible_NM, answers_N, num_answers=9)
    assert_votes(found_NA, want_NA, weight=70)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_groups_of_different_sizes(implementation):
    queries_ND, keys_MD = rows(9, 64, torch.float32), rows(333, 64, torch.float32)
    bounds = {
        "query_cu_seqlens": torch.tensor([0, 4, 9], dtype=torch.int32),
        "key_cu_seqlens": torch.tensor([0, 200, 333], dtype=torch.int32),
    }
    found = top_k(queries_ND, keys_MD, 3, **bounds, implementation=implementation)
    visible_NM = visible_reference(9, 333, **bounds)
    assert_top_k(found, similarity_reference(queries_ND, keys_MD), visible_NM)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equal_similarities_come_by_index(dtype, implementation):
    """Three copies of 70 keys; the query equals key 3."""
    keys_MD = rows(70, 64, dtype).repeat(3, 1)
    found = top_k(keys_MD[3:5], keys_MD, 6, implementation=implementation)
    triples = found.index_NK.reshape(2, 2, 3)
    assert torch.equal(triples[:, 0, 0], torch.tensor([3, 4]))
    assert torch.equal(triples, triples[..., :1] + torch.tensor([0, 70, 140]))
    assert torch.equal(found.similarity_NK[:, 0], found.similarity_NK[:, 2])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_zero_rows(implementation):
    """A zero query is equally far from all keys, so the first ones win; a zero key has cosine 0."""
    keys_MD = rows(70, 64, torch.float32)
    keys_MD[5] = 0
    queries_ND = torch.stack([torch.zeros(64), keys_MD[9]])
    found = top_k(queries_ND, keys_MD, 9, implementation=implementation)
    assert torch.equal(found.index_NK[0], torch.arange(9))
    assert not found.similarity_NK[0].any()
    assert found.index_NK[1, 0] == 9
    hidden_M = torch.arange(70) != 5
    last = top_k(queries_ND, keys_MD, 1, valid_keys_M=~hidden_M, implementation=implementation)
    assert last.similarity_NK.tolist() == [[0.0], [0.0]]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("N", "M"), [(3, 0), (0, 3), (3, 3)])
def test_nobody_to_see(N, M, implementation):
    queries_ND, keys_MD = rows(N, 64, torch.float32), rows(M, 64, torch.float32)
    options = {"valid_keys_M": torch.zeros(M, dtype=torch.bool), "implementation": implementation}
    found = top_k(queries_ND, keys_MD, 2, **options)
    assert torch.equal(found.similarity_NK, torch.full((N, 2), -torch.inf))
    assert torch.equal(found.index_NK, torch.full((N, 2), -1))
    answers_M = torch.full((M,), 99)
    for k in (None, 2):
        votes_NA = similarity_vote(
            queries_ND, keys_MD, answers_M, num_answers=4, k=k, floor=-1.0, **options
        )
        assert torch.equal(votes_NA, torch.zeros(N, 4))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_only_neighbours_vote(implementation):
    queries_ND, keys_MD = rows(5, 64, torch.float32), rows(70, 64, torch.float32)
    answers_M, weights_M = torch.randint(0, 3, (70,), dtype=torch.int32), torch.rand(70)
    found_NA = similarity_vote(
        queries_ND,
        keys_MD,
        answers_M,
        num_answers=3,
        weights_M=weights_M,
        k=4,
        implementation=implementation,
    )
    similarity_NM = similarity_reference(queries_ND, keys_MD)
    near_NM = torch.zeros(5, 70, dtype=torch.bool)
    near_NM.scatter_(1, similarity_NM.topk(4).indices, True)
    want_NA = vote_reference(similarity_NM, near_NM, answers_M, num_answers=3, weights_M=weights_M)
    assert_votes(found_NA, want_NA, weight=4)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_query_does_not_depend_on_the_others(dtype, implementation):
    """Nor on the run: bit for bit."""
    queries_ND, keys_MD = rows(70, 96, dtype), rows(90, 96, dtype)
    answers_M = torch.randint(0, 5, (90,))

    def run(part_ND):
        found = top_k(part_ND, keys_MD, 3, implementation=implementation)
        votes_NA = similarity_vote(
            part_ND, keys_MD, answers_M, num_answers=5, implementation=implementation
        )
        return (*found, votes_NA)

    whole, alone, again = run(queries_ND), run(queries_ND[67:68]), run(queries_ND)
    for everyone, single, repeat in zip(whole, alone, again, strict=True):
        assert torch.equal(everyone[67:68], single)
        assert torch.equal(everyone, repeat)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_strided_rows(dtype, implementation):
    """Transposed, expanded, every other row, a slice of wider rows."""
    wide_MD = rows(66, 150, dtype)
    cases = [
        (rows(64, 5, dtype).T, wide_MD[:, 7:71]),
        (rows(1, 64, dtype)[0].expand(5, 64), wide_MD[::2, 7:71]),
        (wide_MD[:5, ::2][:, :64], wide_MD[:, 1::2][:, :64]),
    ]
    for queries_ND, keys_MD in cases:
        found = top_k(queries_ND, keys_MD, 3, implementation=implementation)
        copied = top_k(
            queries_ND.contiguous(), keys_MD.contiguous(), 3, implementation=implementation
        )
        assert torch.equal(found.index_NK, copied.index_NK)
        assert torch.equal(found.similarity_NK, copied.similarity_NK)


@settings(max_examples=25)
@given(
    N=st.integers(1, 140),
    M=st.integers(1, 200),
    D=st.integers(1, 70),
    K=st.integers(1, 64),
    A=st.integers(1, 40),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**31),
)
def test_any_shape(N, M, D, K, A, dtype, seed):
    torch.manual_seed(seed)
    queries_ND, keys_MD = rows(N, D, dtype), rows(M, D, dtype)
    valid_M, answers_M = torch.rand(M) < 0.8, torch.randint(0, A, (M,))
    similarity_NM = similarity_reference(queries_ND, keys_MD)
    visible_NM = visible_reference(N, M, valid_keys_M=valid_M)
    assert_top_k(top_k(queries_ND, keys_MD, K, valid_keys_M=valid_M), similarity_NM, visible_NM)
    found_NA = similarity_vote(queries_ND, keys_MD, answers_M, num_answers=A, valid_keys_M=valid_M)
    want_NA = vote_reference(similarity_NM, visible_NM, answers_M, num_answers=A)
    assert_votes(found_NA, want_NA, weight=M)
