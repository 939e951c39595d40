"""One trajectory in progress: what the loop keeps of it between forwards."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pixelis_fast.grammar import GrammarState, ToolGrammar
from pixelis_fast.loop_choosers import Chooser
from pixelis_fast.loop_types import Event, Request
from pixelis_fast.policy.engine import Chunk, Session
from pixelis_fast.spans import Spans
from pixelis_fast.tools import PendingCall, Preparation, Workspace
from pixelis_fast.turns import TurnParser
from pixelis_fast.types import TokenRole, ToolCall, Trajectory

OnEvent = Callable[[Event], None]


@dataclass(frozen=True)
class Guess:
    """A call that was begun before its turn ended."""

    call: ToolCall
    pending: PendingCall


@dataclass(eq=False)
class Run:
    """One request's state; touched by the loop's thread alone once it is queued.

    It is in one of these: queued, waiting (for a tool, or for pictures), following another run
    that computes its prompt, put aside for want of room, ready for the next forward, or ended.
    """

    request: Request
    trajectory: Trajectory
    workspace: Workspace
    chooser: Chooser
    grammar: ToolGrammar
    parser: TurnParser
    spans: Spans
    on_event: OnEvent | None = None
    state: GrammarState | None = None
    """Where the grammar of this turn stands; None for a turn without one."""
    session: Session | None = None
    parts: list[Chunk] = field(default_factory=list)
    """What is still to be computed, in order: a prompt's or observation's parts, or new tokens."""
    turn_start: int = 0
    num_generated: int = 0
    deadline_s: float = math.inf
    """Of time.monotonic."""
    tool: PendingCall | None = None
    """The call it waits for."""
    guess: Guess | None = None
    arrived: list[Preparation] = field(default_factory=list)
    """What tools prepare of its pictures since it was admitted."""
    named: Preparation | None = None
    """What the tool that this turn named prepares."""
    missing: set[str] = field(default_factory=set)
    """Media whose patches are being made."""
    showing: set[str] = field(default_factory=set)
    """Media that were prepared for it and that no forward has taken yet."""
    leader: Run | None = None
    """Whose prompt this run will fork."""
    followers: list[Run] = field(default_factory=list)
    is_evicted: bool = False
    is_preempted: bool = False
    wants_cancel: bool = False
    error: BaseException | None = None
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def is_live(self) -> bool:
        return self.trajectory.status is None

    @property
    def is_opening(self) -> bool:
        """The prompt is not computed yet."""
        return self.num_generated == 0

    @property
    def is_waiting(self) -> bool:
        """For something that the engine does not compute."""
        return self.tool is not None or bool(self.missing)

    @property
    def is_ready(self) -> bool:
        return not (self.is_waiting or self.leader is not None or self.is_preempted)

    @property
    def shares_with(self) -> tuple[str, str, str] | None:
        """Equal for runs that may share a prompt."""
        key, under = self.request.group_key, self.request.under
        return None if key is None else (self.request.salt, key, under.version if under else "")

    def emit(self, event: Event) -> None:
        if self.on_event is not None:
            self.on_event(event)


class RolloutTicket:
    """A submitted request.

    Example:
        ticket = loop.submit(Request(sample))
        trajectory = ticket.result(timeout_s=60)
    """

    def __init__(self, run: Run, wake: Callable[[], None]) -> None:
        self._run, self._wake = run, wake

    @property
    def trajectory(self) -> Trajectory:
        """Grows while it runs; entries once there never change, but for the roles of the last turn,
        which are final when the turn ends."""
        return self._run.trajectory

    @property
    def error(self) -> BaseException | None:
        """What ended a FAILED trajectory."""
        return self._run.error

    def done(self) -> bool:
        return self._run.ended.is_set()

    def cancel(self) -> None:
        """Ends the trajectory at the next tick, with the status CANCELLED; from any thread."""
        self._run.wants_cancel = True
        self._wake()

    def result(self, timeout_s: float | None = None) -> Trajectory:
        """The trajectory once it has ended, whatever its status; TimeoutError before."""
        if not self._run.ended.wait(timeout_s):
            raise TimeoutError(f"trajectory: expected an end within {timeout_s} s, got none")
        return self._run.trajectory


def record(
    trajectory: Trajectory,
    ids: Sequence[int],
    *,
    role: TokenRole,
    logprob: float = 0.0,
    forced: bool = False,
) -> None:
    """Appends tokens; the four lists stay of one length."""
    trajectory.ids += ids
    trajectory.roles += [role] * len(ids)
    trajectory.logprobs += [logprob] * len(ids)
    trajectory.forced += [forced] * len(ids)
