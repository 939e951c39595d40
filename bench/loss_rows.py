"""Providers and float64 answers of the two ops on rows: coherence of steps, nearest rows.

coherence: sum over trajectories of upstream times reward, with its gradient to the steps.
top_k: the most similar keys of each query, no gradient.
Shapes: T = steps, P = pairs of neighbours, D = width, B = trajectories, N = queries, M = keys.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from bench.loss_cases import NEIGHBOURS
from bench.loss_inputs import TRAJECTORY, Inputs
from bench.loss_provider import Call, Provider
from bench.loss_truth import Errors, Output

THRESHOLD, PRICE = 0.9, 10.0
"""The defaults of our op: where repetition begins to cost, and how much."""
SAMPLED_QUERIES = 64


# ── coherence ────────────────────────────────────────────────────────────────────────────────


def eager_rewards(steps_TD: Tensor, owner_T: Tensor, upstream_B: Tensor) -> Tensor:
    """(B), as people write it: pairs across a boundary count nothing."""
    cosine_P = functional.cosine_similarity(steps_TD[:-1], steps_TD[1:], dim=-1).float()
    inside_P = (owner_T[1:] == owner_T[:-1]).float()
    zero_B = torch.zeros_like(upstream_B)
    count_B = zero_B.index_add(0, owner_T[:-1], inside_P).clamp_min(1)
    over_P = torch.relu(cosine_P - THRESHOLD)
    return zero_B.index_add(0, owner_T[:-1], (cosine_P - PRICE * over_P) * inside_P) / count_B


def owners(bounds_B1: Tensor) -> Tensor:
    """(T): which segment each row is of."""
    counts_B = bounds_B1.diff().long()
    return torch.arange(len(counts_B), device=counts_B.device).repeat_interleave(counts_B)


def _rewarded(inputs: Inputs, rewards: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Call:
    upstream_B, owner_T = inputs.rest["upstream"], owners(inputs.rest["bounds"])

    def call() -> Output:
        found_B = rewards(inputs.leaves[0], owner_T, upstream_B)
        return Output((upstream_B * found_B).sum(), found_B)

    return call


def eager_coherence(inputs: Inputs) -> Call:
    return _rewarded(inputs, eager_rewards)


def compiled_coherence(inputs: Inputs) -> Call:
    return _rewarded(inputs, torch.compile(eager_rewards, dynamic=False))


def our_coherence(inputs: Inputs) -> Call:
    from pixelis_fast.kernels.coherence import coherence

    threads = torch.get_num_threads() if inputs.leaves[0].device.type == "cpu" else 1

    def call() -> Output:
        found = coherence(
            inputs.leaves[0], inputs.rest["bounds"], max_steps=TRAJECTORY, threads=threads
        )
        return Output((inputs.rest["upstream"] * found.reward_B).sum(), found.reward_B)

    return call


COHERENCE = (
    Provider("eager", "reward", eager_coherence),
    Provider("compile", "reward", compiled_coherence, compiles=True),
    Provider("ours", "reward", our_coherence),
)


class StepsTruth:
    """Textbook rewards in float64 and their gradient by autograd."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        steps_TD = tensors["steps"].detach().double().requires_grad_()
        self.descend(steps_TD, steps_TD, tensors)

    def descend(self, leaf: Tensor, steps_TD: Tensor, tensors: dict[str, Tensor]) -> None:
        """The rewards of steps that follow from `leaf`, and its gradient."""
        from pixelis_fast.kernels.coherence.reference import coherence_reference

        self.leaf = leaf
        self.reward_B, self.mean_B, *_ = coherence_reference(
            steps_TD,
            tensors["bounds"],
            repetition_threshold=THRESHOLD,
            repetition_weight=PRICE,
        )
        (tensors["upstream"].double() * self.reward_B).sum().backward()

    def summary(self) -> str:
        return f"mean cosine {float(self.mean_B.detach().mean()):.3g}"

    def errors(self, task: str, inputs: Inputs, output: Output) -> Errors:
        assert output.rows_N is not None, task
        apart_B = (output.rows_N.detach().double() - self.reward_B.detach()).abs()
        loss = float(apart_B.sum() / self.reward_B.detach().abs().sum())
        found, truth = inputs.leaves[0].grad, self.leaf.grad
        if found is None or truth is None:
            return Errors(loss)
        # A trajectory of one step has no gradient; there any value is infinitely wrong.
        apart_T, norm_T = (found.double() - truth).norm(dim=-1), truth.norm(dim=-1)
        return Errors(loss, float(torch.where(apart_T == 0, 0.0, apart_T / norm_T).max()))


# ── nearest rows ─────────────────────────────────────────────────────────────────────────────


def _ranked(similarity_NK: Tensor) -> Output:
    return Output(similarity_NK.sum(), similarity_NK)


def _eager_best(queries_ND: Tensor, keys_MD: Tensor) -> Tensor:
    unit = [functional.normalize(rows, dim=-1) for rows in (queries_ND, keys_MD)]
    return (unit[0] @ unit[1].T).topk(NEIGHBOURS, dim=-1).values


def eager_top_k(inputs: Inputs) -> Call:
    return lambda: _ranked(_eager_best(inputs.rest["queries"], inputs.rest["keys"]))


def compiled_top_k(inputs: Inputs) -> Call:
    best = torch.compile(_eager_best, dynamic=False)
    return lambda: _ranked(best(inputs.rest["queries"], inputs.rest["keys"]))


def faiss_top_k(inputs: Inputs) -> Call:
    """Building its index of unit rows is part of the work, as the norms are in the others."""
    import faiss

    def call() -> Output:
        queries_ND, keys_MD = (
            functional.normalize(inputs.rest[name].float(), dim=-1).numpy()
            for name in ("queries", "keys")
        )
        index = faiss.IndexFlatIP(keys_MD.shape[1])
        index.add(keys_MD)
        return _ranked(torch.from_numpy(index.search(queries_ND, NEIGHBOURS)[0]))

    return call


def our_top_k(inputs: Inputs) -> Call:
    from pixelis_fast.kernels.coherence.pairs_op import top_k

    def call() -> Output:
        found = top_k(inputs.rest["queries"], inputs.rest["keys"], NEIGHBOURS)
        return _ranked(found.similarity_NK)

    return call


TOP_K = (
    Provider("eager", "similarity", eager_top_k),
    Provider("compile", "similarity", compiled_top_k, compiles=True),
    Provider(
        "faiss",
        "similarity",
        faiss_top_k,
        module="faiss",
        package="faiss-cpu",
        devices=("cpu",),
    ),
    Provider("ours", "similarity", our_top_k),
)


class PairsTruth:
    """Similarities of some queries to all keys, in float64, best first."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        queries, keys = tensors["queries"], tensors["keys"]
        self.every = max(len(queries) // SAMPLED_QUERIES, 1)
        unit = [functional.normalize(rows.double()) for rows in (queries[:: self.every], keys)]
        self.best_RK = (unit[0] @ unit[1].T).topk(min(NEIGHBOURS, len(keys)), dim=-1).values

    def summary(self) -> str:
        return f"mean similarity of the best {float(self.best_RK[:, 0].mean()):.3g}"

    def errors(self, task: str, inputs: Inputs, output: Output) -> Errors:
        """The largest difference of a similarity at its rank; `loss` of a cosine is absolute."""
        assert output.rows_N is not None, task
        apart_RK = output.rows_N[:: self.every].double() - self.best_RK
        return Errors(float(apart_RK.abs().max()))
