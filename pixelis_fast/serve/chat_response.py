"""OpenAI's shapes of an answer: completion, chunk, usage, log-probabilities. Knows no transport."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pixelis_fast.policy.tokenizer import Tokenizer
from pixelis_fast.serve.assembler import ClientCall, Delta
from pixelis_fast.types import RolloutStatus, TokenRole, Trajectory

Json = dict[str, Any]

FINISH_REASONS = {
    RolloutStatus.ANSWERED: "stop",
    RolloutStatus.STOPPED: "stop",
    RolloutStatus.CALLED: "tool_calls",
    RolloutStatus.TRUNCATED_MAX_STEPS: "length",
    RolloutStatus.TRUNCATED_MAX_TOKENS: "length",
    RolloutStatus.TRUNCATED_MAX_TIME: "length",
    # Cut off by the request's own deadline: what was made is kept.
    RolloutStatus.CANCELLED: "length",
}


@dataclass(frozen=True)
class Head:
    """What every part of one answer repeats."""

    id: str
    model: str
    created: int
    fingerprint: str

    def completion(self, choices: Sequence[Json], usage: Json) -> Json:
        return {**self._common("chat.completion"), "choices": list(choices), "usage": usage}

    def chunk(self, choices: Sequence[Json], *, include_usage: bool, usage: Json | None) -> Json:
        """A stream that ends with usage says null for it in every chunk before."""
        row = {**self._common("chat.completion.chunk"), "choices": list(choices)}
        return {**row, "usage": usage} if include_usage else row

    def _common(self, kind: str) -> Json:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }


def message(*, content: str, reasoning: str, calls: Sequence[ClientCall]) -> Json:
    row: Json = {"role": "assistant", "content": None if calls else content, "refusal": None}
    if reasoning:
        row["reasoning_content"] = reasoning
    if calls:
        row["tool_calls"] = [call_row(call) for call in calls]
    return row


def delta_row(delta: Delta, *, call_index: int) -> Json:
    row: Json = {}
    if delta.reasoning:
        row["reasoning_content"] = delta.reasoning
    if delta.content:
        row["content"] = delta.content
    if delta.call is not None:
        row["tool_calls"] = [{"index": call_index, **call_row(delta.call)}]
    return row


def call_row(call: ClientCall) -> Json:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def usage(trajectories: Sequence[Trajectory]) -> Json:
    """The prompt counts once, what tools showed for every choice; forced tokens are generated."""
    roles = [role for trajectory in trajectories for role in trajectory.roles]
    prompt = sum(role is TokenRole.PROMPT for role in trajectories[0].roles)
    prompt += sum(role is TokenRole.OBSERVATION for role in roles)
    generated = [r for r in roles if r not in (TokenRole.PROMPT, TokenRole.OBSERVATION)]
    return {
        "prompt_tokens": prompt,
        "completion_tokens": len(generated),
        "total_tokens": prompt + len(generated),
        "completion_tokens_details": {
            "reasoning_tokens": sum(role is TokenRole.THOUGHT for role in generated)
        },
    }


class LogprobRows:
    """Entries of one choice's `logprobs.content`, by number of the generated token.

    Example:
        rows = LogprobRows(tokenizer, ranked=None)
        rows.add(ids, logprobs)
        rows.of((3, 4))
    """

    def __init__(self, tokenizer: Tokenizer, *, ranked: list[list[tuple[int, float]]] | None):
        self._tokenizer, self._ranked = tokenizer, ranked
        self._tokens: list[tuple[int, float]] = []

    def add(self, ids: Sequence[int], logprobs: Sequence[float]) -> None:
        self._tokens += zip(ids, logprobs, strict=True)

    def of(self, numbers: Sequence[int]) -> Json:
        return {"content": [self._row(number) for number in numbers], "refusal": None}

    def _row(self, number: int) -> Json:
        likeliest = self._ranked[number] if self._ranked is not None else []
        row = self._token(*self._tokens[number])
        return {**row, "top_logprobs": [self._token(*each) for each in likeliest]}

    def _token(self, token_id: int, logprob: float) -> Json:
        data = self._tokenizer.token_bytes(token_id)
        return {"token": data.decode("utf-8", "replace"), "logprob": logprob, "bytes": [*data]}
