"""What goes wrong, in OpenAI's form: {"error": {"message", "type", "param", "code"}} and a status.

Messages say what was expected and what came. Knows no route.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    408: "invalid_request_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
    504: "server_error",
}
CLIENT_CLOSED = 499
"""Only counted: nobody is there to read it."""


@dataclass
class ApiError(Exception):
    """One answer that is an error.

    Example:
        raise ApiError("n: expected 1..8, got 9", param="n")
    """

    message: str
    status: int = 400
    param: str | None = None
    code: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.message

    def to_json(self) -> dict[str, Any]:
        kind = TYPES.get(self.status, "invalid_request_error")
        row = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": row}


def busy(message: str, *, retry_after_s: float) -> ApiError:
    """429: the client should come back."""
    headers = {"Retry-After": str(max(1, round(retry_after_s)))}
    return ApiError(message, status=429, code="server_busy", headers=headers)


def broken(message: str) -> ApiError:
    """500: the server's fault."""
    return ApiError(message, status=500, code="internal_error")
