"""SAM 2's graphs on compiled engines: each on the backend and in the precision that serve best.

The encoder, decoder and memory encoder are chosen on one picture or object, memory attention on the
fullest bank, which a track attends to from its eighth frame on. Building takes minutes once; the
plans are then found by every process of the machine. Other buckets open at their first use, the
wide banks of objects with several prompts among them: no graph falls back to eager PyTorch.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from pixelis_fast.tools_trt.engines.engine import Engine, open_engine
from pixelis_fast.tools_trt.sam2.network import Sam2

EAGER = "eager"
"""In a backend's place: no engines, the graphs in PyTorch and fp32."""


def compile_sam2(
    sam2: Sam2,
    *,
    backend: str = "auto",
    precision: str = "auto",
    threads: int = 1,
    plan_dir: str | Path | None = None,
    graphs: Collection[str] | None = None,
) -> dict[str, Engine]:
    """Lets engines run graphs of `sam2` from now on, all or those named; returns them by graph.

    Example:
        sam2 = Sam2.load("sam2.1_hiera_tiny.pt")
        for graph, engine in compile_sam2(sam2).items():
            print(graph, engine.report.backend, engine.report.reason)
    """
    found = sam2.specs()
    specs = found.served()
    if unknown := set(graphs or ()) - set(specs):
        raise ValueError(f"graphs: expected some of {sorted(specs)}, got {sorted(unknown)}")
    engines = {
        graph: open_engine(
            spec,
            backend=backend,
            precision=precision,
            device=sam2.device.type,
            threads=threads,
            plan_dir=plan_dir,
            bucket=found.full_bank() if graph == "memory_attention" else None,
        )
        for graph, spec in specs.items()
        if graphs is None or graph in graphs
    }
    sam2.use(engines)
    return engines
