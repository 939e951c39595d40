"""THE LOOP: prompt -> generate -> parse -> tool -> observation appended -> ... -> answer.

Token-in, token-out: a trajectory is one append-only object, and nothing in it is tokenised again.
Each tick extends every live session by what it has pending (prompt, sampled token with its forced
run, or observation) in one packed forward. The rollout knows nothing of rewards; it stops at a
`Trajectory`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from pixelis_fast.grammar import GrammarState, ToolGrammar
from pixelis_fast.policy.engine import Chunk, Engine, Session, VisionSlot
from pixelis_fast.policy.sampling import Sampling, sample
from pixelis_fast.policy.tokenizer import Tokenizer
from pixelis_fast.prompt import Piece, PieceSlot, PromptBuilder
from pixelis_fast.spans import Spans
from pixelis_fast.tools import ToolBox, Workspace, error_observation
from pixelis_fast.turns import Turn, TurnParser
from pixelis_fast.types import (
    Media,
    Observation,
    RolloutStatus,
    Sample,
    Step,
    TokenRole,
    Trajectory,
    VisionSpan,
)
from pixelis_fast.views import Views


@dataclass(frozen=True)
class RolloutConfig:
    """Limits, sampling, and the loop's switches."""

    max_steps: int = 8
    """Tool calls per trajectory, failed ones included."""
    max_tokens: int = 2048
    """Generated tokens per trajectory."""
    max_time_s: float = 120.0
    """Wall time per trajectory, checked after each token and each tool."""
    sampling: Sampling = field(default_factory=Sampling)
    max_thought_tokens: int | None = None
    """After so many tokens of thought the grammar wants a call or an answer; None: no limit."""
    grammar: bool = True
    """Constrain turns to the tools' grammar."""
    jump_ahead: bool = True
    """Append the tokens that the grammar forces together with the sampled one, in one forward."""

    def __post_init__(self) -> None:
        for name in ("max_steps", "max_tokens", "max_time_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: expected > 0, got {getattr(self, name)}")
        if self.jump_ahead and not self.grammar:
            raise ValueError("jump_ahead: expected grammar=True, which forces tokens, got False")


class Chooser(Protocol):
    """Picks the next token of one trajectory."""

    def choose(self, logits_V: Tensor, allowed_V: Tensor | None) -> tuple[int, float]:
        """Next token id and its log-probability; allowed_V is bool, None where all may come."""

    def follow(self, forced: Sequence[int]) -> None:
        """Is told the tokens that the grammar forced after its choice."""

    def observe(self, observation: Observation, piece: Piece) -> Piece:
        """The tokens to append for an observation; a script may pin them."""


class Sampler:
    """Samples from the policy, with its own generator, so that a batch does not change a draw."""

    def __init__(self, sampling: Sampling, *, seed: int, banned_ids: Tensor) -> None:
        self._sampling = sampling
        self._banned_ids = banned_ids
        self._generator = torch.Generator().manual_seed(seed)
        self._step = -1

    def choose(self, logits_V: Tensor, allowed_V: Tensor | None) -> tuple[int, float]:
        self._step += 1
        return sample(
            logits_V,
            sampling=self._sampling,
            generator=self._generator,
            allowed=allowed_V,
            banned_ids=self._banned_ids,
            step=self._step,
        )

    def follow(self, forced: Sequence[int]) -> None:
        """Forced tokens draw nothing."""

    def observe(self, observation: Observation, piece: Piece) -> Piece:
        return piece


MakeChooser = Callable[[int], Chooser]
"""Trajectory index -> its chooser."""


@dataclass
class Run:
    """One trajectory in progress."""

    trajectory: Trajectory
    session: Session
    workspace: Workspace
    chooser: Chooser
    pending: Chunk
    parser: TurnParser
    grammar: GrammarState | None
    spans: Spans
    started_s: float
    turn_start: int = 0
    num_generated: int = 0

    @property
    def is_live(self) -> bool:
        return self.trajectory.status is None


class Rollout:
    """Runs batches of samples to trajectories.

    Example:
        trajectories = rollout.run([Sample("q1", (media,), "What does the sign say?")])
    """

    def __init__(
        self,
        engine: Engine,
        tools: ToolBox,
        *,
        tokenizer: Tokenizer,
        prompt: PromptBuilder,
        grammar: ToolGrammar,
        views: Views,
        config: RolloutConfig,
        policy_version: str = "base",
    ) -> None:
        self.engine, self.tools, self.config = engine, tools, config
        self._tokenizer, self._prompt, self._grammar = tokenizer, prompt, grammar
        self._views, self._policy_version = views, policy_version
        vocab_size = engine.policy.config.text.vocab_size
        self._banned_ids = torch.tensor(sorted(tokenizer.banned_ids(vocab_size)))

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
        """One trajectory per sample, in order; each ends with a typed status."""
        runs = [self._open(s, i, make_chooser or self.sampler) for i, s in enumerate(samples)]
        while live := [run for run in runs if run.is_live]:
            self._tick(live)
        return [run.trajectory for run in runs]

    def _tick(self, live: list[Run]) -> None:
        forward = self.engine.spans()
        logits_BV = self.engine.extend(
            [run.session for run in live], [run.pending for run in live], spans=forward
        )
        for run, logits_V in zip(live, logits_BV, strict=True):
            run.spans.merge(forward.ms)
            self._advance(run, logits_V)

    def sampler(self, index: int) -> Chooser:
        """The default chooser of one trajectory of a batch."""
        sampling = self.config.sampling
        return Sampler(sampling, seed=sampling.seed + index, banned_ids=self._banned_ids)

    def _open(self, sample: Sample, index: int, make_chooser: MakeChooser) -> Run:
        trajectory = Trajectory(sample, self._policy_version, self.config.sampling.seed + index)
        spans = self.engine.spans()
        with spans("prompt"):
            piece = self._prompt.opening(sample, [self._views.tokens(m) for m in sample.media])
        run = Run(
            trajectory=trajectory,
            session=self.engine.open(),
            workspace=Workspace(sample.media),
            chooser=make_chooser(index),
            pending=Chunk([]),
            parser=TurnParser(self._tokenizer),
            grammar=None,
            spans=spans,
            started_s=time.monotonic(),
        )
        self._append_piece(run, piece, role=TokenRole.PROMPT, media=sample.media)
        self._open_turn(run)
        return run

    def _open_turn(self, run: Run) -> None:
        run.turn_start = len(run.trajectory.ids)
        run.parser = TurnParser(self._tokenizer)
        run.grammar = self._grammar.start() if self.config.grammar else None

    def _append_piece(
        self, run: Run, piece: Piece, *, role: TokenRole, media: Sequence[Media]
    ) -> None:
        """Makes a prompt or observation the pending chunk and records it in the trajectory."""
        slots = tuple(self._vision_slot(slot, media[slot.media]) for slot in piece.slots)
        start = len(run.trajectory.ids)
        run.trajectory.spans += [
            VisionSpan(start + s.offset, s.num_tokens, s.media_id, s.grid_thw, s.frame)
            for s in slots
        ]
        run.pending = run.pending + Chunk(piece.ids, slots, opens_turn=True)
        record(run.trajectory, piece.ids, role=role)

    def _vision_slot(self, slot: PieceSlot, media: Media) -> VisionSlot:
        grid_thw = self._views.grid_thw(media)
        return VisionSlot(slot.offset, slot.num_tokens, media.id, slot.frame, grid_thw)

    def _advance(self, run: Run, logits_V: Tensor) -> None:
        """Chooses one token, follows what the grammar forces, ends the turn or goes on."""
        with run.spans("sample"):
            allowed_V = run.grammar.allowed() if run.grammar is not None else None
            token, logprob = run.chooser.choose(logits_V, allowed_V)
            forced = self._accept(run, token)
        trajectory = run.trajectory
        record(trajectory, [token], role=TokenRole.THOUGHT, logprob=logprob)
        record(trajectory, forced, role=TokenRole.THOUGHT, forced=True)
        run.num_generated += 1 + len(forced)
        run.pending = Chunk([token, *forced])
        if run.pending.ids[-1] == self._tokenizer.special.im_end:
            self._end_turn(run)
        self._check_limits(run)

    def _accept(self, run: Run, token: int) -> list[int]:
        """Tells grammar and parser; returns the tokens that have no alternative from here."""
        forced: list[int] = []
        if run.grammar is not None:
            run.grammar.accept([token])
            if self.config.jump_ahead:
                room = self.config.max_tokens - run.num_generated - 1
                forced = run.grammar.forced()[:room]
                run.grammar.accept(forced)
        for each in (token, *forced):
            run.parser.push(each)
        run.chooser.follow(forced)
        return forced

    def _end_turn(self, run: Run) -> None:
        turn = self._parse(run)
        step = Step(run.turn_start, len(run.trajectory.ids), turn.call)
        run.trajectory.steps.append(step)
        if turn.answer is not None:
            run.trajectory.answer = turn.answer
            self._close(run, RolloutStatus.ANSWERED)
        elif len(run.trajectory.steps) > self.config.max_steps:
            self._close(run, RolloutStatus.TRUNCATED_MAX_STEPS)
        else:
            step.observation = self._observe(run, turn)
            self._open_turn(run)

    def _parse(self, run: Run) -> Turn:
        """The turn so far, its roles written into the trajectory."""
        with run.spans("parse"):
            turn = run.parser.finish()
            run.trajectory.roles[run.turn_start :] = turn.roles
        return turn

    def _observe(self, run: Run, turn: Turn) -> Observation:
        """Runs the call, or says what was wrong with it, and appends what the policy sees."""
        observation = self._call(run, turn)
        with run.spans("prompt"):
            tokens = [self._views.tokens(media) for media in observation.media]
            piece = self._prompt.observation(observation.text, tokens)
        piece = run.chooser.observe(observation, piece)
        self._append_piece(run, piece, role=TokenRole.OBSERVATION, media=observation.media)
        return observation

    def _call(self, run: Run, turn: Turn) -> Observation:
        if turn.call is None:
            return error_observation(turn.error or "expected a tool call or an answer")
        observation = self.tools.run(turn.call, run.workspace)
        for part, milliseconds in observation.stage_ms.items():
            run.spans.add(f"tool.{turn.call.operation}.{part}", milliseconds)
        return observation

    def _check_limits(self, run: Run) -> None:
        if not run.is_live:
            return
        if run.num_generated >= self.config.max_tokens:
            self._close(run, RolloutStatus.TRUNCATED_MAX_TOKENS)
        elif time.monotonic() - run.started_s >= self.config.max_time_s:
            self._close(run, RolloutStatus.TRUNCATED_MAX_TIME)

    def _close(self, run: Run, status: RolloutStatus) -> None:
        """Ends a trajectory; a turn cut short keeps the roles its tokens had so far."""
        if len(run.trajectory.ids) > run.turn_start:
            self._parse(run)
        run.trajectory.status = status
        run.trajectory.stage_ms = dict(run.spans.ms)


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
