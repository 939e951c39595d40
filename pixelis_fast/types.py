"""The one vocabulary: what crosses a folder is one of these or a plain tensor.

Coordinates are integers 0..1000 relative to the original frame; times are seconds; pixels exist
only inside a tool engine and the vision tower. Imports nothing of ours; everything imports it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Any

Point = tuple[int, int]
"""(x, y), each 0..1000."""
Box = tuple[int, int, int, int]
"""(x0, y0, x1, y1), each 0..1000, x0 < x1 and y0 < y1."""
Span = tuple[float, float]
"""(start, end) in seconds, start <= end."""


class TokenRole(IntEnum):
    """What a token is; the rollout assigns it when the token is made, nothing re-parses text."""

    PROMPT = 0
    THOUGHT = 1
    OPERATION = 2
    ARGUMENT = 3
    OBSERVATION = 4
    ANSWER = 5


class RolloutStatus(Enum):
    """How a trajectory ended."""

    ANSWERED = "answered"
    TRUNCATED_MAX_STEPS = "truncated_max_steps"
    TRUNCATED_MAX_TOKENS = "truncated_max_tokens"
    TRUNCATED_MAX_TIME = "truncated_max_time"
    STOPPED = "stopped"
    """At a stop string of the request."""
    CALLED = "called"
    """At a call that the caller runs."""
    CANCELLED = "cancelled"
    FAILED = "failed"
    """By an error of its own; the trajectory keeps its text."""

    def is_truncated(self) -> bool:
        """By one of its limits."""
        return self.value.startswith("truncated")


class MediaKind(Enum):
    IMAGE = "image"
    VIDEO = "video"


@dataclass(frozen=True)
class Media:
    """A reference to pixels in the media store.

    Example:
        Media(id="3f…", kind=MediaKind.IMAGE, width=640, height=480)
    """

    id: str
    """Content id, from the store."""
    kind: MediaKind
    width: int
    height: int
    num_frames: int = 1
    duration_s: float = 0.0
    """0 for an image."""


@dataclass(frozen=True)
class Mask:
    """Pixels of one image or one frame, run-length encoded as COCO does.

    Example:
        Mask(media_id="3f…", time_s=None, size=(480, 640), counts="…")
    """

    media_id: str
    time_s: float | None
    """None for an image."""
    size: tuple[int, int]
    """Height, width in pixels of the media."""
    counts: str


class AnswerKind(Enum):
    """How an answer is held against the truth (scoring.py)."""

    EXACT = "exact"
    NUMBER = "number"
    TEXT = "text"
    BOX = "box"
    SPAN = "span"


@dataclass(frozen=True)
class Evidence:
    """What is true of one place or time: what a step's observation can be held against.

    Example:
        Evidence("read_text", media=0, box=(120, 340, 200, 360), text="KX42")
    """

    operation: str
    """The tool whose observations it judges."""
    media: int = 0
    """Index into the sample's media."""
    box: Box | None = None
    mask: Mask | None = None
    text: str | None = None
    span: Span | None = None
    time_s: float | None = None
    """Of the frame the box or mask is of; None for an image."""


@dataclass(frozen=True)
class Sample:
    """Media, a question, and (in training and evaluation) the answer.

    Example:
        Sample(id="coins-1", media=(media,), question="How many coins?", answer="24")
    """

    id: str
    media: tuple[Media, ...]
    question: str
    answer: str | None = None
    answer_kind: AnswerKind = AnswerKind.EXACT
    evidence: tuple[Evidence, ...] = ()
    """Ground truth, where there is any; the policy never sees it."""


@dataclass(frozen=True)
class ToolCall:
    """One parsed call; `arguments` has passed the tool's schema.

    Example:
        ToolCall("zoom", {"media": 0, "box": [100, 100, 300, 300]})
    """

    operation: str
    arguments: dict[str, Any]
    """Of a call that has run, places are those of the original picture or frame."""
    crop: int | None = None
    """Which of the crops shown so far the policy named instead, from 0; None: an original."""


@dataclass(frozen=True)
class Observation:
    """What a call returned: the text the policy reads, the media it sees, the masks it made.

    Example:
        Observation(text='{"mask":0,"box":[10,20,300,400],"score":0.93}', masks=(mask,))
    """

    text: str
    """Compact JSON. An error reads {"error": "..."}."""
    media: tuple[Media, ...] = ()
    """New pixels for the policy (a zoom's crop)."""
    masks: tuple[Mask, ...] = ()
    error: str | None = None
    degraded: str | None = None
    """Why this result is from a degraded engine; None when it is not."""
    engine: str = ""
    """Name of the engine that ran."""
    stage_ms: dict[str, float] = field(default_factory=dict)
    """queue, pre, run and post in milliseconds; not part of equality of results."""


@dataclass(frozen=True)
class VisionSpan:
    """Where one image or one video frame pair stands in the token ids.

    Example:
        VisionSpan(start=15, num_tokens=196, media_id="3f…", grid_thw=(1, 28, 28))
    """

    start: int
    """Index of the first placeholder token."""
    num_tokens: int
    media_id: str
    grid_thw: tuple[int, int, int]
    """Patches in time, height, width, before merging."""
    frame: int = 0
    """Which temporal patch of the media's grid this span shows."""


@dataclass
class Step:
    """One turn: its generated tokens [start, end), the call in them, and what came back."""

    start: int
    end: int
    call: ToolCall | None = None
    """None for the answer turn and for a call that did not parse."""
    observation: Observation | None = None
    """None for the answer turn."""
    embedding: tuple[float, ...] | None = None
    """z_t: the mean of the policy's last hidden states over the step's tokens, observation
    included; of the answer turn over those that were computed, which its last token is not. None
    where nobody asked for it."""


@dataclass
class Trajectory:
    """One append-only object used by serving, rewards, training and audit.

    ids, roles, logprobs and forced have the same length. logprobs is 0 where nothing was sampled.
    """

    sample: Sample
    policy_version: str
    seed: int
    ids: list[int] = field(default_factory=list)
    roles: list[TokenRole] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    forced: list[bool] = field(default_factory=list)
    """True where the grammar left no choice: probability 1, outside the policy loss."""
    spans: list[VisionSpan] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    answer: str | None = None
    status: RolloutStatus | None = None
    """None while running."""
    error: str | None = None
    """What ended it, where the status is FAILED."""
    call_limit: int | None = None
    """Behind so many calls the grammar allowed an answer and nothing else; None: never."""
    stage_ms: dict[str, float] = field(default_factory=dict)
    """Milliseconds by stage: vision, prefill, decode, parse, tool.<name>.<part>, …"""


@dataclass(frozen=True)
class RewardParts:
    """One trajectory's reward, part by part and before weights; METHOD.md's R(τ)."""

    task: float
    curiosity: float
    coherence: float
    length: float
    """R_len, subtracted."""
    invalid: float
    """R_inv, subtracted."""
    total: float
    """With the weights of the stage it was computed in."""
