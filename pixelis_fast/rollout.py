"""A batch of samples in, their trajectories out: the front over THE LOOP (loop.py).

Samples with equal media and question are a group, whose prompt is computed once. The rollout knows
nothing of rewards; it stops at a `Trajectory`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from itertools import count

from pixelis_fast.loop import Loop, Request, RolloutTicket
from pixelis_fast.loop_choosers import Chooser, Sampler
from pixelis_fast.loop_types import check_positive
from pixelis_fast.policy.sampling import Sampling
from pixelis_fast.types import RolloutStatus, Sample, Trajectory

__all__ = ["Chooser", "MakeChooser", "Rollout", "RolloutConfig", "Sampler"]

MakeChooser = Callable[[int], Chooser]
"""Trajectory index -> its chooser."""
BATCHES = count()


@dataclass(frozen=True)
class RolloutConfig:
    """Limits and sampling of each trajectory of a batch, and the turns' switches."""

    max_steps: int = 8
    """Tool calls per trajectory, failed ones included; the turn behind them answers."""
    max_tokens: int = 2048
    """Generated tokens per trajectory."""
    max_time_s: float = 120.0
    """Wall time per trajectory, from its admission; waiting for tools counts."""
    sampling: Sampling = field(default_factory=Sampling)
    """The seed is the first trajectory's; each of the following has the next one."""
    call_sampling: Sampling | None = None
    """How to draw inside a tool call; None: as elsewhere."""
    max_thought_tokens: int | None = None
    """After so many tokens of thought the grammar wants a call or an answer; None: no limit."""
    grammar: bool = True
    """Constrain turns to the tools' grammar."""
    jump_ahead: bool = True
    """Append the tokens that the grammar forces together with the sampled one, in one forward."""

    embeddings: bool = False
    """Keep each step's embedding z_t in the trajectory."""
    overlap: bool = False
    """Trajectories go on while others wait for tools: faster, and the last bits of the batch's
    log-probabilities hang on how long tools take. Off: whoever wants a batch that is no longer
    repeatable bit for bit says so."""

    def __post_init__(self) -> None:
        check_positive(self, "max_steps", "max_tokens", "max_time_s")
        if self.jump_ahead and not self.grammar:
            raise ValueError("jump_ahead: expected grammar=True, which forces tokens, got False")


class Rollout:
    """Runs batches of samples to trajectories.

    Example:
        trajectories = rollout.run([Sample("q1", (media,), "What does the sign say?")])
    """

    def __init__(self, loop: Loop, *, config: RolloutConfig) -> None:
        """`config.max_thought_tokens` is what the loop's grammar was built with."""
        self.loop, self.config = loop, config

    def with_config(self, config: RolloutConfig) -> Rollout:
        """The same agent and grammar under other limits or switches."""
        if config.max_thought_tokens != self.config.max_thought_tokens:
            raise ValueError(
                f"max_thought_tokens: expected the grammar's {self.config.max_thought_tokens}, "
                f"got {config.max_thought_tokens}"
            )
        twin = copy(self)
        twin.config = config
        return twin

    def run(
        self, samples: Sequence[Sample], *, make_chooser: MakeChooser | None = None
    ) -> list[Trajectory]:
        """One trajectory per sample, in order; each ends with a typed status.

        A trajectory whose own work fails has the status FAILED and the others go on; an error of a
        chooser that the caller made is raised once they have ended.
        """
        requests = self.requests(samples)
        choosers = None if make_chooser is None else [make_chooser(i) for i in range(len(samples))]
        with self.loop:
            tickets = self.loop.submit_all(requests, choosers=choosers)
            trajectories = wait_for(tickets)
        errors = [ticket.error for ticket in tickets if ticket.error is not None]
        if make_chooser is not None and errors:
            raise errors[0]
        return trajectories

    def requests(self, samples: Sequence[Sample]) -> list[Request]:
        """What `run` asks of the loop."""
        counts = Counter((sample.media, sample.question) for sample in samples)
        batch = next(BATCHES)
        groups = {prompt: f"batch {batch} prompt {i}" for i, prompt in enumerate(counts)}
        keys = [(sample.media, sample.question) for sample in samples]
        return [
            self._request(sample, index, groups[key] if counts[key] > 1 else None)
            for index, (sample, key) in enumerate(zip(samples, keys, strict=True))
        ]

    def sampler(self, index: int) -> Chooser:
        """The default chooser of one trajectory of a batch."""
        return self.loop.sampler(self._request(Sample("", (), ""), index, None))

    def _request(self, sample: Sample, index: int, group_key: str | None) -> Request:
        config = self.config
        return Request(
            sample,
            sampling=reseeded(config.sampling, index),
            call_sampling=config.call_sampling and reseeded(config.call_sampling, index),
            max_steps=config.max_steps,
            max_tokens=config.max_tokens,
            max_time_s=config.max_time_s,
            group_key=group_key,
            constrained=config.grammar,
            jump_ahead=config.jump_ahead,
            embeddings=config.embeddings,
            in_step=not config.overlap,
        )


def reseeded(sampling: Sampling, index: int) -> Sampling:
    return replace(sampling, seed=sampling.seed + index)


def wait_for(tickets: Sequence[RolloutTicket]) -> list[Trajectory]:
    """All trajectories; whoever is interrupted here leaves nothing running."""
    try:
        return [ticket.result() for ticket in tickets]
    except BaseException:
        for ticket in tickets:
            ticket.cancel()
        raise


def first_failure(trajectories: Sequence[Trajectory]) -> str | None:
    """What ended the first that failed; RuntimeError where all did: going on mends nothing."""
    errors = [t.error for t in trajectories if t.status is RolloutStatus.FAILED]
    if len(errors) == len(trajectories):
        raise RuntimeError(f"rollout: none of {len(errors)} ran to its end; the first: {errors[0]}")
    return errors[0] if errors else None
