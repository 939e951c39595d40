"""One op of ours for a profiler: NVTX ranges, a trace, a roofline and Nsight's command lines.

    python bench/kernels.py --profile masked_imitation --device cuda

The trace of torch.profiler goes to runs/profile/<op>.json (open it in a trace viewer), the top
operators to stderr, the op's place under the two measured ceilings to <op>-roofline.svg beside it.
An op whose results miss their limits gets neither. On a GPU, ncu and nsys are run where they are on
PATH; they wrap this program again with --bare, which only runs the ranges.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from bench.harness import STDERR, Options, Report, synchronize
from bench.loss_cases import MODES, Point, Shape, points
from bench.loss_ceilings import measure_ceilings
from bench.loss_inputs import Inputs, make_inputs, make_scene
from bench.loss_ops import make_truth, provider
from bench.loss_picture import draw_roofline
from bench.loss_probe import train
from bench.loss_provider import Call
from bench.loss_row import Plan, Row, details
from bench.loss_run import run_point

ROOT = Path(__file__).resolve().parents[1]
FOLDER = Path("runs/profile")
STEPS = 3
GPUS = {"A100": "ga100", "H100": "gh100"}
"""nsys's name of each GPU's metric set."""


def run_profile(op: str, options: Options, shape: Shape | None, *, bare: bool) -> int:
    point = points(op, device=options.device, quick=options.quick, shape=shape)[0]
    tensors = make_scene(point.scene, device=options.device)
    inputs = make_inputs(point, tensors)
    call = provider(op, "ours").open(inputs)
    train(call, inputs)  # builds and tunes, outside of the ranges
    if bare:
        for _ in range(STEPS):
            step(call, inputs, options.device)
        return 0
    row, plan, report = measured(point, tensors, options)
    failures = [f"{one.case}: {one.check} = {one.value}" for one in report.failed]
    document = {"bench": "kernels", "profile": op, "point": point.name, "failed": failures}
    if report.failed:
        print(json.dumps(document))
        return 1
    (ROOT / FOLDER).mkdir(parents=True, exist_ok=True)
    trace, picture = FOLDER / f"{op}.json", FOLDER / f"{op}-roofline.svg"
    write_trace(call, inputs, options.device, ROOT / trace)
    draw_roofline([row], plan.ceilings, ROOT / picture, title=f"{point.name}\n{options.command}")
    commands = tool_commands(op, options)
    for gpu, lines in commands.items():
        for line in lines:
            STDERR.print(f"{gpu}: {line}", markup=False, soft_wrap=True)
    document |= {"trace": str(trace), "roofline": str(picture), "commands": commands}
    document |= {"ceilings": plan.ceilings.as_json(), "achieved": achieved(row, plan)}
    print(json.dumps(document | {"ran": run_tools(commands, options.device)}))
    return 0


def measured(
    point: Point, tensors: dict[str, Tensor], options: Options
) -> tuple[Row, Plan, Report]:
    """Ours at the point: the ceilings first, then compared with float64, then timed."""
    op, device = point.scene.op, options.device
    shape, dtypes = point.scene.shape, (point.scene.dtype,)
    ceilings = measure_ceilings(shape, dtypes=dtypes, device=device, quick=options.quick)
    plan = Plan(("ours",), MODES, device, options.threads, options.quick, options.runs, ceilings)
    report = Report("kernels", options, ours="ours", baseline={})
    row = Row(point, provider(op, "ours"))
    run_point([row], tensors, make_truth(op, tensors), plan, report, tick=lambda _: None)
    return row, plan, report


def achieved(row: Row, plan: Plan) -> dict[str, dict[str, Any]]:
    """By mode: what of the row's timing concerns the ceilings."""
    rates = ("useful_tflops", "percent_of_gemm", "useful_gb_per_s", "percent_of_copy")
    modes = [mode for mode in plan.modes if row.spans(mode)]
    found = {mode: details(row, mode, plan.ceilings) for mode in modes}
    return {mode: {rate: one[rate] for rate in rates} for mode, one in found.items()}


def step(call: Call, inputs: Inputs, device: str) -> None:
    """Forward and backward, each in a range of its name."""
    inputs.clear()
    with span("forward", device):
        loss = call().loss
    if inputs.leaves:
        with span("backward", device):
            loss.backward()
    synchronize(device)


def span(name: str, device: str) -> AbstractContextManager[None]:
    return torch.cuda.nvtx.range(name) if device.startswith("cuda") else nullcontext()


def write_trace(call: Call, inputs: Inputs, device: str, path: Path) -> None:
    kinds = [ProfilerActivity.CPU]
    if device.startswith("cuda"):
        kinds.append(ProfilerActivity.CUDA)
    with profile(activities=kinds, record_shapes=True, profile_memory=True) as profiler:
        for _ in range(STEPS):
            step(call, inputs, device)
    profiler.export_chrome_trace(str(path))
    order = "self_device_time_total" if device.startswith("cuda") else "self_cpu_time_total"
    table = profiler.key_averages().table(sort_by=order, row_limit=15)
    STDERR.print(table, markup=False, soft_wrap=True)


def tool_commands(op: str, options: Options) -> dict[str, list[str]]:
    """By GPU: ncu for every kernel inside the ranges, nsys for the time line around them."""
    words = ["python", "bench/kernels.py", "--profile", op, "--device", "cuda", "--bare"]
    if options.extra.shape:
        words += ["--shape", options.extra.shape]
    bare = shlex.join(words)
    found = {}
    for gpu, metric_set in GPUS.items():
        out = f"{FOLDER}/{op}-{gpu.lower()}"
        found[gpu] = [
            f"ncu --target-processes all --nvtx --nvtx-include forward/ --nvtx-include backward/"
            f" --set full --force-overwrite --export {out} {bare}",
            f"nsys profile --trace=cuda,nvtx,osrt --gpu-metrics-devices=0"
            f" --gpu-metrics-set={metric_set} --force-overwrite=true --output={out} {bare}",
        ]
    return found


def run_tools(commands: dict[str, list[str]], device: str) -> list[str]:
    """Runs the lines of the GPU that is here; returns those that were run with their status."""
    if not device.startswith("cuda"):
        return []
    gpu = next((name for name in GPUS if name in torch.cuda.get_device_name(device)), None)
    ran = []
    for line in commands.get(gpu or "", []):
        tool, *words = shlex.split(line)
        if shutil.which(tool) is None:
            STDERR.print(f"{tool}: not on PATH, not run", markup=False)
            continue
        words[words.index("python")] = sys.executable
        done = subprocess.run([tool, *words], cwd=ROOT, stdout=sys.stderr, check=False)
        ran.append(f"{tool}: exit status {done.returncode}")
    return ran
