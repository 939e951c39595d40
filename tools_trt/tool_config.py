"""Settings of the tools, and the toolset they describe.

The command line, traces and benchmarks name engines here. Knows no agent.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pixelis_fast.tools_trt.classical.segment import ClassicalSegment
from pixelis_fast.tools_trt.classical.track import ClassicalTrack
from pixelis_fast.tools_trt.localize import FrameEmbedder
from pixelis_fast.tools_trt.ocr.recognizer import RecognizerConfig
from pixelis_fast.tools_trt.ocr.weights import ANGLE, DETECTOR, RECOGNIZER, text_weights
from pixelis_fast.tools_trt.read_text import ReadText, ReadTextConfig
from pixelis_fast.tools_trt.segment import SegmentEngine
from pixelis_fast.tools_trt.store import MediaStore
from pixelis_fast.tools_trt.toolset import Toolset
from pixelis_fast.tools_trt.track import TrackEngine


@dataclass(frozen=True)
class ToolConfig:
    """Which engines the tools run on, and what they may keep.

    Example:
        ToolConfig(sam2="sam2.1_hiera_tiny.pt")
    """

    sam2: str | None = None
    """A transformers folder, an original .pt, "random", or None for the classical engines."""
    sam2_model: str = "tiny"
    """Size of random weights: tiny, small, base_plus or large."""
    sam2_side: int | None = None
    """Side of SAM2's square input; None for the weights' own, 1024 for the released ones."""
    sam2_engine: str = "auto"
    """What runs SAM2's graphs: auto (the fastest that passes its accuracy gate, built once and then
    found), a backend's name, or eager (PyTorch in fp32, nothing to build)."""
    sam2_precision: str = "auto"
    """auto tries the backend's ladder; or fp16, bf16, fp32 alone. Eager runs fp32."""
    feature_cache_bytes: int = 1 << 30
    """Budget of SAM2's image features; 0 encodes at every call."""
    batch_prompts: bool = False
    """Decode SAM2's waiting prompts on one picture at once; a mask may then differ in single pixels
    with who else asks."""
    text_backend: str = "openvino"
    """openvino (the quicker one in `bench/text.py --ablate`) or ort. Named, so that a replay reads
    with the arithmetic of its trace."""
    text_batch_size: int = 1
    """Lines of text the recogniser reads at once."""
    text_width_step: int | None = 64
    """A line is padded to a multiple of this; None pads to the widest line of its batch."""
    store_bytes: int = 1 << 30
    """Budget of decoded pixels in host memory, and the same again on a GPU that crops."""
    memo_bytes: int = 1 << 26
    """Budget of all tools' results; 0 computes at every call."""
    detection_bytes: int = 1 << 22
    """Budget of where text stands in whole pictures; 0 looks at every call."""


def open_toolset(
    config: ToolConfig,
    *,
    embedder: FrameEmbedder | None = None,
    device: str = "cpu",
    threads: int = 1,
) -> Toolset:
    """The tools on the engines the config names. device is SAM2's, and on a GPU that of crops."""
    segmenter, tracker = open_masks(config, device=device, threads=threads)
    store = open_store(config, device=device)
    read_text = ReadText(
        store,
        backend=config.text_backend,
        threads=threads,
        config=text_config(config),
        detection_bytes=config.detection_bytes,
    )
    return Toolset(
        store,
        segmenter=segmenter,
        tracker=tracker,
        read_text=read_text,
        embedder=embedder,
        memo_bytes=config.memo_bytes,
        batch_prompts=config.batch_prompts,
    )


def open_store(config: ToolConfig, *, device: str) -> MediaStore:
    """Pixels live where the device is; on the CPU the C++ kernels crop."""
    if device == "cpu":
        return MediaStore(config.store_bytes)
    return MediaStore(config.store_bytes, device=device, device_bytes=config.store_bytes)


def text_config(config: ToolConfig) -> ReadTextConfig:
    recognizer = RecognizerConfig(
        batch_size=config.text_batch_size, width_step=config.text_width_step
    )
    return ReadTextConfig(recognizer=recognizer)


def open_masks(
    config: ToolConfig, *, device: str, threads: int
) -> tuple[SegmentEngine, TrackEngine]:
    """The engines of segment and track; both SAM2 engines share one encoder.

    Without SAM2 weights of the user's these are the classical engines, not the micro SAM2 that
    ships: its mean IoU is the lower one by box, by point and in tracks, on real objects
    (`python bench/micro.py`) as on held-out scenes of its own kind
    (`python -m pixelis_fast.tools_trt.micro.evaluate`). It gives gates, tests and soaks real masks.
    """
    if config.sam2 is None:
        return ClassicalSegment(), ClassicalTrack()
    # Imported when asked for: the classical engines need none of it.
    from pixelis_fast.tools_trt.sam2.engines import EAGER, compile_sam2
    from pixelis_fast.tools_trt.sam2.network import Sam2
    from pixelis_fast.tools_trt.sam2.segment import Sam2Segment
    from pixelis_fast.tools_trt.sam2.track import Sam2Track

    options: dict[str, Any] = {"device": device, "cache_bytes": config.feature_cache_bytes}
    if config.sam2 == "random":
        sam2 = Sam2.random(config.sam2_model, side=config.sam2_side, **options)
    else:
        sam2 = Sam2.load(config.sam2, side=config.sam2_side, **options)
    if config.sam2_engine != EAGER:
        choice = {"backend": config.sam2_engine, "precision": config.sam2_precision}
        compile_sam2(sam2, threads=threads, **choice)
    elif config.sam2_precision not in ("auto", "fp32"):
        raise ValueError(
            f"sam2_precision: expected auto or fp32 for the eager graphs, got "
            f"{config.sam2_precision}"
        )
    return Sam2Segment(sam2), Sam2Track(sam2)


def shipped_weights() -> list[Path]:
    """Weight files that the tools find in installed packages; MissingWeightsError without them."""
    return [text_weights(name) for name in (DETECTOR, RECOGNIZER, ANGLE)]
