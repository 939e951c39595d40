"""Reads JSON fields strictly: a field is of its type and range, or a 400 names it.

`Fields` takes one object; every field must be taken by somebody, what is left is refused by name.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any

from pixelis_fast.serve.errors import ApiError

HALF = re.compile(rb"\\u[dD][89a-fA-F]")
"""How JSON spells a surrogate: one without the other is no text that can be stored or sent."""
SHOWN_CHARS = 80
"""Of a wrong value in an error."""


def expected(param: str, what: str, value: Any) -> ApiError:
    """A 400 that says what was expected of a field and what came."""
    return ApiError(f"{param}: expected {what}, got {shown(value)}", param=param)


def shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 3] + "..."


class Fields:
    """The fields of one JSON object.

    Example:
        fields = Fields({"n": 2, "colour": 1}, "request")
        fields.integer("n", 1, low=1, high=8)
        fields.finish()  # ApiError: request: unknown field colour
    """

    def __init__(self, row: Any, name: str, *, prefix: str = "") -> None:
        if not isinstance(row, dict):
            raise expected(name, "an object", row)
        # OpenAI's clients write null for a field that was left out.
        self._row = {key: value for key, value in row.items() if value is not None}
        self._name, self._prefix = name, prefix

    def __contains__(self, key: str) -> bool:
        return key in self._row

    def path(self, key: str) -> str:
        return f"{self._prefix}{key}"

    def take(self, key: str, default: Any = None) -> Any:
        return self._row.pop(key, default)

    def text(self, key: str, default: str | None = None) -> str | None:
        return self._typed(key, default, str, "a string")

    def required_text(self, key: str) -> str:
        value = self.text(key)
        if value is None:
            raise expected(self.path(key), "a string", None)
        return value

    def flag(self, key: str, default: bool = False) -> bool:
        return self._typed(key, default, bool, "true or false")

    def integer(self, key: str, default: Any, *, low: int, high: int) -> Any:
        value = self.take(key, default)
        if value is not default and (
            not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high
        ):
            raise expected(self.path(key), f"an integer from {low} to {high}", value)
        return value

    def number(self, key: str, default: float, *, low: float, high: float) -> float:
        value = self.take(key, default)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value) or not low <= value <= high:
            raise expected(self.path(key), f"a number from {low:g} to {high:g}", value)
        return float(value)

    def choice(self, key: str, default: Any, choices: Sequence[str]) -> Any:
        value = self.take(key, default)
        if value is not default and value not in choices:
            raise expected(self.path(key), " or ".join(choices), value)
        return value

    def rows(self, key: str, *, most: int) -> list[Any]:
        value = self.take(key, [])
        if not isinstance(value, list) or len(value) > most:
            raise expected(self.path(key), f"a list of at most {most}", value)
        return value

    def fields(self, key: str) -> Fields:
        return Fields(self.take(key, {}), self.path(key), prefix=f"{self.path(key)}.")

    def only(self, key: str, *allowed: Any) -> None:
        """A field that this server knows and supports only without effect."""
        value = self.take(key)
        if value is not None and value not in allowed:
            what = " or ".join(map(shown, allowed)) if allowed else "it left out"
            raise ApiError(
                f"{self.path(key)}: not supported; expected {what}, got {shown(value)}",
                param=self.path(key),
                code="unsupported_parameter",
            )

    def finish(self) -> None:
        """Whatever nobody took is refused."""
        if self._row:
            unknown = ", ".join(sorted(self._row))
            raise ApiError(
                f"{self._name}: unknown field {unknown}",
                param=self.path(min(self._row)),
                code="unknown_parameter",
            )

    def _typed(self, key: str, default: Any, kind: type, what: str) -> Any:
        value = self.take(key, default)
        if value is not default and not isinstance(value, kind):
            raise expected(self.path(key), what, value)
        return value


def parse_json(body: bytes) -> Any:
    """JSON without constants such as NaN, of whole characters; a 400 for anything else."""
    try:
        value = json.loads(body, parse_constant=_refuse_constant)
        if HALF.search(body):
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeEncodeError as error:
        found = "half of a surrogate pair"
        raise ApiError(f"body: expected strings of whole characters, got {found}") from error
    except RecursionError as error:
        raise ApiError("body: expected JSON of moderate depth, got a deeper one") from error
    except ValueError as error:
        raise ApiError(f"body: expected JSON, got {error}") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"the constant {name}")
