"""What a trace shows of its media: frames, crops and painted masks with boxes and points on them.

Pictures are named while a trace is written and rendered when somebody looks.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from pixelis_fast.pictures import paint_mask
from pixelis_fast.tools import MediaStore
from pixelis_fast.types import Mask, Media, MediaKind, Observation, Step, Trajectory

LONGEST_SIDE = 1024
JPEG_QUALITY = 88
MAX_FRAMES = 8
"""Of one track."""
Json = dict[str, Any]


@dataclass(frozen=True)
class Picture:
    """One picture of a step, and what is drawn on it.

    Example:
        Picture("3f…", "segment", boxes=(((10, 20, 300, 400), "box"),))
    """

    media_id: str
    caption: str
    time_s: float | None = None
    mask: Mask | None = None
    boxes: tuple[tuple[tuple[int, ...], str], ...] = ()
    """(x0, y0, x1, y1) of 0..1000, and a label."""
    points: tuple[tuple[int, ...], ...] = ()

    @property
    def num_bytes(self) -> int:
        """What keeping it takes, the media aside."""
        return 500 + (len(self.mask.counts) if self.mask is not None else 0)

    def to_json(self, number: int, media: Media) -> Json:
        return {
            "number": number,
            "caption": self.caption,
            "time_s": self.time_s,
            "width": media.width,
            "height": media.height,
            "boxes": [{"box": box, "label": label} for box, label in self.boxes],
            "points": self.points,
        }


def render(picture: Picture, store: MediaStore, *, longest_side: int = LONGEST_SIDE) -> bytes:
    """JPEG of at most so many pixels a side; boxes are the page's to draw."""
    frame_HWC = store.frame(picture.media_id, picture.time_s)
    if picture.mask is not None:
        frame_HWC = paint_mask(frame_HWC, picture.mask)
    image = Image.fromarray(frame_HWC)
    image.thumbnail((longest_side, longest_side))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


@dataclass
class Gallery:
    """The pictures of one trajectory's steps.

    Example:
        for step in trajectory.steps:
            pictures = gallery.of(step)
    """

    trajectory: Trajectory
    masks: dict[int, Mask] = field(default_factory=dict)
    """By the index under which an observation named them."""

    def of(self, step: Step) -> list[tuple[Picture, Media]]:
        """None for a call that failed or names no media that exist."""
        if step.call is None or step.observation is None or step.observation.error is not None:
            return []
        content = json.loads(step.observation.text)
        if step.observation.masks:
            # Segment names its mask, track the last one it saw.
            self.masks[content["mask"]] = step.observation.masks[-1]
        if step.call.operation == "properties":
            return self._marked(self.masks[step.call.arguments["mask"]], content["box"])
        media = self.trajectory.sample.media[step.call.arguments["media"]]
        return [*_pictures(step.call.operation, step.call.arguments, content, step, media)]

    def _marked(self, mask: Mask, box: list[int]) -> list[tuple[Picture, Media]]:
        [media] = [each for each in self.trajectory.sample.media if each.id == mask.media_id][:1]
        boxes = ((tuple(box), "box"),)
        return [(Picture(media.id, "properties of this mask", mask.time_s, mask, boxes), media)]


def _pictures(
    operation: str, arguments: Json, content: Json, step: Step, media: Media
) -> Iterator[tuple[Picture, Media]]:
    assert step.observation is not None
    asked = ((tuple(arguments["box"]), "asked"),) if "box" in arguments else ()
    time_s = arguments.get("time")
    if operation == "zoom":
        yield Picture(media.id, "where it looked", time_s, boxes=asked), media
        for crop in step.observation.media:
            yield Picture(crop.id, "what it saw"), crop
    elif operation == "segment":
        boxes = (*asked, (tuple(content["box"]), f"score {content['score']}"))
        points = (tuple(arguments["point"]),) if "point" in arguments else ()
        mask = step.observation.masks[0]
        yield Picture(media.id, "mask", time_s, mask, boxes, points), media
    elif operation == "track":
        yield from _track(arguments, content, step.observation, media)
    elif operation == "read_text":
        lines = tuple((tuple(line["box"]), line["text"]) for line in content["lines"])
        yield Picture(media.id, "text", time_s, boxes=(*asked, *lines)), media
    elif operation == "localize" and content["keyframe"] is not None:
        yield Picture(media.id, "keyframe", content["keyframe"], boxes=asked), media


def _track(
    arguments: Json, content: Json, observation: Observation, media: Media
) -> Iterator[tuple[Picture, Media]]:
    """The box asked about, then masks evenly apart."""
    asked = ((tuple(arguments["box"]), "asked"),)
    yield Picture(media.id, "where it began", arguments["start"], boxes=asked), media
    boxes = {row[0]: tuple(row[1:]) for row in content["track"] if row[1] != "lost"}
    masks = observation.masks
    step = max(1, -(-len(masks) // MAX_FRAMES))
    for mask in masks[::step]:
        assert mask.time_s is not None, "a track is of a video"
        box = boxes.get(round(mask.time_s, 2))
        drawn = ((box, "tracked"),) if box is not None else ()
        yield Picture(media.id, f"{mask.time_s:.2f} s", mask.time_s, mask, drawn), media


def first_look(media: Media) -> Picture:
    """A picture of the media as they came; a video's first frame."""
    return Picture(media.id, media.kind.value, 0.0 if media.kind is MediaKind.VIDEO else None)
