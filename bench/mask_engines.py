"""What segment and track run on in the soak and the fuzz: classical methods, or the micro SAM 2.

The micro SAM 2 is worse at its work than the classical engines (`bench/micro.py`), but it has what
they lack: a feature store, sessions with memories, prompts as tensors. Its weights ship with the
package. The feature store is small, so that features are dropped and made again.
"""

from __future__ import annotations

import argparse
from typing import Any

from pixelis_fast.tools_trt.micro.model import WEIGHTS
from pixelis_fast.tools_trt.sam2.engines import EAGER
from pixelis_fast.tools_trt.sam2.network import Sam2Engine
from pixelis_fast.tools_trt.segment import SegmentEngine
from pixelis_fast.tools_trt.tool_config import ToolConfig, open_masks
from pixelis_fast.tools_trt.track import TrackEngine

MaskEngines = tuple[SegmentEngine, TrackEngine]
CLASSICAL, MICRO = "classical", "micro"
FEATURE_BYTES = 4 << 20
CONFIGS = {
    CLASSICAL: ToolConfig(),
    MICRO: ToolConfig(sam2=str(WEIGHTS), sam2_engine=EAGER, feature_cache_bytes=FEATURE_BYTES),
}


def variant(masks: str) -> str:
    """Of a recorded document: the classical run is the benchmark's own."""
    return "" if masks == CLASSICAL else masks


def add_masks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--masks", choices=tuple(CONFIGS), default=CLASSICAL, help="what segment and track run on"
    )


def open_mask_engines(name: str, *, threads: int) -> MaskEngines:
    """Segment and track; both micro engines share one encoder and its features."""
    return open_masks(CONFIGS[name], device="cpu", threads=threads)


def feature_figures(segmenter: SegmentEngine) -> dict[str, Any] | None:
    """How often a picture's features were there when asked for; None without a feature store."""
    if not isinstance(segmenter, Sam2Engine):
        return None
    stats = segmenter.sam2.cache.stats()
    asked = stats.hits + stats.misses
    return {
        "hit_rate": round(stats.hits / asked, 4) if asked else None,
        "hits": stats.hits,
        "misses": stats.misses,
        "dropped": stats.dropped,
        "bytes": stats.host_bytes,
    }
