"""From a turn's token ids to its roles, and its call or answer.

A turn is free thought, then <tool_call>\\n{...}\\n</tool_call> or <answer>text</answer>, then
<|im_end|>; a turn with neither is an answer as a whole. Only the special tokens open and close a
call: "<tool_call>" spelled with ordinary tokens is text.

Roles are decided on bytes, then given to tokens. A token that straddles a boundary takes the role
of its first byte. ARGUMENT is the value of "arguments", braces included; OPERATION is the rest of
the call, its tags and <|im_end|> included; ANSWER is the answer with its tags and <|im_end|>.

Any ids give a Turn: what is wrong with them is its `error`, one sentence for the policy.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pixelis_fast.policy.tokenizer import Tokenizer
from pixelis_fast.schemas import TOOL_SCHEMAS, CallError, parse_call
from pixelis_fast.types import TokenRole, ToolCall

CALL_OPEN, CALL_CLOSE = b"<tool_call>", b"</tool_call>"
ANSWER_OPEN, ANSWER_CLOSE = b"<answer>", b"</answer>"
ARGUMENTS_KEY = re.compile(rb'"arguments"\s*:\s*')


@dataclass(frozen=True)
class Turn:
    """One parsed turn; exactly one of call, answer and error is not None.

    Example:
        Turn(roles=[...], thought="I zoom in.", call=ToolCall("zoom", {...}))
    """

    roles: list[TokenRole]
    """One per token pushed, <|im_end|> included."""
    thought: str
    """The text before the call or answer, stripped."""
    call: ToolCall | None = None
    answer: str | None = None
    error: str | None = None


class TurnParser:
    """Takes a turn's tokens one by one.

    Example:
        parser = TurnParser(tokenizer)
        for token_id in ids:
            parser.push(token_id)
        turn = parser.finish()
    """

    def __init__(
        self, tokenizer: Tokenizer, schemas: Mapping[str, dict[str, Any]] = TOOL_SCHEMAS
    ) -> None:
        self._tokenizer = tokenizer
        self._schemas = schemas
        self._ids: list[int] = []
        self._starts: list[int] = []
        self._bytes = bytearray()
        self._call_start: int | None = None
        """First byte after <tool_call>."""
        self._call_end: int | None = None
        """First byte of </tool_call>."""
        self._end: int | None = None
        """First byte of <|im_end|>."""
        self._error: str | None = None

    @property
    def is_done(self) -> bool:
        """True once <|im_end|> was pushed."""
        return self._end is not None

    @property
    def text(self) -> str:
        """The turn so far; bytes that are no character yet are U+FFFD."""
        return bytes(self._bytes).decode("utf-8", "replace")

    @property
    def open_call(self) -> str | None:
        """The JSON of a call in progress; None outside of one, and once anything was wrong."""
        if self._call_start is None or self._call_end is not None or self._error is not None:
            return None
        return bytes(self._bytes[self._call_start :]).decode("utf-8", "replace")

    def push(self, token_id: int) -> None:
        if self.is_done:
            self._fail("expected nothing after <|im_end|>, got more tokens")
        start = len(self._bytes)
        self._ids.append(token_id)
        self._starts.append(start)
        self._bytes += self._tokenizer.token_bytes(token_id)
        special = self._tokenizer.special
        if token_id == special.tool_call_open:
            self._open_call(len(self._bytes))
        elif token_id == special.tool_call_close:
            self._close_call(start)
        elif token_id == special.im_end:
            self._end = start if self._end is None else self._end
        else:
            self._check_ordinary(token_id)

    def finish(self) -> Turn:
        """The turn so far; a turn without <|im_end|> is an error."""
        if not self.is_done:
            self._fail(f"expected the turn to end with <|im_end|>, got {len(self._ids)} tokens")
        if self._call_start is not None:
            return self._finish_call(self._call_start)
        return self._finish_answer()

    def _check_ordinary(self, token_id: int) -> None:
        if not 0 <= token_id < self._tokenizer.vocab_size:
            self._fail(f"expected a token of the vocabulary, got id {token_id}")
        elif (token := self._tokenizer.added_token(token_id)) is not None:
            self._fail(f"expected text, a tool call or an answer, got the special token {token}")

    def _open_call(self, start: int) -> None:
        if self._call_start is not None:
            self._fail("expected one tool call per turn, got another <tool_call>")
        else:
            self._call_start = start

    def _close_call(self, end: int) -> None:
        if self._call_start is None or self._call_end is not None:
            self._fail("expected <tool_call> before </tool_call>, got </tool_call> alone")
        else:
            self._call_end = end

    def _fail(self, error: str) -> None:
        # The first thing wrong explains the rest.
        self._error = self._error or error

    def _finish_call(self, start: int) -> Turn:
        body = bytes(self._bytes[start : self._end if self._call_end is None else self._call_end])
        argument_start, argument_end = _argument_range(body)
        open_tag = start - len(CALL_OPEN)
        roles = self._roles(
            (open_tag, TokenRole.OPERATION),
            (start + argument_start, TokenRole.ARGUMENT),
            (start + argument_end, TokenRole.OPERATION),
        )
        self._check_frame(open_tag)
        thought = _text(self._bytes[:open_tag])
        if self._error is not None:
            return Turn(roles, thought, error=self._error)
        try:
            return Turn(roles, thought, call=parse_call(_text(body), self._schemas))
        except CallError as error:
            return Turn(roles, thought, error=str(error))

    def _check_frame(self, open_tag: int) -> None:
        """Around the call: closed, nothing after it, no answer before it."""
        if self._call_end is None:
            self._fail("expected </tool_call> after the call, got the end of the turn")
        elif self._bytes[self._call_end + len(CALL_CLOSE) : self._end].strip():
            self._fail("expected <|im_end|> right after </tool_call>, got more text")
        if ANSWER_OPEN in self._bytes[:open_tag]:
            self._fail("expected a tool call or an answer, got both in one turn")

    def _finish_answer(self) -> Turn:
        text = bytes(self._bytes[: self._end])
        thought, tag, rest = text.partition(ANSWER_OPEN)
        if tag:
            answer = self._tagged_answer(rest)
        elif self.is_done:
            thought, answer = b"", text
        else:
            # Cut off before it said what it is.
            answer = b""
        roles = self._roles((len(thought), TokenRole.ANSWER))
        if not _text(answer):
            self._fail("expected a tool call or an answer, got an empty one")
        if self._error is not None:
            return Turn(roles, _text(thought), error=self._error)
        return Turn(roles, _text(thought), answer=_text(answer))

    def _tagged_answer(self, rest: bytes) -> bytes:
        answer, tag, tail = rest.partition(ANSWER_CLOSE)
        if not tag:
            self._fail("expected </answer> after <answer>, got the end of the turn")
        elif tail.strip():
            self._fail("expected <|im_end|> right after </answer>, got more text")
        return answer

    def _roles(self, *boundaries: tuple[int, TokenRole]) -> list[TokenRole]:
        """THOUGHT up to the first boundary, then each boundary's role from its byte on."""
        roles = []
        for start in self._starts:
            role = TokenRole.THOUGHT
            for boundary, later in boundaries:
                role = later if start >= boundary else role
            roles.append(role)
        return roles


def _argument_range(body: bytes) -> tuple[int, int]:
    """Bytes of the value of "arguments"; empty, at the end, when the key never came."""
    key = ARGUMENTS_KEY.search(body)
    if key is None:
        return len(body), len(body)
    return key.end(), _value_end(body, key.end())


def _value_end(body: bytes, start: int) -> int:
    """End of the JSON value that starts here: its brackets balance outside strings."""
    depth, in_string, escaped = 0, False, False
    for index in range(start, len(body)):
        character = body[index : index + 1]
        if in_string:
            in_string, escaped = escaped or character != b'"', not escaped and character == b"\\"
        elif character == b'"':
            in_string = True
        elif character in (b"{", b"["):
            depth += 1
        elif character in (b"}", b"]"):
            depth -= 1
            if depth <= 0:
                return index + 1
    return len(body)


def _text(data: bytes | bytearray) -> str:
    return bytes(data).decode("utf-8", "replace").strip()
