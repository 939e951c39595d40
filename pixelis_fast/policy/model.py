"""Qwen3-VL: one forward for rollout and training.

`encode_vision` turns patches into tokens, `hidden` runs the decoder over a packed batch (with
caches for generation, without for training), `logits` applies the head. The log-probs of a rollout
are the trainer's because both come from here. Weights come and go through weights.py; sampling,
prompts and scheduling are elsewhere.

Shapes: N = tokens of all sequences, P = patches, K = values of a patch, D = hidden, V = vocabulary,
M = vision tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

from pixelis_fast.policy.batch import PackedBatch, VisionFeatures
from pixelis_fast.policy.cache import ROOM, KVCache
from pixelis_fast.policy.config import PolicyConfig
from pixelis_fast.policy.context import invariant_attend, plain_attend
from pixelis_fast.policy.decoder import Apply, Attend, Context, Layer, RMSNorm, apply_at_once
from pixelis_fast.policy.invariant import ROWS, rows_apply
from pixelis_fast.policy.positions import Grid
from pixelis_fast.policy.rope import Rotation, text_rotation
from pixelis_fast.policy.vision import VisionTower


@dataclass(frozen=True)
class Head:
    """A tied head, called like a linear layer."""

    weight: Tensor

    def __call__(self, hidden_ND: Tensor) -> Tensor:
        return linear(hidden_ND, self.weight)


class Policy(nn.Module):
    """The vision tower, the decoder and the head."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.config = config
        self.recompute = False
        """Keep one activation per layer and compute the rest again in backward: less memory, a
        third more time."""
        text = config.text
        self.vision = VisionTower(config.vision)
        self.embed_tokens = nn.Embedding(text.vocab_size, text.hidden_size)
        self.layers = nn.ModuleList(Layer(text, index) for index in range(text.num_layers))
        self.norm = RMSNorm(text.hidden_size, text.rms_norm_eps)
        self.lm_head = (
            None if config.tied else nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        )

    @property
    def device(self) -> torch.device:
        return self.embed_tokens.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.embed_tokens.weight.dtype

    @property
    def head_weight(self) -> Tensor:
        """The head's matrix, for losses that never build logits."""
        return self.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    def new_cache(self, capacity: int = ROOM, *, invariant: bool = False) -> KVCache:
        """An empty cache that fits this policy."""
        return KVCache(
            self.config.text,
            capacity=capacity,
            device=self.device,
            dtype=self.dtype,
            multiple=ROWS if invariant else 1,
        )

    def encode_vision(self, patches_PK: Tensor, grids_thw: Sequence[Grid]) -> VisionFeatures:
        """Tokens of all grids, concatenated; grids are in patches, before merging."""
        return self.vision(patches_PK, grids_thw)

    def hidden(
        self,
        batch: PackedBatch,
        caches: Sequence[KVCache] | None = None,
        *,
        invariant: bool = False,
        apply: Apply | None = None,
        watch: Callable[[Attend], Attend] | None = None,
    ) -> Tensor:
        """(N, D) behind the final norm; with caches, sequence b goes on behind caches[b].

        With `invariant` a token's bits do not depend on its batch (policy/invariant.py); caches
        must come from `new_cache(invariant=True)`. `apply` runs the linear layers: whoever gives
        one with `invariant` keeps the promise there. `watch` wraps the layers' attention.
        """
        if caches is not None:
            check_caches(caches, batch.lengths)
        like = self.embed_tokens.weight
        attend = (
            invariant_attend(batch.lengths, caches)
            if invariant
            else plain_attend(batch.lengths, caches, like=like)
        )
        rotation = self.rotation(batch.positions_3N)
        attend = attend if watch is None else watch(attend)
        context = Context(rotation, attend, apply or default_apply(invariant))
        hidden_ND = self.run_layers(batch, context)
        for kv, length in zip(caches or (), batch.lengths, strict=False):
            kv.advance(length)
        return hidden_ND

    def run_layers(self, batch: PackedBatch, context: Context) -> Tensor:
        """(N, D) behind the final norm, for one that attends in its own way."""
        x_ND = self._embed(batch)
        deepstack = batch.visual.deepstack if batch.visual is not None else ()
        for index, layer in enumerate(self.layers):
            x_ND = run_layer(layer, x_ND, context, recompute=self.recompute)
            if index < len(deepstack):
                assert batch.visual_index_M is not None, "PackedBatch has both or neither"
                x_ND = x_ND.index_add(0, batch.visual_index_M, deepstack[index].to(x_ND.dtype))
        return self.norm(x_ND)

    def logits(
        self, hidden_ND: Tensor, *, invariant: bool = False, apply: Apply | None = None
    ) -> Tensor:
        """(N, V) in fp32."""
        head = Head(self.embed_tokens.weight) if self.lm_head is None else self.lm_head
        return (apply or default_apply(invariant))(head, hidden_ND).float()

    def _embed(self, batch: PackedBatch) -> Tensor:
        x_ND = self.embed_tokens(batch.input_ids_N)
        if batch.visual is None:
            return x_ND
        return x_ND.index_copy(0, batch.visual_index_M, batch.visual.embeds_MD.to(x_ND.dtype))

    def rotation(self, positions_3N: Tensor) -> Rotation:
        """What turns queries and keys at these positions."""
        text = self.config.text
        return text_rotation(
            positions_3N,
            head_dim=text.head_dim,
            theta=text.rope_theta,
            section=text.mrope_section,
            dtype=self.dtype,
        )


def run_layer(layer: nn.Module, x_ND: Tensor, context: Context, *, recompute: bool) -> Tensor:
    if recompute and torch.is_grad_enabled():
        return checkpoint(layer, x_ND, context, use_reentrant=False)
    return layer(x_ND, context)


def default_apply(invariant: bool) -> Apply:
    return rows_apply if invariant else apply_at_once


def check_caches(caches: Sequence[KVCache], lengths: Sequence[int]) -> None:
    """Raises unless there is one distinct cache per sequence and no gradient is asked for."""
    if torch.is_grad_enabled():
        raise ValueError("caches: expected inference_mode or no_grad, got gradients enabled")
    if len(caches) != len(lengths):
        raise ValueError(f"caches: expected one per sequence ({len(lengths)}), got {len(caches)}")
    if len({id(kv) for kv in caches}) != len(caches):
        raise ValueError("caches: expected a different cache per sequence, got one twice")
