"""Fetches media from hosts that whoever runs the server has named, and from no other.

One GET, without redirects, proxies or cookies: an allowed host cannot send the server elsewhere.
What is read is bounded in bytes and in time, whatever the host says or how slowly it says it.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from pixelis_fast.serve.errors import ApiError

PORTS = {"http": 80, "https": 443}
CHUNK = 1 << 16
LATE = "not all of it in time"


@dataclass(frozen=True)
class FetchRules:
    """Where media may come from.

    Example:
        FetchRules(hosts=("images.example.org", "localhost:9000"))
    """

    hosts: tuple[str, ...] = ()
    """"host" on its scheme's own port, or "host:port"; none: nothing is fetched."""
    timeout_s: float = 10.0
    """For one file, from the connection to its last byte."""

    def __post_init__(self) -> None:
        for host in self.hosts:
            if not host or "/" in host or "@" in host:
                raise ValueError(f"fetch hosts: expected host or host:port, got {host!r}")
        if self.timeout_s <= 0:
            raise ValueError(f"timeout_s: expected > 0, got {self.timeout_s}")


def fetched(url: str, rules: FetchRules, *, max_bytes: int, param: str) -> bytes:
    """The bytes behind an http: or https: URL; ApiError for another host, or when they fail."""
    split = allowed_url(url, rules, param=param)
    deadline = time.monotonic() + rules.timeout_s
    try:
        with connected(split, deadline=deadline) as connection:
            body = asked(connection, split, max_bytes=max_bytes, param=param)
    except (OSError, http.client.HTTPException) as error:
        late = time.monotonic() >= deadline
        why = LATE if late else str(error) or type(error).__name__
        raise failed(split, why, param) from error
    # Cut off at the deadline, a body without a length looks whole.
    if time.monotonic() >= deadline:
        raise failed(split, LATE, param)
    return body


def allowed_url(url: str, rules: FetchRules, *, param: str) -> SplitResult:
    try:
        split = urlsplit(url)
        port, host = split.port, split.hostname
    except ValueError as error:
        raise ApiError(f"{param}: expected a URL, got {error}", param=param) from error
    names = {f"{host}:{port or PORTS[split.scheme]}"}
    names |= {host or ""} if port in (None, PORTS[split.scheme]) else set()
    if not host or split.username is not None or not names & {h.lower() for h in rules.hosts}:
        allowed = ", ".join(rules.hosts) or "none"
        raise ApiError(
            f"{param}: expected a URL of a host that this server may fetch from ({allowed}), "
            f"or a data: URL, got {split.scheme}://{host}",
            param=param,
            code="fetch_not_allowed",
        )
    return split


@contextmanager
def connected(split: SplitResult, *, deadline: float) -> Iterator[http.client.HTTPConnection]:
    """Open until the deadline at most: a host that sends a byte now and then, of a handshake, a
    header or a body, keeps within every timeout of a socket."""
    assert split.hostname is not None, "checked by allowed_url"
    secure = split.scheme == "https"
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = kind(split.hostname, split.port)
    left_s = max(deadline - time.monotonic(), 0.001)
    plain = socket.create_connection((connection.host, connection.port), left_s)
    connection.sock = handshaking(plain, split.hostname) if secure else plain
    timer = threading.Timer(deadline - time.monotonic(), hang_up, (connection.sock,))
    timer.start()
    try:
        if isinstance(connection.sock, ssl.SSLSocket):
            connection.sock.do_handshake()
        yield connection
    finally:
        timer.cancel()
        connection.close()


def handshaking(plain: socket.socket, host: str) -> ssl.SSLSocket:
    context = ssl.create_default_context()
    return context.wrap_socket(plain, server_hostname=host, do_handshake_on_connect=False)


def hang_up(connected_: socket.socket) -> None:
    """Whoever reads from it gets an end of file or an error."""
    with suppress(OSError):  # closed already
        connected_.shutdown(socket.SHUT_RDWR)


def asked(
    connection: http.client.HTTPConnection, split: SplitResult, *, max_bytes: int, param: str
) -> bytes:
    """The body of the answer to one GET."""
    target = (split.path or "/") + (f"?{split.query}" if split.query else "")
    connection.request("GET", target, headers={"Accept": "image/*, video/*"})
    response = connection.getresponse()
    if response.status != 200:
        raise failed(split, f"status {response.status}", param)
    body = bytearray()
    while chunk := response.read1(CHUNK):
        body += chunk
        if len(body) > max_bytes:
            raise ApiError(
                f"{param}: expected a file of at most {max_bytes} bytes, got more",
                status=413,
                param=param,
            )
    if response.length:
        raise failed(split, f"{response.length} bytes too few", param)
    return bytes(body)


def failed(split: SplitResult, why: str, param: str) -> ApiError:
    return ApiError(
        f"{param}: expected a file from {split.hostname}, got {why}",
        param=param,
        code="fetch_failed",
    )
