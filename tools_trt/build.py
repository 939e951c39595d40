"""Builds, gates and times engines: `python -m pixelis_fast.tools_trt.build --model sam2.1-tiny`.

For every graph of a model: export, build on the backend, compare with the fp32 reference, time,
and leave the plan in the cache. SAM 2's plans are found there by the tools. Those of text models
answer which backend and precision would pass and how fast; `read_text` opens its own sessions,
which keep sizes open. Prints a table; `--json` keeps everything.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pixelis_fast.tools_trt.backends import BACKENDS, builder
from pixelis_fast.tools_trt.build_models import MODELS, TEXT, has_random_weights, model_specs
from pixelis_fast.tools_trt.build_rows import Row, build_rows
from pixelis_fast.tools_trt.engines.plans import CACHE_VARIABLE, default_root
from pixelis_fast.tools_trt.results import ToolError

HELP = f"""Build, gate and time engines for one model.

Each graph is built in the fastest precision that passes its accuracy gate (fp16, fp16 with fp32
islands, bf16, fp32 on a GPU; bf16, fp32 on a CPU), timed, and kept under {CACHE_VARIABLE} or the
user's cache folder. What failed a gate is listed with its figures. Segment and track find SAM 2's
plans there; those of {", ".join(TEXT)} are for gating and timing alone: read_text keeps sizes open.

Models: {", ".join(MODELS)}.

Examples:

  build --model micro --backend openvino

  build --model sam2.1-tiny --side 512 --graph encoder

  build --model sam2.1-large --weights sam2.1_hiera_large.pt --backend tensorrt --verify
"""
FIGURES = "text models: plans are gated and timed; read_text uses none of them, it keeps sizes open"
RANDOM = "random weights: times are true, masks mean nothing, gates compare embeddings"
console, errors = Console(), Console(stderr=True)
app = typer.Typer(add_completion=False)


@app.command(help=HELP)
def main(
    model: Annotated[str, typer.Option(help="What to build; see the list above.")],
    backend: Annotated[
        str, typer.Option(help=f"auto measures all of the device; or {', '.join(BACKENDS)}.")
    ] = "auto",
    precision: Annotated[
        str, typer.Option(help="auto tries the ladder; or fp16, bf16, int8, fp32 alone.")
    ] = "auto",
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda; by default the backend's, cpu for auto.")
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="SAM 2: .pt, folder or .safetensors. craft, crnn: their folder."),
    ] = None,
    random_weights: Annotated[
        bool,
        typer.Option(help="SAM 2 with seeded random weights, as without --weights; for micro too."),
    ] = False,
    side: Annotated[
        int | None, typer.Option(help="SAM 2: side of the input; by default the weights' own.")
    ] = None,
    graph: Annotated[
        list[str] | None, typer.Option(help="Only this graph; may be given several times.")
    ] = None,
    all_buckets: Annotated[
        bool, typer.Option(help="Every bucket, each behind its own gate; else the first.")
    ] = False,
    verify: Annotated[
        bool, typer.Option(help="Load each finished plan again and gate what it gives now.")
    ] = False,
    threads: Annotated[int | None, typer.Option(help="On the CPU; by default torch's.")] = None,
    plan_dir: Annotated[
        Path | None, typer.Option(help="Where plans go instead of the cache folder.")
    ] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Everything as JSON.")] = None,
) -> None:
    try:
        if backend != "auto":
            builder(backend)  # a missing one is told before anything is loaded
        if has_random_weights(model, weights=weights, random_weights=random_weights):
            errors.print(RANDOM)
        if model in TEXT:
            errors.print(FIGURES)
        specs = model_specs(
            model, weights=weights, random_weights=random_weights, side=side, graphs=graph
        )
        rows = build_rows(
            specs,
            backend=backend,
            precision=precision,
            device=device or _device(backend),
            threads=threads,
            plan_dir=plan_dir or default_root(),
            all_buckets=all_buckets,
            verify=verify,
            say=lambda text: errors.print(escape(text), style="dim"),
        )
    except (ToolError, ValueError) as error:
        errors.print(f"[red]{escape(str(error))}[/]", soft_wrap=True)
        raise typer.Exit(2) from error
    console.print(table_of(rows, model))
    for row in rows:
        for line in row.notes:
            console.print(f"{row.graph} {row.bucket}: {line}", markup=False, soft_wrap=True)
    if json_path is not None:
        json_path.write_text(json.dumps(document(model, rows), indent=1))


def table_of(rows: list[Row], model: str) -> Table:
    """One line per graph and bucket."""
    table = Table(title=f"{model}: plans", show_edge=False)
    for name in ("graph", "bucket", "runs on"):
        table.add_column(name, overflow="fold")
    for name in ("p50 ms", "MB", "build s"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("closest to its bound", overflow="fold")
    for row in rows:
        figures = (row.p50_ms, row.plan_bytes / 1e6, row.build_seconds)
        cells = (row.graph, row.bucket, row.backend, *(f"{n:.1f}" for n in figures), row.closest)
        table.add_row(*(escape(cell) for cell in cells))
    return table


def document(model: str, rows: list[Row]) -> dict[str, Any]:
    return {"model": model, "command": sys.argv[1:], "engines": [row.to_json() for row in rows]}


def _device(backend: str) -> str:
    return BACKENDS[backend].device if backend in BACKENDS else "cpu"


if __name__ == "__main__":
    app(prog_name="python -m pixelis_fast.tools_trt.build")
