"""Every row of the loss table in METHOD's one loss family, against float64 autograd.

    dz_v = p_v (alpha + beta t_v) - gamma 1[v = y]

First the formula itself on whole logits, to 1e-12; then the public calls that stand on it.
Shapes: N = tokens, V = vocabulary.
"""

import pytest
import torch

from pixelis_fast.kernels.linear_loss import (
    LinearStatistics,
    ReferenceHead,
    linear_statistics,
)
from pixelis_fast.kernels.linear_loss.coefficients import coefficients
from pixelis_fast.kernels.linear_loss.problem import NAMES
from pixelis_fast.kernels.linear_loss.reference import logit_gradient, reference_statistics
from tests.kernels.loss_fixtures import assert_same_gradients, make_heads

N, V = 7, 24
WEIGHTS = torch.linspace(0.0, 3.0, N, dtype=torch.float64)


def ratio_losses(log_ratio_N, form):
    return {
        "k1": log_ratio_N,
        "k2": log_ratio_N**2 / 2,
        "k3": torch.exp(-log_ratio_N) - 1 + log_ratio_N,
    }[form]


ROWS = {
    "weighted cross-entropy": lambda s: -WEIGHTS * s.logprob / WEIGHTS.sum(),
    "policy gradient": lambda s: -WEIGHTS * torch.exp(s.logprob - s.logprob.detach()),
    "k1": lambda s: WEIGHTS * ratio_losses(s.log_ratio, "k1"),
    "k2": lambda s: WEIGHTS * ratio_losses(s.log_ratio, "k2"),
    "k3": lambda s: WEIGHTS * ratio_losses(s.log_ratio, "k3"),
    "entropy bonus": lambda s: -WEIGHTS * s.entropy,
    "exact kl": lambda s: WEIGHTS * s.kl,
    "z-loss": lambda s: WEIGHTS * s.lse**2,
    "label smoothing": lambda s: WEIGHTS * (0.1 * (s.lse - s.mean_logit) - 0.9 * s.logprob),
}
ROWS["the sum of all"] = lambda s: sum(ROWS[name](s) for name in ROWS if name != "the sum of all")


def whole_logits():
    """z^p (a leaf), z^q, targets: statistics take logits as hidden states of the unit head."""
    z_NV = torch.randn(N, V, dtype=torch.float64) * 2
    q_NV = z_NV + 0.3 * torch.randn(N, V, dtype=torch.float64)
    return z_NV.requires_grad_(), q_NV, torch.randint(V, (N,))


def table(grad, value, z_NV, q_NV, targets_N):
    """METHOD's table, in its own words: alpha, beta and gamma per term."""
    p_NV, on_target_N = z_NV.softmax(-1), grad.logprob + grad.log_ratio
    log_q_minus_p_N = value.reference_lse - value.lse
    alpha_N = (
        -on_target_N
        - grad.entropy * (value.entropy - value.lse)
        + grad.kl * (log_q_minus_p_N - value.kl)
        + grad.lse
    )
    beta_NV = -grad.entropy[:, None] * z_NV + grad.kl[:, None] * (z_NV - q_NV)
    onehot_NV = torch.nn.functional.one_hot(targets_N, V)
    uniform_N1 = grad.mean_logit[:, None] / V
    return p_NV * (alpha_N[:, None] + beta_NV) + on_target_N[:, None] * onehot_NV + uniform_N1


def logit_case(name):
    """Autograd's gradient to the logits, and the statistics with theirs."""
    z_NV, q_NV, targets_N = whole_logits()
    eye = torch.eye(V, dtype=torch.float64)
    found = reference_statistics(z_NV, eye, targets_N, reference=ReferenceHead(q_NV, eye))
    leaves = LinearStatistics(*(value.detach().requires_grad_() for value in found))
    grads = torch.autograd.grad(ROWS[name](leaves).sum(), leaves, allow_unused=True)
    filled = [torch.zeros(N).double() if grad is None else grad for grad in grads]
    expected_NV = torch.autograd.grad(ROWS[name](found).sum(), z_NV)[0]
    values = LinearStatistics(*(value.detach() for value in found))
    return expected_NV, LinearStatistics(*filled), values, (z_NV.detach(), q_NV, targets_N)


@pytest.mark.parametrize("name", ROWS)
def test_the_table_is_the_gradient_of_the_logits(name):
    expected_NV, grad, value, logits = logit_case(name)
    torch.testing.assert_close(table(grad, value, *logits), expected_NV, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ROWS)
def test_the_coefficients_are_the_table(name):
    expected_NV, grad, value, (z_NV, q_NV, targets_N) = logit_case(name)
    row = coefficients(torch.stack(tuple(grad)), torch.stack(tuple(value)), V)
    found_NV = logit_gradient(z_NV, z_NV - q_NV, targets_N, row)
    torch.testing.assert_close(found_NV, expected_NV, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("implementation", "budget"),
    [("cpu", None), ("cpu", 0), ("triton", 0)],
    ids=["cpu-stored", "cpu-lean", "triton-lean"],
)
@pytest.mark.parametrize("name", ROWS)
def test_every_row_through_the_op(name, budget, implementation):
    heads = make_heads(N, 67, 16, drift=0.2)
    truth = heads.double()
    names = set(NAMES) - {"reference_lse"}
    ours = linear_statistics(
        *heads.p,
        heads.targets,
        reference=ReferenceHead(*heads.q),
        differentiate=names,
        memory_budget_bytes=budget,
        implementation=implementation,
    )
    expected = reference_statistics(*truth.p, heads.targets, reference=ReferenceHead(*truth.q))
    our_N = ROWS[name](LinearStatistics(*(value.double() for value in ours)))
    expected_N = ROWS[name](expected)
    torch.testing.assert_close(our_N, expected_N, rtol=1e-4, atol=1e-5)
    assert_same_gradients(our_N, expected_N, heads.p, truth.p)
