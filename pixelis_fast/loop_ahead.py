"""Work begun before it is asked for: calls whose arguments are complete, pictures for tools.

A call is begun once nothing more can be said in it, while the policy still writes its closing
tokens; it is used when the turn ends with exactly this call and cancelled when it does not. What a
tool needs of a picture whatever it is asked (an embedding, the places of text) is begun when the
picture arrives and when the turn names the tool. All of it is counted. Tools are pure, so nothing
begun in vain changes a result.
"""

from __future__ import annotations

import re
from typing import Any

from pixelis_fast.loop_run import Guess, Run
from pixelis_fast.loop_types import LoopConfig, LoopStats
from pixelis_fast.schemas import TOOL_SCHEMAS, CallError, argument_schema, parse_call
from pixelis_fast.tools import PendingCall, Preparation, ToolBox, ToolError
from pixelis_fast.types import Media, MediaKind, ToolCall

AT_ARRIVAL = ("segment", "read_text")
PREPARED = frozenset({"segment", "track", "read_text"})
NAME = re.compile(r'\s*\{\s*"name"\s*:\s*"(\w+)"')
MEDIA = re.compile(r'"media"\s*:\s*(\d+)\s*[,}]')
TIMES = {
    "segment": re.compile(r'"time"\s*:\s*(\d+(?:\.\d+)?)\s*[,}]'),
    "read_text": re.compile(r'"time"\s*:\s*(\d+(?:\.\d+)?)\s*[,}]'),
    "track": re.compile(r'"start"\s*:\s*(\d+(?:\.\d+)?)\s*[,}]'),
}
"""Where a call says which frame of a video it looks at first."""


class Ahead:
    """Begins, claims and cancels; called by the loop's thread."""

    def __init__(self, tools: ToolBox, config: LoopConfig, stats: LoopStats) -> None:
        self._tools, self.config, self._stats = tools, config, stats

    def arrived(self, run: Run) -> None:
        """The run's pictures are here. A clip's frames are prepared when a call names one."""
        if not self.config.prefetch_arrivals or run.request.hands_over_calls:
            return
        for media in dict.fromkeys(run.workspace.media):
            if media.kind is MediaKind.IMAGE:
                found = [self._prepare(operation, media, None) for operation in AT_ARRIVAL]
                run.arrived += [each for each in found if each is not None]

    def look(self, run: Run) -> None:
        """New tokens came: they may name a tool, or complete a call."""
        text = run.parser.open_call
        if text is None or run.request.hands_over_calls:
            return
        if self.config.prefetch:
            self._look_for_name(run, text)
        if self.config.early_start:
            self._look_for_call(run, text)

    def claim(self, run: Run, call: ToolCall) -> PendingCall | None:
        """The turn ended with this call: the one begun for it, if it was."""
        self._settle_preparations(run, call)
        if run.guess is None or run.guess.call != call:
            self._drop_guess(run)
            return None
        guess, run.guess = run.guess, None
        self._stats.early_used += 1
        if not guess.pending.done():
            # Now somebody asks: an equal call joins the work and moves it up in the line.
            self._tools.submit(call, run.workspace)
        return guess.pending

    def refuse(self, run: Run) -> None:
        """The turn ended without a call."""
        self._drop_guess(run)
        self._drop_named(run)

    def drop(self, run: Run) -> None:
        """The run is over."""
        self.refuse(run)
        for preparation in run.arrived:
            self._stats.prefetch_cancelled += not preparation.is_used and preparation.cancel()
        run.arrived.clear()

    def _look_for_call(self, run: Run, text: str) -> None:
        call = complete_call(text, run.workspace.media)
        if call is not None:
            call = run.workspace.original(call)
        if call is None or (run.guess is not None and run.guess.call == call):
            return
        self._drop_guess(run)
        pending = self._tools.submit(call, run.workspace, speculative=True)
        run.guess = Guess(call, pending)
        self._stats.early_started += 1

    def _look_for_name(self, run: Run, text: str) -> None:
        found = NAME.match(text)
        if run.named is not None or found is None or found[1] not in PREPARED:
            return
        media = named_media(text, run.workspace.media)
        if media is None or any(is_for(each, found[1], media) for each in run.arrived):
            return
        time_s = None
        if media.kind is MediaKind.VIDEO:
            frame = TIMES[found[1]].search(text)
            if frame is None:
                return
            time_s = float(frame[1])
        run.named = self._prepare(found[1], media, time_s)

    def _prepare(self, operation: str, media: Media, time_s: float | None) -> Preparation | None:
        try:
            preparation = self._tools.prepare(operation, media, time_s=time_s)
        except ToolError:
            # A time beyond the clip, say: the call itself will tell the policy.
            return None
        self._stats.prefetches += preparation is not None and preparation.is_new
        return preparation

    def _settle_preparations(self, run: Run, call: ToolCall) -> None:
        """Marks what the call uses, cancels what the turn named and then did not call."""
        media = media_of(call, run.workspace.media)
        for each in (*run.arrived, *filter(None, [run.named])):
            if media is not None and is_for(each, call.operation, media) and not each.is_used:
                each.is_used = True
                self._stats.prefetch_used += each.is_new
        self._drop_named(run)

    def _drop_named(self, run: Run) -> None:
        if run.named is not None and not run.named.is_used:
            self._stats.prefetch_cancelled += run.named.cancel()
        run.named = None

    def _drop_guess(self, run: Run) -> None:
        if run.guess is not None:
            run.guess.pending.cancel()
            self._stats.early_cancelled += 1
        run.guess = None


def complete_call(text: str, media: tuple[Media, ...]) -> ToolCall | None:
    """The call that this JSON is or becomes with its closing braces alone; None when more may come.

    More may come after a number (another digit), and after a value while an argument that this
    media takes is left.
    """
    closed = closing(text)
    if closed is None:
        return None
    try:
        call = parse_call(closed)
    except CallError:
        return None
    is_closed = text.rstrip().endswith("}")
    return call if is_closed or not open_arguments(call, media) else None


def closing(text: str) -> str | None:
    """The text with its open braces closed; None inside a string, a list, a number or a key."""
    text = text.rstrip()
    if not text.endswith(("]", '"', "}")):
        return None
    opened, in_string, escaped = [], False, False
    for character in text:
        if in_string:
            in_string, escaped = (
                escaped or character != '"',
                not escaped and character == "\\",
            )
        elif character == '"':
            in_string = True
        elif character in "{[":
            opened.append(character)
        elif character in "}]":
            if not opened:
                return None
            opened.pop()
    return None if in_string or "[" in opened else text + "}" * len(opened)


def open_arguments(call: ToolCall, media: tuple[Media, ...]) -> set[str]:
    """What may still be said: the schema's later arguments but those that this media refuses."""
    schema: dict[str, Any] = argument_schema(TOOL_SCHEMAS[call.operation])
    names = list(schema["properties"])
    last = max(names.index(name) for name in call.arguments)
    later = set(names[last + 1 :])
    choice = {key for branch in schema.get("oneOf", []) for key in branch["required"]}
    if choice & call.arguments.keys():
        later -= choice
    index = call.arguments.get("media")
    if index is not None and index < len(media) and media[index].kind is MediaKind.IMAGE:
        later.discard("time")
    return later


def named_media(text: str, media: tuple[Media, ...]) -> Media | None:
    """The media a call names; with one alone there is nothing to wait for."""
    found = MEDIA.search(text)
    if found is None:
        return media[0] if len(media) == 1 else None
    return media[int(found[1])] if int(found[1]) < len(media) else None


def media_of(call: ToolCall, media: tuple[Media, ...]) -> Media | None:
    index = call.arguments.get("media")
    return media[index] if index is not None and index < len(media) else None


def is_for(preparation: Preparation, operation: str, media: Media) -> bool:
    return (preparation.operation, preparation.media_id) == (operation, media.id)
