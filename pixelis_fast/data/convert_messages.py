"""Chat messages with <tool_call> tags -> turns and an answer.

Both public formats speak this way: an assistant's text is its thought, then one JSON call in tags
or an answer in <answer> tags or \\boxed{}; the reply shows the pictures that the call made.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pixelis_fast.data.convert_types import UnsupportedError
from pixelis_fast.data.convert_views import WHOLE, Size, View
from pixelis_fast.data.cota import CotaTurn, checked
from pixelis_fast.types import ToolCall

TOOL_CALL = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)
ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
TAGS = re.compile(r"</?(?:think|tool_call|tool_response|answer)>")
CROPS = ("crop_image", "crop_image_normalized", "image_zoom_in_tool", "zoom_in")
FRAMES = "select_frames"
CALL_KEYS = ("name", "arguments")
NUM_FRAMES = 16
"""Frames that a video is shown as, evenly apart from the first to the last."""


@dataclass(frozen=True)
class Message:
    """One message, its content taken apart.

    Example:
        Message("assistant", "I look closer. <tool_call>…</tool_call>", ())
    """

    role: str
    text: str
    pictures: tuple[Any, ...] = ()
    """As they stand in the content: a path, bytes, or a list of a video's frames."""


@dataclass(frozen=True)
class Chain:
    """What a conversation comes to."""

    turns: tuple[CotaTurn, ...]
    answer: str | None
    answer_thought: str


def read_message(message: Any) -> Message:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise ValueError(f"message: expected an object with a role, got {message!r}")
    content = message.get("content")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise ValueError(f"content: expected text or a list of parts, got {content!r}")
    texts = [part["text"] for part in parts if isinstance(part.get("text"), str)]
    pictures = [part[kind] for part in parts for kind in ("image", "video") if part.get(kind)]
    return Message(message["role"], "\n".join(texts), tuple(pictures))


class ChainReader:
    """Follows a conversation: which pictures were shown, which calls were made of them.

    Example:
        ChainReader([View(0, (640, 480))], first_index=1).read(messages)
    """

    def __init__(
        self, originals: Sequence[View], *, first_index: int, frames: Sequence[View] = ()
    ) -> None:
        """`first_index`: the number by which calls name the first picture; `frames`: what
        select_frames selects from."""
        self._views, self._first = list(originals), first_index
        self._frames = frames
        self._fresh: list[int] = []
        """Views whose picture has not been shown yet."""

    def read(self, messages: Sequence[Message], sizes: Sequence[Sequence[Size | None]]) -> Chain:
        """`sizes`: of the crops that each message shows, in pixels; None where nobody knows, which
        makes them as large as the pixels they were cut from."""
        turns: list[CotaTurn] = []
        answer, thought = None, ""
        for message, shown in zip(messages, sizes, strict=True):
            if message.role == "assistant":
                said = list(self._turns(message.text))
                turns += said
                if not said:
                    thought, answer = split_answer(message.text)
            else:
                self._show(shown)
        return Chain(tuple(turns), answer, thought)

    def _show(self, sizes: Sequence[Size | None]) -> None:
        for place, size in zip(self._fresh, sizes, strict=False):
            if size is not None:
                self._views[place] = replace(self._views[place], size=size)
        self._fresh = []

    def _turns(self, text: str) -> Iterator[CotaTurn]:
        thought = plain(text.partition("<tool_call>")[0])
        for body in TOOL_CALL.findall(text):
            for call in self._calls(body):
                yield CotaTurn(thought, checked(call))
                thought = ""

    def _calls(self, body: str) -> list[ToolCall]:
        try:
            call = json.loads(body)
        except json.JSONDecodeError as error:
            raise UnsupportedError(f"call: expected JSON, got {body!r}") from error
        name, arguments = (call.get(k) if isinstance(call, dict) else None for k in CALL_KEYS)
        if not isinstance(name, str) or not isinstance(arguments, dict):
            raise UnsupportedError(f"call: expected a name and arguments, got {body!r}")
        if name in CROPS:
            return [self._crop(name, arguments)]
        if name == FRAMES:
            numbers = arguments.get("target_frames")
            if not isinstance(numbers, list) or not numbers:
                raise UnsupportedError(f"target_frames: expected a list, got {numbers!r}")
            return [look_at(self._frame(number)) for number in numbers]
        raise UnsupportedError(f"operation: expected {', '.join((*CROPS, FRAMES))}, got {name}")

    def _crop(self, name: str, arguments: dict[str, Any]) -> ToolCall:
        box = arguments.get("bbox_2d", arguments.get("bbox"))
        if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
            raise UnsupportedError(f"box: expected four numbers, got {box!r}")
        # The tools themselves tell shares from pixels by their size.
        shares = name.endswith("_normalized") or max(box) <= 1
        view = self._view(arguments.get("target_image")).part(box, pixels=not shares)
        self._fresh.append(len(self._views))
        self._views.append(view)
        return look_at(view)

    def _view(self, named: Any) -> View:
        place = 0 if named is None else named - self._first if is_number(named) else -1
        if not 0 <= place < len(self._views):
            last = self._first + len(self._views) - 1
            raise UnsupportedError(f"target_image: expected {self._first} to {last}, got {named!r}")
        return self._views[int(place)]

    def _frame(self, number: Any) -> View:
        if not self._frames:
            raise UnsupportedError(f"{FRAMES}: expected a video in the question, got none")
        if not isinstance(number, int) or not 1 <= number <= len(self._frames):
            raise UnsupportedError(
                f"target_frames: expected 1 to {len(self._frames)}, got {number!r}"
            )
        view = self._frames[number - 1]
        self._views.append(view)
        return view


def is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def look_at(view: View) -> ToolCall:
    timed = {} if view.time_s is None else {"time": view.time_s}
    return ToolCall("zoom", {"media": view.media, "box": list(view.box), **timed})


def video_frames(media: int, size: Size, last_frame_s: float) -> list[View]:
    """The frames of a video as the formats number them, from 1."""
    times = [last_frame_s * number / (NUM_FRAMES - 1) for number in range(NUM_FRAMES)]
    return [View(media, size, WHOLE, round(time_s, 3)) for time_s in times]


def split_answer(text: str) -> tuple[str, str | None]:
    """What was said before the answer, and the answer; the last \\boxed{} or <answer> counts."""
    tagged = [*ANSWER.finditer(text)]
    if tagged:
        return plain(text[: tagged[-1].start()]), tagged[-1].group(1).strip() or None
    start = text.rfind("\\boxed{")
    if start < 0:
        return plain(text), None
    return plain(text[:start]), braced(text[start + len("\\boxed") :])


def braced(text: str) -> str | None:
    """The inside of the braces that the text begins with; None where they do not close."""
    depth = 0
    for place, character in enumerate(text):
        depth += (character == "{") - (character == "}")
        if not depth:
            return text[1:place].strip() or None
    return None


def plain(text: str) -> str:
    """Without the tags that are structure, and without blanks at the ends."""
    return TAGS.sub("", text).strip()
