"""The memory of one object in static buffers, and the tokens that memory attention reads of it.

Two rings of slots: prompted frames, which stay until they are cleared, and the frames tracked
last, of which the oldest written makes room. A frame that fell out is as though it had never been
visited; nothing grows with the length of the video. Spatial memories are kept in bfloat16, as the
sam2 package keeps them. Knows no graph.

Shapes: B = objects; S = slots; T = tokens of a frame (h·w); K = memory channels; C = pointer
channels; m = side of the low-resolution mask; F = frames of the bucket; P = pointer tokens;
M = F·T + P.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pixelis_fast.tools_trt.sam2.attend import Attended, AttendRule, attend

EMPTY_BIAS = -1e4
"""Added to an empty slot's scores: exp() of it is zero, so padding changes nothing."""


@dataclass(frozen=True)
class BankShape:
    """What one object's buffers measure."""

    tokens: int
    memory_channels: int
    pointer_channels: int
    mask_side: int
    conditioning: int = 8
    """Slots for prompted frames."""
    recent: int = 16
    """Slots for tracked frames; more let a correction further back see its neighbours."""

    @property
    def tokens_per_pointer(self) -> int:
        return self.pointer_channels // self.memory_channels


@dataclass(frozen=True)
class FrameRecord:
    """What is known of the object on one frame."""

    logits_1mm: Tensor
    pointer_C: Tensor
    object_score: float
    """Logit that the object is visible."""
    memory_TK: Tensor | None = None
    """None until the prompts of a frame are final."""


class Ring:
    """Records by frame number in preallocated slots; a full ring overwrites the oldest."""

    def __init__(self, slots: int, shape: BankShape, *, device: torch.device) -> None:
        self.slots = slots
        side, tokens = shape.mask_side, (shape.tokens, shape.memory_channels)
        self._memories_STK = torch.zeros(slots, *tokens, dtype=torch.bfloat16, device=device)
        self._pointers_SC = torch.zeros(slots, shape.pointer_channels, device=device)
        self._logits_S1mm = torch.zeros(slots, 1, side, side, device=device)
        self._scores_S = [0.0] * slots
        self._slot_of: dict[int, int] = {}

    def __contains__(self, frame: int) -> bool:
        return frame in self._slot_of

    def __iter__(self) -> Iterator[int]:
        """Frames, the oldest written first."""
        return iter(self._slot_of)

    def __len__(self) -> int:
        return len(self._slot_of)

    @property
    def num_bytes(self) -> int:
        return sum(
            x.numel() * x.element_size()
            for x in (self._memories_STK, self._pointers_SC, self._logits_S1mm)
        )

    def write(self, frame: int, record: FrameRecord) -> None:
        assert record.memory_TK is not None, "only encoded frames are kept"
        slot = self._slot_for(frame)
        self._memories_STK[slot].copy_(record.memory_TK)
        self._pointers_SC[slot].copy_(record.pointer_C)
        self._logits_S1mm[slot].copy_(record.logits_1mm)
        self._scores_S[slot] = record.object_score

    def read(self, frame: int) -> FrameRecord:
        """Views into the buffers, valid until the slot is written again."""
        slot = self._slot_of[frame]
        return FrameRecord(
            self._logits_S1mm[slot],
            self._pointers_SC[slot],
            self._scores_S[slot],
            self._memories_STK[slot],
        )

    def forget(self, frame: int) -> None:
        self._slot_of.pop(frame, None)

    def _slot_for(self, frame: int) -> int:
        slot = self._slot_of.pop(frame, None)
        if slot is None and len(self._slot_of) == self.slots:
            slot = self._slot_of.pop(next(iter(self._slot_of)))
        if slot is None:
            slot = min(set(range(self.slots)) - set(self._slot_of.values()))
        self._slot_of[frame] = slot
        return slot


class ObjectBank:
    """One object's two rings.

    Example:
        bank = ObjectBank(shape, rule=AttendRule(), device=torch.device("cpu"))
        bank.conditioning.write(0, record)
        attended = bank.attend(1, reverse=False)
    """

    def __init__(self, shape: BankShape, *, rule: AttendRule, device: torch.device) -> None:
        if shape.recent < rule.reach or shape.conditioning < 1:
            raise ValueError(
                f"bank: expected slots for >= {rule.reach} recent frames and >= 1 prompted one, "
                f"got {shape.recent} and {shape.conditioning}"
            )
        self.shape, self.rule = shape, rule
        self.conditioning = Ring(shape.conditioning, shape, device=device)
        self.recent = Ring(shape.recent, shape, device=device)

    @property
    def num_bytes(self) -> int:
        return self.conditioning.num_bytes + self.recent.num_bytes

    def __contains__(self, frame: int) -> bool:
        return frame in self.conditioning or frame in self.recent

    def read(self, frame: int) -> FrameRecord:
        ring = self.conditioning if frame in self.conditioning else self.recent
        return ring.read(frame)

    def memory(self, frame: int) -> Tensor:
        """(T, K) of a frame that is kept."""
        memory_TK = self.read(frame).memory_TK
        assert memory_TK is not None, "only encoded frames are kept"
        return memory_TK

    def attend(self, frame: int, *, reverse: bool) -> Attended:
        prompted, tracked = list(self.conditioning), list(self.recent)
        return attend(
            frame, conditioning=prompted, tracked=tracked, reverse=reverse, rule=self.rule
        )


@dataclass(frozen=True)
class PositionCodes:
    """Where a token comes from: a model's constants, shared by all objects."""

    frames_FTK: Tensor
    """Place plus time of a memory, by steps back (0 = a conditioning frame)."""
    pointers: Callable[[Sequence[int]], Tensor]
    """Distances in frames -> (n, K)."""


@dataclass(frozen=True)
class MemoryTokens:
    """Memory attention's inputs; the last P tokens are pointers."""

    memory_BMK: Tensor
    position_BMK: Tensor
    key_bias_B11M: Tensor


def gather(
    requests: Sequence[tuple[ObjectBank, Attended]],
    codes: PositionCodes,
    *,
    frames: int,
    pointer_slots: int,
) -> MemoryTokens:
    """The tokens of several objects, padded to one bucket of frames and pointers."""
    shape = requests[0][0].shape
    num_tokens = frames * shape.tokens + pointer_slots * shape.tokens_per_pointer
    memory_BMK = codes.frames_FTK.new_zeros(len(requests), num_tokens, shape.memory_channels)
    position_BMK = torch.zeros_like(memory_BMK)
    bias_BM = torch.full_like(memory_BMK[..., 0], EMPTY_BIAS)
    first_pointer = frames * shape.tokens
    for row, (bank, attended) in enumerate(requests):
        assert len(attended.memories) <= frames, "the bucket holds every memory"
        assert len(attended.pointers) <= pointer_slots, "and every pointer"
        for index, (frame, back) in enumerate(attended.memories):
            part = row, slice(index * shape.tokens, (index + 1) * shape.tokens)
            memory_BMK[part] = bank.memory(frame)
            position_BMK[part] = codes.frames_FTK[back]
            bias_BM[part] = 0
        if attended.pointers:
            pointers_nK, codes_nK = _pointer_tokens(bank, attended, codes)
            part = row, slice(first_pointer, first_pointer + len(pointers_nK))
            memory_BMK[part], position_BMK[part], bias_BM[part] = pointers_nK, codes_nK, 0
    return MemoryTokens(memory_BMK, position_BMK, bias_BM[:, None, None])


def _pointer_tokens(
    bank: ObjectBank, attended: Attended, codes: PositionCodes
) -> tuple[Tensor, Tensor]:
    """A pointer is C / K tokens, which share one code of its distance."""
    shape = bank.shape
    pointers_PC = torch.stack([bank.read(frame).pointer_C for frame, _ in attended.pointers])
    codes_PK = codes.pointers([back for _, back in attended.pointers])
    pointers_nK = pointers_PC.reshape(-1, shape.memory_channels)
    return pointers_nK, codes_PK.repeat_interleave(shape.tokens_per_pointer, dim=0)
