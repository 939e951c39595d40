"""Prefill and decode as one operation: extend sessions by ragged chunks in one packed forward.

A session owns its keys and values and its next mRoPE position; a chunk is token ids with the
places where vision features go. The engine knows no text, no tool and no sampling.

Legend: B sessions, N new tokens of all sessions, D hidden, V vocabulary, M vision tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from pixelis_fast.policy.batch import PackedBatch, VisionFeatures, pack
from pixelis_fast.policy.cache import KVCache
from pixelis_fast.policy.image import Patches
from pixelis_fast.policy.model import Policy
from pixelis_fast.policy.positions import mrope_positions
from pixelis_fast.policy.prefix_cache import PrefixCache
from pixelis_fast.policy.vision_cache import VisionCache
from pixelis_fast.spans import Spans

FIRST_CAPACITY = 1024
"""Tokens a new session has room for before its cache first grows."""
LoadPatches = Callable[[str], Patches]
"""Media id -> its patches; the caller owns pixels."""


@dataclass(frozen=True)
class VisionSlot:
    """Placeholders from `offset` of a chunk that show temporal patch `frame` of one media."""

    offset: int
    num_tokens: int
    media_id: str
    frame: int
    grid_thw: tuple[int, int, int]
    """Patches of the whole media in time, height and width, before merging."""


@dataclass(frozen=True)
class Chunk:
    """Tokens to append to one session.

    Example:
        Chunk(ids=[5, 9, 9, 9, 9, 6], slots=(VisionSlot(1, 4, "3f…", 0, (1, 4, 4)),))
    """

    ids: list[int]
    slots: tuple[VisionSlot, ...] = ()
    opens_turn: bool = False
    """The prompt or an observation; False for generated tokens."""

    def __add__(self, other: Chunk) -> Chunk:
        moved = (replace(slot, offset=slot.offset + len(self.ids)) for slot in other.slots)
        return Chunk(self.ids + other.ids, (*self.slots, *moved), other.opens_turn)

    def after(self, num_tokens: int) -> Chunk:
        """Without the first tokens, which hold no slot."""
        moved = (replace(slot, offset=slot.offset - num_tokens) for slot in self.slots)
        return Chunk(self.ids[num_tokens:], tuple(moved), self.opens_turn)


@dataclass
class Session:
    """What one trajectory keeps between forwards."""

    cache: KVCache
    next_position: int = 0
    history: Chunk = field(default_factory=lambda: Chunk([]))
    """Every chunk so far, kept only by an engine that does not keep keys and values."""


@dataclass(frozen=True)
class Plan:
    """What one forward computes for one session, and where it goes on."""

    chunk: Chunk
    cache: KVCache
    position: int
    history: Chunk


class Engine:
    """Runs one policy for many sessions."""

    def __init__(
        self,
        policy: Policy,
        load_patches: LoadPatches,
        *,
        keep_kv: bool = True,
        vision_cache_bytes: int = 1 << 30,
        prefix_cache_bytes: int = 1 << 28,
    ) -> None:
        """keep_kv=False prefills the whole history at each turn: the habit this engine replaces.

        A budget of 0 turns a cache off.
        """
        self.policy = policy
        self.prefixes = PrefixCache(policy, byte_budget=prefix_cache_bytes)
        self._use_prefixes = keep_kv and prefix_cache_bytes > 0
        self.vision = VisionCache(policy, byte_budget=vision_cache_bytes)
        self._load_patches = load_patches
        self._keep_kv = keep_kv

    def spans(self) -> Spans:
        """A clock that waits for this engine's device."""
        on_cuda = self.policy.device.type == "cuda"
        return Spans(sync=torch.cuda.synchronize) if on_cuda else Spans()

    def open(self) -> Session:
        return Session(self.policy.new_cache(FIRST_CAPACITY))

    @torch.inference_mode()
    def extend(
        self, sessions: Sequence[Session], chunks: Sequence[Chunk], *, spans: Spans
    ) -> Tensor:
        """Appends chunk b to session b; returns the next token's logits_BV, fp32 on the CPU.

        A call that fails leaves every session as it was.
        """
        stage = "prefill" if any(chunk.opens_turn for chunk in chunks) else "decode"
        with spans(stage):
            planned = [self._plan(s, chunk) for s, chunk in zip(sessions, chunks, strict=True)]
        with spans("vision"):
            encoded = self._encode([plan.chunk for plan in planned])
        with spans(stage):
            packed = [self._pack(plan, encoded) for plan in planned]
            batch = pack([one for one, _ in packed])
            hidden_ND = self.policy.hidden(batch, [plan.cache for plan in planned])
            last_B = torch.tensor(batch.lengths, device=self.policy.device).cumsum(0) - 1
            logits_BV = self.policy.logits(hidden_ND[last_B]).cpu()
        for session, plan, (_, next_position) in zip(sessions, planned, packed, strict=True):
            session.cache, session.history = plan.cache, plan.history
            session.next_position = next_position
        return logits_BV

    def _plan(self, session: Session, chunk: Chunk) -> Plan:
        if not chunk.ids:
            raise ValueError("chunk: expected at least one token, got none")
        if self._keep_kv:
            is_new = session.cache.length == 0
            start = chunk.slots[0].offset if is_new and chunk.slots and self._use_prefixes else 0
            return self._behind_prefix(session, chunk, start)
        history = session.history + chunk
        if not chunk.opens_turn:
            return Plan(chunk, session.cache, session.next_position, history)
        return Plan(history, self.policy.new_cache(FIRST_CAPACITY), 0, history)

    def _behind_prefix(self, session: Session, chunk: Chunk, start: int) -> Plan:
        """A new session starts behind the text before its first picture."""
        if start == 0:
            return Plan(chunk, session.cache, session.next_position, session.history)
        cache = self.prefixes.fork(chunk.ids[:start], room=FIRST_CAPACITY)
        return Plan(chunk.after(start), cache, start, session.history)

    def _encode(self, chunks: Sequence[Chunk]) -> dict[str, VisionFeatures]:
        """Features of every media the chunks show, each encoded once."""
        media_ids = dict.fromkeys(slot.media_id for chunk in chunks for slot in chunk.slots)
        return {media_id: self._features(media_id) for media_id in media_ids}

    def _features(self, media_id: str) -> VisionFeatures:
        return self.vision.features(media_id, lambda: self._load_patches(media_id))

    def _pack(self, plan: Plan, encoded: dict[str, VisionFeatures]) -> tuple[PackedBatch, int]:
        """One session's new tokens, and the position after them."""
        device, chunk = self.policy.device, plan.chunk
        positions_3N, next_position = mrope_positions(self._pieces(chunk), plan.position)
        rows = [torch.arange(s.offset, s.offset + s.num_tokens) for s in chunk.slots]
        parts = [slot_rows(encoded[slot.media_id], slot) for slot in chunk.slots]
        batch = PackedBatch(
            input_ids_N=torch.tensor(chunk.ids, device=device),
            positions_3N=positions_3N.to(device),
            lengths=[len(chunk.ids)],
            visual_index_M=torch.cat(rows).to(device) if rows else None,
            visual=VisionFeatures.join(parts) if parts else None,
        )
        return batch, next_position

    def _pieces(self, chunk: Chunk) -> list[int | tuple[int, int, int]]:
        """Text run lengths and merged vision grids, in order."""
        merge = self.policy.config.vision.merge_size
        pieces: list[int | tuple[int, int, int]] = []
        end = 0
        for slot in chunk.slots:
            if slot.offset > end:
                pieces.append(slot.offset - end)
            _, height, width = slot.grid_thw
            pieces.append((1, height // merge, width // merge))
            end = slot.offset + slot.num_tokens
        if len(chunk.ids) > end:
            pieces.append(len(chunk.ids) - end)
        return pieces


def slot_rows(features: VisionFeatures, slot: VisionSlot) -> VisionFeatures:
    """The part of one media's features that a slot shows."""
    start = slot.frame * slot.num_tokens
    return features.part(start, start + slot.num_tokens)
