"""A sample of several messages: what a client of the server sends, as the prompt takes it.

Earlier turns are written as the policy writes its own: <answer>text</answer>, or text and then
<tool_call> with one compact JSON object. Knows no tokens and no HTTP.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from pixelis_fast.types import MediaKind, Sample, ToolCall

Part = str | int
"""Text, or the index of one of the sample's media."""
TemplateMessage = dict[str, Any]


class Speaker(Enum):
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


@dataclass(frozen=True)
class Message:
    """One message of a conversation.

    Example:
        Message(Speaker.USER, (0, "How many coins?"))
        Message(Speaker.ASSISTANT, ("I look closer.",), (ToolCall("zoom", {"media": 0}),))
    """

    speaker: Speaker
    parts: tuple[Part, ...] = ()
    calls: tuple[ToolCall, ...] = ()
    """An assistant's; its parts are then what it said before them, otherwise its answer."""
    thought: str = ""
    """An assistant's, before its answer."""


@dataclass(frozen=True)
class Conversation(Sample):
    """A sample whose prompt is a whole conversation; `question` is its last text.

    Example:
        messages = (Message(Speaker.USER, (0, "How many coins?")),)
        Conversation("c1", (media,), "How many coins?", messages=messages)
    """

    messages: tuple[Message, ...] = ()
    system: str = ""
    """Added to the agent's own system prompt."""
    tools: Mapping[str, dict[str, Any]] | None = None
    """What the prompt offers: None is the agent's own tools, {} none."""


class Contents:
    """Texts of a conversation, each behind a marker that the template can only copy.

    Example:
        contents = Contents()
        contents.add("How many coins?")  # "Content0Marker7F3A"
    """

    def __init__(self) -> None:
        self.by_marker: dict[str, str] = {}

    def add(self, text: str) -> str:
        marker = f"Content{len(self.by_marker)}Marker7F3A"
        self.by_marker[marker] = text
        return marker


def template_messages(
    conversation: Conversation, *, system: str
) -> tuple[list[TemplateMessage], dict[str, str]]:
    """The messages for a chat template with markers for texts, and the text of each marker."""
    contents = Contents()
    extra = f"\n\n{contents.add(conversation.system)}" if conversation.system else ""
    messages: list[TemplateMessage] = [{"role": "system", "content": system + extra}]
    kinds = [media.kind for media in conversation.media]
    for message in conversation.messages:
        if message.speaker is Speaker.ASSISTANT:
            content: Any = _said(message, contents)
        else:
            content = _shown(message, contents, kinds)
        messages.append({"role": message.speaker.value, "content": content})
    return messages, contents.by_marker


def call_json(call: ToolCall) -> str:
    """The compact form in which the policy writes a call."""
    row = {"name": call.operation, "arguments": call.arguments}
    return json.dumps(row, ensure_ascii=False, separators=(",", ":"))


def _said(message: Message, contents: Contents) -> str:
    """An assistant's turn; only the tags of its calls are structure."""
    text = "\n".join(str(part) for part in message.parts)
    if not message.calls:
        return contents.add(f"{message.thought}<answer>{text}</answer>")
    before = message.thought + text
    calls = [
        f"<tool_call>{contents.add(f'{chr(10)}{call_json(call)}{chr(10)}')}</tool_call>"
        for call in message.calls
    ]
    return "\n".join([contents.add(before), *calls] if before else calls)


def _shown(
    message: Message, contents: Contents, kinds: list[MediaKind]
) -> str | list[TemplateMessage]:
    """What a user or a tool shows; text alone stays a string: some templates take nothing else."""
    parts: list[TemplateMessage] = []
    for part in message.parts:
        if isinstance(part, str):
            # Two texts in a row would run into each other.
            gap = "\n" if parts and "marker" in parts[-1] else ""
            parts.append({"type": "text", "text": gap + contents.add(part), "marker": True})
        else:
            parts += _media(part, kinds)
    texts = [part["text"] for part in parts if part["type"] == "text"]
    if len(texts) == len(parts):
        return "".join(texts)
    return [{key: part[key] for key in part if key != "marker"} for part in parts]


def _media(index: int, kinds: list[MediaKind]) -> list[TemplateMessage]:
    """Several media are numbered, because calls name them by index."""
    media = {"type": kinds[index].value}
    if len(kinds) < 2:
        return [media]
    return [{"type": "text", "text": f"media {index}: "}, media, {"type": "text", "text": "\n"}]
