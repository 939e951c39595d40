"""SAM 2 as a track engine: one object of a video session, fed frame by frame.

Frames are those the tool visits, in order; the first carries the box. They may come from a thread
that decodes ahead; a frame segmented before is not encoded again, and the others are encoded in
batches.

Shapes: H, W = frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np

from pixelis_fast.tools_trt.results import MissingWeightsError, ToolInputError
from pixelis_fast.tools_trt.sam2.network import PxBox, Sam2, Sam2Engine
from pixelis_fast.tools_trt.sam2.session import FrameMasks, SessionConfig
from pixelis_fast.tools_trt.sam2.video import VideoSession

OBJECT = 0


class Sam2Track(Sam2Engine):
    """Follows the object of a box through frames with SAM 2's memory.

    Example:
        track = Track(store, Sam2Track(Sam2.load("sam2.1_hiera_tiny.pt")))
    """

    def __init__(self, sam2: Sam2, *, encode_batch: int = 1) -> None:
        if sam2.graphs.memory is None:
            raise MissingWeightsError(
                f"sam2 track: expected weights with a memory, got {sam2.name}"
            )
        super().__init__(sam2)
        self.encode_batch = encode_batch

    def track(
        self, frames: Iterable[np.ndarray], box_px: PxBox, *, keys: Sequence[str]
    ) -> Iterator[tuple[np.ndarray | None, float]]:
        """(mask_HW or None where the object is lost, probability that it is visible) per frame.

        The box is of the first frame; keys has one content key per frame.
        """
        for found in self.follow(frames, box_px, keys=keys):
            mask_HW = found.masks()[0]
            yield (mask_HW if mask_HW.any() else None), found.visible()[0]

    def follow(
        self, frames: Iterable[np.ndarray], box_px: PxBox, *, keys: Sequence[str]
    ) -> Iterator[FrameMasks]:
        """The session's answer per frame."""
        if not keys:
            raise ToolInputError("track: expected at least one frame, got none")
        session = VideoSession(self.sam2, config=self._config(len(keys)))
        pairs = zip(frames, keys, strict=True)
        while batch := list(islice(pairs, self.encode_batch)):
            numbers = [session.add_frame(image, key=key) for image, key in batch]
            if not session.object_ids:
                session.prompt(OBJECT, numbers[0], box_px=box_px)
            for place, number in enumerate(numbers):
                yield session.step(number, ahead=numbers[place + 1 :])

    def _config(self, num_frames: int) -> SessionConfig:
        return SessionConfig(
            num_frames=num_frames,
            window=self.encode_batch,
            prompted_frames=1,
            encode_batch=self.encode_batch,
        )
