"""A stream of unlabelled queries for test-time learning, and what came of them.

Queries come from the test split behind the questions that are measured. An adversarial segment
asks, of each picture, another picture's question: whatever is answered is wrong, and learning from
it does harm.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path

import numpy as np

from pixelis_fast.agent import Agent
from pixelis_fast.corridor import CorridorConfig
from pixelis_fast.data.shift import ShiftConfig
from pixelis_fast.eval.metrics import mean_or_none
from pixelis_fast.phases.ttrl_types import TtrlEvent, TtrlStatus
from pixelis_fast.reproduce.measure import Question
from pixelis_fast.scoring import answer_score
from pixelis_fast.types import Sample

FIRST = 100_000
"""Number of the stream's first task: far behind what is measured."""
ADVERSARIAL = (0.6, 0.7)
"""The segment, as shares of the stream."""
UPDATED = (
    TtrlStatus.PUBLISHED,
    TtrlStatus.DROPPED,
    TtrlStatus.REFUSED,
    TtrlStatus.SKIPPED,
    TtrlStatus.STALE,
)


def stream(
    agent: Agent, folder: Path, count: int, *, shift: ShiftConfig | None, adversarial: bool
) -> Iterator[Sample]:
    """Made as they are asked for; the picture before the last one is forgotten."""
    before: list[Sample] = []
    for number in range(count):
        sample = Question(FIRST + number, "test", shift).sample(agent.tools, folder)
        share = number / count
        if adversarial and before and ADVERSARIAL[0] <= share < ADVERSARIAL[1]:
            yield replace(sample, question=before[-1].question, id=f"{sample.id}-adversarial")
        else:
            yield sample
        before.append(sample)
        if len(before) > 2:
            agent.tools.store.forget(before.pop(0).media[0].id)


@dataclass(frozen=True)
class Learned:
    """What a stream of events amounts to."""

    vote_accuracy: float | None
    """Of the votes that did not abstain; None where all did."""
    one_accuracy: float
    """Of one trajectory of a group, drawn at random: what is selected without vote or gate."""
    one_where_voted: float | None
    """The same over the queries whose vote did not abstain."""
    abstained: float
    updates: int
    published: int
    kl_median: float | None
    in_corridor: float | None
    """Share of published updates whose KL lies in the corridor."""
    below_top: float | None
    """Share at or below its top: also those too small to reach its bottom."""
    seconds_per_update: float | None


def learned(
    events: Sequence[TtrlEvent],
    samples: Sequence[Sample],
    *,
    corridor: CorridorConfig,
    seconds: Sequence[Mapping[str, float]] = (),
) -> Learned:
    """`seconds`: by stage, of the queries that were timed."""
    pairs = [
        (event, sample)
        for event, sample in zip(events, samples, strict=True)
        if not sample.id.endswith("adversarial")
    ]
    is_voted = [event.status is not TtrlStatus.ABSTAINED for event, _ in pairs]
    voted = [is_right(event.answer, sample) for event, sample in compress(pairs, is_voted)]
    ones = [
        float(np.mean([is_right(answer, sample) for answer in event.answers]))
        for event, sample in pairs
    ]
    published = [event.kl for event in events if event.status is TtrlStatus.PUBLISHED]
    kls = [kl for kl in published if kl is not None]
    updating = [stages["update"] for stages in seconds if "update" in stages]
    return Learned(
        vote_accuracy=mean_or_none(voted),
        one_accuracy=float(np.mean(ones)),
        one_where_voted=mean_or_none(compress(ones, is_voted)),
        abstained=1 - len(voted) / len(pairs),
        updates=sum(event.status in UPDATED for event in events),
        published=len(published),
        kl_median=float(np.median(kls)) if kls else None,
        in_corridor=mean_or_none(corridor.low <= kl <= corridor.high for kl in kls),
        below_top=mean_or_none(kl <= corridor.high for kl in kls),
        seconds_per_update=float(np.median(updating)) if updating else None,
    )


def is_right(answer: str | None, sample: Sample) -> float:
    return answer_score(sample.answer_kind, answer, sample.answer or "")
