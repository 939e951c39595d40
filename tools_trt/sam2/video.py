"""A resident video session of SAM 2: frames in, prompts on any frame, masks of every object out.

Objects are independent of each other, as in the sam2 package since December 2024: they share a
frame's features and run as one batch, and each has its own bank of memories. What a session holds
is bounded: a window of frames, and each object's bank; what fell out is as though it had never
been visited. Prompts are in pixels of the frame; masks leave as run-length dictionaries, small
holes as they are. For one thread at a time; the feature cache may be shared.

Shapes: B = objects; H, W = frame; T = tokens of a frame; K = memory channels; g = side of the
coarse grid; m = side of the low-resolution masks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from pixelis_fast.tools_trt.results import ToolInputError
from pixelis_fast.tools_trt.sam2.attend import Attended
from pixelis_fast.tools_trt.sam2.bank import FrameRecord, ObjectBank, gather
from pixelis_fast.tools_trt.sam2.clicks import clicks_on, drawn_mask, joined
from pixelis_fast.tools_trt.sam2.frames import FrameWindow
from pixelis_fast.tools_trt.sam2.network import ImageFeatures, Sam2
from pixelis_fast.tools_trt.sam2.object import Pending, TrackedObject
from pixelis_fast.tools_trt.sam2.prompt import Prompt
from pixelis_fast.tools_trt.sam2.session import FrameMasks, ObjectId, SessionConfig
from pixelis_fast.tools_trt.sam2.steps import Decoded, VideoSteps, given_mask

Request = tuple[TrackedObject, Attended]


class VideoSession:
    """Prompts and propagation over one video.

    Example:
        session = VideoSession(sam2)
        for number, image in enumerate(images):
            session.add_frame(image, key=f"clip@{number}")
        session.prompt("dog", 0, box_px=(40, 30, 220, 180))
        masks = [found.rle() for found in session.propagate()]
    """

    def __init__(self, sam2: Sam2, *, config: SessionConfig | None = None) -> None:
        self.sam2, self.config = sam2, config or SessionConfig()
        if sam2.compiles_memory:
            self.config.check_compiled()
        self.frames = FrameWindow(
            sam2, window=self.config.window, encode_batch=self.config.encode_batch
        )
        self._rule = self.config.rule(sam2.config)
        self._steps = VideoSteps(sam2)
        self._codes = self._steps.codes(self._rule.pointer_slots - 1)
        self._objects: dict[ObjectId, TrackedObject] = {}

    @property
    def object_ids(self) -> tuple[ObjectId, ...]:
        return tuple(self._objects)

    @property
    def num_bytes(self) -> int:
        """Of all objects' banks; features are counted by their cache."""
        return sum(tracked.bank.num_bytes for tracked in self._objects.values())

    def add_frame(
        self,
        image_HWC: np.ndarray | None = None,
        *,
        key: str | None = None,
        features: ImageFeatures | None = None,
        size: tuple[int, int] | None = None,
    ) -> int:
        """The next frame as pixels, or as features with the frame's size; returns its number."""
        if self.frames.count == self.config.num_frames:
            raise ToolInputError(f"frame: expected at most {self.frames.count}, got one more")
        return self.frames.add(image_HWC, key=key, features=features, size=size)

    @torch.inference_mode()
    def prompt(
        self,
        object_id: ObjectId,
        frame: int,
        *,
        points_px: Sequence[Sequence[float]] = (),
        labels: Sequence[int] = (),
        box_px: Sequence[float] | None = None,
        mask_HW: np.ndarray | None = None,
        add_to_clicks: bool = False,
    ) -> FrameMasks:
        """The object under clicks (label 1 on it, 0 beside it), a box, or exactly a mask.

        A new id is a new object. On a frame that was tracked the prompt is a correction: memory and
        the previous mask take part. The next propagation makes it final.
        """
        self.frames.check(frame)
        tracked = self._objects.get(object_id) or self._new_object()
        if mask_HW is not None:
            if len(points_px) or len(labels) or box_px is not None or add_to_clicks:
                raise ToolInputError("prompt: expected a mask, or clicks and a box, got both")
            clicks, decode = None, partial(self._decode_mask, drawn_mask(mask_HW))
        else:
            clicks = clicks_on(self.frames.size, points_px, labels, box_px=box_px)
            if add_to_clicks:
                clicks = joined(tracked.clicks.get(frame), clicks)
            decode = partial(self._decode_clicks, clicks, tracked, frame)
        stays = self._stays(object_id, tracked, frame)
        features = self.frames.features(frame)
        found = decode(features)
        record = FrameRecord(found.logits_B1mm[0], found.pointer_BC[0], float(found.score_B1))
        tracked.prompted_with(frame, clicks, Pending(record, features, stays))
        self._objects[object_id] = tracked
        return self._masks(frame, {object_id: record})

    @torch.inference_mode()
    def clear_prompt(self, object_id: ObjectId, frame: int) -> None:
        """Takes back what was prompted on a frame."""
        tracked = self._object(object_id)
        prompted = tracked.prompted() | set(tracked.pending)
        if frame not in prompted:
            raise ToolInputError(
                f"frame: expected a prompted one of {object_id!r}, {sorted(prompted)}, got {frame}"
            )
        tracked.clear(frame)

    def remove_object(self, object_id: ObjectId) -> None:
        self._object(object_id)
        del self._objects[object_id]

    def propagate(
        self, start: int | None = None, *, last: int | None = None, reverse: bool = False
    ) -> Iterator[FrameMasks]:
        """Every object on every frame from `start` (default: the earliest prompt) to `last`.

        Between two frames objects may be added, corrected and removed.
        """
        self._settle()
        numbers = self.frames.numbers()
        start = max(min(self._prompted_frames()), numbers[0]) if start is None else start
        last = (numbers[0] if reverse else numbers[-1]) if last is None else last
        for frame in (start, last):
            self.frames.check(frame)
        order = range(start, last - 1, -1) if reverse else range(start, last + 1)
        for place, frame in enumerate(order):
            yield self.step(frame, reverse=reverse, ahead=order[place + 1 :])

    @torch.inference_mode()
    def step(self, frame: int, *, reverse: bool = False, ahead: Sequence[int] = ()) -> FrameMasks:
        """Every object on one frame, from what was tracked before; `ahead` is encoded with it."""
        self.frames.check(frame)
        self._settle()
        waiting = [t for t in self._objects.values() if frame not in t.bank.conditioning]
        if waiting:
            features = self.frames.features(frame, ahead=ahead)
            for group in self._groups(waiting, frame, reverse=reverse):
                self._track(group, frame, features)
        for tracked in self._objects.values():
            tracked.visit(frame, reverse=reverse)
        return self._masks(frame, {key: t.bank.read(frame) for key, t in self._objects.items()})

    def _track(self, group: list[Request], frame: int, features: ImageFeatures) -> None:
        """One batch of objects that attend to equally many memories."""
        coarse_BCgg = self._recall(group, features)
        found = self._steps.follow(features, coarse_BCgg)
        memory_BTK = self._steps.remember(
            features, found.logits_B1mm, found.score_B1, prompted=False
        )
        scores = found.score_B1[:, 0].tolist()
        for row, (tracked, _) in enumerate(group):
            parts = found.logits_B1mm[row], found.pointer_BC[row], scores[row], memory_BTK[row]
            tracked.bank.recent.write(frame, FrameRecord(*parts))

    def _groups(
        self, waiting: Sequence[TrackedObject], frame: int, *, reverse: bool
    ) -> list[list[Request]]:
        """Objects by how many memories they attend to: no object pays for another's."""
        groups: dict[int, list[Request]] = {}
        for tracked in waiting:
            attended = tracked.bank.attend(frame, reverse=reverse)
            groups.setdefault(len(attended.memories), []).append((tracked, attended))
        size = self.config.object_batch or self.sam2.objects_together or len(waiting)
        return [
            group[first : first + size]
            for group in groups.values()
            for first in range(0, len(group), size)
        ]

    def _recall(self, group: Sequence[Request], features: ImageFeatures) -> Tensor:
        """Coarse features seen with each object's bank."""
        frames = len(group[0][1].memories)
        pointers = max(len(attended.pointers) for _, attended in group)
        size = self._steps.bank_size(frames=frames, pointers=pointers)
        requests = [(tracked.bank, attended) for tracked, attended in group]
        tokens = gather(requests, self._codes, frames=size.frames, pointer_slots=size.pointers)
        return self._steps.with_memory(features, tokens, size=size)

    def _decode_clicks(
        self, clicks: Prompt, tracked: TrackedObject, frame: int, features: ImageFeatures
    ) -> Decoded:
        coarse_BCgg = self._steps.without_memory(features)
        if frame in tracked.visited:
            self._check_prompted(tracked)
            attended = tracked.bank.attend(frame, reverse=tracked.visited[frame])
            coarse_BCgg = self._recall([(tracked, attended)], features)
        previous = tracked.record(frame).logits_1mm if tracked.knows(frame) else None
        return self._steps.click(
            features, coarse_BCgg, clicks, size=self.frames.size, previous_1mm=previous
        )

    def _decode_mask(self, mask_HW: np.ndarray, features: ImageFeatures) -> Decoded:
        mask = torch.from_numpy(mask_HW).to(self.sam2.device)
        return self._steps.decode_mask(features, given_mask(mask, self.sam2.side))

    @torch.inference_mode()
    def _settle(self) -> None:
        """Encodes the memories of prompted frames; every object must have one by then."""
        if not self._objects:
            raise ToolInputError("video: expected a prompted object first, got an empty session")
        for tracked in self._objects.values():
            for frame, pending in tracked.pending.items():
                record = pending.record
                logits_11mm = record.logits_1mm[None]
                score_11 = torch.full((1, 1), record.object_score, device=self.sam2.device)
                memory_1TK = self._steps.remember(
                    pending.features, logits_11mm, score_11, prompted=True
                )
                tracked.settle(frame, replace(record, memory_TK=memory_1TK[0]), stays=pending.stays)
            tracked.pending.clear()
            self._check_prompted(tracked)

    def _stays(self, object_id: ObjectId, tracked: TrackedObject, frame: int) -> bool:
        """Does a prompt on the frame make it a prompted one? Then there must be room."""
        prompted, limit = tracked.prompted(), self.config.prompted_frames
        stays = self.config.corrections_stay or frame not in tracked.visited
        if stays and frame not in prompted and len(prompted) >= limit:
            raise ToolInputError(
                f"prompt: expected at most {limit} prompted frames of {object_id!r}, got frame "
                f"{frame} beside {sorted(prompted)}"
            )
        return stays

    def _check_prompted(self, tracked: TrackedObject) -> None:
        if not len(tracked.bank.conditioning):
            names = [name for name, found in self._objects.items() if found is tracked]
            raise ToolInputError(
                f"video: expected a prompted frame for every object, got none for {names}"
            )

    def _prompted_frames(self) -> list[int]:
        return [n for tracked in self._objects.values() for n in tracked.bank.conditioning]

    def _new_object(self) -> TrackedObject:
        shape = self.config.bank(self.sam2.config)
        return TrackedObject(ObjectBank(shape, rule=self._rule, device=self.sam2.device))

    def _object(self, object_id: ObjectId) -> TrackedObject:
        if object_id not in self._objects:
            raise ToolInputError(
                f"object: expected one of {list(self._objects)}, got {object_id!r}"
            )
        return self._objects[object_id]

    def _masks(self, frame: int, records: Mapping[ObjectId, FrameRecord]) -> FrameMasks:
        logits = torch.stack([record.logits_1mm for record in records.values()])
        scores = tuple(record.object_score for record in records.values())
        return FrameMasks(frame, tuple(records), logits, scores, self.frames.size)
