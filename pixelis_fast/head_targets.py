"""What the auxiliary heads should say of each call of a batch, read off the trajectories.

A trace that is imitated holds its own truth: a call's box, point and times. Only the span that
`localize` looks for comes from the sample's evidence, because the call does not name it.

Shapes: R = calls, C = most visual tokens of one call's picture.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from pixelis_fast.schemas import TOOL_SCHEMAS
from pixelis_fast.types import Box, MediaKind, Span, Step, TokenRole, Trajectory, VisionSpan

OPERATIONS = tuple(TOOL_SCHEMAS)
NONE = -1

Region = tuple[float, float, float, float]
"""Centre x, centre y, width, height, as shares of a picture."""


@dataclass(frozen=True)
class HeadTargets:
    """One row per call."""

    rows_R: Tensor
    """Row of the batch whose next token opens the arguments."""
    ends_R: Tensor
    """Row of the arguments' last token; it predicts none of them."""
    starts_R: Tensor
    """First row of the call's trajectory."""
    operations_R: Tensor
    cells_RC: Tensor
    """Rows of the visual tokens the call may point at; NONE beyond its picture."""
    cell_R: Tensor
    """Which of them holds the target; NONE: the call points nowhere."""
    cell_box_R4: Tensor
    """Centre and size of that token's part of the picture, as shares."""
    region_R4: Tensor
    """Centre x, centre y, width, height, as shares of the picture."""
    region_known_R4: Tensor
    span_R2: Tensor
    """Start and end as shares of the video."""
    span_known_R: Tensor

    def __len__(self) -> int:
        return len(self.rows_R)

    def to(self, device: torch.device) -> HeadTargets:
        return HeadTargets(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


@dataclass(frozen=True)
class CallTarget:
    """One call's part of it."""

    row: int
    end: int
    start: int
    operation: int
    cells: list[int]
    cell: int
    cell_box: tuple[float, float, float, float]
    region: tuple[float, float, float, float]
    known: tuple[bool, bool]
    """Whether the centre is known, and the size."""
    span: Span | None


def head_targets(
    trajectories: Sequence[Trajectory], merge: int, *, imitated: Sequence[Sequence[bool]] | None
) -> HeadTargets | None:
    """Of all imitated calls of a batch; None where there is none."""
    calls = list(call_targets(trajectories, merge, imitated))
    if not calls:
        return None
    most = max(len(call.cells) for call in calls)
    padded = [call.cells + [NONE] * (most - len(call.cells)) for call in calls]
    return HeadTargets(
        rows_R=torch.tensor([call.row for call in calls]),
        ends_R=torch.tensor([call.end for call in calls]),
        starts_R=torch.tensor([call.start for call in calls]),
        operations_R=torch.tensor([call.operation for call in calls]),
        cells_RC=torch.tensor(padded, dtype=torch.long).view(len(calls), most),
        cell_R=torch.tensor([call.cell for call in calls]),
        cell_box_R4=torch.tensor([call.cell_box for call in calls]),
        region_R4=torch.tensor([call.region for call in calls]),
        region_known_R4=torch.tensor([[c.known[0]] * 2 + [c.known[1]] * 2 for c in calls]),
        span_R2=torch.tensor([call.span or (0.0, 0.0) for call in calls]),
        span_known_R=torch.tensor([call.span is not None for call in calls]),
    )


def call_targets(
    trajectories: Sequence[Trajectory], merge: int, imitated: Sequence[Sequence[bool]] | None
) -> Iterator[CallTarget]:
    start = 0
    for index, trajectory in enumerate(trajectories):
        for number, step in enumerate(trajectory.steps):
            if step.call is None or (imitated is not None and not imitated[index][number]):
                continue
            if arguments_rows(trajectory, step):
                yield call_target(trajectory, step, start=start, merge=merge)
        start += len(trajectory.ids)


def arguments_rows(trajectory: Trajectory, step: Step) -> list[int]:
    """The tokens of the call's arguments."""
    roles = trajectory.roles
    return [i for i in range(step.start, step.end) if roles[i] is TokenRole.ARGUMENT]


def call_target(trajectory: Trajectory, step: Step, *, start: int, merge: int) -> CallTarget:
    assert step.call is not None
    arguments, crop = step.call.arguments, step.call.crop
    region, known = wanted_region(arguments)
    span = shown_span(trajectory, arguments)
    if crop is not None:
        span, view = crops_shown(trajectory)[crop]
        region = inside(region, view)
    rows = arguments_rows(trajectory, step)
    cells, cell, cell_box = [], NONE, (0.0, 0.0, 1.0, 1.0)
    if span is not None and known[0]:
        cells = [start + span.start + i for i in range(span.num_tokens)]
        cell = cell_of(region, span, merge)
        cell_box = box_of_cell(cell, span, merge)
    return CallTarget(
        row=start + rows[0] - 1,
        end=start + rows[-1],
        start=start,
        operation=OPERATIONS.index(step.call.operation),
        cells=cells,
        cell=cell,
        cell_box=cell_box,
        region=region,
        known=known,
        span=wanted_span(trajectory, step),
    )


def crops_shown(trajectory: Trajectory) -> list[tuple[VisionSpan, Box]]:
    """Every crop's tokens, and what it shows of its original, in the order they came."""
    spans = {span.start: span for span in trajectory.spans}
    found = []
    for step, after in zip(trajectory.steps, trajectory.steps[1:], strict=False):
        if step.observation is None or not step.observation.media:
            continue
        [start] = [start for start in spans if step.end <= start < after.start]
        found.append((spans[start], tuple(json.loads(step.observation.text)["view"])))
    return found


def inside(region: Region, view: Box) -> Region:
    """The same region, as shares of the crop that shows `view`."""
    left, top, right, bottom = (value / 1000 for value in view)
    wide, high = right - left, bottom - top
    x, y, width, height = region
    return (x - left) / wide, (y - top) / high, width / wide, height / high


def wanted_region(
    arguments: dict[str, Any],
) -> tuple[Region, tuple[bool, bool]]:
    """Centre and size of the call's box or point; which of the two is known."""
    if "box" in arguments:
        x0, y0, x1, y1 = (value / 1000 for value in arguments["box"])
        return ((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0), (True, True)
    if "point" in arguments:
        x, y = (value / 1000 for value in arguments["point"])
        return (x, y, 0.0, 0.0), (True, False)
    return (0.0, 0.0, 0.0, 0.0), (False, False)


def shown_span(trajectory: Trajectory, arguments: dict[str, Any]) -> VisionSpan | None:
    """The span of the sample's picture, or of the video's frame pair nearest to the call's time."""
    index = arguments.get("media")
    if index is None or not 0 <= index < len(trajectory.sample.media):
        return None
    media = trajectory.sample.media[index]
    spans = [span for span in trajectory.spans if span.media_id == media.id]
    if not spans or media.kind is MediaKind.IMAGE:
        return spans[0] if spans else None
    share = float(arguments.get("time", arguments.get("start", 0.0))) / max(media.duration_s, 1e-6)
    return spans[min(int(share * len(spans)), len(spans) - 1)]


def cell_of(region: Region, span: VisionSpan, merge: int) -> int:
    _, height, width = span.grid_thw
    rows, columns = height // merge, width // merge
    row, column = int(region[1] * rows), int(region[0] * columns)
    return min(row, rows - 1) * columns + min(column, columns - 1)


def box_of_cell(cell: int, span: VisionSpan, merge: int) -> tuple[float, float, float, float]:
    """Centre and size, as shares of the picture."""
    _, height, width = span.grid_thw
    rows, columns = height // merge, width // merge
    row, column = divmod(cell, columns)
    return (column + 0.5) / columns, (row + 0.5) / rows, 1 / columns, 1 / rows


def wanted_span(trajectory: Trajectory, step: Step) -> Span | None:
    """As shares of the video: of the call itself, or what `localize` should find."""
    assert step.call is not None
    arguments, sample = step.call.arguments, trajectory.sample
    index = arguments.get("media")
    if index is None or not 0 <= index < len(sample.media):
        return None
    duration_s = sample.media[index].duration_s
    if duration_s <= 0:
        return None
    if "start" in arguments and "end" in arguments:
        return arguments["start"] / duration_s, arguments["end"] / duration_s
    about = [e for e in sample.evidence if (e.operation, e.media) == (step.call.operation, index)]
    found = [evidence.span for evidence in about if evidence.span]
    return (found[0][0] / duration_s, found[0][1] / duration_s) if found else None
