"""Reads a request's body under a limit of bytes and of time."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect, Request

from pixelis_fast.serve.errors import ApiError


async def read_body(request: Request, *, max_bytes: int, timeout_s: float) -> bytes:
    """ApiError 413 for a longer body, 408 for a slower one, 415 for another type than JSON."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(f"content-type: expected application/json, got {kind!r}", status=415)
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > max_bytes:
        raise _too_long(max_bytes)
    try:
        return await asyncio.wait_for(_read(request, max_bytes), timeout_s)
    except asyncio.TimeoutError as error:
        message = f"body: expected it whole within {timeout_s:g} s, got a part"
        raise ApiError(message, status=408) from error
    except ClientDisconnect as error:
        raise ApiError("body: expected it whole, got a part", status=400) from error


async def _read(request: Request, max_bytes: int) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > max_bytes:
            raise _too_long(max_bytes)
    return bytes(body)


def _too_long(max_bytes: int) -> ApiError:
    return ApiError(f"body: expected at most {max_bytes} bytes, got more", status=413)
