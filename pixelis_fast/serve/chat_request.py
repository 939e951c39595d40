"""One chat completion as a client asks for it: JSON in, a checked ChatRequest or a 400 out.

Fields that this server does not have are refused by name, never ignored. Beside OpenAI's there are
`top_k`, and `pixelis`: {"tools": "server" | "client" | "none", "max_steps", "trace", "tokens"}.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

from pixelis_fast.policy.sampling import Sampling
from pixelis_fast.rollout import RolloutConfig
from pixelis_fast.serve.config import ServeConfig
from pixelis_fast.serve.errors import ApiError
from pixelis_fast.serve.fields import Fields, expected
from pixelis_fast.serve.functions import Functions, read_functions
from pixelis_fast.serve.messages import ClientMessages, read_messages

MAX_STOPS, MAX_STOP_CHARS = 4, 200
MAX_TOP_LOGPROBS = 20
MAX_USER_CHARS = 200
WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "frequency_penalty": (0,),
    "function_call": (),
    "functions": (),
    "logit_bias": ({},),
    "metadata": ({},),
    "modalities": (["text"],),
    "moderation": (),
    "prediction": (),
    "presence_penalty": (0,),
    "prompt_cache_key": (),
    "prompt_cache_options": (),
    "prompt_cache_retention": (),
    "reasoning_effort": (),
    "safety_identifier": (),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "verbosity": (),
    "web_search_options": (),
}
"""OpenAI's fields that this server does not have, and the values that ask for nothing."""


@dataclass(frozen=True)
class ChatRequest:
    """What to generate and how to answer.

    Example:
        ChatRequest.read(json_object, rollout=agent.config.rollout, serve=ServeConfig(), name="m")
    """

    messages: ClientMessages
    functions: Functions
    sampling: Sampling
    max_tokens: int
    max_steps: int
    n: int
    stop: tuple[str, ...]
    stream: bool
    include_usage: bool
    logprobs: bool
    top_logprobs: int
    user: str
    """Names who may share kept prompts."""
    shows_trace: bool
    shows_tokens: bool

    @classmethod
    def read(
        cls, row: Any, *, rollout: RolloutConfig, serve: ServeConfig, name: str
    ) -> ChatRequest:
        """ApiError for a field that is wrong, unknown or not supported."""
        fields = Fields(row, "request")
        _check_model(fields, name)
        for key, allowed in WITHOUT_EFFECT.items():
            fields.only(key, *allowed)
        stream = fields.flag("stream")
        own = fields.fields("pixelis")
        request = cls(
            messages=read_messages(fields, serve),
            functions=read_functions(fields, own),
            sampling=_sampling(fields, rollout.sampling),
            max_tokens=_max_tokens(fields, rollout.max_tokens),
            max_steps=own.integer("max_steps", rollout.max_steps, low=1, high=rollout.max_steps),
            n=fields.integer("n", 1, low=1, high=serve.max_n),
            stop=_stop(fields),
            stream=stream,
            include_usage=_stream_options(fields, stream=stream),
            logprobs=fields.flag("logprobs"),
            top_logprobs=fields.integer("top_logprobs", 0, low=0, high=MAX_TOP_LOGPROBS),
            user=_user(fields),
            shows_trace=own.flag("trace", True),
            shows_tokens=own.flag("tokens"),
        )
        own.finish()
        fields.finish()
        request.check()
        return request

    def check(self) -> None:
        if self.top_logprobs and not self.logprobs:
            raise expected("top_logprobs", "0 without logprobs: true", self.top_logprobs)


def _check_model(fields: Fields, name: str) -> None:
    asked = fields.required_text("model")
    if asked != name:
        raise ApiError(
            f"model: expected {name}, got {asked}",
            status=404,
            param="model",
            code="model_not_found",
        )


def _sampling(fields: Fields, default: Sampling) -> Sampling:
    """The server's own defaults where a request says nothing; without a seed, a fresh one."""
    seed = fields.integer("seed", None, low=-(2**63), high=2**63 - 1)
    return Sampling(
        temperature=fields.number("temperature", default.temperature, low=0, high=2),
        top_p=_top_p(fields, default.top_p),
        top_k=fields.integer("top_k", default.top_k, low=0, high=1_000_000),
        seed=secrets.randbits(31) if seed is None else seed % 2**63,
    )


def _top_p(fields: Fields, default: float) -> float:
    top_p = fields.number("top_p", default, low=0, high=1)
    if not top_p:
        raise expected("top_p", "a number above 0 and at most 1", top_p)
    return top_p


def _max_tokens(fields: Fields, most: int) -> int:
    """max_completion_tokens, or its older name."""
    keys = ("max_completion_tokens", "max_tokens")
    given = [key for key in keys if key in fields]
    if len(given) == 2:
        raise ApiError(f"{keys[1]}: expected it left out beside {keys[0]}", param=keys[1])
    return fields.integer(given[0], most, low=1, high=most) if given else most


def _stop(fields: Fields) -> tuple[str, ...]:
    given = fields.take("stop", [])
    stops = [given] if isinstance(given, str) else given
    fits = isinstance(stops, list) and len(stops) <= MAX_STOPS
    if not fits or not all(isinstance(s, str) and 1 <= len(s) <= MAX_STOP_CHARS for s in stops):
        what = f"a string or up to {MAX_STOPS} strings of 1 to {MAX_STOP_CHARS} characters"
        raise expected("stop", what, given)
    return tuple(stops)


def _stream_options(fields: Fields, *, stream: bool) -> bool:
    if "stream_options" not in fields:
        return False
    if not stream:
        raise ApiError("stream_options: expected it only with stream: true", param="stream_options")
    options = fields.fields("stream_options")
    include_usage = options.flag("include_usage")
    options.only("include_obfuscation", False)
    options.finish()
    return include_usage


def _user(fields: Fields) -> str:
    user = fields.text("user", "") or ""
    if len(user) > MAX_USER_CHARS:
        raise expected("user", f"at most {MAX_USER_CHARS} characters", user)
    return user
