"""One step's row of the log: what the rollouts were, what they earned, what the update did."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from statistics import fmean
from typing import Any

import torch

from pixelis_fast.advantages import GroupAdvantages
from pixelis_fast.optimizer import StepReport
from pixelis_fast.phases.rft_loss import LossReport
from pixelis_fast.policy.mismatch import Mismatch
from pixelis_fast.rewards import calls_of, invalid_share, is_valid
from pixelis_fast.types import RewardParts, RolloutStatus, Trajectory

ROWS_APART = ("rollout_M", "trainer_M")
TIMED_OUT = RolloutStatus.TRUNCATED_MAX_TIME


def rollout_row(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Of all trajectories of the step."""
    calls = [calls_of(trajectory) for trajectory in trajectories]
    made = sum(len(each) for each in calls)
    valid = sum(is_valid(step, t.sample) for t, each in zip(trajectories, calls, strict=True)
                for step in each)  # fmt: skip
    answered = [t.status is RolloutStatus.ANSWERED for t in trajectories]
    truncated = [t.status is not None and t.status.is_truncated() for t in trajectories]
    return {
        "rollout/calls": made / len(trajectories),
        "rollout/valid_calls": valid / made if made else 1.0,
        "rollout/with_invalid": fmean(invalid_share(t) > 0 for t in trajectories),
        "rollout/answered": fmean(answered),
        "rollout/truncated": fmean(truncated),
        "rollout/timed_out": fmean(t.status is TIMED_OUT for t in trajectories),
        "rollout/failed": fmean(t.status is RolloutStatus.FAILED for t in trajectories),
        "rollout/tokens": fmean(len(t.ids) for t in trajectories),
    }


def reward_row(parts: Sequence[RewardParts]) -> dict[str, float]:
    """Means, and the spread of the total."""
    names = [field.name for field in fields(RewardParts)]
    means = {f"reward/{name}": fmean(getattr(p, name) for p in parts) for name in names}
    totals = torch.tensor([p.total for p in parts])
    return means | {"reward/total_std": float(totals.std(correction=0))}


def group_row(found: GroupAdvantages) -> dict[str, float]:
    return {
        "groups/dropped": float(found.dropped_groups),
        "groups/all": float(found.num_groups),
        "groups/used_trajectories": float(len(found.used)),
    }


def update_row(reports: Sequence[LossReport], mismatch: Mismatch) -> dict[str, float]:
    """Means over mini-batches."""
    names = [field.name for field in fields(LossReport) if field.name not in ROWS_APART]
    row = {f"update/{name}": fmean(getattr(r, name) for r in reports) for name in names}
    return row | {"mismatch/mean": mismatch.mean_abs, "mismatch/max": mismatch.max_abs}


def step_row(steps: Sequence[StepReport]) -> dict[str, float]:
    """Of the optimizer's steps; `skipped` counts those whose gradient was not finite."""
    return {
        "update/gradient_norm": max(step.gradient_norm for step in steps),
        "update/rate": steps[-1].rate,
        "update/skipped": float(sum(step.skipped for step in steps)),
    }


def finite(row: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no NaN: such a number becomes null."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.items()
    }


def shown(row: dict[str, Any]) -> str:
    """What the progress bar says."""
    return (
        f"reward {row['reward/total']:+.3f} task {row['reward/task']:.3f} "
        f"calls {row['rollout/calls']:.2f} stage {row['stage']}"
    )
