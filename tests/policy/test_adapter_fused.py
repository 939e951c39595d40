"""The fused layer against the textbook form, in float64, and its gradients against differences."""

import pytest
import torch
from torch import nn

from pixelis_fast.policy.adapter_fused import can_fuse, corrected_linear

SCALE = 1.5
MODULES = (5, 2, 3)
"""Outputs of each module of one fused layer."""


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.fixture
def parts() -> tuple:
    torch.manual_seed(0)
    x_ND, weight_OD = drawn(7, 6), drawn(sum(MODULES), 6)
    a_mRD = drawn(2 * len(MODULES), 6)
    return x_ND, weight_OD, a_mRD, [drawn(rows, 2) for rows in MODULES]


def textbook(x_ND, weight_OD, a_mRD, b_OR) -> torch.Tensor:
    deltas = [b @ a for b, a in zip(b_OR, a_mRD.split(2), strict=True)]
    return x_ND @ (weight_OD + SCALE * torch.cat(deltas)).T


def test_it_is_the_product_with_the_corrected_matrix(parts) -> None:
    found, wanted = corrected_linear(*parts, SCALE), textbook(*parts)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_its_gradients_are_those_of_differences(parts) -> None:
    x_ND, weight_OD, a_mRD, b_OR = parts

    def run(x, weight, a, *b):
        return corrected_linear(x, weight, a, b, SCALE)

    assert torch.autograd.gradcheck(run, (x_ND, weight_OD, a_mRD, *b_OR))


@pytest.mark.parametrize("frozen", [0, 1, 2, 3])
def test_what_is_frozen_gets_no_gradient_and_leaves_the_others_theirs(parts, frozen: int) -> None:
    x_ND, weight_OD, a_mRD, b_OR = parts
    flat = [x_ND, weight_OD, a_mRD, *b_OR]
    flat[frozen].requires_grad_(False)
    learned = [each for each in flat if each.requires_grad]
    found = torch.autograd.grad(corrected_linear(*parts, SCALE).square().sum(), learned)
    wanted = torch.autograd.grad(textbook(*parts).square().sum(), learned)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


def test_zero_corrections_are_the_layer_bit_for_bit() -> None:
    torch.manual_seed(0)
    layer, x_ND = nn.Linear(16, 12, bias=False), torch.randn(9, 16)
    found = corrected_linear(x_ND, layer.weight, torch.randn(4, 16), [torch.zeros(12, 4)], 2.0)
    assert torch.equal(found, layer(x_ND))


def test_only_float32_layers_are_fused() -> None:
    layer, x_ND = nn.Linear(4, 4, bias=False), torch.zeros(2, 4)
    assert can_fuse(layer, x_ND)
    assert not can_fuse(layer.bfloat16(), x_ND.bfloat16())
    assert not can_fuse(nn.Linear(4, 4, bias=False), x_ND.bfloat16())
    assert not can_fuse(nn.Identity(), x_ND)
