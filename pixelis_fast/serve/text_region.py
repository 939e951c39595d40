"""Bytes of one part of a turn, as text piece by piece.

The pieces joined are the whole text stripped, however the bytes were cut: bytes that may become a
marker, half a character, or space at the end are held back until it is known what they are.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextRegion:
    """One thought or one answer.

    Example:
        region = TextRegion([b"</answer>"])
        region.push(b" 24</ans", 0)  # "24"
        region.push(b"wer>", 1)      # "", and region.marker is b"</answer>"
    """

    def __init__(self, markers: Sequence[bytes]) -> None:
        self._markers = tuple(markers)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = b""
        self._num_passed = 0
        """Bytes before the held ones."""
        self._space = ""
        self._starts: list[tuple[int, int]] = []
        """(first byte, number) of tokens that were not taken yet."""
        self.text = ""
        """All pieces so far."""
        self.marker: bytes | None = None
        """The marker that ended the region."""
        self.rest = b""
        """What came after the marker."""

    def push(self, data: bytes, number: int) -> str:
        """The next bytes, of token `number`; returns the text that is sure by now."""
        if self.marker is not None:
            return ""
        self._starts.append((self._num_passed + len(self._held), number))
        self._held += data
        end, self.marker = self._first_marker()
        if self.marker is not None:
            self.rest = self._held[end + len(self.marker) :]
            return self._pass(end, final=True)
        return self._pass(len(self._held) - self._num_held_back(), final=False)

    def finish(self) -> str:
        """The region is over without a marker."""
        return "" if self.marker is not None else self._pass(len(self._held), final=True)

    def take_tokens(self) -> list[int]:
        """Numbers of the tokens that begin in the text passed on, each once."""
        taken = [number for start, number in self._starts if start < self._num_passed]
        self._starts = [each for each in self._starts if each[0] >= self._num_passed]
        return taken

    def _first_marker(self) -> tuple[int, bytes | None]:
        found = [(at, m) for m in self._markers if (at := self._held.find(m)) >= 0]
        return min(found, key=lambda each: each[0], default=(len(self._held), None))

    def _num_held_back(self) -> int:
        """Bytes at the end that begin a marker."""
        longest = 0
        for marker in self._markers:
            for size in range(min(len(marker) - 1, len(self._held)), longest, -1):
                if self._held.endswith(marker[:size]):
                    longest = size
                    break
        return longest

    def _pass(self, end: int, *, final: bool) -> str:
        text = self._space + self._decoder.decode(self._held[:end], final)
        self._num_passed, self._held = self._num_passed + end, self._held[end:]
        if not self.text:
            text = text.lstrip()
        body = text.rstrip()
        self._space = text[len(body) :] if body or self.text else ""
        self.text += body
        return body
