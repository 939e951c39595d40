"""A trajectory's turns: prompt in, tokens in, a call or an answer out, its observation in.

Token-in, token-out: a trajectory is one append-only object, and nothing in it is tokenised again.
Knows neither the engine's sessions nor threads; what a turn's end leads to is the loop's affair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from pixelis_fast.constrained import is_last_turn
from pixelis_fast.grammar import ToolGrammar
from pixelis_fast.loop_choosers import Chooser
from pixelis_fast.loop_run import OnEvent, Run, record
from pixelis_fast.loop_types import Request, Tokens
from pixelis_fast.policy.engine import Chunk, VisionSlot
from pixelis_fast.policy.tokenizer import Tokenizer
from pixelis_fast.prompt import Piece, PieceSlot, PromptBuilder
from pixelis_fast.spans import Spans
from pixelis_fast.tools import Workspace
from pixelis_fast.turns import Turn, TurnParser
from pixelis_fast.types import (
    Media,
    Observation,
    RolloutStatus,
    Step,
    TokenRole,
    Trajectory,
    VisionSpan,
)
from pixelis_fast.views import Views


class Turns:
    """Opens runs and moves them by one token, one observation, or to their end."""

    def __init__(
        self, *, tokenizer: Tokenizer, prompt: PromptBuilder, grammar: ToolGrammar, views: Views
    ) -> None:
        self.tokenizer = tokenizer
        self._prompt, self._grammar, self._views = prompt, grammar, views

    def open(self, request: Request, *, chooser: Chooser, on_event: OnEvent | None) -> Run:
        """A run with its prompt to compute; ValueError for a sample that has no prompt."""
        # Nothing that a run times itself is on the device: these spans wait for none.
        sample, spans = request.sample, Spans()
        with spans("prompt"):
            piece = self._prompt.opening(sample, [self._views.tokens(m) for m in sample.media])
        run = Run(
            request=request,
            trajectory=Trajectory(
                sample,
                policy_version="",
                seed=request.sampling.seed,
                call_limit=request.call_limit,
            ),
            workspace=Workspace(sample.media),
            chooser=chooser,
            grammar=request.grammar or self._grammar,
            parser=TurnParser(self.tokenizer),
            spans=spans,
            on_event=on_event,
        )
        self._append_piece(run, piece, role=TokenRole.PROMPT, media=sample.media)
        self._open_turn(run)
        return run

    def advance(self, run: Run, logits_V: Tensor) -> Turn | None:
        """Chooses one token and follows what the grammar forces; the turn, where it ended."""
        with run.spans("sample"):
            allowed_V = run.state.allowed() if run.state is not None else None
            token, logprob = run.chooser.choose(logits_V, allowed_V)
            forced = self._accept(run, token)
        record(run.trajectory, [token], role=TokenRole.THOUGHT, logprob=logprob)
        record(run.trajectory, forced, role=TokenRole.THOUGHT, forced=True)
        new = [token, *forced]
        run.num_generated += len(new)
        run.parts = [Chunk(new)]
        logprobs = (logprob, *(0.0 for _ in forced))
        run.emit(Tokens(tuple(new), logprobs, (False, *(True for _ in forced))))
        return self._end_turn(run) if new[-1] == self.tokenizer.special.im_end else None

    def observe(self, run: Run, observation: Observation) -> None:
        """Appends what came back of the last turn's call, and opens the next turn."""
        with run.spans("prompt"):
            tokens = [self._views.tokens(media) for media in observation.media]
            piece = self._prompt.observation(observation.text, tokens)
        piece = run.chooser.observe(observation, piece)
        self._append_piece(run, piece, role=TokenRole.OBSERVATION, media=observation.media)
        run.trajectory.steps[-1].observation = observation
        self._open_turn(run)

    def close(self, run: Run, status: RolloutStatus) -> None:
        """Ends a trajectory; a turn cut short keeps the roles its tokens had so far."""
        if len(run.trajectory.ids) > run.turn_start and not self._is_turn_over(run):
            self._parse(run)
        if run.error is not None:
            run.trajectory.error = str(run.error) or type(run.error).__name__
        run.trajectory.stage_ms = dict(run.spans.ms)
        run.trajectory.status = status

    def _open_turn(self, run: Run) -> None:
        run.turn_start = len(run.trajectory.ids)
        run.parser = TurnParser(self.tokenizer)
        run.state = None
        if run.request.constrained:
            turn, limit = len(run.trajectory.steps), run.trajectory.call_limit
            run.state = run.grammar.start(is_last=is_last_turn(turn, limit))

    def _append_piece(
        self, run: Run, piece: Piece, *, role: TokenRole, media: Sequence[Media]
    ) -> None:
        """Makes a prompt or observation what is to be computed, and records it."""
        slots = tuple(self._vision_slot(slot, media[slot.media]) for slot in piece.slots)
        start = len(run.trajectory.ids)
        run.trajectory.spans += [
            VisionSpan(start + s.offset, s.num_tokens, s.media_id, s.grid_thw, s.frame)
            for s in slots
        ]
        appended = Chunk(piece.ids, slots, opens_turn=True)
        run.parts = [sum(run.parts, Chunk([])) + appended]
        record(run.trajectory, piece.ids, role=role)

    def _vision_slot(self, slot: PieceSlot, media: Media) -> VisionSlot:
        grid_thw = self._views.grid_thw(media)
        return VisionSlot(slot.offset, slot.num_tokens, media.id, slot.frame, grid_thw)

    def _accept(self, run: Run, token: int) -> list[int]:
        """Tells grammar and parser; returns the tokens that have no alternative from here."""
        forced: list[int] = []
        if run.state is not None:
            run.state.accept([token])
            if run.request.jump_ahead:
                room = run.request.max_tokens - run.num_generated - 1
                forced = run.state.forced()[:room]
                run.state.accept(forced)
        for each in (token, *forced):
            run.parser.push(each)
        run.chooser.follow(forced)
        return forced

    def _end_turn(self, run: Run) -> Turn:
        turn = self._parse(run)
        if turn.call is not None:
            turn = replace(turn, call=run.workspace.original(turn.call))
        run.trajectory.steps.append(Step(run.turn_start, len(run.trajectory.ids), turn.call))
        run.trajectory.answer = turn.answer
        return turn

    def _is_turn_over(self, run: Run) -> bool:
        steps = run.trajectory.steps
        return bool(steps) and steps[-1].end == len(run.trajectory.ids)

    def _parse(self, run: Run) -> Turn:
        """The turn so far, its roles written into the trajectory."""
        with run.spans("parse"):
            turn = run.parser.finish()
            run.trajectory.roles[run.turn_start :] = turn.roles
        return turn
