"""What an arm leaves behind of one group, and what must be equal between two arms.

Arms do equal work when every generated position has the same greedy choice and the same
log-probability of the scripted token, over the same ids. Knows no model and no tool.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from bench.harness import Check
from bench.outputs import MAX_LOGPROB_DIFFERENCE
from bench.pinned import PinnedChain
from bench.rollout_cases import GroupCase
from bench.scenes import Scene
from pixelis_fast.types import Observation

SERIAL, LOCKSTEP, OURS, TOOLS_ALONE = "hf serial", "hf lockstep", "ours", "tools alone"
MAX_EXACT_DIFFERENCE = 1e-4
"""Of a log-probability in float32: the arms multiply the same weights in another order."""
TOOL_STAGES = ("pre", "run", "post")
"""Of an observation's stages: a tool's own work, without its time in a queue."""


@dataclass(frozen=True)
class MemberRun:
    """One member's trajectory in one arm."""

    ids: list[int]
    """The whole conversation as this arm computed it."""
    argmax: dict[int, int]
    """Greedy choice by index into ids, of every generated token that was computed from logits."""
    logprobs: dict[int, float]
    """Of the scripted token, at the same indices."""
    observations: tuple[str, ...]
    """What the tools said, one text per call."""


@dataclass(frozen=True)
class GroupRun:
    """One arm's run of one group."""

    members: tuple[MemberRun, ...]
    stage_ms: dict[str, float]
    """policy: forwards of tower and decoder; tools: their own work; prepare: what feeds generate.

    Stages may overlap in time, so they need not add up to the wall time.
    """


def own_ms(observation: Observation) -> float:
    """A tool's own work."""
    return sum(observation.stage_ms.get(stage, 0.0) for stage in TOOL_STAGES)


class GroupArm(Protocol):
    """Something that runs a group."""

    name: str

    def run(self, case: GroupCase, source: Scene) -> GroupRun:
        """The whole group on one new picture, from its encoded bytes to the last answer."""


@dataclass(frozen=True)
class Agreement:
    """Two arms over the same groups, position by position."""

    num_compared: int
    num_flipped: int
    """Positions with another greedy choice."""
    largest_difference: float
    """Of log-probabilities; nan when nothing was compared."""

    @property
    def share(self) -> float:
        """Of positions with the same greedy choice."""
        return 1 - self.num_flipped / self.num_compared if self.num_compared else math.nan


def agreement(expected: Sequence[GroupRun], runs: Sequence[GroupRun]) -> Agreement:
    """Over every position that both arms computed logits for."""
    pairs = [
        (left, right)
        for mine, theirs in zip(expected, runs, strict=True)
        for left, right in zip(mine.members, theirs.members, strict=True)
    ]
    flips, differences = [], []
    for left, right in pairs:
        shared = left.argmax.keys() & right.argmax.keys()
        flips += [left.argmax[i] != right.argmax[i] for i in shared]
        differences += [abs(left.logprobs[i] - right.logprobs[i]) for i in shared]
    return Agreement(len(flips), sum(flips), max(differences, default=math.nan))


def generated(pinned: Sequence[PinnedChain]) -> list[set[int]]:
    """Indices of every generated token, by member."""
    return [{i for start, end in chain.turns for i in range(start, end)} for chain in pinned]


def check_ids(
    case: GroupCase, arm: str, runs: Sequence[GroupRun], pinned: Sequence[PinnedChain]
) -> Check:
    """Every member of every run is the pinned conversation, token by token."""
    expected = [chain.ids for chain in pinned]
    same = all([member.ids for member in run.members] == expected for run in runs)
    return Check(case.name, f"{arm}: token ids", None, "same", same)


def check_computed(
    case: GroupCase,
    arm: str,
    runs: Sequence[GroupRun],
    pinned: Sequence[PinnedChain],
    *,
    may_force: bool,
) -> Check:
    """How many generated positions had logits: all, unless the grammar may force some."""
    positions = generated(pinned)
    total = sum(len(each) for each in positions)
    fewest = min(_num_computed(run, positions) for run in runs)
    what = f"{arm}: generated positions with logits"
    if may_force:
        return Check.at_least(case.name, what, fewest, 1)
    return Check.same(case.name, what, fewest, total)


def _num_computed(run: GroupRun, positions: Sequence[set[int]]) -> int:
    pairs = zip(run.members, positions, strict=True)
    return sum(len(member.argmax.keys() & known) for member, known in pairs)


def compare(
    case: GroupCase,
    arm: str,
    expected: Sequence[GroupRun],
    runs: Sequence[GroupRun],
    *,
    dtype: str,
) -> list[Check]:
    """Against the reference arm's runs; run i of both saw the same picture.

    Only float32 is held to the same greedy choices: random weights choose by margins that
    bfloat16 cannot tell apart.
    """
    found = agreement(expected, runs)
    texts = [[[m.observations for m in run.members] for run in each] for each in (expected, runs)]
    is_exact = dtype == "float32"
    limit = MAX_EXACT_DIFFERENCE if is_exact else MAX_LOGPROB_DIFFERENCE["bfloat16"]
    checks = [
        Check(case.name, f"{arm}: what the tools said", None, "same", texts[0] == texts[1]),
        Check.at_most(
            case.name, f"{arm}: largest log-prob difference", found.largest_difference, limit
        ),
    ]
    if is_exact:
        what = f"{arm}: other greedy choices of {found.num_compared}"
        checks.append(Check.same(case.name, what, found.num_flipped, 0))
    return checks


def tokens_equal(checks: Sequence[Check], case: str, arm: str) -> bool | None:
    """Whether an arm passed all it was held to; None when it was held to nothing."""
    held = [check.passed for check in checks if check.case == case and _of(check, arm)]
    return all(held) if held else None


def _of(check: Check, arm: str) -> bool:
    return check.check.startswith(f"{arm}: ")


def median_stages(runs: Sequence[GroupRun]) -> dict[str, float]:
    """Medians over the runs, stage by stage."""
    stages = sorted({stage for run in runs for stage in run.stage_ms})
    return {
        stage: round(statistics.median(run.stage_ms.get(stage, 0.0) for run in runs), 3)
        for stage in stages
    }
