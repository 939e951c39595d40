"""From a trajectory's tokens, as they come, to what a client gets: deltas of text and calls.

Streams and whole answers are made of the same deltas, so they say the same. `reasoning` is what
the policy says before a tag, in every turn; `content` is its answer. Only the end of a turn without
a tag tells that it is an answer: its text, streamed as reasoning, is then repeated as content.
A text cut short by a limit before any tag is content too.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from pixelis_fast.policy.tokenizer import Tokenizer
from pixelis_fast.serve.text_region import TextRegion
from pixelis_fast.turns import ANSWER_CLOSE, ANSWER_OPEN

CALL = re.compile(r'\s*\{"name":("[^"\\]*"),"arguments":(\{.*\})\}\s*', re.DOTALL)
BETWEEN_THOUGHTS = "\n\n"


@dataclass(frozen=True)
class ClientCall:
    """A call that the client runs."""

    id: str
    name: str
    arguments: str
    """Compact JSON, as generated."""


@dataclass(frozen=True)
class Delta:
    """What is new.

    Example:
        Delta(content="24", tokens=(31,))
    """

    reasoning: str = ""
    content: str = ""
    call: ClientCall | None = None
    tokens: tuple[int, ...] = ()
    """Numbers of the generated tokens that the content is made of."""

    def __bool__(self) -> bool:
        return bool(self.reasoning or self.content or self.call or self.tokens)


class Part(Enum):
    THOUGHT = "thought"
    ANSWER = "answer"
    CALL = "call"
    OVER = "over"


class Assembler:
    """One trajectory's deltas.

    Example:
        assembler = Assembler(tokenizer, stop=("\\n\\n",), hands_over=False)
        deltas = [*assembler.push(ids), *assembler.finish()]
    """

    def __init__(self, tokenizer: Tokenizer, *, stop: Sequence[str], hands_over: bool) -> None:
        self._tokenizer, self._hands_over = tokenizer, hands_over
        self._stop = tuple(text.encode() for text in stop)
        self._num_tokens = 0
        self.reasoning, self.content = "", ""
        self.calls: list[ClientCall] = []
        self.is_stopped = False
        """True once a stop string was generated: nothing after it counts."""
        self._open_turn()

    def push(self, ids: Sequence[int]) -> list[Delta]:
        """Generated tokens in order; returns what they add, without empty deltas."""
        deltas = []
        for token_id in ids:
            if not self.is_stopped:
                deltas += [self._note(delta) for delta in self._push(token_id)]
            self._num_tokens += 1
        return [delta for delta in deltas if delta]

    def finish(self) -> list[Delta]:
        """The trajectory is over: what was held back."""
        deltas = [self._note(delta) for delta in self._end_turn()]
        return [delta for delta in deltas if delta]

    def _open_turn(self) -> None:
        self._part = Part.THOUGHT
        self._region = TextRegion([ANSWER_OPEN, *self._stop])
        self._call = bytearray()

    def _note(self, delta: Delta) -> Delta:
        self.reasoning += delta.reasoning
        self.content += delta.content
        if delta.call is not None:
            self.calls.append(delta.call)
        return delta

    def _push(self, token_id: int) -> list[Delta]:
        special = self._tokenizer.special
        if token_id == special.im_end:
            deltas = self._end_turn()
            self._open_turn()
            return deltas
        if token_id == special.tool_call_open:
            thought = self._region.finish()
            self._part = Part.CALL
            return [self._thought(thought)]
        if token_id == special.tool_call_close:
            self._part = Part.OVER
            return [Delta(call=self._client_call())] if self._hands_over else []
        data = self._tokenizer.token_bytes(token_id)
        if self._part is Part.CALL:
            self._call += data
        return self._push_text(data) if self._part in (Part.THOUGHT, Part.ANSWER) else []

    def _push_text(self, data: bytes) -> list[Delta]:
        text = self._region.push(data, self._num_tokens)
        if self._part is Part.ANSWER:
            deltas = [self._answer(text)]
            self._part = Part.OVER if self._region.marker else Part.ANSWER
        else:
            deltas = [self._thought(text)]
            if self._region.marker == ANSWER_OPEN:
                deltas += self._open_answer(self._region.rest)
        if self._region.marker in self._stop:
            self.is_stopped = True
        return deltas

    def _open_answer(self, rest: bytes) -> list[Delta]:
        """`rest` are bytes of the token that ended the tag."""
        self._part = Part.ANSWER
        self._region = TextRegion([ANSWER_CLOSE, *self._stop])
        return self._push_text(rest) if rest else []

    def _end_turn(self) -> list[Delta]:
        """The text of a turn without a tag was its answer."""
        part, self._part = self._part, Part.OVER
        if part is Part.ANSWER:
            return [self._answer(self._region.finish())]
        if part is not Part.THOUGHT:
            return []
        thought = self._thought(self._region.finish())
        tokens = tuple(self._region.take_tokens())
        return [thought, Delta(content=self._region.text, tokens=tokens)]

    def _answer(self, text: str) -> Delta:
        return Delta(content=text, tokens=tuple(self._region.take_tokens()))

    def _thought(self, text: str) -> Delta:
        starts = bool(text) and self._region.text == text
        return Delta(reasoning=(BETWEEN_THOUGHTS if starts and self.reasoning else "") + text)

    def _client_call(self) -> ClientCall:
        body = bytes(self._call).decode("utf-8", "replace")
        match = CALL.fullmatch(body)
        # The grammar of a request that hands calls over lets nothing else pass.
        assert match is not None, f"expected one compact call, got {body[:200]!r}"
        return ClientCall(f"call_{secrets.token_hex(12)}", json.loads(match[1]), match[2])
