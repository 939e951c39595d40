"""A parsed call -> an engine -> an Observation; the only file that touches tools_trt.

Every bad call ends here, in one place, as an Observation with an error that the policy can read.
Pixels stay in the media store: observations carry ids, run-length masks and compact JSON. A call
may be submitted and asked for later; its masks are named when its observation is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from pixelis_fast.crops import outer_box, outer_point
from pixelis_fast.observations import (
    error_observation,
    observation,
    properties_content,
    seen_masks,
    segment_content,
    spans_content,
    text_content,
    to_mask,
    track_rows,
)
from pixelis_fast.tools_trt.backends import probe_backends
from pixelis_fast.tools_trt.graphs.device_identity import has_bf16_units
from pixelis_fast.tools_trt.localize import FrameEmbedder
from pixelis_fast.tools_trt.memo import recalled
from pixelis_fast.tools_trt.results import (
    LocalizeResult,
    PropertiesResult,
    ReadTextResult,
    RleMask,
    SegmentResult,
    ToolError,
    ToolInputError,
    ToolResult,
    TrackResult,
    ZoomResult,
)
from pixelis_fast.tools_trt.scheduler import Ticket, refused
from pixelis_fast.tools_trt.store import MediaStore
from pixelis_fast.tools_trt.tool_config import ToolConfig, open_toolset, shipped_weights
from pixelis_fast.tools_trt.tool_states import describe_tools
from pixelis_fast.tools_trt.toolset import Toolset
from pixelis_fast.types import Box, Mask, Media, MediaKind, Observation, ToolCall

__all__ = [
    "FrameEmbedder",
    "MediaStore",
    "PendingCall",
    "Preparation",
    "ToolBox",
    "ToolConfig",
    "ToolError",
    "ToolResult",
    "Workspace",
    "describe_tools",
    "error_observation",
    "has_bf16_units",
    "open_tools",
    "probe_backends",
    "shipped_weights",
]


ON_CROPS = ("zoom", "segment", "read_text")
"""Tools that look at one picture."""


@dataclass(frozen=True)
class Crop:
    """An enlarged part that a zoom has shown.

    Example:
        Crop(media=0, view=(100, 100, 300, 300))
    """

    media: int
    """Index of the original."""
    view: Box
    """What it shows of it."""
    time_s: float | None = None


@dataclass
class Workspace:
    """What one trajectory's calls can refer to: the sample's media, and crops and masks made so
    far. A crop's index goes on behind the media's."""

    media: tuple[Media, ...]
    masks: list[Mask] = field(default_factory=list)
    crops: list[Crop] = field(default_factory=list)

    def media_at(self, index: int) -> Media:
        if 0 <= index - len(self.media) < len(self.crops):
            raise ToolInputError(
                f"media: expected {' or '.join(ON_CROPS)} without a time for the crop {index}"
            )
        if not 0 <= index < len(self.media):
            most = len(self.media) + len(self.crops) - 1
            raise ToolInputError(f"media: expected 0..{most}, got {index}")
        return self.media[index]

    def original(self, call: ToolCall) -> ToolCall:
        """A call on a crop, as one on what it was cut from; every other call as it is.

        Original pixels are cut again: a crop of a crop is as sharp as they are.
        """
        number = call.arguments.get("media", 0) - len(self.media)
        is_still = call.operation in ON_CROPS and "time" not in call.arguments
        if not (is_still and 0 <= number < len(self.crops)):
            return call
        crop = self.crops[number]
        places = outer_places(call, crop.view)
        timed = {} if crop.time_s is None else {"time": crop.time_s}
        arguments = {**call.arguments, "media": crop.media, **places, **timed}
        return ToolCall(call.operation, arguments, crop=number)

    def mask_at(self, index: int) -> Mask:
        if not self.masks:
            raise ToolInputError(f"mask: expected one from segment or track first, got {index}")
        if not 0 <= index < len(self.masks):
            raise ToolInputError(f"mask: expected 0..{len(self.masks) - 1}, got {index}")
        return self.masks[index]

    def name_mask(self, mask: Mask) -> int:
        self.masks.append(mask)
        return len(self.masks) - 1

    def name_crop(self, crop: Crop) -> int:
        self.crops.append(crop)
        return len(self.media) + len(self.crops) - 1


def outer_places(call: ToolCall, view: Box) -> dict[str, list[int]]:
    """Its box and point in the original; all of the crop where `read_text` names none."""
    point, box = call.arguments.get("point"), call.arguments.get("box")
    if point is not None:
        return {"point": list(outer_point(view, tuple(point)))}
    return {"box": list(view if box is None else outer_box(view, tuple(box)))}


@dataclass(frozen=True)
class Request:
    """A call whose media and masks were looked up: what to ask, and how to tell the answer."""

    arguments: tuple[Any, ...]
    options: dict[str, Any]
    tell: Callable[[Any], Observation]


class PendingCall:
    """A submitted call.

    Example:
        pending = tools.submit(call, workspace)
        observation = pending.result()
    """

    def __init__(self, ticket: Ticket, tell: Callable[[Any], Observation]) -> None:
        self._ticket, self._tell = ticket, tell
        self._observation: Observation | None = None

    def done(self) -> bool:
        return self._ticket.done()

    def when_done(self, wake: Callable[[], None]) -> None:
        """Calls `wake` once the call is done, from the thread that ran it; at once if it is."""
        self._ticket.add_done_callback(lambda _: wake())

    def cancel(self) -> bool:
        """Whether the call will not run; what runs already finishes and is kept."""
        return self._ticket.cancel()

    def result(self, timeout_s: float | None = None) -> Observation:
        """Waits for the observation. The first time names the call's masks in the workspace."""
        if self._observation is None:
            self._observation = self._observe(timeout_s)
        return self._observation

    def _observe(self, timeout_s: float | None) -> Observation:
        try:
            result = self._ticket.result(timeout_s)
        except ToolError as error:
            return error_observation(str(error))
        answer = result if self._ticket.source == "ran" else recalled(result)
        queue_ms = answer.stage_ms.queue + self._ticket.spans["queue"]
        return self._tell(replace(answer, stage_ms=replace(answer.stage_ms, queue=queue_ms)))


@dataclass
class Preparation:
    """What a tool does to a picture before anybody has called it.

    Example:
        preparation = tools.prepare("segment", media)
    """

    operation: str
    media_id: str
    time_s: float | None
    ticket: Ticket
    is_used: bool = False
    """A call of this tool on this picture came."""

    @property
    def is_new(self) -> bool:
        """Nothing of it was there or under way already."""
        return self.ticket.source == "ran"

    def cancel(self) -> bool:
        """Whether it will not run."""
        return self.ticket.cancel()


class ToolBox:
    """The six tools as a policy calls them.

    Example:
        ToolBox(toolset).run(ToolCall("zoom", {"media": 0, "box": [0, 0, 500, 500]}), workspace)
    """

    def __init__(self, toolset: Toolset) -> None:
        self.toolset, self.store = toolset, toolset.store
        self._requests: dict[str, Callable[[dict[str, Any], Workspace], Request]] = {
            "zoom": self._zoom,
            "segment": self._segment,
            "track": self._track,
            "read_text": self._read_text,
            "localize": self._localize,
            "properties": self._properties,
        }

    @property
    def degraded(self) -> tuple[str, ...]:
        """What runs on a second-best engine, one sentence each."""
        return tuple(f"{tool}: {reason}" for tool, reason in self.toolset.degraded().items())

    def run(self, call: ToolCall, workspace: Workspace) -> Observation:
        """Runs one call; a tool's refusal becomes an Observation with its message."""
        return self.submit(call, workspace).result()

    def submit(
        self,
        call: ToolCall,
        workspace: Workspace,
        *,
        deadline_s: float | None = None,
        speculative: bool = False,
    ) -> PendingCall:
        """The call in line with others; speculative ones run when nothing else waits.

        `deadline_s` seconds from now it must have started, or it is refused.
        """
        try:
            asked = workspace.original(call).arguments
            request = self._requests[call.operation](asked, workspace)
        except ToolError as error:
            return PendingCall(refused(error), no_answer)
        ticket = self.toolset.submit(
            call.operation,
            *request.arguments,
            deadline_s=deadline_s,
            speculative=speculative,
            **request.options,
        )
        return PendingCall(ticket, request.tell)

    def prepare(
        self, operation: str, media: Media, *, time_s: float | None = None
    ) -> Preparation | None:
        """Begins what the tool needs of a picture or frame whatever it is asked; None where there
        is nothing to begin. Runs when nothing else waits."""
        ticket = self.toolset.prepare(operation, media.id, time_s=time_s)
        return None if ticket is None else Preparation(operation, media.id, time_s, ticket)

    def add_media(self, path: Path) -> Media:
        """Stores an image or a video file; ToolInputError when it cannot be decoded."""
        if not path.is_file():
            raise ToolInputError(f"media: expected a file, got {path}")
        is_video = path.suffix.lower() in VIDEO_SUFFIXES
        info = self.store.add_video(path) if is_video else self.store.add_image(path)
        return self.media(info.id)

    def media(self, media_id: str) -> Media:
        info = self.store.info(media_id)
        return Media(
            id=info.id,
            kind=MediaKind(info.kind),
            width=info.width,
            height=info.height,
            num_frames=info.num_frames,
            duration_s=info.duration_s,
        )

    def image(self, media_id: str) -> np.ndarray:
        """RGB uint8 HWC, read-only."""
        return self.store.image(media_id)

    def frames(self, media_id: str, numbers: Sequence[int]) -> list[np.ndarray]:
        """A video's frames by number, RGB uint8 HWC, read-only."""
        times_s = self.store.index(media_id).times_s
        return self.store.frames(media_id, [times_s[number] for number in numbers])

    def _zoom(self, arguments: dict[str, Any], workspace: Workspace) -> Request:
        media, time_s = target(arguments, workspace)

        def tell(result: ZoomResult) -> Observation:
            crop = Crop(arguments["media"], result.box, time_s)
            content = {"media": workspace.name_crop(crop), "view": result.box}
            return observation(result, content, media=(self.media(result.media_id),))

        return Request((media.id, tuple(arguments["box"])), {"time_s": time_s}, tell)

    def _segment(self, arguments: dict[str, Any], workspace: Workspace) -> Request:
        media, time_s = target(arguments, workspace)
        keys = [key for key in ("point", "box") if key in arguments]
        options: dict[str, Any] = {key: tuple(arguments[key]) for key in keys}

        def tell(result: SegmentResult) -> Observation:
            mask = to_mask(result.mask, media=media, time_s=time_s)
            content = segment_content(result, mask=workspace.name_mask(mask))
            return observation(result, content, masks=(mask,))

        return Request((media.id,), {**options, "time_s": time_s}, tell)

    def _track(self, arguments: dict[str, Any], workspace: Workspace) -> Request:
        media = video(arguments, workspace)
        span = {"start_s": arguments["start"], "end_s": arguments["end"]}

        def tell(result: TrackResult) -> Observation:
            content: dict[str, Any] = {"track": track_rows(result)}
            masks = seen_masks(result, media=media)
            if masks:
                content["mask"] = workspace.name_mask(masks[-1])
            return observation(result, content, masks=masks)

        return Request((media.id, tuple(arguments["box"])), span, tell)

    def _read_text(self, arguments: dict[str, Any], workspace: Workspace) -> Request:
        media, time_s = target(arguments, workspace)

        def tell(result: ReadTextResult) -> Observation:
            return observation(result, text_content(result))

        return Request((media.id, optional_box(arguments)), {"time_s": time_s}, tell)

    def _localize(self, arguments: dict[str, Any], workspace: Workspace) -> Request:
        media = video(arguments, workspace)
        options = {
            "box": optional_box(arguments),
            "time_s": arguments.get("time"),
            "query": arguments.get("query"),
        }

        def tell(result: LocalizeResult) -> Observation:
            return observation(result, spans_content(result))

        return Request((media.id, arguments["event"]), options, tell)

    def _properties(self, arguments: dict[str, Any], workspace: Workspace) -> Request:
        mask = workspace.mask_at(arguments["mask"])
        rle = RleMask(size=list(mask.size), counts=mask.counts)

        def tell(result: PropertiesResult) -> Observation:
            return observation(result, properties_content(result))

        return Request((mask.media_id, rle), {"time_s": mask.time_s}, tell)


def open_tools(
    config: ToolConfig,
    *,
    embed_frames: FrameEmbedder | None = None,
    device: str = "cpu",
    threads: int = 1,
) -> ToolBox:
    """The tools on the engines the config names; embed_frames is the policy's vision tower."""
    return ToolBox(open_toolset(config, embedder=embed_frames, device=device, threads=threads))


VIDEO_SUFFIXES = frozenset({".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v"})


def target(arguments: dict[str, Any], workspace: Workspace) -> tuple[Media, float | None]:
    """The media a call names, and the time that a video needs and an image refuses."""
    media = workspace.media_at(arguments["media"])
    time_s = arguments.get("time")
    if media.kind is MediaKind.VIDEO and time_s is None:
        raise ToolInputError(f"time: expected seconds in 0..{media.duration_s:.2f}, got none")
    if media.kind is MediaKind.IMAGE and time_s is not None:
        raise ToolInputError(f"time: expected none for an image, got {time_s}")
    return media, time_s


def optional_box(arguments: dict[str, Any]) -> tuple[int, ...] | None:
    return tuple(arguments["box"]) if "box" in arguments else None


def video(arguments: dict[str, Any], workspace: Workspace) -> Media:
    media = workspace.media_at(arguments["media"])
    if media.kind is not MediaKind.VIDEO:
        raise ToolInputError(f"media: expected a video, got image {arguments['media']}")
    return media


def no_answer(result: Any) -> Observation:
    raise AssertionError(f"a refused call has no answer to tell, got {result}")
