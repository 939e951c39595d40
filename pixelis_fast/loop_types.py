"""What goes into the loop and what comes out of it: requests, limits, events, counters.

Knows no policy, no tool and no thread.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pixelis_fast.grammar import ToolGrammar
from pixelis_fast.policy.published import Published
from pixelis_fast.policy.sampling import Sampling
from pixelis_fast.types import Observation, Sample, ToolCall, Trajectory


class QueueFullError(RuntimeError):
    """As many requests wait as may wait; the caller tries again later."""


class LoopClosedError(RuntimeError):
    """The loop was not started, was closed, or broke: its cause then says how."""


def check_positive(settings: object, *names: str) -> None:
    """ValueError for the first of these settings that is not above 0."""
    for name in names:
        if getattr(settings, name) <= 0:
            raise ValueError(f"{name}: expected > 0, got {getattr(settings, name)}")


@dataclass(frozen=True)
class Request:
    """One trajectory to run.

    Example:
        Request(Sample("1", (media,), "How many coins?"), Sampling(temperature=0.7, seed=3))
    """

    sample: Sample
    sampling: Sampling = field(default_factory=Sampling)
    call_sampling: Sampling | None = None
    """How to draw inside a tool call, from a stream of its own seed; None: as elsewhere."""
    max_steps: int = 8
    """Tool calls, failed ones included. Behind them the grammar allows an answer and nothing else;
    without a grammar, one more call ends the trajectory."""
    max_tokens: int = 2048
    """Generated tokens."""
    max_time_s: float = 120.0
    """Wall time from admission to the end; waiting for tools counts, the queue does not."""
    salt: str = ""
    """Requests of one salt may share kept prompts; a tenant's name keeps tenants apart."""
    under: Published | None = None
    """The version to run under, a candidate that nobody else is served; None: what is served."""
    group_key: str | None = None
    """Requests with one key have equal prompts, and the prompt is computed once for all."""
    grammar: ToolGrammar | None = None
    """What a turn may be; None: the loop's own grammar."""
    constrained: bool = True
    """Follow the grammar."""
    jump_ahead: bool = True
    """Append the tokens that the grammar forces together with the sampled one, in one forward."""
    hands_over_calls: bool = False
    """A call ends the trajectory with the status CALLED: whoever asked runs it."""
    embeddings: bool = False
    """Keep each step's embedding z_t; it costs one copy of a hidden state per step."""
    in_step: bool = False
    """Go on only when no other request in step waits for a tool or a picture. Which rows share a
    forward otherwise hangs on how long tools take, and with it the last bits of log-probabilities;
    a batch in step is repeatable bit for bit."""
    stop: tuple[str, ...] = ()
    """The trajectory ends with the status STOPPED where a turn's text contains one of these."""

    def __post_init__(self) -> None:
        check_positive(self, "max_steps", "max_tokens", "max_time_s")
        if self.grammar is not None and not self.constrained:
            raise ValueError("grammar: expected constrained=True to follow one, got False")
        if self.jump_ahead and not self.constrained:
            raise ValueError("jump_ahead: expected a grammar, which forces tokens, got none")
        if "" in self.stop:
            raise ValueError("stop: expected texts, got an empty one")

    @property
    def call_limit(self) -> int | None:
        """Calls that the grammar allows; None where it does not count them."""
        return self.max_steps if self.constrained and not self.hands_over_calls else None


@dataclass(frozen=True)
class LoopConfig:
    """How the loop shares its time; each switch is one mechanism."""

    max_sessions: int = 64
    """Trajectories in progress, those that wait for a tool included."""
    max_queued: int = 1024
    """Requests that wait for a place; one more is refused."""
    prefill_tokens: int | None = None
    """Most tokens of prompts and observations that one forward computes, so that decoding sessions
    wait for no long prompt; a picture's tokens stay together, and what kept prompts supply does not
    count. None: whatever is there."""
    share_prompts: bool = True
    """Compute a group's prompt once and fork it."""
    early_start: bool = True
    """Start a call once nothing more can be said in it, before its turn ends."""
    prefetch: bool = True
    """Let a tool prepare its picture once the turn names both."""
    prefetch_arrivals: bool = False
    """Let SAM 2 and the text detector prepare a picture when it arrives: pays where one of them
    will be called and a core is idle; tools run in turn, and what has begun is not stopped."""

    def __post_init__(self) -> None:
        check_positive(self, "max_sessions", "max_queued")
        if self.prefill_tokens is not None and self.prefill_tokens < 1:
            raise ValueError(f"prefill_tokens: expected >= 1 or None, got {self.prefill_tokens}")
        if self.prefetch_arrivals and not self.prefetch:
            raise ValueError("prefetch_arrivals: expected prefetch=True with it, got False")


@dataclass(frozen=True)
class Tokens:
    """One sampled token and those the grammar forced after it; never of two turns."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    forced: tuple[bool, ...]


@dataclass(frozen=True)
class Call:
    """A turn ended in a call, which now runs."""

    step: int
    """Index into the trajectory's steps."""
    call: ToolCall


@dataclass(frozen=True)
class Observed:
    """What came back; for a turn that could not be read, what was wrong with it."""

    step: int
    observation: Observation


@dataclass(frozen=True)
class Ended:
    """The last event of every request, whatever ended it."""

    trajectory: Trajectory


Event = Tokens | Call | Observed | Ended


@dataclass
class LoopStats:
    """Counted since the loop was made; the first four are of now."""

    running: int = 0
    waiting_for_tools: int = 0
    queued: int = 0
    evicted_now: int = 0
    """Sessions whose keys and values lie in host memory."""
    finished: int = 0
    """Trajectories that ended by themselves or by a limit."""
    cancelled: int = 0
    failed: int = 0
    ticks: int = 0
    """Forwards."""
    rows: int = 0
    """Sessions in them, added up."""
    tokens: int = 0
    """Generated, forced ones included."""
    forced: int = 0
    forked: int = 0
    """Prompts that were not computed again."""
    evicted: int = 0
    """Waiting sessions that made room."""
    preempted: int = 0
    """Running sessions that made room."""
    early_started: int = 0
    """Calls begun before their turn ended."""
    early_used: int = 0
    early_cancelled: int = 0
    """Begun for calls that the turn then did not make."""
    prefetches: int = 0
    prefetch_used: int = 0
    """Preparations for which a call of that tool on that picture came."""
    prefetch_cancelled: int = 0
