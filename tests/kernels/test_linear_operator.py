"""The two custom operators under torch: opcheck, fake kernels, one graph under torch.compile."""

import pytest
import torch

from pixelis_fast.kernels.linear_loss import ReferenceHead, linear_statistics
from pixelis_fast.kernels.linear_loss import op as statistics_op
from pixelis_fast.kernels.linear_loss.problem import NAMES
from pixelis_fast.kernels.token_rows import _checked_weights
from tests.kernels.loss_fixtures import (
    assert_same_when_compiled,
    make_heads,
)

ALL = sorted(set(NAMES) - {"reference_lse"})
CONFIGURATIONS = {
    "plain": ("logprob", False, None),
    "everything": ("logprob,lse,entropy,mean_logit,kl,log_ratio", True, 4096),
    "mean logit": ("lse,mean_logit", False, None),
    "kl of a shared head": ("kl", "shared", 0),
    "nothing": ("", True, None),
}


def operator_inputs(name, implementation):
    """Positional arguments of pixelis_fast::linear_statistics as linear_statistics passes them."""
    names, with_reference, budget = CONFIGURATIONS[name]
    heads = make_heads(5, 67, 16)
    path = statistics_op.open_path(implementation)
    columns = path.stored_columns(*heads.p, keeps_deltas="kl" in names, budget=budget)
    valid_N = torch.tensor([True, False, True, True, True])
    reference = heads.q if with_reference else (None, None)
    if with_reference == "shared":
        reference = (heads.hidden_q, None)
    stored = columns if names else 0
    return (*heads.p, heads.targets, valid_N, *reference, 0.8, 3.0, names, stored, implementation)


@pytest.mark.parametrize(
    ("name", "implementation"),
    [*((name, "cpu") for name in CONFIGURATIONS), ("everything", "triton")],
)
def test_opcheck_of_the_statistics(name, implementation):
    torch.library.opcheck(statistics_op._statistics, operator_inputs(name, implementation))


@pytest.mark.parametrize(
    ("name", "implementation", "needs"),
    [
        ("plain", "cpu", (True, True)),
        ("everything", "cpu", (True, True)),
        ("everything", "cpu", (True, False)),
        ("kl of a shared head", "cpu", (False, True)),
        ("kl of a shared head", "triton", (True, True)),
    ],
)
def test_opcheck_of_the_gradient(name, implementation, needs):
    inputs = operator_inputs(name, implementation)
    with torch.no_grad():
        found = statistics_op._statistics(*inputs)
    frozen = [value.detach() if isinstance(value, torch.Tensor) else value for value in inputs]
    grads_SN = torch.rand_like(found[0]) * (torch.arange(len(NAMES)) < 6)[:, None]
    torch.library.opcheck(
        statistics_op._gradient, (grads_SN, *found, *frozen[:9], *needs, implementation)
    )


def test_opcheck_of_the_weight_check():
    torch.library.opcheck(_checked_weights, (torch.tensor([0.0, 1.5]), "token_weights"))


def test_compiles_to_one_graph_and_for_any_number_of_tokens():
    def loss(hidden_ND, weight_VD, targets_N, hidden_q, weight_q):
        reference = ReferenceHead(hidden_q, weight_q)
        found = linear_statistics(
            hidden_ND, weight_VD, targets_N, reference=reference, differentiate=ALL
        )
        return found.logprob + found.entropy + found.kl + found.lse + found.mean_logit

    batches = [make_heads(tokens) for tokens in (9, 5, 12)]
    assert_same_when_compiled(
        loss, [((*heads.p, heads.targets, *heads.q), heads.p) for heads in batches]
    )
