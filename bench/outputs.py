"""What a chain run leaves behind, the same for every arm, and how two runs are compared.

Arms do equal work when the policy computed the same tokens over as many image tokens with close
log-probabilities, and the tools found the same: text by character error rate, masks and times by
IoU, crops by their pixels, properties one by one. Held on every run. Knows no model and no tool.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from rapidfuzz.distance import Levenshtein

from bench.cases import Case, Turn
from bench.harness import Check
from bench.scenes import Scene, scene

Spans = Sequence[tuple[float, float]]
MAX_LOGPROB_DIFFERENCE = {"float32": 1e-2, "bfloat16": 0.5}
"""By dtype: in bfloat16 two attention kernels alone differ by more than a tenth."""
MAX_TEXT_ERROR = 0.07
"""One character of the shortest line that a case reads; between the arms and against the truth."""
MIN_MASK_IOU = 0.9
MIN_TRACK_IOU = 0.7
"""Two classical propagators drift apart on a soft outline; the mean over frames is held."""
MIN_TRUTH_IOU = 0.95
MIN_TIME_IOU = 0.5
"""Each arm draws its own line between moving and still."""
MAX_PIXEL_DIFFERENCE = 1.0
"""Grey levels, the mean over a crop: two bicubic resamplers, on whatever device."""
MAX_AREA_RATIO = 1.15
MAX_COLOR_DIFFERENCE = 10
"""Grey levels in the channel furthest apart."""
MAX_CENTER_DISTANCE = 50.0
"""In thousandths of the frame, along the axis further apart."""
MIN_BOX_IOU = 0.5
"""One stray speck of a mask stretches its box; the centre it hardly moves."""
MAX_ANGLE_DIFFERENCE = 15.0
MIN_ELONGATION = 1.4
"""A rounder region has no direction to compare."""


@dataclass(frozen=True)
class ToolOutput:
    """One call's finding, in the same form for every arm.

    Example:
        ToolOutput("read_text", text="TAXI")
    """

    operation: str
    text: str | None = None
    """Words in reading order, separated by single spaces."""
    masks: tuple[np.ndarray | None, ...] = ()
    """bool HW; one for segment, one per frame for track, None where lost."""
    spans: tuple[tuple[float, float], ...] = ()
    """Best first, seconds."""
    picture: np.ndarray | None = field(default=None, compare=False)
    """A crop, uint8 HWC."""
    values: dict[str, Any] = field(default_factory=dict)
    """Of properties: area in thousandths of the frame, box and center in 0..1000, rgb, angle in
    degrees from the x axis, elongation."""
    error: str | None = None

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height of a crop."""
        return None if self.picture is None else (self.picture.shape[1], self.picture.shape[0])


@dataclass(frozen=True)
class ChainRun:
    """One arm's run of one case."""

    stage_ms: dict[str, float]
    total_ms: float
    cpu_ms: float
    """Processor time of the whole process: what a busy machine does not stretch."""
    ids: list[int]
    """Prompt, turns and observations."""
    logprobs: dict[int, float]
    """By index into ids, for each generated token the arm chose from logits."""
    num_image_tokens: int
    outputs: tuple[ToolOutput, ...]


class Arm(Protocol):
    """Something that runs a case."""

    name: str

    def run(self, case: Case, scenes: Sequence[Scene]) -> ChainRun:
        """Runs the whole chain on the case's media, timed in spans of the common vocabulary."""


def words(text: str) -> str:
    return " ".join(text.split())


def text_error(read: str, expected: str) -> float:
    """Character error rate: edits over the length of what was expected, case kept."""
    return Levenshtein.distance(words(read), words(expected)) / max(len(words(expected)), 1)


def mask_iou(left: np.ndarray | None, right: np.ndarray | None) -> float:
    """Two lost or two empty masks agree fully."""
    if left is None or right is None:
        return float(left is None and right is None)
    union = np.logical_or(left, right).sum()
    return float(np.logical_and(left, right).sum() / union) if union else 1.0


def mean_iou(left: ToolOutput, right: ToolOutput) -> float:
    """Over the masks that both have a place for."""
    pairs = zip(left.masks, right.masks, strict=False)
    return float(np.mean([mask_iou(*pair) for pair in pairs]))


def time_iou(left: Spans, right: Spans) -> float:
    """Seconds that both mark over seconds that either marks; equal lists agree fully."""
    if sorted(left) == sorted(right):
        return 1.0
    edges = sorted({edge for span in (*left, *right) for edge in span})
    both = either = 0.0
    for start, end in pairwise(edges):
        marked = [any(a <= start and end <= b for a, b in spans) for spans in (left, right)]
        both += (end - start) * all(marked)
        either += (end - start) * any(marked)
    return both / either if either else 0.0


def box_iou(left: Sequence[float], right: Sequence[float]) -> float:
    """Of two boxes [x0, y0, x1, y1]."""
    sides = [min(left[i + 2], right[i + 2]) - max(left[i], right[i]) for i in (0, 1)]
    inside = max(sides[0], 0.0) * max(sides[1], 0.0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (left, right)]
    return inside / (sum(areas) - inside) if inside else 0.0


def angle_difference(left: float, right: float) -> float:
    """Degrees between two axes, at most 90: an axis has no front."""
    apart = abs(left - right) % 180
    return min(apart, 180 - apart)


def compare(
    case: Case, baseline: Sequence[ChainRun], ours: Sequence[ChainRun], *, dtype: str
) -> list[Check]:
    """Every statement about equal work, on every run: run i of both arms saw the same media."""
    pairs = zip(baseline, ours, strict=True)
    return worst_of([_compare_runs(case, *pair, dtype=dtype) for pair in pairs])


def _compare_runs(case: Case, theirs: ChainRun, mine: ChainRun, *, dtype: str) -> list[Check]:
    difference = logprob_difference(theirs, mine)
    return [
        Check.same(case.name, "number of tokens", len(mine.ids), len(theirs.ids)),
        Check(case.name, "token ids", None, "same", mine.ids == theirs.ids),
        Check.same(case.name, "image tokens", mine.num_image_tokens, theirs.num_image_tokens),
        Check.at_most(
            case.name, "largest log-prob difference", difference, MAX_LOGPROB_DIFFERENCE[dtype]
        ),
        *compare_outputs(case, theirs.outputs, mine.outputs),
    ]


def worst_of(runs: Sequence[Sequence[Check]]) -> list[Check]:
    """One check per statement: of its runs the one that failed, or came nearest to its limit."""
    statements: dict[str, list[Check]] = {}
    for check in (check for checks in runs for check in checks):
        statements.setdefault(check.check, []).append(check)
    return [_worst(checks) for checks in statements.values()]


def _worst(checks: Sequence[Check]) -> Check:
    failed = [check for check in checks if not check.passed]
    if failed:
        return failed[0]
    if checks[0].limit.startswith("<="):
        return max(checks, key=lambda check: check.value)
    if checks[0].limit.startswith(">="):
        return min(checks, key=lambda check: check.value)
    return checks[0]


def compare_ablated(
    case: Case,
    arm: str,
    whole: Sequence[ChainRun],
    ablated: Sequence[ChainRun],
    *,
    dtype: str,
    otherwise: str | None,
) -> list[Check]:
    """What a mechanism must not change, on every run: run i of both arms saw the same media.

    `otherwise` names what a tool may then find a little differently: text, masks or nothing.
    """
    pairs = zip(whole, ablated, strict=True)
    settings: dict[str, Any] = {"dtype": dtype, "otherwise": otherwise}
    return worst_of([_compare_ablated_runs(case, arm, *pair, **settings) for pair in pairs])


def _compare_ablated_runs(
    case: Case, arm: str, ours: ChainRun, without: ChainRun, *, dtype: str, otherwise: str | None
) -> list[Check]:
    difference, limit = logprob_difference(ours, without), MAX_LOGPROB_DIFFERENCE[dtype]
    checks = [
        Check(case.name, f"{arm}: token ids", None, "same", without.ids == ours.ids),
        Check.same(case.name, f"{arm}: image tokens", without.num_image_tokens,
                   ours.num_image_tokens),
        Check.at_most(case.name, f"{arm}: largest log-prob difference", difference, limit),
    ]  # fmt: skip
    for number, (left, right) in enumerate(zip(ours.outputs, without.outputs, strict=True)):
        where = f"{arm}: step {number} {left.operation}"
        checks.append(_same_or_alike(case, left, right, where=where, otherwise=otherwise))
    return checks


def _same_or_alike(
    case: Case, left: ToolOutput, right: ToolOutput, *, where: str, otherwise: str | None
) -> Check:
    """Masks of unequal number are told apart by being unequal."""
    if otherwise == "text" and left.text is not None and right.text is not None:
        distance = text_error(right.text, left.text)
        return Check.at_most(case.name, f"{where}, text distance", distance, MAX_TEXT_ERROR)
    if otherwise == "masks" and left.masks and len(left.masks) == len(right.masks):
        iou = mean_iou(left, right)
        return Check.at_least(case.name, f"{where}, mask IoU", iou, MIN_MASK_IOU)
    return Check(case.name, where, None, "same", same_output(left, right))


def same_output(left: ToolOutput, right: ToolOutput) -> bool:
    """Equal in every field, masks and crops pixel by pixel."""
    unmasked = replace(left, masks=()), replace(right, masks=())
    if unmasked[0] != unmasked[1] or len(left.masks) != len(right.masks):
        return False
    if not np.array_equal(left.picture, right.picture):  # type: ignore[arg-type]
        return False
    return all(mask_iou(*pair) == 1.0 for pair in zip(left.masks, right.masks, strict=True))


def logprob_difference(baseline: ChainRun, ours: ChainRun) -> float:
    """Largest over tokens that both arms chose; nan when they share none."""
    shared = baseline.logprobs.keys() & ours.logprobs.keys()
    if not shared:
        return float("nan")
    return max(abs(baseline.logprobs[i] - ours.logprobs[i]) for i in shared)


def compare_outputs(
    case: Case, baseline: tuple[ToolOutput, ...], ours: tuple[ToolOutput, ...]
) -> list[Check]:
    turns = [turn for turn in case.turns if turn.call is not None]
    operations = [turn.call.operation for turn in turns if turn.call is not None]
    checks = [
        Check.same(case.name, f"tools of {arm}", [o.operation for o in outputs], operations)
        for arm, outputs in (("baseline", baseline), ("ours", ours))
    ]
    for number, (turn, theirs, mine) in enumerate(zip(turns, baseline, ours, strict=False)):
        checks += _compare_output(case, turn, theirs, mine, where=f"step {number}")
    return checks


def _compare_output(
    case: Case, turn: Turn, theirs: ToolOutput, mine: ToolOutput, *, where: str
) -> list[Check]:
    failed = [output.error for output in (theirs, mine) if output.error is not None]
    if failed:
        return [Check(case.name, f"{where} {mine.operation}", failed[0], "no error", passed=False)]
    checks: list[Check] = []
    if mine.operation == "zoom":
        checks += _compare_crops(case, theirs, mine, where=where)
    if mine.text is not None and theirs.text is not None:
        checks += _compare_text(case, turn, theirs.text, mine.text, where=where)
    if mine.operation in ("segment", "track"):
        checks += _compare_masks(case, turn, theirs, mine, where=where)
    if mine.operation == "localize":
        checks.append(_compare_times(case, theirs, mine, where=where))
    if mine.operation == "properties":
        checks += _compare_properties(case, theirs.values, mine.values, where=where)
    return checks


def _compare_crops(case: Case, theirs: ToolOutput, mine: ToolOutput, *, where: str) -> list[Check]:
    size = Check.same(case.name, f"{where} crop size", mine.size, theirs.size)
    if not size.passed or mine.picture is None or theirs.picture is None:
        return [size]
    apart = np.abs(mine.picture.astype(np.int16) - theirs.picture.astype(np.int16)).mean()
    name = f"{where} crop, mean pixel difference"
    return [size, Check.at_most(case.name, name, float(apart), MAX_PIXEL_DIFFERENCE)]


def _compare_properties(
    case: Case, theirs: dict[str, Any], mine: dict[str, Any], *, where: str
) -> list[Check]:
    areas = sorted(max(values["area"], 1e-6) for values in (theirs, mine))
    color, center = (
        _furthest(theirs["rgb"], mine["rgb"]),
        _furthest(theirs["center"], mine["center"]),
    )
    checks = [
        Check.at_most(case.name, f"{where} area ratio", areas[1] / areas[0], MAX_AREA_RATIO),
        Check.at_most(case.name, f"{where} color difference", color, MAX_COLOR_DIFFERENCE),
        Check.at_most(case.name, f"{where} distance of centers", center, MAX_CENTER_DISTANCE),
        Check.at_least(
            case.name, f"{where} box IoU", box_iou(theirs["box"], mine["box"]), MIN_BOX_IOU
        ),
    ]
    if theirs["elongation"] >= MIN_ELONGATION:
        apart = angle_difference(theirs["angle"], mine["angle"])
        checks.append(
            Check.at_most(case.name, f"{where} angle difference", apart, MAX_ANGLE_DIFFERENCE)
        )
    return checks


def _furthest(left: Sequence[float], right: Sequence[float]) -> float:
    return float(max(abs(a - b) for a, b in zip(left, right, strict=True)))


def _compare_text(case: Case, turn: Turn, theirs: str, mine: str, *, where: str) -> list[Check]:
    distance = text_error(mine, theirs)
    name = f"{where} text"
    if turn.text is None:
        return [Check.at_most(case.name, f"{name}: distance", distance, MAX_TEXT_ERROR)]
    theirs_error, error = text_error(theirs, turn.text), text_error(mine, turn.text)
    return [
        Check.at_most(case.name, f"{name}: distance", distance, MAX_TEXT_ERROR),
        Check.at_most(case.name, f"{name}: error of baseline", theirs_error, MAX_TEXT_ERROR),
        Check.at_most(case.name, f"{name}: error of ours", error, MAX_TEXT_ERROR),
    ]


def _compare_masks(
    case: Case, turn: Turn, theirs: ToolOutput, mine: ToolOutput, *, where: str
) -> list[Check]:
    checks = [Check.same(case.name, f"{where} masks", len(mine.masks), len(theirs.masks))]
    if not theirs.masks or not mine.masks:
        return checks
    least = MIN_TRACK_IOU if mine.operation == "track" else MIN_MASK_IOU
    iou = mean_iou(theirs, mine)
    checks.append(Check.at_least(case.name, f"{where} {mine.operation} IoU", iou, least))
    if turn.object is not None:
        truth = _truth(case, turn)
        iou = mask_iou(mine.masks[0], truth)
        checks.append(Check.at_least(case.name, f"{where} IoU with the truth", iou, MIN_TRUTH_IOU))
    return checks


def _truth(case: Case, turn: Turn) -> np.ndarray:
    assert turn.call is not None
    assert turn.object is not None
    return scene(case.scenes[turn.call.arguments["media"]]).masks[turn.object]


def _compare_times(case: Case, theirs: ToolOutput, mine: ToolOutput, *, where: str) -> Check:
    """All spans of one arm beside all of the other."""
    value = time_iou(theirs.spans, mine.spans)
    return Check.at_least(case.name, f"{where} time IoU", value, MIN_TIME_IOU)
