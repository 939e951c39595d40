"""What a step claims to have seen, and how far two such claims, or a claim and the truth, agree.

segment, track  masks: intersection over union, per frame for a track; a frame lost counts 0
read_text       lines: the nearest line's ANLS to the truth; similarity of two reads
localize        spans: intersection over union of the best span and the truth, of all spans of two
properties      box: intersection over union
zoom            the view: the share of the true box that it holds, less where the box fills little
                of it; a view claims no extent, so overlap alone would punish room around a target

A failed call, and one that found nothing, claims nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pycocotools import mask as coco
from rapidfuzz.distance import Levenshtein

from pixelis_fast.scoring import anls, box_iou, span_iou
from pixelis_fast.types import Box, Evidence, Mask, Span, Step, Trajectory

SAME_FRAME_S = 0.1
"""Truth of another moment than a claim's judges it no more."""
CLOSE_SHARE = 1 / 8
"""A zoom whose target fills at least this share of the view is close enough."""


@dataclass(frozen=True)
class Claim:
    """One step's observation, as far as it can be held against anything.

    Example:
        Claim("read_text", media=0, lines=("KX42",))
    """

    operation: str
    media: int
    time_s: float | None = None
    """Of the frame; None for an image, and for what is about the whole video."""
    asked: Box | None = None
    """The call's own box."""
    box: Box | None = None
    masks: tuple[Mask, ...] = ()
    lines: tuple[str, ...] = ()
    spans: tuple[Span, ...] = ()
    """Best first."""
    over: Span | None = None
    """The seconds that a track was asked for."""


def claims(
    trajectory: Trajectory, *, named: Mapping[int, Mask] | None = None
) -> list[Claim | None]:
    """Per step; None where it claims nothing. `named`: masks that no step of these made."""
    masks = dict(named or {})
    found = []
    for step in trajectory.steps:
        found.append(_claim(trajectory, step, masks))
        masks |= named_masks(step)
    return found


def named_masks(step: Step) -> dict[int, Mask]:
    """The mask that an observation names, by its index; a track names the last it saw."""
    if step.observation is None or not step.observation.masks:
        return {}
    return {json.loads(step.observation.text)["mask"]: step.observation.masks[-1]}


def _claim(trajectory: Trajectory, step: Step, masks: dict[int, Mask]) -> Claim | None:
    call, observation = step.call, step.observation
    if call is None or observation is None or observation.error is not None:
        return None
    content, arguments = json.loads(observation.text), call.arguments
    media, time_s = arguments.get("media", 0), arguments.get("time")
    if call.operation == "properties":
        mask = masks[arguments["mask"]]
        media = [each.id for each in trajectory.sample.media].index(mask.media_id)
        time_s = mask.time_s
    asked = tuple(arguments["box"]) if "box" in arguments else None
    seen = _seen(call.operation, content, arguments, observation.masks)
    return Claim(call.operation, media, time_s, asked, **seen) if seen else None


def _seen(
    operation: str, content: dict[str, Any], arguments: dict[str, Any], masks: tuple[Mask, ...]
) -> dict[str, Any]:
    """A claim's fields; empty where nothing was found."""
    if operation == "zoom":
        return {"box": tuple(content["view"])}
    if operation == "segment":
        return {"box": tuple(content["box"]), "masks": masks}
    if operation == "track":
        return {"masks": masks, "over": (arguments["start"], arguments["end"])} if masks else {}
    if operation == "read_text":
        lines = tuple(line["text"] for line in content["lines"])
        return {"lines": lines} if lines else {}
    if operation == "localize":
        spans = tuple((start, end) for start, end, _ in content["spans"])
        return {"spans": spans} if spans else {}
    return {"box": tuple(content["box"])}


def correctness(claim: Claim, evidence: Sequence[Evidence]) -> float | None:
    """Against the truth, the best of several; None where none of it is about this claim."""
    about = [each for each in evidence if _is_about(claim, each)]
    scores = [score for each in about if (score := _against(claim, each)) is not None]
    if not scores:
        return None
    # One object's frames are a track's truth; of several objects or signs any one may be meant.
    return sum(scores) / len(scores) if claim.operation == "track" else max(scores)


def _is_about(claim: Claim, evidence: Evidence) -> bool:
    if (claim.operation, claim.media) != (evidence.operation, evidence.media):
        return False
    if claim.over is not None and evidence.time_s is not None:
        start_s, end_s = claim.over
        return start_s - SAME_FRAME_S <= evidence.time_s <= end_s + SAME_FRAME_S
    if claim.time_s is None or evidence.time_s is None:
        return True
    return abs(claim.time_s - evidence.time_s) <= SAME_FRAME_S


def _against(claim: Claim, truth: Evidence) -> float | None:
    if claim.lines and truth.text is not None:
        return max(anls(line, [truth.text]) for line in (*claim.lines, " ".join(claim.lines)))
    if claim.spans and truth.span is not None:
        return span_iou(claim.spans[0], truth.span)
    if claim.operation == "zoom" and claim.box and truth.box:
        return view_score(claim.box, truth.box)
    if claim.over is not None:
        mask = _at(claim.masks, truth.time_s)
        return 0.0 if mask is None else _shape_score(mask, mask_box(mask), truth)
    return _shape_score(claim.masks[0] if claim.masks else None, claim.box, truth)


def _shape_score(mask: Mask | None, box: Box | None, truth: Evidence) -> float | None:
    if mask is not None and truth.mask is not None:
        return mask_iou(mask, truth.mask)
    return box_iou(box, truth.box) if box and truth.box else None


def _at(masks: Sequence[Mask], time_s: float | None) -> Mask | None:
    """The mask of that moment; without one the last that was seen."""
    if time_s is None:
        return masks[-1]
    nearest = min(masks, key=lambda mask: abs((mask.time_s or 0.0) - time_s))
    return nearest if abs((nearest.time_s or 0.0) - time_s) <= SAME_FRAME_S else None


def agreement(claim: Claim, other: Claim | None) -> float:
    """Of a claim and the same call's again; 0 where the other claims nothing."""
    if other is None:
        return 0.0
    if claim.masks:
        return _masks_agreement(claim.masks, other.masks)
    if claim.lines:
        return Levenshtein.normalized_similarity(" ".join(claim.lines), " ".join(other.lines))
    if claim.spans:
        return spans_iou(claim.spans, other.spans)
    return box_iou(claim.box, other.box) if claim.box and other.box else 0.0


def _masks_agreement(masks: Sequence[Mask], others: Sequence[Mask]) -> float:
    """Mean over the frames in which either saw the object."""
    one, other = ({mask.time_s: mask for mask in each} for each in (masks, others))
    times = one.keys() | other.keys()
    return sum(mask_iou(one[t], other[t]) for t in times if t in one and t in other) / len(times)


def mask_iou(one: Mask, other: Mask) -> float:
    """By pycocotools, on the run lengths; 0 for two empty masks."""
    if one.size != other.size:
        raise ValueError(f"mask: expected the size {one.size}, got {other.size}")
    return float(coco.iou([_rle(one)], [_rle(other)], [0])[0][0])


def mask_box(mask: Mask) -> Box:
    """The mask's box in 0..1000."""
    (height, width), (x, y, w, h) = mask.size, coco.toBbox(_rle(mask))
    scaled = (x / width, y / height, (x + w) / width, (y + h) / height)
    x0, y0, x1, y1 = (round(1000 * float(value)) for value in scaled)
    return x0, y0, x1, y1


def _rle(mask: Mask) -> dict[str, Any]:
    return {"size": list(mask.size), "counts": mask.counts.encode()}


def view_score(view: Box, target: Box) -> float:
    """The share of the target that the view holds, times how nearly it is close enough."""
    width = min(view[2], target[2]) - max(view[0], target[0])
    height = min(view[3], target[3]) - max(view[1], target[1])
    held = max(width, 0) * max(height, 0)
    target_area, view_area = ((b[2] - b[0]) * (b[3] - b[1]) for b in (target, view))
    return held / target_area * min(1.0, target_area / view_area / CLOSE_SHARE)


def spans_iou(spans: Sequence[Span], others: Sequence[Span]) -> float:
    """Of two sets of seconds; equal sets agree even where they are single moments."""
    if set(spans) == set(others):
        return 1.0
    shared = sum(
        max(min(a[1], b[1]) - max(a[0], b[0]), 0.0) for a in merged(spans) for b in merged(others)
    )
    lengths = sum(end - start for each in (spans, others) for start, end in merged(each))
    return shared / (lengths - shared) if shared else 0.0


def merged(spans: Sequence[Span]) -> list[Span]:
    """The same seconds in spans that do not overlap."""
    joined: list[Span] = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(joined[-1][1], end)
        else:
            joined.append((start, end))
    return joined
