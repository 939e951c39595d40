"""R(τ) = w_task R_task + w_cur R_cur + w_coh R_coh - w_len R_len - w_inv R_inv, part by part.

A trajectory's parts do not depend on its group. An invalid call scores below doing nothing: its
trajectory forfeits what curiosity and coherence would have paid (a loss it keeps) and pays its
share of invalid calls, so that, answers being equal, no call at all is always worth more than calls
of which one is invalid.
Knows no policy; the curriculum of stages is reward_stages.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum

import torch

from pixelis_fast.dynamics import Dynamics, DynamicsConfig, Transition
from pixelis_fast.kernels.coherence import coherence
from pixelis_fast.scoring import answer_score
from pixelis_fast.types import (
    MediaKind,
    RewardParts,
    RolloutStatus,
    Sample,
    Step,
    ToolCall,
    Trajectory,
)

VIDEO_ONLY = frozenset({"track", "localize"})
"""Operations that make no sense on a still."""
TaskReward = Callable[[Trajectory], float]
"""In [0, 1]."""
KERNEL_COLUMNS = 8
"""The coherence kernel takes embeddings of a multiple of so many values."""


class Stage(IntEnum):
    """Which parts pay; the later ones include the earlier."""

    TASK = 0
    COHERENCE = 1
    CURIOSITY = 2


@dataclass(frozen=True)
class RewardConfig:
    """Weights and the few constants of the parts. A weight of 0 is the part's ablation.

    Example:
        RewardConfig(coherence=0.0)   # without coherence
    """

    task: float = 1.0
    coherence: float = 0.1
    curiosity: float = 0.1
    length: float = 0.05
    invalid: float = 0.5
    free_calls: int = 2
    """T0: so many calls cost nothing."""
    repetition_threshold: float = 0.95
    """Above coherence's own default: unlike turns of one chain are close to each other already."""
    repetition_weight: float = 20.0
    """With the threshold: two equal turns earn nothing."""
    dynamics: DynamicsConfig = field(default_factory=DynamicsConfig)

    def __post_init__(self) -> None:
        for name in ("task", "coherence", "curiosity", "length", "invalid", "repetition_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}: expected a number >= 0, got {getattr(self, name)}")
        if self.free_calls < 1:
            raise ValueError(f"free_calls: expected >= 1, got {self.free_calls}")

    @classmethod
    def task_only(cls) -> RewardConfig:
        """The answer and nothing else."""
        return cls(coherence=0.0, curiosity=0.0, length=0.0, invalid=0.0)

    def at(self, stage: Stage) -> RewardConfig:
        """The weights of one stage."""
        return replace(
            self,
            coherence=self.coherence if stage >= Stage.COHERENCE else 0.0,
            curiosity=self.curiosity if stage >= Stage.CURIOSITY else 0.0,
        )


def score_group(
    trajectories: Sequence[Trajectory],
    config: RewardConfig,
    dynamics: Dynamics,
    stage: Stage = Stage.CURIOSITY,
    *,
    task: TaskReward | None = None,
) -> list[RewardParts]:
    """One per trajectory, in order, of one group or of several; nothing learns here.

    `task` scores in place of `task_reward`, for what no true answer says.

    ValueError for a sample without a true answer, or turns without embeddings while those pay.
    """
    weights = config.at(stage)
    if weights.coherence or weights.curiosity:
        check_embeddings(trajectories)
    coherent = coherence_rewards(trajectories, config)
    curious = curiosity_rewards(trajectories, dynamics)
    solved = [(task or task_reward)(trajectory) for trajectory in trajectories]
    return [
        parts_of(trajectory, solved[i], coherent[i], curious[i], weights)
        for i, trajectory in enumerate(trajectories)
    ]


def parts_of(
    trajectory: Trajectory, task: float, coherent: float, curious: float, weights: RewardConfig
) -> RewardParts:
    invalid = invalid_share(trajectory)
    if invalid > 0:
        coherent, curious = min(0.0, coherent), min(0.0, curious)
    length = length_cost(trajectory, free_calls=weights.free_calls)
    total = (
        weights.task * task
        + weights.curiosity * curious
        + weights.coherence * coherent
        - weights.length * length
        - weights.invalid * invalid
    )
    return RewardParts(task, curious, coherent, length, invalid, total)


def task_reward(trajectory: Trajectory) -> float:
    """The answer against the truth, in [0, 1]; no answer is worth 0."""
    sample = trajectory.sample
    if sample.answer is None:
        raise ValueError(f"sample {sample.id}: expected a true answer to score against, got none")
    return answer_score(sample.answer_kind, trajectory.answer, sample.answer)


def length_cost(trajectory: Trajectory, *, free_calls: int) -> float:
    """max(0, T - T0) / T0 over calls, invalid ones included."""
    return max(0, len(calls_of(trajectory)) - free_calls) / free_calls


def invalid_share(trajectory: Trajectory) -> float:
    """Share of calls that are malformed, out of range, or make no sense for their media."""
    calls = calls_of(trajectory)
    return sum(not is_valid(step, trajectory.sample) for step in calls) / max(1, len(calls))


def calls_of(trajectory: Trajectory) -> list[Step]:
    """Every turn but the answer's."""
    answered = trajectory.status is RolloutStatus.ANSWERED
    return trajectory.steps[:-1] if answered else trajectory.steps


def is_valid(step: Step, sample: Sample) -> bool:
    """Parsed, not refused by its tool, and of a kind of media that the tool is for."""
    if step.call is None or (step.observation is not None and step.observation.error is not None):
        return False
    return fits_media(step.call, sample)


def fits_media(call: ToolCall, sample: Sample) -> bool:
    if call.operation not in VIDEO_ONLY:
        return True
    index = call.arguments.get("media", 0)
    return index < len(sample.media) and sample.media[index].kind is MediaKind.VIDEO


def coherence_rewards(trajectories: Sequence[Trajectory], config: RewardConfig) -> list[float]:
    """Mean cosine of neighbouring turns minus the hinge on repetition; 0 without a pair."""
    chains = [embeddings_of(trajectory) for trajectory in trajectories]
    if not any(chains):
        return [0.0] * len(chains)
    steps_TD = torch.tensor([each for chain in chains for each in chain])
    # Columns of zeros change no cosine.
    steps_TD = torch.nn.functional.pad(steps_TD, (0, -steps_TD.shape[1] % KERNEL_COLUMNS))
    bounds = torch.tensor([0, *(len(chain) for chain in chains)]).cumsum(0)
    found = coherence(
        steps_TD,
        bounds,
        repetition_threshold=config.repetition_threshold,
        repetition_weight=config.repetition_weight,
    )
    return found.reward_B.tolist()


def check_embeddings(trajectories: Sequence[Trajectory]) -> None:
    """The last turn may have none: a limit may end it before it is computed."""
    for trajectory in trajectories:
        if any(step.embedding is None for step in trajectory.steps[:-1]):
            raise ValueError("embedding: expected one per turn (embeddings=True), got None")


def embeddings_of(trajectory: Trajectory) -> list[tuple[float, ...]]:
    """z_t of every turn that was computed, the answer's included."""
    return [step.embedding for step in trajectory.steps if step.embedding is not None]


def curiosity_rewards(trajectories: Sequence[Trajectory], dynamics: Dynamics) -> list[float]:
    """Mean over each trajectory's transitions of what the dynamics pay for them."""
    chains = [transitions_of(trajectory) for trajectory in trajectories]
    paid = iter(dynamics.rewards([each for chain in chains for each in chain]))
    earned = [[next(paid) for _ in chain] for chain in chains]
    return [sum(each) / max(1, len(each)) for each in earned]


def transitions_of(trajectory: Trajectory) -> list[Transition]:
    """Every valid call with embeddings of itself and of the turn behind it."""
    sample = trajectory.sample
    return [
        Transition(step.call, sample.media, step.embedding, behind.embedding)
        for step, behind in zip(trajectory.steps, trajectory.steps[1:], strict=False)
        if step.call is not None
        and is_valid(step, sample)
        and step.embedding is not None
        and behind.embedding is not None
    ]
