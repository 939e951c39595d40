"""What may be fetched, from whom, how much and for how long; against a server of this test."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from contextlib import suppress
from typing import ClassVar

import pytest

from pixelis_fast.serve.config import MediaRules
from pixelis_fast.serve.errors import ApiError
from pixelis_fast.serve.fetch import FetchRules, allowed_url, fetched
from pixelis_fast.serve.media import MediaUrl, media_bytes
from pixelis_fast.types import MediaKind

MAX_BYTES = 100_000
PARAM = "messages[0].content[0]"


class Handler(http.server.BaseHTTPRequestHandler):
    seen: ClassVar[list[str]] = []

    def do_GET(self):
        self.seen.append(self.path)
        {
            "/cat.png": self.whole,
            "/large.png": self.large,
            "/away.png": self.away,
            "/slow.png": self.slow,
            "/slow-header.png": self.slow_header,
            "/short.png": self.short,
            "/cat.png?size=2": self.whole,
        }.get(self.path, self.missing)()

    def whole(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"picture")

    def large(self):
        self.send_response(200)
        self.end_headers()
        with suppress(ConnectionError):
            self.wfile.write(bytes(3 * MAX_BYTES))

    def away(self):
        self.send_response(302)
        self.send_header("Location", "/cat.png")
        self.end_headers()

    def slow(self):
        self.send_response(200)
        self.end_headers()
        with suppress(ConnectionError):
            for _ in range(20):
                self.wfile.write(b".")
                self.wfile.flush()
                time.sleep(0.1)

    def slow_header(self):
        with suppress(ConnectionError):
            self.wfile.write(b"HTTP/1.0 200 OK\r\nX-Slow: ")
            for _ in range(20):
                self.wfile.write(b".")
                self.wfile.flush()
                time.sleep(0.1)

    def short(self):
        self.send_response(200)
        self.send_header("Content-Length", "100")
        self.end_headers()
        self.wfile.write(b"few")

    def missing(self):
        self.send_error(404)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def host():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def get(host: str, path: str, **settings) -> bytes:
    rules = FetchRules(hosts=(host,), **settings)
    return fetched(f"http://{host}{path}", rules, max_bytes=MAX_BYTES, param=PARAM)


def test_an_allowed_host_is_asked_once(host):
    Handler.seen.clear()
    assert get(host, "/cat.png") == b"picture"
    assert get(host, "/cat.png?size=2#part") == b"picture"
    assert Handler.seen == ["/cat.png", "/cat.png?size=2"]
    url = MediaUrl(f"HTTP://{host}/cat.png", MediaKind.IMAGE, PARAM)
    rules = MediaRules(fetch=FetchRules(hosts=(host,)))
    assert media_bytes(url, rules, max_bytes=MAX_BYTES) == b"picture"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/none.png", "got status 404"),
        ("/away.png", "got status 302"),
        ("/short.png", "got 97 bytes too few"),
        ("/large.png", "expected a file of at most 100000 bytes"),
    ],
)
def test_what_fails_says_why(host, path, message):
    with pytest.raises(ApiError) as caught:
        get(host, path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(PARAM)


@pytest.mark.parametrize("path", ["/slow.png", "/slow-header.png"])
def test_a_host_that_drips_is_left(host, path):
    with pytest.raises(ApiError, match="got not all of it in time"):
        get(host, path, timeout_s=0.3)


def test_a_handshake_is_bounded_too(host):
    """Whoever does not speak TLS fails it; who says nothing is left."""
    with pytest.raises(ApiError, match="SSL"):
        fetched(f"https://{host}/cat.png", FetchRules((host,)), max_bytes=9, param=PARAM)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        name = f"127.0.0.1:{silent.getsockname()[1]}"
        rules = FetchRules((name,), timeout_s=0.3)
        with pytest.raises(ApiError, match="got not all of it in time"):
            fetched(f"https://{name}/cat.png", rules, max_bytes=9, param=PARAM)


def test_nobody_listening_is_an_answer():
    with pytest.raises(ApiError, match=r"expected a file from 127\.0\.0\.1, got"):
        get("127.0.0.1:9", "/cat.png", timeout_s=1.0)


@pytest.mark.parametrize(
    "url",
    [
        "http://other.org/a.png",
        "http://good.org.evil.org/a.png",
        "http://good.org:8080/a.png",
        "http://user@good.org/a.png",
        "http://good.org@evil.org/a.png",
        "https://exact.org/a.png",
        "http:///a.png",
        "http:a.png",
    ],
)
def test_other_hosts_and_ports_are_refused(url):
    rules = FetchRules(hosts=("good.org", "exact.org:8443"))
    with pytest.raises(ApiError) as caught:
        allowed_url(url, rules, param=PARAM)
    assert caught.value.code == "fetch_not_allowed"


@pytest.mark.parametrize(
    "url", ["http://good.org/a", "https://GOOD.org:443/a", "https://exact.org:8443/a?b=c"]
)
def test_named_hosts_are_allowed(url):
    rules = FetchRules(hosts=("Good.org", "exact.org:8443"))
    assert allowed_url(url, rules, param=PARAM).path == "/a"


@pytest.mark.parametrize("url", ["http://good.org:port/a", "http://[::1/a"])
def test_a_url_that_does_not_parse_is_refused(url):
    with pytest.raises(ApiError, match="expected a URL"):
        allowed_url(url, FetchRules(hosts=("good.org",)), param=PARAM)


@pytest.mark.parametrize("host", ["", "http://good.org", "me@good.org"])
def test_hosts_are_hosts(host):
    with pytest.raises(ValueError, match="expected host or host:port"):
        FetchRules(hosts=(host,))
    with pytest.raises(ValueError, match="timeout_s: expected > 0"):
        FetchRules(timeout_s=0)
