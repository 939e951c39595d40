"""Settings of the server: where it listens, what it allows, what it keeps."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path

from pixelis_fast.serve.fetch import FetchRules

MIB = 1 << 20


@dataclass(frozen=True)
class MediaRules:
    """What a client's pictures and videos may be.

    Example:
        MediaRules(root=Path("/srv/media"), max_image_pixels=16_000_000)
    """

    root: Path | None = None
    """Folder that file: URLs name files of; None refuses them."""
    fetch: FetchRules = field(default_factory=FetchRules)
    max_media: int = 16
    """Per request."""
    max_image_pixels: int = 40_000_000
    max_video_frames: int = 3_000
    max_video_pixels: int = 4096 * 2304
    """Of one frame."""
    max_video_s: float = 300.0


@dataclass(frozen=True)
class ServeConfig:
    """Limits that keep one client from starving the others.

    Example:
        ServeConfig(max_requests=64, media=MediaRules(root=Path("pictures")))
    """

    host: str = "127.0.0.1"
    port: int = 8000
    """0 takes a free one."""
    name: str | None = None
    """The model's name in the interface; None takes the policy's."""
    api_key: str | None = None
    """What clients send as a bearer token; None asks for nothing."""
    media: MediaRules = field(default_factory=MediaRules)
    max_requests: int = 128
    """Completions running or waiting; n counts n times. Above: 429."""
    max_body_bytes: int = 64 * MIB
    max_text_chars: int = 200_000
    """Of all messages together."""
    max_n: int = 8
    prefill_tokens: int | None = None
    """Most prompt tokens in one forward, so that a long prompt holds up no running stream
    (LoopConfig). None: as the agent's loop is set, which by default computes a prompt at once."""
    prefetch_arrivals: bool = False
    """SAM 2 and the text detector look at pictures that arrive (LoopConfig), for questions that
    call one of them more often than not. False: as the agent's loop is set."""
    body_timeout_s: float = 30.0
    """For a client to send its request."""
    request_timeout_s: float = 300.0
    """From a request's arrival to its answer, waiting included."""
    media_threads: int = 1
    """Threads that decode what clients send and render what traces show."""
    trace_bytes: int = 256 * MIB
    """Budget of kept traces and the media they show; 0 keeps none."""
    shutdown_s: float = 20.0
    """For requests in flight when the server is told to stop."""

    def __post_init__(self) -> None:
        may_be_zero = {"port", "trace_bytes"}
        for each in fields(self):
            value = getattr(self, each.name)
            low = 0 if each.name in may_be_zero else 1e-9
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if is_number and value < low:
                bound = ">= 0" if each.name in may_be_zero else "> 0"
                raise ValueError(f"{each.name}: expected {bound}, got {value}")
        root = self.media.root
        if root is not None and not root.is_dir():
            raise ValueError(f"media root: expected a folder, got {root}")
