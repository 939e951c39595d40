"""On a GPU, compiled, at the real vocabulary: `make test-gpu`. Without one these are deselected.

Shapes: N = tokens, D = hidden width, V = vocabulary.
"""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from pixelis_fast.kernels.coherence import coherence, top_k
from pixelis_fast.kernels.linear_loss import ReferenceHead, linear_statistics
from pixelis_fast.kernels.masked_imitation import masked_imitation_loss
from tests.kernels.linear_problem import (
    PAIRED,
    LinearProblem,
    assert_close,
    ours,
    random_problem,
    relative,
    truth,
)

pytestmark = pytest.mark.gpu
V = 151_936
GIB = 1 << 30


def on_gpu(problem: LinearProblem) -> LinearProblem:
    moved = {k: v.cuda() if isinstance(v, torch.Tensor) else v for k, v in vars(problem).items()}
    if problem.reference is not None:
        moved["reference"] = ReferenceHead(
            *(None if t is None else t.cuda() for t in problem.reference)
        )
    return LinearProblem(**moved)


@pytest.mark.parametrize("budget", [0, GIB // 8, 4 * GIB])
@pytest.mark.parametrize("head", [None, "shared", "own"])
def test_real_vocabulary_in_bfloat16(head, budget):
    names = ("logprob",) if head is None else PAIRED
    problem = on_gpu(random_problem(200, 256, V, dtype=torch.bfloat16, head=head, spread=3.0))
    upstream = torch.randn(len(names), 200, device="cuda")
    found = ours(problem, names, upstream, memory_budget_bytes=budget)
    assert_close(found, truth(problem, names, upstream), statistics=1e-4, gradient=1.2e-2)


def test_rows_are_exact_to_half_a_percent():
    problem = on_gpu(random_problem(512, 1024, V, dtype=torch.bfloat16, spread=4.0, masked=0))
    upstream = torch.randn(1, 512, device="cuda")
    found = ours(problem, ("logprob",), upstream)
    expected = truth(problem, ("logprob",), upstream)
    error_N = (found.dhidden_ND.double() - expected.dhidden_ND).norm(dim=1)
    assert float((error_N / expected.dhidden_ND.norm(dim=1)).max()) < 5e-3
    assert relative(found.dweight_VD, expected.dweight_VD) < 5e-3


def test_float32_is_exact():
    problem = on_gpu(random_problem(70, 64, 5000, head="own"))
    upstream = torch.randn(len(PAIRED), 70, device="cuda")
    found = ours(problem, PAIRED, upstream)
    assert_close(found, truth(problem, PAIRED, upstream), statistics=5e-5, gradient=5e-5)


def test_the_host_never_waits():
    problem = on_gpu(random_problem(256, 128, V, dtype=torch.bfloat16, head="shared"))
    upstream = torch.randn(len(PAIRED), 256, device="cuda")
    ours(problem, PAIRED, upstream)
    torch.cuda.set_sync_debug_mode("error")
    try:
        ours(problem, PAIRED, upstream)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_bits_repeat_and_do_not_know_the_batch():
    problem = on_gpu(random_problem(300, 256, V, dtype=torch.bfloat16, head="own", masked=0))
    upstream = torch.randn(len(PAIRED), 300, device="cuda")
    first, second = ours(problem, PAIRED, upstream), ours(problem, PAIRED, upstream)
    assert torch.equal(first.dhidden_ND, second.dhidden_ND)
    assert torch.equal(first.dweight_VD, second.dweight_VD)
    assert problem.reference is not None
    hidden_NE, weight_VE = problem.reference
    alone = linear_statistics(
        problem.hidden_ND[7:9],
        problem.weight_VD,
        problem.targets_N[7:9],
        reference=ReferenceHead(hidden_NE[7:9], weight_VE),
    )
    together = torch.stack([row.detach() for row in first.statistics])[:, 7:9]
    kept = torch.arange(len(alone), device="cuda") != 3  # mean_logit was asked for only together
    assert torch.equal(together[kept], torch.stack(tuple(alone))[kept])


def test_memory_stays_within_the_budget():
    N, D = 4096, 1024
    hidden_ND = torch.randn(N, D, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    weight_VD = torch.randn(V, D, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    targets_N = torch.randint(V, (N,), device="cuda")
    for budget, limit in ((0, 0.9 * GIB), (2 * GIB, 2.6 * GIB)):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        found = masked_imitation_loss(hidden_ND, weight_VD, targets_N, memory_budget_bytes=budget)
        gradients = torch.autograd.grad(found.loss, (hidden_ND, weight_VD))
        own = sum(gradient.nbytes for gradient in gradients)
        assert torch.cuda.max_memory_allocated() - before - own < limit
        del found, gradients


def test_offsets_beyond_32_bits():
    """16,384 rows of 151,936 exponentials: the last lie beyond 2^31."""
    N = 16_384
    hidden_ND = torch.randn(N, 64, device="cuda", dtype=torch.bfloat16)
    weight_VD = torch.randn(V, 64, device="cuda", dtype=torch.bfloat16)
    targets_N = torch.randint(V, (N,), device="cuda")
    problem = LinearProblem(hidden_ND, weight_VD, targets_N)
    upstream = torch.randn(1, N, device="cuda")
    stored = ours(problem, ("logprob",), upstream, memory_budget_bytes=6 * GIB)
    lean = ours(problem, ("logprob",), upstream, memory_budget_bytes=0)
    assert relative(stored.dhidden_ND, lean.dhidden_ND.double()) < 5e-3
    assert relative(stored.dweight_VD, lean.dweight_VD.double()) < 5e-3


def test_unknown_targets_are_nan_in_their_row():
    problem = on_gpu(random_problem(5, 64, 1000, masked=0))
    problem.targets_N[2] = 1000
    found = problem.statistics(names=())
    assert found.logprob.isnan().tolist() == [False, False, True, False, False]


def test_worker_threads_may_call():
    problem = on_gpu(random_problem(64, 128, 5000, dtype=torch.bfloat16))
    expected = torch.stack(tuple(problem.statistics(names=())))
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(problem.statistics, names=()) for _ in range(8)]
    assert all(torch.equal(torch.stack(tuple(call.result())), expected) for call in calls)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_coherence_equals_the_cpu(dtype):
    steps_TD = torch.randn(700, 4096, dtype=dtype)
    cu_seqlens = torch.tensor([0, 1, 5, 5, 300, 700])
    expected = coherence(steps_TD, cu_seqlens)
    found = coherence(steps_TD.cuda(), cu_seqlens.cuda())
    for value, true in zip(found, expected, strict=True):
        assert torch.allclose(value.cpu(), true, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_neighbours_equal_the_cpu(dtype):
    queries_ND, keys_MD = torch.randn(33, 256, dtype=dtype), torch.randn(5000, 256, dtype=dtype)
    expected = top_k(queries_ND, keys_MD, 16)
    found = top_k(queries_ND.cuda(), keys_MD.cuda(), 16)
    assert torch.allclose(found.similarity_NK.cpu(), expected.similarity_NK, atol=1e-5)
    assert float((found.index_NK.cpu() == expected.index_NK).float().mean()) > 0.99
