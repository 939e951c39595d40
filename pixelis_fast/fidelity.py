"""VisFid: how well what a trajectory saw holds, 0 to 1.

The mean over its evidence-bearing steps: those whose observation claims something that can be
checked (fidelity_claims.py says what and how). Two forms: against the sample's ground truth, for
evaluation and rewards, and without labels, where each call is run again with a slightly other
prompt and a claim counts as far as it comes back. A zoom's pixels need no second run: it counts as
far as its view is the one asked for.

A trajectory without an evidence-bearing step scores 0: it looked at nothing, and whatever it
answers is no witness in a vote.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pixelis_fast.fidelity_claims import Claim, agreement, claims, correctness
from pixelis_fast.fidelity_replay import jittered, replayed_claims
from pixelis_fast.scoring import box_iou
from pixelis_fast.tools import ToolBox
from pixelis_fast.types import Trajectory


@dataclass(frozen=True)
class JitterConfig:
    """How far prompts move, and how often.

    Example:
        JitterConfig(draws=2)   # twice the tool time, a steadier score
    """

    draws: int = 1
    """Second runs of each call."""
    box_share: float = 0.04
    """Most that an edge moves, of the box's side."""
    point: int = 6
    """Most that a point moves, of 0..1000."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.draws < 1 or self.point < 0:
            raise ValueError(
                f"jitter: expected draws >= 1 and point >= 0, got {self.draws} and {self.point}"
            )
        if not 0 <= self.box_share < 0.5:
            raise ValueError(f"box_share: expected 0 to 0.5, got {self.box_share}")


def visual_fidelity(trajectory: Trajectory, tools: ToolBox | None = None) -> float:
    """Against the sample's evidence; for a sample without any the label-free form, with tools.

    Example:
        visual_fidelity(trajectory)   # 0.93: the mask it used covers the true one
    """
    if trajectory.sample.evidence:
        return mean_of_known(evidence_scores(trajectory))
    if tools is None:
        raise ValueError(
            f"evidence: expected ground truth in sample {trajectory.sample.id!r}, or tools to run "
            "its calls again, got neither"
        )
    return label_free_fidelity(trajectory, tools)


def label_free_fidelity(
    trajectory: Trajectory, tools: ToolBox, config: JitterConfig | None = None
) -> float:
    """Never looks at the sample's evidence or answer; the same for the same trajectory and seed."""
    return mean_of_known(repeat_scores(trajectory, tools, config or JitterConfig()))


def evidence_scores(trajectory: Trajectory) -> list[float | None]:
    """Per step, against the truth; None where the step bears no evidence that it could judge."""
    truth = trajectory.sample.evidence
    return [None if claim is None else correctness(claim, truth) for claim in claims(trajectory)]


def repeat_scores(
    trajectory: Trajectory, tools: ToolBox, config: JitterConfig
) -> list[float | None]:
    """Per step, against its own second runs; None where the step bears no evidence."""
    first = claims(trajectory)
    runs = [_run_again(trajectory, tools, config, draw) for draw in range(config.draws)]
    return [
        None if claim is None else sum(_repeat(claim, run[i]) for run in runs) / len(runs)
        for i, claim in enumerate(first)
    ]


def _run_again(
    trajectory: Trajectory, tools: ToolBox, config: JitterConfig, draw: int
) -> list[Claim | None]:
    rng = np.random.default_rng([config.seed, draw])
    return replayed_claims(
        trajectory,
        tools,
        lambda call: jittered(call, rng, box_share=config.box_share, point=config.point),
    )


def _repeat(claim: Claim, again: Claim | None) -> float:
    if claim.operation != "zoom":
        return agreement(claim, again)
    return box_iou(claim.asked, claim.box) if claim.asked and claim.box else 0.0


def mean_of_known(scores: list[float | None]) -> float:
    known = [score for score in scores if score is not None]
    # Overlaps of times are quotients of rounded sums.
    return min(sum(known) / len(known), 1.0) if known else 0.0
