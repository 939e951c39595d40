"""One object of a video session: its bank, its prompts that are not final, and where it was.

All of it is bounded by the bank: notes on a frame go when the bank forgets the frame. Knows no
graph and no other object.
"""

from __future__ import annotations

from dataclasses import dataclass

from pixelis_fast.tools_trt.sam2.bank import FrameRecord, ObjectBank
from pixelis_fast.tools_trt.sam2.network import ImageFeatures
from pixelis_fast.tools_trt.sam2.prompt import Prompt


@dataclass(frozen=True)
class Pending:
    """A prompted frame's result, before a propagation makes it final."""

    record: FrameRecord
    features: ImageFeatures
    """To encode the memory with, once no click follows."""
    stays: bool
    """It becomes a prompted frame, not a tracked one."""


class TrackedObject:
    """One object: its bank, its clicks, and what was visited in which direction."""

    def __init__(self, bank: ObjectBank) -> None:
        self.bank = bank
        self.pending: dict[int, Pending] = {}
        self.clicks: dict[int, Prompt] = {}
        self.visited: dict[int, bool] = {}
        """Frame -> was it reached backwards?"""

    def visit(self, frame: int, *, reverse: bool) -> None:
        """Notes a visit, and drops the notes of frames that the bank has forgotten."""
        self.visited[frame] = reverse
        self.visited = {n: was for n, was in self.visited.items() if n in self.bank}
        self.clicks = {n: kept for n, kept in self.clicks.items() if self.knows(n)}

    def knows(self, frame: int) -> bool:
        return frame in self.pending or frame in self.bank

    def record(self, frame: int) -> FrameRecord:
        """The newest result on a frame it knows."""
        return self.pending[frame].record if frame in self.pending else self.bank.read(frame)

    def prompted_with(self, frame: int, clicks: Prompt | None, pending: Pending) -> None:
        """Clicks are None for a mask, which takes the place of earlier ones."""
        self.clicks.pop(frame, None)
        if clicks is not None:
            self.clicks[frame] = clicks
        self.pending[frame] = pending

    def settle(self, frame: int, record: FrameRecord, *, stays: bool) -> None:
        """A prompted frame's result becomes memory; a prompted frame is never a tracked one too."""
        (self.bank.conditioning if stays else self.bank.recent).write(frame, record)
        if frame in self.bank.conditioning:
            self.bank.recent.forget(frame)

    def clear(self, frame: int) -> None:
        """Takes a frame's prompt back; its result remains as if it had been tracked."""
        self.pending.pop(frame, None)
        self.clicks.pop(frame, None)
        if frame in self.bank.conditioning:
            self.bank.recent.write(frame, self.bank.conditioning.read(frame))
            self.bank.conditioning.forget(frame)
            self.visited.pop(frame, None)

    def prompted(self) -> set[int]:
        staying = {frame for frame, pending in self.pending.items() if pending.stays}
        return staying | set(self.bank.conditioning)
