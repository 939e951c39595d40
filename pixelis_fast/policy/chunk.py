"""Token ids with the places where vision features go: what is appended to a session.

A vision span is atomic: whatever cuts a chunk cuts before or behind it, so that a span's rows and
its DeepStack features stay in one forward. Knows no text and no weights.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pixelis_fast.policy.adapters import AdapterBank
from pixelis_fast.policy.cache import KVCache


@dataclass(frozen=True)
class VisionSlot:
    """Placeholders from `offset` of a chunk that show temporal patch `frame` of one media."""

    offset: int
    num_tokens: int
    media_id: str
    frame: int
    grid_thw: tuple[int, int, int]
    """Patches of the whole media in time, height and width, before merging."""

    @property
    def end(self) -> int:
        return self.offset + self.num_tokens


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
    continues: bool = False
    """A later piece of a chunk that was cut: a history that is sent again came with the first."""

    def __add__(self, other: Chunk) -> Chunk:
        moved = (replace(slot, offset=slot.offset + len(self.ids)) for slot in other.slots)
        return Chunk(self.ids + other.ids, (*self.slots, *moved), other.opens_turn)

    def before(self, num_tokens: int) -> Chunk:
        """The first tokens; raises ValueError where a span would be cut."""
        self._check_cut(num_tokens)
        slots = tuple(slot for slot in self.slots if slot.end <= num_tokens)
        return Chunk(self.ids[:num_tokens], slots, self.opens_turn)

    def after(self, num_tokens: int) -> Chunk:
        """Without the first tokens; raises ValueError where a span would be cut."""
        self._check_cut(num_tokens)
        slots = tuple(
            replace(slot, offset=slot.offset - num_tokens)
            for slot in self.slots
            if slot.offset >= num_tokens
        )
        return Chunk(self.ids[num_tokens:], slots, self.opens_turn)

    def whole_spans(self, num_tokens: int) -> int:
        """The largest cut up to num_tokens that leaves every span whole."""
        for slot in self.slots:
            if slot.offset < num_tokens < slot.end:
                return slot.offset
        return min(num_tokens, len(self.ids))

    def cut(self, num_tokens: int, *, first: int | None = None) -> list[Chunk]:
        """Pieces of up to num_tokens, the first of up to `first`; a longer span is one of its own.

        Example:
            for piece in chunk.cut(512):
                logits_BV = engine.extend([session], [piece], spans=spans)
        """
        if num_tokens < 1:
            raise ValueError(f"num_tokens: expected at least 1, got {num_tokens}")
        pieces, rest, most = [], self, first or num_tokens
        while len(rest.ids) > most:
            end = rest.whole_spans(most) or rest.slots[0].end
            pieces.append(rest.before(end))
            rest, most = rest.after(end), num_tokens
        pieces += [rest] if rest.ids else []
        return pieces[:1] + [replace(piece, continues=True) for piece in pieces[1:]]

    def _check_cut(self, num_tokens: int) -> None:
        if self.whole_spans(num_tokens) != num_tokens:
            raise ValueError(
                f"num_tokens: expected up to {len(self.ids)} and no cut through a vision span, "
                f"got {num_tokens}"
            )


@dataclass(frozen=True)
class Piece:
    """What one forward computes for one session."""

    chunk: Chunk
    cache: KVCache
    position: int
    """mRoPE position of its first token."""
    bank: AdapterBank | None = None
    """Runs on the base beside it; None: the base alone."""
