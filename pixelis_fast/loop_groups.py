"""Runs that share a prompt: one computes it, the others follow and fork.

Knows no engine; whoever ends hands its place on.
"""

from __future__ import annotations

from collections.abc import Iterable

from pixelis_fast.loop_run import Run


def leader_among(live: Iterable[Run], run: Run) -> Run | None:
    """Who computes the prompt that this run shares; ValueError where that is another prompt."""
    if run.shares_with is None:
        return None
    for other in live:
        is_alike = other is not run and other.shares_with == run.shares_with
        if is_alike and other.is_opening and other.leader is None:
            check_one_prompt(run, other)
            return other
    return None


def follow(run: Run, leader: Run) -> None:
    run.leader = leader
    leader.followers.append(run)


def hand_over(run: Run) -> Run | None:
    """Takes a run out of its group; the next in line, where the prompt is left to it."""
    if run.leader is not None:
        run.leader.followers.remove(run)
        run.leader = None
    if not run.followers:
        return None
    heir, *others = run.followers
    run.followers, heir.leader = [], None
    for other in others:
        follow(other, heir)
    return heir


def check_one_prompt(run: Run, other: Run) -> None:
    ours, theirs = run.trajectory, other.trajectory
    if (ours.ids, ours.spans) != (theirs.ids, theirs.spans):
        key = run.request.group_key
        raise ValueError(f"group_key: expected the prompt of {key!r}, got another")
