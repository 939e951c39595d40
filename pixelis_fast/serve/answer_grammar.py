"""Turns for requests that the loop's own grammar does not fit: clients' functions, JSON answers.

JSON schemas are followed by llguidance, compact, in its subset: what it cannot follow is a 400.
A grammar is built once for its functions and form of answer, and kept for a while.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from threading import Lock
from typing import Any

from llguidance import LLMatcher, LLTokenizer
from llguidance.hf import from_tokenizer

from pixelis_fast.grammar import (
    ANSWER_TAIL,
    ARGUMENTS,
    CALL_HEAD,
    CALL_TAIL,
    ToolGrammar,
    TurnMatchers,
    json_value,
)
from pixelis_fast.policy.tokenizer import Tokenizer
from pixelis_fast.schemas import TOOL_SCHEMAS, Schema, argument_schema
from pixelis_fast.serve.errors import ApiError
from pixelis_fast.serve.functions import Functions

KEPT = 32
"""Grammars kept; one more drops the one that was asked for longest ago."""
COMPACT = {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"}
NO_TAG = r"""
THOUGHT: /(?s:.+)/ & NO_TAG
UNTAGGED: /(?s:.*)[^\s\x00-\x1f](?s:.*)/ & NO_TAG
NO_TAG: ~/(?s:.*)<answer>(?s:.*)/ & /(?s:.*)/
"""


class AnswerGrammar(ToolGrammar):
    """The turns of one request's functions and form of answer.

    Example:
        AnswerGrammar(tokenizer, guide, functions, vocab_size=151_936, max_thought_tokens=128)
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        guide: LLTokenizer,
        functions: Functions,
        *,
        vocab_size: int,
        max_thought_tokens: int | None,
    ) -> None:
        # Not ToolGrammar's: it takes the schemas of our own tools only, and a guide of its own.
        self.tokenizer, self.vocab_size = tokenizer, vocab_size
        self.max_thought_tokens = max_thought_tokens
        self._any = _turn_of(guide, functions)
        self._last = _turn_of(guide, replace(functions, schemas={}, must_call=False))


class AnswerGrammars:
    """Grammars of one policy, by what requests may call and answer.

    Example:
        AnswerGrammars(tokenizer, vocab_size=151_936, max_thought_tokens=128).get(functions)
    """

    def __init__(
        self, tokenizer: Tokenizer, *, vocab_size: int, max_thought_tokens: int | None
    ) -> None:
        self._tokenizer, self._vocab_size = tokenizer, vocab_size
        self._max_thought_tokens = max_thought_tokens
        end_of_text = tokenizer.hf.convert_tokens_to_ids("<|endoftext|>")
        self._guide = from_tokenizer(tokenizer.hf, n_vocab=vocab_size, eos_token=end_of_text)
        self._kept: OrderedDict[str, AnswerGrammar] = OrderedDict()
        self._lock = Lock()

    def get(self, functions: Functions) -> AnswerGrammar:
        """ApiError names the schema that cannot be followed."""
        key = json.dumps(
            [dict(functions.schemas), functions.must_call, functions.answer_schema], sort_keys=True
        )
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            else:
                self._kept[key] = self._build(functions)
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
            return self._kept[key]

    def _build(self, functions: Functions) -> AnswerGrammar:
        self._check_texts(functions.schemas)
        for name, schema in functions.schemas.items():
            if schema != TOOL_SCHEMAS.get(name):
                self._check(argument_schema(schema), f"tools: {name}: parameters")
        if functions.answer_schema is not None:
            self._check(functions.answer_schema, "response_format.json_schema.schema")
        return AnswerGrammar(
            self._tokenizer,
            self._guide,
            functions,
            vocab_size=self._vocab_size,
            max_thought_tokens=self._max_thought_tokens,
        )

    def _check(self, schema: dict[str, Any], param: str) -> None:
        error = LLMatcher.validate_grammar(_start(_json(schema)), self._guide)
        if error:
            reason = error.partition("failed to compile JSON schema: ")[2] or error
            raise ApiError(
                f"{param}: expected a JSON schema that generation can follow, "
                f"got {reason.splitlines()[0]}",
                param=param,
                code="unsupported_schema",
            )

    def _check_texts(self, schemas: Mapping[str, Schema]) -> None:
        """Descriptions stand in the prompt's structure, where special tokens would be read."""
        text = json.dumps(dict(schemas), ensure_ascii=False)
        found = [token for token in self._tokenizer.hf.get_added_vocab() if token in text]
        if found:
            raise ApiError(f"tools: expected no special token in a text, got {found[0]}")


def _turn_of(guide: LLTokenizer, functions: Functions) -> TurnMatchers:
    return TurnMatchers(
        whole=_matcher(guide, functions, with_thought=True),
        rest=_matcher(guide, functions, with_thought=False),
    )


def _matcher(guide: LLTokenizer, functions: Functions, *, with_thought: bool) -> LLMatcher:
    matcher = LLMatcher(guide, _start(*_turn(functions, with_thought=with_thought)))
    assert not matcher.is_error(), matcher.get_error()
    return matcher


def _start(start: str, *rules: str) -> str:
    return LLMatcher.grammar_from_lark("\n".join([f"start: {start}", *rules]))


def _turn(functions: Functions, *, with_thought: bool) -> list[str]:
    """The start rule and all others, in llguidance's dialect of Lark."""
    has_calls = bool(functions.schemas)
    is_json = functions.answer_schema is not None
    choices = ["thought? call" if with_thought else "call"] if has_calls else []
    if not functions.must_call:
        choices.append(
            'answer_head json_answer "</answer>"' if is_json else "answer_head answer_tail"
        )
        if with_thought and not is_json:
            choices.append("untagged")
    head = r"answer_head[lazy]: /(?s:.*)<answer>/" if with_thought else 'answer_head: "<answer>"'
    rules = [head, "thought: THOUGHT", "untagged: UNTAGGED", ANSWER_TAIL, NO_TAG]
    if functions.answer_schema is not None:
        rules.append(f"json_answer: {_json(functions.answer_schema)}")
    if has_calls:
        rules += _calls(functions.schemas)
    return [f"({' | '.join(choices)}) <|im_end|>", *rules]


def _calls(schemas: Mapping[str, Schema]) -> list[str]:
    calls = [f"{json.dumps(name + ARGUMENTS)} arguments_{i}" for i, name in enumerate(schemas)]
    rules = [
        f"arguments_{i}: {_arguments(name, schema)}"
        for i, (name, schema) in enumerate(schemas.items())
    ]
    head, tail = json.dumps(CALL_HEAD), json.dumps(CALL_TAIL)
    return [f"call: <tool_call> {head} ({' | '.join(calls)}) {tail} </tool_call>", *rules]


def _arguments(name: str, schema: Schema) -> str:
    """Our own tools keep their own grammar: llguidance has no oneOf, which segment needs."""
    own = schema == TOOL_SCHEMAS.get(name)
    return json_value(argument_schema(schema)) if own else _json(argument_schema(schema))


def _json(schema: dict[str, Any]) -> str:
    return f"%json {json.dumps({**schema, 'x-guidance': COMPACT})}"
