"""One supervised step's loss: masked imitation, and the heads that say where calls point."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from pixelis_fast.answers import answer_rows, contents_of
from pixelis_fast.copies import copied_rows
from pixelis_fast.data.prepared import Example, Prepared, TokenLabels, labels_of
from pixelis_fast.guidance import (
    AnswerLosses,
    CopyLosses,
    Guidance,
    GuidanceLosses,
    ShownBoxes,
    WatchedAttention,
    said_alone,
)
from pixelis_fast.head_targets import HeadTargets, head_targets
from pixelis_fast.heads import AuxiliaryHeads, DenseHead, DenseLosses, HeadLosses
from pixelis_fast.imitation import RoleWeights, token_weights
from pixelis_fast.kernels.masked_imitation import masked_imitation_loss
from pixelis_fast.policy.adapters import AdapterBank
from pixelis_fast.policy.decoder import apply_at_once
from pixelis_fast.policy.model import Policy
from pixelis_fast.training_batch import TrainingBatch, training_batch
from pixelis_fast.types import TokenRole


@dataclass(frozen=True)
class LossConfig:
    """Weights of the parts; METHOD.md's L = imitation + λ_aux L_aux."""

    roles: RoleWeights = field(default_factory=RoleWeights)
    aux_weight: float = 1.0
    """0: no heads (the ablation)."""
    dense_weight: float = 1.0
    guide_weight: float = 1.0
    """Of guided attention; only a policy that is trained as a whole is guided."""
    z_loss: float = 1e-4


@dataclass(frozen=True)
class SftLoss:
    """Only `total` carries gradient."""

    total: Tensor
    metrics: dict[str, float]


class SftModel(nn.Module):
    """The policy and its training-only heads.

    Example:
        model = SftModel(policy, LossConfig(), words_of(tokenizer), num_labels=(7, 6))
        loss = model.loss(examples, data)
        loss.total.backward()
    """

    def __init__(
        self,
        policy: Policy,
        config: LossConfig,
        words: Sequence[str],
        *,
        num_labels: Sequence[int] = (),
        bank: AdapterBank | None = None,
    ) -> None:
        """`words`: of every token (copies.words_of), to find copies by.

        With a bank the policy stays as it is: neither its tower nor its heads are taught.

        The heads are drawn on the host, one seed is the same heads on every device, and then go
        where the policy is.
        """
        super().__init__()
        text = policy.config.text
        size = text.hidden_size
        self.policy, self.config, self.words, self.bank = policy, config, words, bank
        num_labels = num_labels if bank is None else ()
        self.heads = AuxiliaryHeads(size) if config.aux_weight else None
        self.dense = DenseHead(size, num_labels) if num_labels and config.dense_weight else None
        self.guidance = (
            Guidance(
                head_dim=text.head_dim,
                num_layers=text.num_layers,
                num_contents=[num_labels[kind] for kind in contents_of(len(num_labels))],
            )
            if config.guide_weight and bank is None
            else None
        )
        for part in (self.heads, self.dense, self.guidance):
            if part is not None:
                part.to(policy.device)

    def trained(self) -> Iterator[nn.Parameter]:
        """What the optimizer moves: the policy or the bank, and the heads."""
        yield from (p for p in self.parameters() if p.requires_grad)
        if self.bank is not None:
            yield from self.bank.parameters()

    def loss(
        self,
        examples: Sequence[Example],
        data: Prepared,
        *,
        mean: Callable[[float], float] = lambda number: number,
    ) -> SftLoss:
        """`mean`: of a number over all shares of a batch whose losses will be averaged: a token
        weighs the same in whichever share it is. The heads' losses are means over their own share.
        """
        trajectories = [example.trajectory for example in examples]
        batch = training_batch(self.policy, trajectories, data.patches, share=True)
        features = batch.encode(self.policy)
        apply = apply_at_once if self.bank is None else self.bank.apply()
        layers = () if self.guidance is None else self.guidance.layers
        watched = WatchedAttention(layers, None if batch.shared is None else batch.shared.places_N)
        hidden_ND = batch.hidden_behind(self.policy, features, apply=apply, watch=watched.wrap)
        total, metrics = self._imitation(examples, batch, hidden_ND, mean)
        targets = self._targets(examples)
        labels = self._labels(batch, data)
        if self.heads is not None and targets is not None:
            losses = self.heads(hidden_ND, targets)
            total = total + self.config.aux_weight * losses.total()
            metrics |= head_metrics(losses)
        if self.guidance is not None and targets is not None:
            guided = self.guidance(watched.first, targets, shown=shown_boxes(batch, labels))
            if guided is not None:
                total = total + self.config.guide_weight * guided.total()
                metrics |= guidance_metrics(guided)
        if self.guidance is not None:
            extra, seen = self._sources(self.guidance, examples, batch, watched, labels)
            total, metrics = total + self.config.guide_weight * extra, metrics | seen
        if self.dense is not None and features is not None and labels is not None:
            dense = self.dense(features.embeds_MD, labels)
            total = total + self.config.dense_weight * dense.total()
            metrics |= dense_metrics(dense)
        return SftLoss(total, metrics | {"loss/total": total.item()})

    def _sources(
        self,
        guidance: Guidance,
        examples: Sequence[Example],
        batch: TrainingBatch,
        watched: WatchedAttention,
        labels: TokenLabels | None,
    ) -> tuple[Tensor, dict[str, float]]:
        """Of looking at what is copied, and at what shows an answer."""
        total = torch.zeros((), device=self.policy.device)
        metrics: dict[str, float] = {}
        copied = copied_rows(examples, self.words)
        if copied is not None:
            rows, say = copied.to(self.policy.device), partial(said_alone, self.policy, -1)
            copies = guidance.copies(watched.last, rows, batch.packed.input_ids_N, say)
            total, metrics = total + copies.total(), metrics | copy_metrics(copies)
        merge = self.policy.config.vision.merge_size
        shown = answer_rows(examples, batch, labels, self.words, merge=merge)
        if shown is not None:
            say = partial(said_alone, self.policy, 0)
            answers = guidance.answers(watched.first, shown, batch.packed.input_ids_N, say)
            total, metrics = total + answers.total(), metrics | answer_metrics(answers)
        return total, metrics

    def tower_loss(self, media_ids: Sequence[str], data: Prepared) -> SftLoss:
        """Of what the tower's tokens show, without the decoder."""
        if self.dense is None:
            raise ValueError("tower_only: expected data with labels of visual tokens, got none")
        pictures = [data.patches(media_id) for media_id in media_ids]
        patches_PK = torch.cat([picture.patches_PK for picture in pictures])
        features = self.policy.encode_vision(
            patches_PK.to(self.policy.device), [picture.grid_thw for picture in pictures]
        )
        merge = self.policy.config.vision.merge_size
        labels = labels_of(data, media_ids, len(self.dense.heads), merge).to(self.policy.device)
        dense = self.dense(features.embeds_MD, labels)
        total = self.config.dense_weight * dense.total()
        return SftLoss(total, dense_metrics(dense) | {"loss/total": total.item()})

    def _targets(self, examples: Sequence[Example]) -> HeadTargets | None:
        if self.heads is None and self.guidance is None:
            return None
        targets = head_targets(
            [example.trajectory for example in examples],
            self.policy.config.vision.merge_size,
            imitated=[example.imitated for example in examples],
        )
        return None if targets is None else targets.to(self.policy.device)

    def _labels(self, batch: TrainingBatch, data: Prepared) -> TokenLabels | None:
        """None where no picture of the batch has any."""
        labelled = [data.pictures[name].labels is not None for name in batch.media_ids]
        if self.dense is None or not any(labelled):
            return None
        merge = self.policy.config.vision.merge_size
        labels = labels_of(data, batch.media_ids, len(self.dense.heads), merge)
        return labels.to(self.policy.device)

    def _imitation(
        self,
        examples: Sequence[Example],
        batch: TrainingBatch,
        hidden_ND: Tensor,
        mean: Callable[[float], float],
    ) -> tuple[Tensor, dict[str, float]]:
        weights = [token_weights(e.trajectory, e.imitated, self.config.roles) for e in examples]
        weights_N = batch.rows(weights)
        found = masked_imitation_loss(
            hidden_ND,
            self.policy.head_weight,
            batch.targets_N,
            weights_N,
            normalizer=mean(float(weights_N.sum())) or None,
            z_loss=self.config.z_loss,
        )
        metrics = {"loss/imitation": found.loss.item(), "tokens": float(sum(batch.lengths))}
        return found.loss, metrics | role_metrics(examples, batch, found.logprob_N, weights_N)


def shown_boxes(batch: TrainingBatch, labels: TokenLabels | None) -> ShownBoxes | None:
    """Of the visual tokens of all trajectories, not of each picture once."""
    if labels is None or batch.feature_index_M is None or batch.visual_index_M is None:
        return None
    boxes_MT4 = labels.boxes_MT4.index_select(0, batch.feature_index_M)
    cells_M4 = labels.cells_M4.index_select(0, batch.feature_index_M)
    shown_M = (boxes_MT4[..., 0] >= 0).any(dim=1)
    return ShownBoxes(batch.visual_index_M[shown_M], boxes_MT4[shown_M], cells_M4[shown_M])


def role_metrics(
    examples: Sequence[Example], batch: TrainingBatch, logprob_N: Tensor, weights_N: Tensor
) -> dict[str, float]:
    """Mean negative log-likelihood of the imitated tokens, by role."""
    roles_N = batch.rows([[float(role) for role in e.trajectory.roles] for e in examples])
    found = {}
    for role in (TokenRole.THOUGHT, TokenRole.OPERATION, TokenRole.ARGUMENT, TokenRole.ANSWER):
        rows_N = (weights_N > 0) & (roles_N == role)
        if rows_N.any():
            found[f"nll/{role.name.lower()}"] = float(-logprob_N[rows_N].mean())
    return found


def head_metrics(losses: HeadLosses) -> dict[str, float]:
    values = {f"loss/{name}": loss.item() for name, loss in losses.parts().items()}
    if losses.pointed_right is None:
        return values
    return values | {"pointed_right": losses.pointed_right}


def dense_metrics(losses: DenseLosses) -> dict[str, float]:
    return {"loss/dense": losses.kinds.item(), "loss/dense box": losses.box.item()}


def guidance_metrics(losses: GuidanceLosses) -> dict[str, float]:
    return {
        "loss/guided attention": losses.attention.item(),
        "loss/guided region": losses.region.item(),
        "looked_right": losses.on_target,
    }


def copy_metrics(losses: CopyLosses) -> dict[str, float]:
    return {
        "loss/copied": losses.attention.item(),
        "loss/named": losses.naming.item(),
        "copied_right": losses.on_target,
    }


def answer_metrics(losses: AnswerLosses) -> dict[str, float]:
    return {
        "loss/answer attention": losses.attention.item(),
        "loss/answer contents": losses.contents.item(),
        "loss/answer named": losses.naming.item(),
        "answer_looked_right": losses.on_target,
    }


def mean_metrics(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Mean of every metric over the rows that have it."""
    names = dict.fromkeys(name for row in rows for name in row)
    values = {name: [row[name] for row in rows if name in row] for name in names}
    return {name: float(torch.tensor(found).mean()) for name, found in values.items()}
