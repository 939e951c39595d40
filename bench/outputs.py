"""What a chain run leaves behind, the same for every arm, and how two runs are compared.

Arms do equal work when the policy computed the same tokens over as many image tokens with close
log-probabilities, and the tools found the same: text by character error rate, masks by IoU, times
by overlap. Knows no model and no tool.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from rapidfuzz.distance import Levenshtein

from bench.cases import Case, Turn
from bench.harness import Check
from bench.scenes import Scene, scene

MAX_LOGPROB_DIFFERENCE = {"float32": 1e-2, "bfloat16": 0.5}
"""By dtype: in bfloat16 two attention kernels alone differ by more than a tenth."""
MAX_TEXT_DISTANCE = 0.3
"""Between two different readers; each is also held against the truth."""
MAX_TEXT_ERROR = 0.1
MIN_MASK_IOU = 0.85
MIN_TRACK_IOU = 0.6
"""Two classical propagators drift apart on a soft outline; the mean over frames is held."""
MIN_TRUTH_IOU = 0.9
MIN_TIME_OVERLAP = 0.3
MAX_AREA_RATIO = 1.25


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
    size: tuple[int, int] | None = None
    """Width and height of a crop."""
    values: dict[str, Any] = field(default_factory=dict)
    """Scalars of properties."""
    error: str | None = None


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


def time_overlap(left: tuple[float, float], right: tuple[float, float]) -> float:
    """Intersection over the shorter span; a moment inside a span overlaps fully."""
    inside = min(left[1], right[1]) - max(left[0], right[0])
    shorter = min(left[1] - left[0], right[1] - right[0])
    if shorter <= 0:
        return float(inside >= 0)
    return max(inside, 0.0) / shorter


def compare(
    case: Case, baseline: Sequence[ChainRun], ours: Sequence[ChainRun], *, dtype: str
) -> list[Check]:
    """Every statement about equal work; run i of both arms saw the same media.

    Tokens and tools are held on the last run, log-probabilities on all.
    """
    pairs = list(zip(baseline, ours, strict=True))
    theirs, mine = pairs[-1]
    difference = max(logprob_difference(left, right) for left, right in pairs)
    return [
        Check.same(case.name, "number of tokens", len(mine.ids), len(theirs.ids)),
        Check(case.name, "token ids", None, "same", mine.ids == theirs.ids),
        Check.same(case.name, "image tokens", mine.num_image_tokens, theirs.num_image_tokens),
        Check.at_most(
            case.name, "largest log-prob difference", difference, MAX_LOGPROB_DIFFERENCE[dtype]
        ),
        *compare_outputs(case, theirs.outputs, mine.outputs),
    ]


def compare_ablated(
    case: Case,
    arm: str,
    whole: Sequence[ChainRun],
    ablated: Sequence[ChainRun],
    *,
    dtype: str,
    reads_otherwise: bool,
) -> list[Check]:
    """What a mechanism must not change: run i of both arms saw the same media.

    reads_otherwise allows the text a tool returns to differ a little.
    """
    pairs = list(zip(whole, ablated, strict=True))
    ours, without = pairs[-1]
    difference = max(logprob_difference(left, right) for left, right in pairs)
    limit = MAX_LOGPROB_DIFFERENCE[dtype]
    checks = [
        Check(case.name, f"{arm}: token ids", None, "same", without.ids == ours.ids),
        Check.same(case.name, f"{arm}: image tokens", without.num_image_tokens,
                   ours.num_image_tokens),
        Check.at_most(case.name, f"{arm}: largest log-prob difference", difference, limit),
    ]  # fmt: skip
    for number, (left, right) in enumerate(zip(ours.outputs, without.outputs, strict=True)):
        where = f"{arm}: step {number} {left.operation}"
        if reads_otherwise and left.text is not None and right.text is not None:
            distance = text_error(right.text, left.text)
            checks.append(
                Check.at_most(case.name, f"{where}, text distance", distance, MAX_TEXT_ERROR)
            )
        else:
            checks.append(Check(case.name, where, None, "same", same_output(left, right)))
    return checks


def same_output(left: ToolOutput, right: ToolOutput) -> bool:
    """Equal in every field, masks pixel by pixel."""
    unmasked = replace(left, masks=()), replace(right, masks=())
    if unmasked[0] != unmasked[1] or len(left.masks) != len(right.masks):
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
        checks.append(Check.same(case.name, f"{where} crop size", mine.size, theirs.size))
    if mine.text is not None and theirs.text is not None:
        checks += _compare_text(case, turn, theirs.text, mine.text, where=where)
    if mine.operation in ("segment", "track"):
        checks += _compare_masks(case, turn, theirs, mine, where=where)
    if mine.operation == "localize":
        checks.append(_compare_times(case, theirs, mine, where=where))
    if mine.operation == "properties":
        areas = sorted(max(output.values["area"], 1e-6) for output in (theirs, mine))
        ratio = areas[1] / areas[0]
        checks.append(Check.at_most(case.name, f"{where} area ratio", ratio, MAX_AREA_RATIO))
    return checks


def _compare_text(case: Case, turn: Turn, theirs: str, mine: str, *, where: str) -> list[Check]:
    distance = text_error(mine, theirs)
    name = f"{where} text"
    if turn.text is None:
        return [Check.at_most(case.name, f"{name}: distance", distance, MAX_TEXT_DISTANCE)]
    theirs_error, error = text_error(theirs, turn.text), text_error(mine, turn.text)
    return [
        Check.at_most(case.name, f"{name}: distance", distance, MAX_TEXT_DISTANCE),
        Check.at_most(case.name, f"{name}: error of baseline", theirs_error, MAX_TEXT_DISTANCE),
        Check.at_most(case.name, f"{name}: error of ours", error, MAX_TEXT_ERROR),
    ]


def _compare_masks(
    case: Case, turn: Turn, theirs: ToolOutput, mine: ToolOutput, *, where: str
) -> list[Check]:
    pairs = list(zip(theirs.masks, mine.masks, strict=False))
    checks = [Check.same(case.name, f"{where} masks", len(mine.masks), len(theirs.masks))]
    if not pairs:
        return checks
    least = MIN_TRACK_IOU if mine.operation == "track" else MIN_MASK_IOU
    iou = float(np.mean([mask_iou(left, right) for left, right in pairs]))
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
    """The best span of one arm lies on some span of the other."""
    best = [time_overlap(mine.spans[0], span) for span in theirs.spans] if mine.spans else []
    value = max(best, default=0.0)
    return Check.at_least(case.name, f"{where} time overlap", value, MIN_TIME_OVERLAP)
