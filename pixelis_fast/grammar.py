"""What a turn may be, token by token: masks and forced runs from llguidance.

Free thought, then one compact JSON call whose names, ranges and key order come from the tool
schemas, or <answer>text</answer>, or an untagged answer; then <|im_end|>. JSON has no free
whitespace and numbers have few digits, so no run of the policy can stay inside a call for ever.
x0 < x1 is not context-free: parse_call checks it.

Where the grammar leaves one continuation, llguidance names its tokens as the tokenizer would write
them; tokens at the end of the run that could merge with what follows are left to the policy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer
from llguidance.hf import from_tokenizer
from torch import Tensor

from pixelis_fast.policy.tokenizer import Tokenizer
from pixelis_fast.schemas import Schema, argument_schema

# V = the model's vocabulary, at least the tokenizer's

NUM_DECIMALS = 3
"""Digits after the point of a time: milliseconds."""
ANSWER_OPEN = b"<answer>"
ANSWER_TAIL = r"answer_tail[lazy]: /\s?[^\s\x00-\x1f<](?s:.*)<\/answer>/"
ANSWERS = rf"""
untagged: UNTAGGED
answer_head[lazy]: /(?s:.*)<answer>/
{ANSWER_TAIL}
UNTAGGED: /(?s:.*)[^\s\x00-\x1f](?s:.*)/ & NO_TAG
NO_TAG: ~/(?s:.*)<answer>(?s:.*)/ & /(?s:.*)/
"""
CALL_HEAD, ARGUMENTS, CALL_TAIL = '\n{"name":"', '","arguments":', "}\n"


class ToolGrammar:
    """The turns of one tokenizer and set of tools.

    Example:
        grammar = ToolGrammar(tokenizer, TOOL_SCHEMAS, vocab_size=151_936)
        state = grammar.start()
        state.accept([token_id])
        state.allowed(), state.forced()
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        schemas: Mapping[str, Schema],
        *,
        vocab_size: int,
        max_thought_tokens: int | None = None,
    ) -> None:
        """After max_thought_tokens without a tag, a call or a tagged answer must start."""
        if vocab_size < tokenizer.vocab_size:
            raise ValueError(
                f"vocab_size: expected >= {tokenizer.vocab_size} of the tokenizer, got {vocab_size}"
            )
        if max_thought_tokens is not None and max_thought_tokens < 1:
            raise ValueError(f"max_thought_tokens: expected >= 1, got {max_thought_tokens}")
        self.tokenizer, self.vocab_size = tokenizer, vocab_size
        self.max_thought_tokens = max_thought_tokens
        end_of_text = tokenizer.hf.convert_tokens_to_ids("<|endoftext|>")
        # llguidance offers its end token once a turn is over; <|im_end|> is part of the turn.
        guide = from_tokenizer(tokenizer.hf, n_vocab=vocab_size, eos_token=end_of_text)
        self._any = _turn_of(guide, schemas)
        self._last = _turn_of(guide, {})

    def start(self, *, is_last: bool = False) -> GrammarState:
        """The state at the beginning of a turn; of the last one, which can only answer."""
        return GrammarState(self, self._last if is_last else self._any)


@dataclass(frozen=True)
class TurnMatchers:
    """One kind of turn, at its beginning; what moves is a copy."""

    whole: LLMatcher
    rest: LLMatcher
    """What may follow a thought that used up its tokens."""


class GrammarState:
    """Where one turn stands."""

    def __init__(self, grammar: ToolGrammar, turn: TurnMatchers) -> None:
        self._grammar, self._turn = grammar, turn
        self._matcher = turn.whole.deep_copy()
        self._room = grammar.max_thought_tokens
        """Tokens left to an untagged thought; None where nothing limits it any more."""
        self._thought = bytearray()

    @property
    def is_done(self) -> bool:
        """True once <|im_end|> was accepted."""
        return self._matcher.is_stopped()

    def allowed(self) -> Tensor:
        """bool (V,): True for the tokens that may come next; never empty."""
        if self.is_done:
            raise ValueError("allowed: expected a turn in progress, got one that is over")
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._check_matcher()
        mask_V = np.unpackbits(bits, count=self._grammar.vocab_size, bitorder="little")
        return torch.from_numpy(mask_V.view(np.bool_))

    def forced(self) -> list[int]:
        """The tokens that must come next; empty where there is a choice. Changes nothing."""
        return [] if self.is_done else self._matcher.compute_ff_tokens()

    def accept(self, ids: Sequence[int]) -> None:
        """Moves over the tokens; ValueError at the first that is not allowed."""
        for token_id in ids:
            num_accepted = self._matcher.try_consume_tokens([token_id])
            self._check_matcher()
            if not num_accepted:
                raise ValueError(f"accept: expected an allowed token, got id {token_id}")
            if self._room is not None:
                self._count_thought(token_id)

    def fork(self) -> GrammarState:
        """A copy that moves on its own."""
        other = copy(self)
        other._matcher, other._thought = self._matcher.deep_copy(), bytearray(self._thought)
        return other

    def _count_thought(self, token_id: int) -> None:
        """Once the thought is over by itself there is no limit; at the limit it is ended."""
        assert self._room is not None
        self._room -= 1
        self._thought += self._grammar.tokenizer.token_bytes(token_id)
        if ANSWER_OPEN in self._thought or self._grammar.tokenizer.added_token(token_id):
            self._room = None
        elif self._room <= 0 and _is_whole_text(self._thought):
            self._matcher, self._room = self._turn.rest.deep_copy(), None

    def _check_matcher(self) -> None:
        # llguidance goes silent after an internal limit; a wrong mask must not look like a turn.
        if self._matcher.is_error():
            raise RuntimeError(f"grammar: {self._matcher.get_error()}")


def turn_lark(schemas: Mapping[str, Schema], *, with_thought: bool) -> str:
    """The grammar of a turn in llguidance's dialect of Lark; without schemas, of an answer.

    No length is bounded here but the query's: a bounded thought multiplies the lexer's states.
    """
    if not schemas:
        return _answer_lark(with_thought=with_thought)
    calls = [
        f"{_literal(name + ARGUMENTS)} {json_value(argument_schema(tool))}"
        for name, tool in schemas.items()
    ]
    head, tail = _literal(CALL_HEAD), _literal(CALL_TAIL)
    call = f"<tool_call> {head} ({' | '.join(calls)}) {tail} </tool_call>"
    # No answer is blank, and the first <answer> opens it: the parser reads each turn one way.
    if not with_thought:
        return rf"""
start: (call | "<answer>" answer_tail) <|im_end|>
call: {call}
{ANSWER_TAIL}
"""
    return rf"""
start: (thought? call | answer_head answer_tail | untagged) <|im_end|>
thought: THOUGHT
THOUGHT: /(?s:.+)/ & NO_TAG
call: {call}
{ANSWERS}"""


def _answer_lark(*, with_thought: bool) -> str:
    if with_thought:
        return f"start: (answer_head answer_tail | untagged) <|im_end|>\n{ANSWERS}"
    return f'start: "<answer>" answer_tail <|im_end|>\n{ANSWER_TAIL}\n'


def _turn_of(guide: LLTokenizer, schemas: Mapping[str, Schema]) -> TurnMatchers:
    return TurnMatchers(
        whole=_matcher(guide, turn_lark(schemas, with_thought=True)),
        rest=_matcher(guide, turn_lark(schemas, with_thought=False)),
    )


def _matcher(guide: LLTokenizer, lark: str) -> LLMatcher:
    matcher = LLMatcher(guide, LLMatcher.grammar_from_lark(lark))
    assert not matcher.is_error(), matcher.get_error()
    return matcher


def _is_whole_text(data: bytes | bytearray) -> bool:
    """False in the middle of a character."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _literal(text: str) -> str:
    return json.dumps(text)


def json_value(schema: Schema) -> str:
    """One JSON value of a schema, as Lark: the subset of JSON schema that the tools use."""
    kind = schema["type"]
    if kind == "object":
        return _object(schema)
    if kind == "array":
        return _array(schema)
    if kind == "string":
        return _string(schema)
    if kind in ("integer", "number"):
        return _number(schema)
    raise ValueError(f"tool schema: expected an object, array, string or number, got {kind!r}")


def _object(schema: Schema) -> str:
    """Keys in the schema's order; optional ones may be left out, one of oneOf's is there."""
    choice = [key for branch in schema.get("oneOf", []) for key in branch["required"]]
    first, *rest = schema["properties"]
    if first not in schema["required"]:
        raise ValueError(
            f"tool schema: expected its first argument required, got {first!r} optional"
        )
    parts = [_literal("{") + " " + _member(schema, first)]
    for key in rest:
        member = f"{_literal(',')} {_member(schema, key)}"
        if key in schema["required"]:
            parts.append(member)
        elif key not in choice:
            parts.append(f"({member})?")
        elif key == choice[0]:
            members = [f"{_literal(',')} {_member(schema, each)}" for each in choice]
            parts.append(f"({' | '.join(members)})")
    return " ".join([*parts, _literal("}")])


def _member(schema: Schema, key: str) -> str:
    return f"{_literal(json.dumps(key) + ':')} {json_value(schema['properties'][key])}"


def _array(schema: Schema) -> str:
    if schema["minItems"] != schema["maxItems"]:
        raise ValueError(f"tool schema: expected a list of fixed length, got {schema}")
    items = f" {_literal(',')} ".join([json_value(schema["items"])] * schema["minItems"])
    return f"{_literal('[')} {items} {_literal(']')}"


def _string(schema: Schema) -> str:
    if "enum" in schema:
        return "(" + " | ".join(_literal(json.dumps(each)) for each in schema["enum"]) + ")"
    # No \u escapes: half of a surrogate pair is JSON but no text.
    character = r'([^"\\\x00-\x1f\x7f]|\\["\\\/bfnrt])'
    return rf'/"{character}{{{schema["minLength"]},{schema["maxLength"]}}}"/'


def _number(schema: Schema) -> str:
    if schema["minimum"] != 0:
        raise ValueError(f"tool schema: expected numbers from 0, got from {schema['minimum']}")
    maximum = schema["maximum"]
    if schema["type"] == "integer":
        return f"/{_up_to(maximum)}/"
    return rf"/({_up_to(maximum - 1)})(\.[0-9]{{1,{NUM_DECIMALS}}})?|{maximum}/"


def _up_to(maximum: int) -> str:
    """A regex of the decimal integers 0..maximum, without leading zeros."""
    digits = str(maximum)
    shorter = [rf"[1-9][0-9]{{{length - 1}}}" for length in range(1, len(digits))]
    same_length = [
        rf"{digits[:place]}[{1 if place == 0 else 0}-{int(digit) - 1}][0-9]{{{rest}}}"
        for place, digit in enumerate(digits)
        if int(digit) > (place == 0) and (rest := len(digits) - place - 1) >= 0
    ]
    return "|".join(dict.fromkeys(["0", *shorter, *same_length, digits]))
