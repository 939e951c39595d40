"""float64 answers at the benchmark's own shape, and how far a provider is from them.

Every row's statistics, in slices of the vocabulary, so that totals and the head's gradient are
exact too; the gradient of the hidden states on some rows, of the head on some of its rows.
Logits are taken relative to the target's, z' = z - z_y, and sums leave the target out: what is
left of a nearly certain row is then still exact.
Shapes: N = tokens, D = width, V = vocabulary, S = a slice of it, R = sampled tokens, C = sampled
vocabulary rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from bench.loss_inputs import Inputs

SAMPLED_TOKENS, SAMPLED_WORDS = 16, 64
SLICE_BYTES = 256e6


class Errors(NamedTuple):
    """Relative to float64; None where a provider or a task has no such result."""

    loss: float
    """Of the loss; with results per token, the sum of their errors over the sum of the truths."""
    gradient: float | None = None
    """Of the hidden states (steps): the worst row, as a norm; see ROW_FLOOR."""
    weight_gradient: float | None = None
    """Of the head: its sampled rows together, as a norm."""


class Output(NamedTuple):
    """What a provider returns: the scalar to descend, and values per token where it has them."""

    loss: Tensor
    rows_N: Tensor | None = None


LIMITS = {
    ("masked_imitation", "bf16"): Errors(1e-4, 1e-2, 1e-2),
    ("masked_imitation", "fp32"): Errors(1e-5, 1e-4, 1e-4),
    ("token_kl", "bf16"): Errors(1e-3, 2e-2, 2e-2),
    ("token_kl", "fp32"): Errors(1e-3, 1e-2, 1e-3),
    ("policy_loss", "bf16"): Errors(1e-3, 2e-2, 2e-2),
    ("policy_loss", "fp32"): Errors(1e-4, 1e-2, 1e-3),
    ("corridor", "bf16"): Errors(1e-3),
    ("corridor", "fp32"): Errors(1e-3),
    ("coherence", "bf16"): Errors(2e-3, 1e-2),
    ("coherence", "fp32"): Errors(1e-5, 1e-4),
    ("pooled_coherence", "bf16"): Errors(2e-3, 1e-2),
    ("pooled_coherence", "fp32"): Errors(1e-5, 1e-4),
    ("top_k", "bf16"): Errors(1e-5),
    ("top_k", "fp32"): Errors(1e-5),
}
"""What ours must hold before a speed is printed. bf16 results carry a rounding of 2e-3 a value."""


ROW_FLOOR = {"reverse": 1e-4, "forward": 1e-4, "policy": 1e-4}
"""A row's gradient that is smaller than this share of the largest row's counts as that large: the
gradient of a KL of 1e-12 nats is below the rounding of its float32 coefficients."""


class _Head:
    """One linear head in float64, by slices; logits relative to the target's."""

    def __init__(self, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> None:
        self.hidden_ND, self.weight_VD = hidden_ND.detach().double(), weight_VD.detach()
        target_ND = self.weight_VD[targets_N].double()
        self.target_N1 = (self.hidden_ND * target_ND).sum(-1, keepdim=True)

    def logits(self, row_R: Tensor, weight_SD: Tensor) -> Tensor:
        return self.hidden_ND[row_R] @ weight_SD.T - self.target_N1[row_R]


class HeadTruth:
    """Statistics of one scene's distributions; the masks of its points come with `Inputs`."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.targets_N = tensors["targets"]
        self.policy = _Head(tensors["hidden"], tensors["weight"], self.targets_N)
        self.reference = None
        if "reference_hidden" in tensors:
            heads = (tensors["reference_hidden"], tensors["reference_weight"])
            self.reference = _Head(*heads, self.targets_N)
        self.all_N = torch.arange(len(self.targets_N), device=self.targets_N.device)
        self._accumulate()

    def _slices(self) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Vocabulary rows: their numbers (S), the policy's head and the reference's."""
        vocabulary, width = self.policy.weight_VD.shape
        step = max(int(SLICE_BYTES / (8 * max(len(self.targets_N), width))), 1)
        for word_S in torch.arange(vocabulary, device=self.targets_N.device).split(step):
            part = slice(int(word_S[0]), int(word_S[-1]) + 1)
            other = None if self.reference is None else self.reference.weight_VD[part].double()
            yield word_S, self.policy.weight_VD[part].double(), other

    def _accumulate(self) -> None:
        zero_N1 = torch.zeros_like(self.policy.target_N1)
        others, other_q, first, first_q, moment = (zero_N1.clone() for _ in range(5))
        for word_S, weight_SD, reference_SD in self._slices():
            z_NS = self.policy.logits(self.all_N, weight_SD)
            is_other_NS = self.targets_N[:, None] != word_S
            e_NS = z_NS.exp() * is_other_NS
            others += e_NS.sum(1, keepdim=True)
            moment += (e_NS * z_NS).sum(1, keepdim=True)
            if self.reference is None:
                continue
            q_NS = self.reference.logits(self.all_N, reference_SD)
            eq_NS = q_NS.exp() * is_other_NS
            other_q += eq_NS.sum(1, keepdim=True)
            first += (e_NS * (z_NS - q_NS)).sum(1, keepdim=True)
            first_q += (eq_NS * (q_NS - z_NS)).sum(1, keepdim=True)
        self.nll_N1, self.nll_q_N1 = others.log1p(), other_q.log1p()
        self.entropy_N1 = self.nll_N1 - moment / (1 + others)
        self.first_N1 = first / (1 + others)
        """Mean over the policy of z' - z'^q."""
        ratio_N1 = ((other_q - others) / (1 + others)).log1p()
        self.kl_N1 = self.first_N1 + ratio_N1
        self.forward_kl_N1 = first_q / (1 + other_q) - ratio_N1

    def summary(self) -> str:
        """The regime as measured."""
        if self.reference is not None:
            return f"mean KL {float(self.kl_N1.mean()):.2g} nats"
        entropy = float(self.entropy_N1.mean())
        target = float((-self.nll_N1).exp().median())
        return f"mean entropy {entropy:.3g} nats, median p of the target {target:.3g}"

    def _rows(self, task: str) -> Tensor:
        rows_N1 = {"reverse": self.kl_N1, "forward": self.forward_kl_N1}.get(task, self.nll_N1)
        return rows_N1[:, 0]

    def _scale(self, task: str, inputs: Inputs) -> Tensor:
        """What each token's value counts in the loss, (N)."""
        valid_N = inputs.rest["valid"].double()
        if task == "weighted":
            valid_N = valid_N * inputs.rest["token_weights"].double()
        return valid_N / valid_N.sum()

    def _gradient(
        self, task: str, row_R: Tensor, word_S: Tensor, weight_SD: Tensor, other_SD: Tensor | None
    ) -> Tensor:
        """d value / d logits, (R, S)."""
        z_RS = self.policy.logits(row_R, weight_SD)
        if self.reference is None:
            return self.nll_gradient(row_R, word_S, z_RS)
        p_RS = (z_RS - self.nll_N1[row_R]).exp()
        q_RS = self.reference.logits(row_R, other_SD)
        if task == "forward":
            return p_RS - (q_RS - self.nll_q_N1[row_R]).exp()
        return p_RS * (z_RS - q_RS - self.first_N1[row_R])

    def nll_gradient(self, row_R: Tensor, word_S: Tensor, z_RS: Tensor) -> Tensor:
        """p - 1[target], exact where p of the target is nearly 1."""
        hot_RS = self.targets_N[row_R, None] == word_S
        nll_R1 = self.nll_N1[row_R]
        return torch.where(hot_RS, torch.expm1(-nll_R1), (z_RS - nll_R1).exp())

    def errors(self, task: str, inputs: Inputs, output: Output) -> Errors:
        scale_N, truth_N = self._scale(task, inputs), self._rows(task)
        if output.rows_N is not None:
            apart_N = (output.rows_N.detach().double() - truth_N).abs()
            apart = (scale_N * apart_N).sum()
        else:
            apart = (output.loss.detach().double() - (scale_N * truth_N).sum()).abs()
        loss = float(apart / (scale_N * truth_N.abs()).sum())
        if any(leaf.grad is None for leaf in inputs.leaves) or not inputs.leaves:
            return Errors(loss)
        hidden, weight = inputs.leaves
        hidden_error = self._hidden_error(task, scale_N, hidden.grad)
        return Errors(loss, hidden_error, self._weight_error(task, scale_N, weight.grad))

    def _hidden_error(self, task: str, scale_N: Tensor, found_ND: Tensor) -> float:
        if bool(found_ND[scale_N == 0].any()):
            return float("inf")  # a token that is masked out must move nothing
        row_R = scale_N.nonzero()[:, 0]
        row_R = row_R[:: max(len(row_R) // SAMPLED_TOKENS, 1)][:SAMPLED_TOKENS]
        truth_RD = torch.zeros_like(self.policy.hidden_ND[row_R])
        for word_S, weight_SD, other_SD in self._slices():
            truth_RD += self._gradient(task, row_R, word_S, weight_SD, other_SD) @ weight_SD
        truth_RD *= scale_N[row_R, None]
        apart_R = (found_ND[row_R].double() - truth_RD).norm(dim=-1)
        norm_R = truth_RD.norm(dim=-1)
        floor = ROW_FLOOR.get(task, 0.0) * float(norm_R.max())
        return float((apart_R / norm_R.clamp_min(floor)).max())

    def _weight_error(self, task: str, scale_N: Tensor, found_VD: Tensor) -> float:
        """Half of the rows are targets, the other half lie spread over the vocabulary."""
        vocabulary, half = len(found_VD), SAMPLED_WORDS // 2
        spread = torch.linspace(0, vocabulary - 1, half, device=scale_N.device).long()
        word_C = torch.cat([self.targets_N[scale_N > 0][:half], spread]).unique()
        weight_CD = self.policy.weight_VD[word_C].double()
        other_CD = None if self.reference is None else self.reference.weight_VD[word_C].double()
        dz_NC = self._gradient(task, self.all_N, word_C, weight_CD, other_CD)
        truth_CD = (scale_N[:, None] * dz_NC).T @ self.policy.hidden_ND
        return float((found_VD[word_C].double() - truth_CD).norm() / truth_CD.norm())
