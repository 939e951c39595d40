"""A question, its turns and its answer -> the trajectory a rollout would have recorded.

The same prompt pieces, tokens and roles as the loop's, the real tools' observations, no policy.
A call's JSON is written as the grammar forces it, so every imitated token is one that can be said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pixelis_fast.data.cota import CotaRecord, CotaTurn
from pixelis_fast.grammar import ARGUMENTS, CALL_HEAD, CALL_TAIL
from pixelis_fast.observations import compact_json
from pixelis_fast.policy.tokenizer import Tokenizer
from pixelis_fast.prompt import Piece, PromptBuilder
from pixelis_fast.tools import ToolBox, Workspace
from pixelis_fast.turns import TurnParser
from pixelis_fast.types import (
    Media,
    Observation,
    RolloutStatus,
    Sample,
    Step,
    TokenRole,
    ToolCall,
    Trajectory,
    VisionSpan,
)
from pixelis_fast.views import Views

VERSION = "trace"
"""The policy_version of trajectories that no policy made."""


class TraceBuilder:
    """Builds trajectories for one policy's tokenizer and view of pictures.

    Example:
        builder = TraceBuilder(tokenizer, prompt=prompt, views=views, tools=tools)
        trajectory = builder.build(sample, record.turns, answer="KX42")
    """

    def __init__(
        self, tokenizer: Tokenizer, *, prompt: PromptBuilder, views: Views, tools: ToolBox
    ) -> None:
        self._tokenizer, self._prompt = tokenizer, prompt
        self._views, self._tools = views, tools

    def build(
        self,
        sample: Sample,
        turns: Sequence[CotaTurn],
        *,
        answer: str | None,
        thought: str = "",
        told: Sequence[Observation] = (),
    ) -> Trajectory:
        """Runs every call, or takes what is told of each; without an answer the trajectory ends
        with its last call, not run."""
        if told and len(told) != len(turns) - (answer is None):
            raise ValueError(f"told: expected one per call that is run, got {len(told)}")
        trajectory = self._open(sample)
        workspace = Workspace(sample.media)
        for index, turn in enumerate(turns):
            self._say(trajectory, call_text(turn), workspace.original(turn.call))
            if answer is not None or index + 1 < len(turns):
                seen = told[index] if told else self._tools.run(turn.call, workspace)
                self._observe(trajectory, seen, turn)
        if answer is not None:
            self._say(trajectory, f"{thought}<answer>{answer}</answer>", None)
            trajectory.answer = answer
        trajectory.status = RolloutStatus.CALLED if answer is None else RolloutStatus.ANSWERED
        return trajectory

    def _open(self, sample: Sample) -> Trajectory:
        trajectory = Trajectory(sample, policy_version=VERSION, seed=0)
        piece = self._prompt.opening(sample, [self._views.tokens(m) for m in sample.media])
        self._append(trajectory, piece, TokenRole.PROMPT, sample.media)
        return trajectory

    def _say(self, trajectory: Trajectory, text: str, call: ToolCall | None) -> None:
        """A turn's tokens with the roles that the loop's own parser gives them."""
        ids = self._tokenizer.encode_structure(text + "<|im_end|>")
        parser = TurnParser(self._tokenizer)
        for token in ids:
            parser.push(token)
        start = len(trajectory.ids)
        record(trajectory, ids, parser.finish().roles)
        trajectory.steps.append(Step(start, len(trajectory.ids), call))

    def _observe(self, trajectory: Trajectory, observation: Observation, turn: CotaTurn) -> None:
        """What the tool says now; a record's own text where it has one."""
        if turn.observation is not None:
            observation = replace(observation, text=turn.observation)
        tokens = [self._views.tokens(media) for media in observation.media]
        piece = self._prompt.observation(observation.text, tokens)
        self._append(trajectory, piece, TokenRole.OBSERVATION, observation.media)
        trajectory.steps[-1].observation = observation

    def _append(
        self, trajectory: Trajectory, piece: Piece, role: TokenRole, media: Sequence[Media]
    ) -> None:
        start = len(trajectory.ids)
        for slot in piece.slots:
            shown = media[slot.media]
            grid = self._views.grid_thw(shown)
            trajectory.spans.append(
                VisionSpan(start + slot.offset, slot.num_tokens, shown.id, grid, slot.frame)
            )
        record(trajectory, piece.ids, [role] * len(piece.ids))


def record(trajectory: Trajectory, ids: Sequence[int], roles: Sequence[TokenRole]) -> None:
    trajectory.ids += ids
    trajectory.roles += roles
    trajectory.logprobs += [0.0] * len(ids)
    trajectory.forced += [False] * len(ids)


def call_text(turn: CotaTurn) -> str:
    """A turn's text, its call compact and with the keys in the call's order."""
    arguments = compact_json(turn.call.arguments)
    body = f"{CALL_HEAD}{turn.call.operation}{ARGUMENTS}{arguments}{CALL_TAIL}"
    return f"{turn.thought}<tool_call>{body}</tool_call>"


def imitated(record_: CotaRecord) -> tuple[bool, ...]:
    """Per step of the record's trajectory, its answer included: whether it is to be imitated."""
    return (*(turn.is_imitated for turn in record_.turns), True)
