"""The micro SAM 2 beside the classical engines on real objects: those of bench/region_objects.py.

    python bench/micro.py --quick

None of these objects and none of their photographs is in the training's scenes. The last line of
stdout is one JSON document; generated scenes are
`python -m pixelis_fast.tools_trt.micro.evaluate`'s.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

if __name__ == "__main__":
    import rooted  # noqa: F401

import cv2
import torch
from rich.console import Console

from bench.region_objects import moving_objects, outlined_objects
from pixelis_fast.tools_trt.micro.comparison import compare, compare_tracks, table_of
from pixelis_fast.tools_trt.micro.evaluate import segment_engines, track_engines
from pixelis_fast.tools_trt.micro.model import WEIGHTS


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer objects")
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    rows = compare(outlined_objects(quick=options.quick), segment_engines(options.weights))
    rows += compare_tracks(moving_objects(quick=options.quick), track_engines(options.weights))
    Console(stderr=True).print(table_of(rows, "real objects"))
    print(json.dumps({"bench": "micro", "rows": [asdict(row) for row in rows]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
