"""A client's messages: roles, texts, media URLs and calls, checked for form and order.

Knows neither bytes nor the store: media are URLs with the path of their field.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pixelis_fast.conversation import Message, Part, Speaker
from pixelis_fast.serve.config import ServeConfig
from pixelis_fast.serve.errors import ApiError
from pixelis_fast.serve.fields import Fields, expected
from pixelis_fast.serve.media import MediaUrl
from pixelis_fast.types import MediaKind, ToolCall

MAX_MESSAGES = 1_000
MAX_PARTS = 256
"""Of one message."""
MAX_CALLS = 16
"""Of one message."""
MEDIA_PARTS = {"image_url": MediaKind.IMAGE, "video_url": MediaKind.VIDEO}
SYSTEM_ROLES = ("system", "developer")
ECHOED: dict[str, tuple[Any, ...]] = {
    "refusal": (),
    "audio": (),
    "function_call": (),
    "annotations": ([],),
}
"""What clients send back with an assistant's message, and the values that say nothing."""


@dataclass(frozen=True)
class ClientMessages:
    """What was said so far.

    Example:
        ClientMessages("", (Message(Speaker.USER, (0, "How many?")),), (MediaUrl(…),))
    """

    system: str
    messages: tuple[Message, ...]
    media: tuple[MediaUrl, ...]
    """In order; messages name them by index."""

    @property
    def question(self) -> str:
        """The last text of a user, for people who read traces."""
        users = [m for m in self.messages if m.speaker is Speaker.USER]
        return "\n".join(part for part in users[-1].parts if isinstance(part, str))


def read_messages(fields: Fields, serve: ServeConfig) -> ClientMessages:
    """From a request's fields; ApiError names the message at fault."""
    reader = _Reader(serve)
    rows = fields.rows("messages", most=MAX_MESSAGES)
    for index, row in enumerate(rows):
        reader.read(row, f"messages[{index}]")
    return reader.finish()


class _Reader:
    """Goes through the messages in order."""

    def __init__(self, serve: ServeConfig) -> None:
        self._serve = serve
        self._system: list[str] = []
        self._messages: list[Message] = []
        self._media: list[MediaUrl] = []
        self._num_chars = 0
        self._open_calls: set[str] = set()
        """Ids of the last assistant's calls that have no answer yet."""

    def read(self, row: Any, path: str) -> None:
        fields = Fields(row, path, prefix=f"{path}.")
        roles = (*SYSTEM_ROLES, "user", "assistant", "tool")
        role = fields.choice("role", None, roles)
        if role is None:
            raise expected(f"{path}.role", " or ".join(roles), None)
        fields.only("name")
        if role in SYSTEM_ROLES:
            self._read_system(fields, path)
        elif role == "user":
            self._read_user(fields, path)
        elif role == "assistant":
            self._read_assistant(fields, path)
        else:
            self._read_tool(fields, path)
        fields.finish()

    def finish(self) -> ClientMessages:
        if not any(message.speaker is Speaker.USER for message in self._messages):
            raise ApiError("messages: expected one of a user, got none", param="messages")
        if self._messages[-1].speaker is Speaker.ASSISTANT:
            raise ApiError(
                "messages: expected a user's or a tool's last, got an assistant's", param="messages"
            )
        self._check_answered("messages")
        return ClientMessages("\n\n".join(self._system), tuple(self._messages), tuple(self._media))

    def _read_system(self, fields: Fields, path: str) -> None:
        if self._messages:
            raise ApiError(f"{path}: expected system messages before all others", param=path)
        parts = self._parts(fields.take("content"), f"{path}.content", shows_media=False)
        self._system.append("\n".join(str(part) for part in parts))

    def _read_user(self, fields: Fields, path: str) -> None:
        self._check_answered(path)
        parts = self._parts(fields.take("content"), f"{path}.content", shows_media=True)
        self._messages.append(Message(Speaker.USER, parts))

    def _read_tool(self, fields: Fields, path: str) -> None:
        call_id = fields.required_text("tool_call_id")
        if call_id not in self._open_calls:
            what = "the id of a call of the assistant before it, each once"
            raise expected(f"{path}.tool_call_id", what, call_id)
        self._open_calls.remove(call_id)
        parts = self._parts(fields.take("content"), f"{path}.content", shows_media=True)
        self._messages.append(Message(Speaker.TOOL, parts))

    def _read_assistant(self, fields: Fields, path: str) -> None:
        """As this server answered it; its trace lies beside the message, not in it."""
        self._check_answered(path)
        for key, allowed in ECHOED.items():
            fields.only(key, *allowed)
        thought = self._text(fields.text("reasoning_content", ""), f"{path}.reasoning_content")
        calls = self._calls(fields, path)
        content = fields.take("content") or ""
        if not content and not calls:
            raise expected(f"{path}.content", "a text, or tool_calls", content)
        parts = self._parts(content, f"{path}.content", shows_media=False) if content else ()
        self._messages.append(Message(Speaker.ASSISTANT, parts, calls, thought))

    def _calls(self, fields: Fields, path: str) -> tuple[ToolCall, ...]:
        rows = fields.rows("tool_calls", most=MAX_CALLS)
        return tuple(self._call(row, f"{path}.tool_calls[{i}]") for i, row in enumerate(rows))

    def _call(self, row: Any, path: str) -> ToolCall:
        fields = Fields(row, path, prefix=f"{path}.")
        # The index comes from clients that keep the deltas of a stream.
        fields.integer("index", 0, low=0, high=MAX_CALLS)
        fields.choice("type", "function", ["function"])
        call_id = fields.required_text("id")
        function = fields.fields("function")
        name = function.required_text("name")
        arguments = self._text(function.text("arguments", "{}"), f"{path}.function.arguments")
        function.finish()
        fields.finish()
        if call_id in self._open_calls:
            raise expected(f"{path}.id", "an id of its own", call_id)
        self._open_calls.add(call_id)
        return ToolCall(name, _object(arguments, f"{path}.function.arguments"))

    def _parts(self, content: Any, path: str, *, shows_media: bool) -> tuple[Part, ...]:
        if isinstance(content, str):
            return (self._text(content, path),)
        if not isinstance(content, list) or not 1 <= len(content) <= MAX_PARTS:
            raise expected(path, f"a string or a list of 1 to {MAX_PARTS} parts", content)
        return tuple(
            self._part(row, f"{path}[{i}]", shows_media=shows_media)
            for i, row in enumerate(content)
        )

    def _part(self, row: Any, path: str, *, shows_media: bool) -> Part:
        fields = Fields(row, path, prefix=f"{path}.")
        kinds = ("text", *MEDIA_PARTS) if shows_media else ("text",)
        kind = fields.choice("type", None, kinds)
        if kind is None:
            raise expected(f"{path}.type", " or ".join(kinds), None)
        if kind == "text":
            part: Part = self._text(fields.required_text("text"), path)
        else:
            part = self._media_part(fields.fields(kind), MEDIA_PARTS[kind], path)
        fields.finish()
        return part

    def _media_part(self, fields: Fields, kind: MediaKind, path: str) -> int:
        url = fields.required_text("url")
        # The policy has one size for every picture; low and high would ask for another.
        fields.only("detail", "auto")
        fields.finish()
        if len(self._media) >= self._serve.media.max_media:
            raise ApiError(
                f"{path}: expected at most {self._serve.media.max_media} images and videos, "
                "got more",
                param=path,
            )
        self._media.append(MediaUrl(url, kind, path))
        return len(self._media) - 1

    def _text(self, text: str | None, path: str) -> str:
        """Counts towards the limit on all texts together."""
        self._num_chars += len(text or "")
        if self._num_chars > self._serve.max_text_chars:
            raise ApiError(
                f"{path}: expected at most {self._serve.max_text_chars} characters in all "
                "messages, got more",
                status=413,
                param=path,
            )
        if any("\ud800" <= character <= "\udfff" for character in text or ""):
            raise ApiError(f"{path}: expected Unicode text, got half of a surrogate pair")
        return text or ""

    def _check_answered(self, path: str) -> None:
        if self._open_calls:
            missing = ", ".join(sorted(self._open_calls))
            raise ApiError(f"{path}: expected a tool's message for each call first: {missing}")


def _object(arguments: str, path: str) -> dict[str, Any]:
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError) as error:
        raise ApiError(f"{path}: expected a JSON object, got {error}", param=path) from error
    if not isinstance(value, dict):
        raise expected(path, "a JSON object", value)
    return value
