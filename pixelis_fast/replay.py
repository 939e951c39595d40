"""Runs recorded trajectories again, each to where its recording ends.

The policy draws anew, with the recorded seeds, so that a replay that is equal proves the draws too.
A clock decides nothing here: a trajectory that its time limit ended ends behind the same token or
observation. What differs is for `trace.differences` to say. One that ended without a token still
computes its prompt, beside which another's last bits may change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from pixelis_fast.loop import Request, RolloutTicket
from pixelis_fast.loop_choosers import Chooser
from pixelis_fast.prompt import Piece
from pixelis_fast.rollout import Rollout, wait_for
from pixelis_fast.types import Observation, RolloutStatus, TokenRole, Trajectory

NO_HURRY_S = 1e8
"""Three years: a wait of infinite length is an error."""
NOT_GENERATED = (TokenRole.PROMPT, TokenRole.OBSERVATION)


class RecordingEndError(Exception):
    """The recording goes no further; a replay that goes on would compare with nothing."""


class UntilEnd:
    """A chooser that stops its trajectory where the recording waited when its time was over."""

    def __init__(self, chooser: Chooser, recorded: Trajectory) -> None:
        self._chooser = chooser
        self._has_tokens = num_generated(recorded) > 0
        self._num_observations = sum(step.observation is not None for step in recorded.steps)

    def choose(self, logits_V: Tensor, allowed_V: Tensor | None) -> tuple[int, float]:
        if not self._has_tokens:
            raise RecordingEndError
        return self._chooser.choose(logits_V, allowed_V)

    def follow(self, forced: Sequence[int]) -> None:
        self._chooser.follow(forced)

    def observe(self, observation: Observation, piece: Piece) -> Piece:
        if self._num_observations == 0:
            raise RecordingEndError
        self._num_observations -= 1
        return self._chooser.observe(observation, piece)


def replay(rollout: Rollout, recorded: Sequence[Trajectory]) -> list[Trajectory]:
    """One trajectory per recorded one, in order; the batch must be whole, as it was run."""
    unhurried = rollout.with_config(replace(rollout.config, max_time_s=NO_HURRY_S))
    requests = unhurried.requests([trajectory.sample for trajectory in recorded])
    pairs = list(zip(requests, recorded, strict=True))
    with rollout.loop:
        tickets = rollout.loop.submit_all(
            [until_end(request, trajectory) for request, trajectory in pairs],
            choosers=[chooser(rollout, request, trajectory) for request, trajectory in pairs],
        )
        wait_for(tickets)
    return [ended_like(ticket, t) for ticket, t in zip(tickets, recorded, strict=True)]


def until_end(request: Request, recorded: Trajectory) -> Request:
    """At most as many tokens as its time allowed."""
    if not ended_by_time(recorded):
        return request
    return replace(request, max_tokens=max(1, num_generated(recorded)))


def chooser(rollout: Rollout, request: Request, recorded: Trajectory) -> Chooser:
    sampler = rollout.loop.sampler(request)
    return UntilEnd(sampler, recorded) if ended_by_time(recorded) else sampler


def ended_like(ticket: RolloutTicket, recorded: Trajectory) -> Trajectory:
    """The trajectory; stopped at the recording's end, it has the recording's status."""
    trajectory = ticket.result()
    was_stopped = isinstance(ticket.error, RecordingEndError)
    was_cut = trajectory.status is RolloutStatus.TRUNCATED_MAX_TOKENS
    if ended_by_time(recorded) and (was_stopped or was_cut):
        trajectory.status, trajectory.error = recorded.status, None
    return trajectory


def ended_by_time(recorded: Trajectory) -> bool:
    return recorded.status is RolloutStatus.TRUNCATED_MAX_TIME


def num_generated(trajectory: Trajectory) -> int:
    return sum(role not in NOT_GENERATED for role in trajectory.roles)
