"""torch.compile with its default backend: code is generated around our operators and agrees.

The other tests of compilation stop before code generation; this one builds C++ and runs it.
"""

import shutil

import pytest
import torch

from pixelis_fast.kernels.coherence import coherence
from pixelis_fast.kernels.linear_loss import ReferenceHead
from pixelis_fast.kernels.masked_imitation import masked_imitation_loss
from pixelis_fast.kernels.policy_loss import linear_policy_loss
from pixelis_fast.kernels.token_kl import token_kl

TOKENS, WIDTH, VOCABULARY = 24, 64, 333


def inputs() -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    hidden_ND = torch.randn(TOKENS, WIDTH, generator=random)
    weight_VD = torch.randn(VOCABULARY, WIDTH, generator=random) * WIDTH**-0.5
    return [hidden_ND.requires_grad_(), weight_VD.requires_grad_()]


def imitation(hidden_ND: torch.Tensor, weight_VD: torch.Tensor) -> torch.Tensor:
    targets_N = torch.arange(TOKENS) % VOCABULARY
    weights_N = torch.linspace(0, 2, TOKENS)
    found = masked_imitation_loss(hidden_ND, weight_VD, targets_N, weights_N, z_loss=1e-3)
    return found.loss * found.logprob_N.exp().sum()


def divergence(hidden_ND: torch.Tensor, weight_VD: torch.Tensor) -> torch.Tensor:
    other_ND = hidden_ND.detach().roll(1, 0)
    return token_kl(hidden_ND.tanh(), weight_VD, other_ND, None).square().mean()


def policy(hidden_ND: torch.Tensor, weight_VD: torch.Tensor) -> torch.Tensor:
    targets_N = torch.arange(TOKENS) % VOCABULARY
    advantages_N = torch.linspace(-1, 1, TOKENS)
    behaviour_N = torch.full((TOKENS,), -5.0)
    reference = ReferenceHead(hidden_ND.detach().roll(1, 0), None)
    found = linear_policy_loss(
        hidden_ND,
        weight_VD,
        targets_N,
        advantages_N,
        behaviour_N,
        reference=reference,
        kl_weight=0.1,
        entropy_weight=0.01,
    )
    return found.loss


def rewards(hidden_ND: torch.Tensor, weight_VD: torch.Tensor) -> torch.Tensor:
    bounds_B1 = torch.tensor([0, 7, TOKENS], dtype=torch.int32)
    found = coherence(hidden_ND * weight_VD.mean(0), bounds_B1, max_steps=TOKENS)
    return found.reward_B.sum()


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++, which inductor calls")
@pytest.mark.parametrize("op", [imitation, divergence, policy, rewards])
def test_generated_code_gives_the_same_loss_and_gradients(op):
    expected, found = inputs(), inputs()
    loss = op(*expected)
    loss.backward()
    compiled = torch.compile(op, fullgraph=True)(*found)
    compiled.backward()
    torch.testing.assert_close(compiled, loss, rtol=1e-5, atol=1e-6)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6)
