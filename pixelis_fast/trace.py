"""Trace files: a folder with trace.jsonl (a header line, one line per trajectory) and media/.

A trace holds all that is needed to run it again; replay compares tokens, roles, log-probabilities
and observations exactly. Knows nothing of the policy or the tools.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from pixelis_fast.types import (
    AnswerKind,
    Evidence,
    Mask,
    Media,
    MediaKind,
    Observation,
    RolloutStatus,
    Sample,
    Step,
    TokenRole,
    ToolCall,
    Trajectory,
    VisionSpan,
)

FORMAT = 1
FILE_NAME = "trace.jsonl"
MEDIA_FOLDER = "media"


class TraceError(ValueError):
    """A trace file that cannot be read; says where and why."""


@dataclass(frozen=True)
class Trace:
    """What one folder holds.

    Example:
        trace = read_trace(Path("runs/coins"))
        trace.trajectories[0].answer
    """

    agent: dict[str, Any]
    """The settings the agent was built with."""
    trajectories: tuple[Trajectory, ...]


def write_trace(folder: Path, *, agent: dict[str, Any], trajectories: Sequence[Trajectory]) -> None:
    """Writes the file whole or not at all; the caller puts the media beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    header = {"format": FORMAT, "agent": agent}
    lines = [header, *(asdict(trajectory) for trajectory in trajectories)]
    draft = folder / f"{FILE_NAME}.draft"
    draft.write_text("".join(f"{_to_line(line)}\n" for line in lines))
    os.replace(draft, folder / FILE_NAME)


def _to_line(row: dict[str, Any]) -> str:
    return json.dumps(row, allow_nan=False, default=lambda enum: enum.value)


def read_trace(folder: Path) -> Trace:
    path = folder / FILE_NAME
    if not path.is_file():
        raise TraceError(f"trace: expected {FILE_NAME} in {folder}, found none")
    header, *rows = [_parse_line(path, i, line) for i, line in enumerate(path.open(), start=1)]
    if header.get("format") != FORMAT:
        raise TraceError(f"{path}: expected format {FORMAT}, got {header.get('format')}")
    return Trace(header["agent"], tuple(trajectory_from_json(row) for row in rows))


def _parse_line(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise TraceError(f"{path}:{number}: expected one JSON object, got {error}") from error


def trajectory_from_json(row: dict[str, Any]) -> Trajectory:
    return Trajectory(
        sample=sample_from_json(row["sample"]),
        policy_version=row["policy_version"],
        seed=row["seed"],
        ids=row["ids"],
        roles=[TokenRole(role) for role in row["roles"]],
        logprobs=row["logprobs"],
        forced=row["forced"],
        spans=[VisionSpan(**span | {"grid_thw": tuple(span["grid_thw"])}) for span in row["spans"]],
        steps=[step_from_json(step) for step in row["steps"]],
        answer=row["answer"],
        status=RolloutStatus(row["status"]) if row["status"] else None,
        # Traces from before one request could fail alone have no such key.
        error=row.get("error"),
        # From before the last turn had to answer.
        call_limit=row.get("call_limit"),
        stage_ms=row["stage_ms"],
    )


def sample_from_json(row: dict[str, Any]) -> Sample:
    """Traces from before samples carried ground truth have no such keys."""
    return Sample(
        id=row["id"],
        media=tuple(media_from_json(each) for each in row["media"]),
        question=row["question"],
        answer=row["answer"],
        answer_kind=AnswerKind(row.get("answer_kind", AnswerKind.EXACT.value)),
        evidence=tuple(evidence_from_json(each) for each in row.get("evidence", ())),
    )


def evidence_from_json(row: dict[str, Any]) -> Evidence:
    pairs = {key: tuple(row[key]) for key in ("box", "span") if row.get(key) is not None}
    mask = mask_from_json(row["mask"]) if row.get("mask") else None
    return Evidence(**row | pairs | {"mask": mask})


def mask_from_json(row: dict[str, Any]) -> Mask:
    return Mask(**row | {"size": tuple(row["size"])})


def media_from_json(row: dict[str, Any]) -> Media:
    return Media(**row | {"kind": MediaKind(row["kind"])})


def step_from_json(row: dict[str, Any]) -> Step:
    call, observation = row["call"], row["observation"]
    return Step(
        start=row["start"],
        end=row["end"],
        call=ToolCall(**call) if call else None,
        observation=observation_from_json(observation) if observation else None,
        embedding=tuple(row["embedding"]) if row.get("embedding") else None,
    )


def observation_from_json(row: dict[str, Any]) -> Observation:
    media = tuple(media_from_json(each) for each in row["media"])
    masks = tuple(mask_from_json(mask) for mask in row["masks"])
    return Observation(**row | {"media": media, "masks": masks})


def differences(recorded: Trajectory, replayed: Trajectory) -> list[str]:
    """What differs between two trajectories, times aside; empty when they are the same."""
    found = [
        f"{f.name}: {_first_difference(getattr(recorded, f.name), getattr(replayed, f.name))}"
        for f in fields(Trajectory)
        if f.name not in ("stage_ms", "steps")
        and getattr(recorded, f.name) != getattr(replayed, f.name)
    ]
    pairs = zip(recorded.steps, replayed.steps, strict=False)
    steps = [i for i, (a, b) in enumerate(pairs) if _timeless(a) != _timeless(b)]
    if len(recorded.steps) != len(replayed.steps):
        found.append(f"steps: recorded {len(recorded.steps)}, replayed {len(replayed.steps)}")
    return found + [f"step {i}: call or observation differs" for i in steps]


def _timeless(step: Step) -> dict[str, Any]:
    row = asdict(step)
    if row["observation"] is not None:
        row["observation"].pop("stage_ms")
    return row


def _first_difference(recorded: Any, replayed: Any) -> str:
    if isinstance(recorded, list) and isinstance(replayed, list):
        for index, (a, b) in enumerate(zip(recorded, replayed, strict=False)):
            if a != b:
                return f"at {index} recorded {a!r}, replayed {b!r}"
        return f"recorded {len(recorded)} entries, replayed {len(replayed)}"
    return f"recorded {recorded!r}, replayed {replayed!r}"
