"""One packed forward of several sessions' pieces: from chunks and features to logits.

Legend: B sessions, N new tokens of all sessions, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pixelis_fast.policy.adapter_route import apply_by_row
from pixelis_fast.policy.adapters import AdapterBank
from pixelis_fast.policy.batch import PackedBatch, VisionFeatures, pack
from pixelis_fast.policy.chunk import Chunk, Piece, VisionSlot
from pixelis_fast.policy.decoder import Apply
from pixelis_fast.policy.merged import MergedVersions
from pixelis_fast.policy.model import Policy, default_apply
from pixelis_fast.policy.packed import PackedLinears
from pixelis_fast.policy.positions import Grid, mrope_positions, text_and_grids
from pixelis_fast.policy.static_decode import StaticDecoder

Encoded = dict[str, VisionFeatures]
"""Media id -> features of the whole media."""


@dataclass(frozen=True)
class Computed:
    """What one forward found out."""

    hidden_ND: Tensor
    lengths: list[int]
    positions: list[int]
    """The position after each piece."""

    def sums(self, counts: Sequence[int]) -> list[Tensor]:
        """Per piece, the sum of its last `count` hidden states, (D,) fp32."""
        if len(self.lengths) == len(self.hidden_ND):
            return list(self.hidden_ND.float().unbind())
        parts = zip(self.hidden_ND.split(self.lengths), counts, strict=True)
        return [rows[len(rows) - count :].float().sum(0) for rows, count in parts]


class Forward:
    """Packs pieces and runs the policy behind their caches."""

    def __init__(
        self,
        policy: Policy,
        *,
        invariant: bool = False,
        packed_weights: bool = True,
        static_decode: bool = False,
        merged_bytes: int = 0,
    ) -> None:
        self.policy = policy
        self._static = StaticDecoder(policy) if static_decode else None
        self._packed = PackedLinears()
        self._invariant = invariant
        use_packed = packed_weights and not invariant
        self._apply: Apply = self._packed if use_packed else default_apply(invariant)
        # An invariant forward has one order of sums, whatever the budget.
        budget = 0 if invariant else merged_bytes
        self._merged = MergedVersions(policy, self._apply, byte_budget=budget)

    def forget_weights(self) -> None:
        """They changed, perhaps behind torch's back."""
        self._packed.clear()
        self._merged.clear()
        if self._static is not None:
            self._static.clear()

    def prepare(self, bank: AdapterBank) -> None:
        """Ahead of a version's first forward; any thread."""
        self._merged.prepare(bank)

    def run(self, pieces: Sequence[Piece], encoded: Encoded) -> Computed:
        """Appends every piece to its cache."""
        if self._static is not None and self._static.fits(pieces):
            hidden_BD = self._static.step(pieces)
            return Computed(hidden_BD, [1] * len(pieces), [piece.position + 1 for piece in pieces])
        packed = [self.pack(piece.chunk, piece.position, encoded) for piece in pieces]
        batch = pack([one for one, _ in packed])
        caches = [piece.cache for piece in pieces]
        banks = [piece.bank for piece in pieces]
        apply = self._apply_of(banks, batch.lengths)
        hidden_ND = self.policy.hidden(batch, caches, invariant=self._invariant, apply=apply)
        return Computed(hidden_ND, batch.lengths, [position for _, position in packed])

    def _apply_of(self, banks: Sequence[AdapterBank | None], lengths: Sequence[int]) -> Apply:
        first = banks[0]
        is_one = first is not None and all(bank is first for bank in banks)
        merged = self._merged.of(first) if is_one else None
        return merged or apply_by_row(banks, lengths, self._apply, device=self.policy.device)

    def next_logits(self, computed: Computed) -> Tensor:
        """(B, V) behind each piece's last token, fp32 on the CPU."""
        last_B = torch.tensor(computed.lengths, device=self.policy.device).cumsum(0) - 1
        rows_BD = computed.hidden_ND[last_B]
        return self.policy.logits(rows_BD, invariant=self._invariant, apply=self._apply).cpu()

    def pack(self, chunk: Chunk, position: int, encoded: Encoded) -> tuple[PackedBatch, int]:
        """One session's new tokens, and the position after them."""
        device = self.policy.device
        positions_3N, next_position = mrope_positions(self._pieces(chunk), position)
        rows = [torch.arange(s.offset, s.end) for s in chunk.slots]
        parts = [slot_rows(encoded[slot.media_id], slot) for slot in chunk.slots]
        batch = PackedBatch(
            input_ids_N=torch.tensor(chunk.ids, device=device),
            positions_3N=positions_3N.to(device),
            lengths=[len(chunk.ids)],
            visual_index_M=torch.cat(rows).to(device) if rows else None,
            visual=VisionFeatures.join(parts) if parts else None,
        )
        return batch, next_position

    def next_position(self, chunk: Chunk) -> int:
        """The position behind a session's first chunk."""
        return mrope_positions(self._pieces(chunk), 0)[1]

    def _pieces(self, chunk: Chunk) -> list[int | Grid]:
        """Text run lengths and merged vision grids, in order."""
        slots = ((slot.offset, slot.end, slot.grid_thw) for slot in chunk.slots)
        merge = self.policy.config.vision.merge_size
        return text_and_grids(slots, len(chunk.ids), merge=merge)


def slot_rows(features: VisionFeatures, slot: VisionSlot) -> VisionFeatures:
    """The part of one media's features that a slot shows."""
    start = slot.frame * slot.num_tokens
    return features.part(start, start + slot.num_tokens)
