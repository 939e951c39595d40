"""A small problem for linear_statistics and the float64 truth of the same rounded inputs.

Shapes: N = tokens, D = hidden width, E = the reference's width, V = vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pixelis_fast.kernels.linear_loss import (
    LinearStatistics,
    ReferenceHead,
    linear_statistics,
)
from pixelis_fast.kernels.linear_loss.reference import reference_statistics

ALONE = ("logprob", "lse", "entropy", "mean_logit")
PAIRED = (*ALONE, "kl", "log_ratio")


@dataclass
class LinearProblem:
    hidden_ND: Tensor
    weight_VD: Tensor
    targets_N: Tensor
    valid_N: Tensor | None = None
    reference: ReferenceHead | None = None
    temperature: float = 1.0
    softcap: float | None = None

    def statistics(self, *, names: tuple[str, ...], **options: object) -> LinearStatistics:
        return linear_statistics(
            self.hidden_ND,
            self.weight_VD,
            self.targets_N,
            valid_N=self.valid_N,
            reference=self.reference,
            temperature=self.temperature,
            softcap=self.softcap,
            differentiate=names,
            **options,  # type: ignore[arg-type]
        )

    def truth(self, hidden_ND: Tensor, weight_VD: Tensor) -> LinearStatistics:
        reference = self.reference
        if reference is not None:
            head = weight_VD.detach() if reference.weight_VE is None else reference.weight_VE
            reference = ReferenceHead(reference.hidden_NE.double(), head.double())
        return reference_statistics(
            hidden_ND,
            weight_VD,
            self.targets_N,
            valid_N=self.valid_N,
            reference=reference,
            temperature=self.temperature,
            softcap=self.softcap,
        )


@dataclass
class Outcome:
    statistics: LinearStatistics
    dhidden_ND: Tensor
    dweight_VD: Tensor


def random_problem(
    N: int,
    D: int,
    V: int,
    *,
    dtype: torch.dtype = torch.float32,
    head: str | None = None,
    drift: float = 0.5,
    spread: float = 1.0,
    masked: float = 0.3,
    **options: object,
) -> LinearProblem:
    """Logits of standard deviation `spread`; `head`: None, "shared" or "own" (with E = 24)."""
    hidden_ND = (spread * torch.randn(N, D) / D**0.5).to(dtype)
    weight_VD = torch.randn(V, D).to(dtype)
    reference = None
    if head == "shared":
        reference = ReferenceHead((hidden_ND + drift * torch.randn(N, D) / D**0.5).to(dtype))
    elif head == "own":
        reference = ReferenceHead(
            (spread * torch.randn(N, 24) / 24**0.5).to(dtype), torch.randn(V, 24).to(dtype)
        )
    valid_N = torch.rand(N) >= masked if masked else None
    targets_N = torch.randint(V, (N,))
    return LinearProblem(hidden_ND, weight_VD, targets_N, valid_N, reference, **options)  # type: ignore[arg-type]


def ours(
    problem: LinearProblem, names: tuple[str, ...], upstream: Tensor, **options: object
) -> Outcome:
    """Statistics and the gradients of sum(upstream · statistic) over the named ones."""
    hidden_ND = problem.hidden_ND.detach().requires_grad_()
    weight_VD = problem.weight_VD.detach().requires_grad_()
    moved = LinearProblem(**{**vars(problem), "hidden_ND": hidden_ND, "weight_VD": weight_VD})
    found = moved.statistics(names=names, **options)
    total = sum(
        (row * getattr(found, name)).sum() for row, name in zip(upstream, names, strict=True)
    )
    return Outcome(found, *torch.autograd.grad(total, (hidden_ND, weight_VD)))


def truth(problem: LinearProblem, names: tuple[str, ...], upstream: Tensor) -> Outcome:
    hidden_ND = problem.hidden_ND.detach().double().requires_grad_()
    weight_VD = problem.weight_VD.detach().double().requires_grad_()
    found = problem.truth(hidden_ND, weight_VD)
    if "mean_logit" not in names:
        found = found._replace(mean_logit=torch.zeros_like(found.lse))
    total = sum(
        (row * getattr(found, name)).sum() for row, name in zip(upstream, names, strict=True)
    )
    return Outcome(found, *torch.autograd.grad(total, (hidden_ND, weight_VD)))


def relative(value: Tensor, expected: Tensor) -> float:
    return float((value.double() - expected).norm() / expected.norm().clamp_min(1e-30))


def assert_close(found: Outcome, expected: Outcome, *, statistics: float, gradient: float) -> None:
    """Statistics within an absolute error, gradients within a relative one."""
    for name, value, true in zip(
        LinearStatistics._fields, found.statistics, expected.statistics, strict=True
    ):
        worst = float((value.detach().double() - true.detach()).abs().max()) if value.numel() else 0
        assert worst <= statistics, f"{name}: {worst}"
    assert relative(found.dhidden_ND, expected.dhidden_ND) <= gradient
    assert relative(found.dweight_VD, expected.dweight_VD) <= gradient
