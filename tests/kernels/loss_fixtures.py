"""Small heads for the tests of the losses, and how close two answers are.

Shapes: N = tokens, D = hidden width of p, E = of q, V = vocabulary.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

IMPLEMENTATIONS = ("cpu", "triton")
DTYPES = (torch.float32, torch.bfloat16)
PATHS = ((torch.float32, "cpu"), (torch.bfloat16, "cpu"), (torch.float32, "triton"))
"""Dtypes and who computes them; the interpreter truncates where it stores bfloat16."""
GRADIENT_TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 5e-3}
"""Of the norm, against float64 on the same inputs; bfloat16 gradients are rounded to it."""


class Heads(NamedTuple):
    """p is trained, q is frozen."""

    hidden_p: Tensor
    weight_p: Tensor
    hidden_q: Tensor
    weight_q: Tensor
    targets: Tensor

    @property
    def p(self) -> tuple[Tensor, Tensor]:
        return self.hidden_p, self.weight_p

    @property
    def q(self) -> tuple[Tensor, Tensor]:
        return self.hidden_q, self.weight_q

    def double(self) -> "Heads":
        """Fresh float64 leaves."""
        found = [tensor.detach().double() for tensor in self[:4]]
        return Heads(found[0].requires_grad_(), found[1].requires_grad_(), *found[2:], self.targets)


def make_heads(
    N: int = 9,
    V: int = 67,
    D: int = 16,
    *,
    drift: float = 0.1,
    peak: float = 3.0,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Heads:
    """q is p moved by `drift`; logits have a standard deviation of about `peak`."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    hidden_p, weight_p = normal(N, D), normal(V, D) * (peak / D**0.5)
    hidden_q = hidden_p + drift * normal(N, D)
    weight_q = weight_p + drift * normal(V, D) * (peak / D**0.5)
    targets = torch.randint(V, (N,), generator=generator)
    tensors = [tensor.to(dtype) for tensor in (hidden_p, weight_p, hidden_q, weight_q)]
    return Heads(tensors[0].requires_grad_(), tensors[1].requires_grad_(), *tensors[2:], targets)


def gradients(loss: Tensor, leaves: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Of the sum, so that a loss per token is a loss as well."""
    return torch.autograd.grad(loss.sum(), leaves, retain_graph=True)


def distance(ours: Tensor, truth: Tensor) -> float:
    """Norm of the difference over the norm of the truth; the norm itself where the truth is 0."""
    ours, truth = ours.detach().double(), truth.detach().double()
    return float((ours - truth).norm()) / (float(truth.norm()) or 1.0)


def assert_same_gradients(
    ours: Tensor, truth: Tensor, our_leaves: Sequence[Tensor], truth_leaves: Sequence[Tensor]
) -> None:
    tolerance = GRADIENT_TOLERANCE[our_leaves[0].dtype]
    pairs = zip(gradients(ours, our_leaves), gradients(truth, truth_leaves), strict=True)
    for name, (found, expected) in zip(("hidden", "weight"), pairs, strict=True):
        assert found.dtype == our_leaves[0].dtype, name
        assert distance(found, expected) < tolerance, name


def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """One graph or an error; the code generator is not what is tested."""
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True, backend="aot_eager")


def assert_same_when_compiled(
    function: Callable[..., Tensor], batches: Iterable[tuple[Sequence[Tensor], Sequence[Tensor]]]
) -> None:
    """Value and gradients, over batches of (inputs, leaves) that share one compiled function."""
    ours = compiled(function)
    for inputs, leaves in batches:
        found, expected = ours(*inputs), function(*inputs)
        torch.testing.assert_close(found, expected)
        # Compiled code gives buffers back during backward, so a graph serves once.
        pairs = zip(
            torch.autograd.grad(found.sum(), leaves), gradients(expected, leaves), strict=True
        )
        for one, other in pairs:
            torch.testing.assert_close(one, other)
