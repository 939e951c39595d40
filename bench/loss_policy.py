"""Who computes the loss of reinforcement fine-tuning, and its float64 answer.

Mean over valid tokens of clipped policy gradient + KL(policy, reference) - entropy + weighted
imitation of the same tokens (task "policy"). Libraries offer parts of it, with other KLs.
Shapes: N = tokens, D = width, V = vocabulary, C = tokens of a chunk, S = a slice of the vocabulary,
R = sampled tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from bench.loss_inputs import Inputs
from bench.loss_provider import Call, Provider
from bench.loss_truth import HeadTruth, Output

CLIP = (0.2, 0.28)
KL, ENTROPY, IMITATION = 0.05, 0.01, 0.1
"""What each part counts beside the policy gradient."""
CHUNK = 1024
"""Tokens whose two rows of logits eager holds at a time."""

Statistics = Callable[..., tuple[Tensor, Tensor, Tensor]]


def _eager_chunk(
    hidden_CD: Tensor,
    hidden_q_CD: Tensor,
    targets_C: Tensor,
    weight_VD: Tensor,
    weight_q_VD: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """(C) log p of the target, entropy and exact KL."""
    logp_CV = functional.linear(hidden_CD, weight_VD).float().log_softmax(-1)
    logq_CV = functional.linear(hidden_q_CD, weight_q_VD).float().log_softmax(-1)
    p_CV = logp_CV.exp()
    chosen_C = logp_CV.gather(1, targets_C.clamp_min(0)[:, None])[:, 0]
    return chosen_C, -(p_CV * logp_CV).sum(-1), (p_CV * (logp_CV - logq_CV)).sum(-1)


def _eager_rows(
    logprob_N: Tensor, entropy_N: Tensor, kl_N: Tensor, rest: dict[str, Tensor]
) -> Tensor:
    ratio_N, advantages_N = (logprob_N - rest["behaviour"]).exp(), rest["advantages"]
    bounded_N = ratio_N.clamp(1 - CLIP[0], 1 + CLIP[1])
    policy_N = -torch.min(ratio_N * advantages_N, bounded_N * advantages_N)
    imitation_N = -rest["token_weights"] * logprob_N
    return policy_N + KL * kl_N - ENTROPY * entropy_N + IMITATION * imitation_N


def eager_policy(inputs: Inputs, chunk: Statistics = _eager_chunk) -> Call:
    """Chunks of tokens, each computed again in backward, so that one chunk's logits exist."""
    (hidden, weight), rest = inputs.leaves, inputs.rest
    split = [rows.split(CHUNK) for rows in (hidden, rest["reference_hidden"], rest["targets"])]
    heads = (weight, rest["reference_weight"])

    def call() -> Output:
        parts = [
            checkpoint(chunk, *rows, *heads, use_reentrant=False)
            for rows in zip(*split, strict=True)
        ]
        rows_N = _eager_rows(*(torch.cat(part) for part in zip(*parts, strict=True)), rest)
        valid_N = rest["valid"]
        return Output((rows_N * valid_N).sum() / valid_N.sum(), rows_N)

    return call


def compiled_policy(inputs: Inputs) -> Call:
    return eager_policy(inputs, torch.compile(_eager_chunk, dynamic=False))


def our_policy(inputs: Inputs, *, memory_budget_bytes: int | None = None) -> Call:
    from pixelis_fast.kernels.linear_loss import ReferenceHead
    from pixelis_fast.kernels.policy_loss import linear_policy_loss

    rest = inputs.rest
    head = ReferenceHead(rest["reference_hidden"], rest["reference_weight"])

    def call() -> Output:
        found = linear_policy_loss(
            *inputs.leaves,
            rest["targets"],
            rest["advantages"],
            rest["behaviour"],
            valid_N=rest["valid"],
            clip=CLIP,
            reference=head,
            kl_weight=KL,
            entropy_weight=ENTROPY,
            imitation_weights_N=rest["token_weights"] * rest["valid"],
            imitation_weight=IMITATION,
            imitation_normalizer=rest["valid"].sum(),
            memory_budget_bytes=memory_budget_bytes,
        )
        return Output(found.loss)

    return call


def our_policy_lean(inputs: Inputs) -> Call:
    return our_policy(inputs, memory_budget_bytes=0)


POLICY = (
    Provider("eager", "policy", eager_policy),
    Provider("compile", "policy", compiled_policy, compiles=True),
    Provider("ours", "policy", our_policy),
    Provider("ours-lean", "policy", our_policy_lean),
)


class PolicyTruth(HeadTruth):
    """Every token's value is a function of its log-probability, entropy and KL."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__(tensors)
        self.rest = {
            name: tensors[name].double() for name in ("advantages", "behaviour", "token_weights")
        }
        logprob_N = -self.nll_N1[:, 0].clone().requires_grad_()
        entropy_N, kl_N = self.entropy_N1[:, 0], self.kl_N1[:, 0]
        self.rows_N = _eager_rows(logprob_N, entropy_N, kl_N, self.rest)
        (slope_N,) = torch.autograd.grad(self.rows_N.sum(), logprob_N)
        self.slope_N1 = slope_N[:, None]

    def summary(self) -> str:
        return f"{super().summary()}, mean loss {float(self.rows_N.detach().mean()):.3g}"

    def _rows(self, task: str) -> Tensor:
        return self.rows_N.detach()

    def _gradient(
        self, task: str, row_R: Tensor, word_S: Tensor, weight_SD: Tensor, other_SD: Tensor | None
    ) -> Tensor:
        z_RS = self.policy.logits(row_R, weight_SD)
        logp_RS = z_RS - self.nll_N1[row_R]
        entropy_RS = -logp_RS.exp() * (logp_RS + self.entropy_N1[row_R])
        kl_RS = super()._gradient("reverse", row_R, word_S, weight_SD, other_SD)
        chosen_RS = -self.slope_N1[row_R] * self.nll_gradient(row_R, word_S, z_RS)
        return chosen_RS + KL * kl_RS - ENTROPY * entropy_RS
