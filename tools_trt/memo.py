"""Results kept by what decides them: tool, arguments, pixels and engine.

A key is built from a call in one form: defaults filled in, lists as tuples, a time as the frame it
names. So two calls share a key only where their results are equal bit for bit, and a kept result
equals a fresh one but for its times. Errors are not kept: bad input is refused before an engine
runs, and what failed in an engine may not fail again. Knows no scheduler.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pixelis_fast.tools_trt.pixels.tiers import TierStore
from pixelis_fast.tools_trt.results import StageMs, ToolInputError, ToolResult

Tool = Callable[..., ToolResult]
Subject = Callable[[str, "float | None"], Hashable]
"""(media id, seconds) -> what stands for the pixels that the tool looks at."""

EMPTY: Hashable = ()


class Remembered:
    """A tool whose results are kept.

    Example:
        read_text = Remembered("read_text", ReadText(store), memo, subject=store.pixels_id,
                               fingerprint=lambda: "openvino:pp-ocrv6-small")
        assert read_text(page.id) == read_text(page.id, None)
    """

    def __init__(
        self,
        name: str,
        tool: Tool,
        memo: TierStore,
        *,
        subject: Subject | None,
        fingerprint: Callable[[], str],
    ) -> None:
        self.name, self.tool, self.fingerprint = name, tool, fingerprint
        self._memo, self._subject = memo, subject
        self._signature = inspect.signature(tool)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """The kept result with its times at zero, or a fresh one."""
        key = self.key(*arguments, **options)
        found = self._memo.get(key)
        if found is not None:
            return recalled(found)
        result = self.tool(*arguments, **options)
        self._memo.put(key, result)
        return result

    def key(self, *arguments: Any, **options: Any) -> Hashable | None:
        """None for a call that no key can name: the tool itself says what is wrong with it."""
        bound = self._signature.bind(*arguments, **options)
        bound.apply_defaults()
        values = dict(bound.arguments)
        try:
            subject = self._subject_of(values)
            return self.name, subject, canonical(values), self.fingerprint()
        except ToolInputError:
            return None

    def _subject_of(self, values: dict[str, Any]) -> Hashable:
        if self._subject is None:
            return EMPTY
        return self._subject(values.pop("media_id"), values.pop("time_s"))


def recalled(result: ToolResult) -> ToolResult:
    """A kept result as an answer: none of its stages ran again."""
    return replace(result, stage_ms=StageMs())


def canonical(value: Any) -> Hashable:
    """Nested lists, dictionaries and numbers in one hashable form; equal means interchangeable."""
    if isinstance(value, Mapping):
        return tuple((key, canonical(value[key])) for key in sorted(value, key=str))
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return tuple(canonical(part) for part in value)
    if isinstance(value, np.generic):
        return canonical(value.item())
    if value is None or isinstance(value, (str, bytes, int, float)):
        return value
    raise ToolInputError(f"arguments: expected numbers, text and lists, got {type(value).__name__}")
