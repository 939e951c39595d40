"""What bench/tools.py times: pieces of work that a usual package and our tools both do.

A case holds two calls on the same media and says how their results are compared. SAM 2 has the same
seeded random weights in both arms: graph and cost are SAM2.1-tiny's and masks mean nothing, so
features and logits are compared; that a precision keeps trained masks is its gate's business. Our
calls find nothing kept from an earlier run unless keeping is what the case is about. Knows no
timing and no report.

Shapes: C = channels, h, w = low resolution, H, W = picture.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
from PIL import Image
from rapidfuzz.distance import Levenshtein
from torch import Tensor
from torch.nn.functional import cosine_similarity

from bench.harness import Check
from bench.naive_sam2 import NaiveSam2
from bench.naive_video import VideoFile
from bench.region_objects import photograph
from bench.scenes import scene
from bench.text_pictures import letters
from pixelis_fast.tools_trt.read_text import ReadText
from pixelis_fast.tools_trt.sam2.network import Sam2
from pixelis_fast.tools_trt.sam2.prompt import Prompt
from pixelis_fast.tools_trt.sam2.segment import Sam2Segment
from pixelis_fast.tools_trt.sam2.track import Sam2Track
from pixelis_fast.tools_trt.store import MediaStore

MIN_COSINE = 0.999
"""Between features in fp32 and in the precision that serves, as its gate asks."""
MIN_LOGIT_COSINE = 0.99
"""Between mask logits, whose differences add up over the frames of a track."""
MAX_TEXT_DISTANCE = 0.02
MORE_EDITS = 0.005
"""Edits per character that ours may make beyond the usual reader's: easyocr's LSTM computes in int8
on a CPU, ours in fp32 or bf16, and single characters fall either way (2 of 470 on these pages)."""
PICTURE = "coffee.png"
CLICK, SECOND_CLICK = (300, 200), (150, 120)
TRACK_BOX = (340, 12, 500, 218)
FRAMES = 16


@dataclass(frozen=True)
class Case:
    """One piece of work.

    Example:
        Case("encode 1024", usual=lambda: sam2.encode(image), ours=…, compare=…, target=3)
    """

    name: str
    usual: Callable[[], Any]
    ours: Callable[[], Any]
    compare: Callable[[Any, Any], list[Check]]
    """(the usual result, ours) -> statements about equal work."""
    target: float | None
    """What the ratio should reach; None where no goal is set."""
    baseline: str = "usual"
    """Name of the usual arm."""
    runs: int = 5
    warmup: int = 1


def encode_case(sam2: Sam2, usual: NaiveSam2) -> Case:
    image, name = photograph(PICTURE), f"encode {sam2.side}"

    def compare(expected: Tensor, found: Any) -> list[Check]:
        coarse = found.maps[-1] + sam2.graphs.no_memory
        return [Check.at_least(name, "cosine of features", cosine(expected, coarse), MIN_COSINE)]

    return Case(name, lambda: usual.encode(image), lambda: sam2.encode(image), compare, 3, "sam2")


def second_click_case(sam2: Sam2, usual: NaiveSam2) -> Case:
    """Ours knows the picture; the package's predictor is set to it again, as by a server that keeps
    nothing between calls."""
    image, engine, name = photograph(PICTURE), Sam2Segment(sam2), f"second click {sam2.side}"
    engine.segment(image, point_px=CLICK, key=PICTURE)

    def ours() -> Tensor:
        prompt = Prompt(points_px=(SECOND_CLICK,), labels=(1,))
        return engine.candidates(image, [prompt], key=PICTURE).several()[0][0]

    def compare(expected: Tensor, found: Tensor) -> list[Check]:
        value = cosine(expected, found)
        return [Check.at_least(name, "cosine of mask logits", value, MIN_LOGIT_COSINE)]

    return Case(name, lambda: usual.candidates(image, SECOND_CLICK), ours, compare, 50, "sam2")


def track_case(sam2: Sam2, usual: NaiveSam2, *, runs: int) -> Case:
    """Every run's frames are new to ours: no key is used twice."""
    frames, engine, fresh = clip(FRAMES), Sam2Track(sam2), count()
    name = f"track {FRAMES} frames {sam2.side}"

    def ours() -> list[Tensor]:
        keys = [f"{next(fresh)}" for _ in frames]
        return [found.logits()[0] for found in engine.follow(frames, TRACK_BOX, keys=keys)]

    def compare(expected: list[Tensor], found: list[Tensor]) -> list[Check]:
        value = min(cosine(one, other) for one, other in zip(expected, found, strict=True))
        return [Check.at_least(name, "least cosine of a frame's logits", value, MIN_LOGIT_COSINE)]

    return Case(
        name, lambda: usual.track_logits(frames, TRACK_BOX), ours, compare, 3, "sam2", runs=runs
    )


def text_case(
    name: str,
    image_HWC: np.ndarray,
    lines: Sequence[str],
    usual: Callable[[np.ndarray], list[str]],
    reader: ReadText,
    store: MediaStore,
    *,
    target: float,
    baseline: str,
) -> Case:
    """`lines` are what stands on the picture: ours must read it as well as the usual reader but for
    a character here and there, or nearly without error where that one errs."""
    media_id = store.add_image(image_HWC).id

    def ours() -> list[str]:
        return [line.text for line in reader(media_id).lines]

    def compare(expected: list[str], found: list[str]) -> list[Check]:
        limit = max(text_distance(lines, expected) + MORE_EDITS, MAX_TEXT_DISTANCE)
        value = text_distance(lines, found)
        return [Check.at_most(name, "edits per character of the truth", value, limit)]

    return Case(name, lambda: usual(image_HWC), ours, compare, target, baseline)


def text_distance(expected: Sequence[str], found: Sequence[str]) -> float:
    """Levenshtein edits over the characters, lines in order of their letters and not of the page:
    the arms sort lines differently."""
    one, other = letters(sorted(expected)), letters(sorted(found))
    return Levenshtein.distance(one, other) / max(len(one), 1)


def clip(num_frames: int) -> list[np.ndarray]:
    """Frames of a video as JPEG leaves them, which is how the package reads them."""
    with VideoFile(scene("bikes").encoded) as video:
        frames, _ = video.between(0.0, 2.0, num_frames)
    return [through_jpeg(frame) for frame in frames]


def through_jpeg(frame_HWC: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(frame_HWC).save(buffer, format="JPEG", quality=95)
    return np.array(Image.open(buffer))


def cosine(one: Tensor, other: Tensor) -> float:
    return float(cosine_similarity(one.flatten().float(), other.flatten().float(), dim=0))
