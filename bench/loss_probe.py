"""One provider in a process of its own: whether it runs at all, and the memory it takes.

A peer that crashes, or poisons the GPU, does so here. Memory of a training step: on a GPU the
allocator's own peak; on a CPU the peak of the process's resident memory (/proc/self, Linux), which
unlike the allocator's books also sees scratch that C++ code takes. `extra` is the peak beyond what
was there before (inputs, libraries) and beyond the two gradients that come out.

    python -m bench.loss_probe token_kl ours bf16 peaked 512x1024x151936 cpu 1
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from bench.loss_cases import Point, Scene, Shape
from bench.loss_inputs import Inputs, make_inputs, make_scene
from bench.loss_ops import provider
from bench.loss_provider import Call
from bench.process import CLEAR, reset_peak, status_bytes

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT_S = 300
TINY = Shape(16, 64, 512)


@dataclass(frozen=True)
class Probe:
    """What came back; `failure` says why there is nothing else.

    Example:
        Probe(extra_bytes=12_000_000, peak_bytes=1_300_000_000)
    """

    extra_bytes: int | None = None
    peak_bytes: int | None = None
    failure: str | None = None


def probe(scene: Scene, name: str, *, device: str, threads: int) -> Probe:
    """Runs this file for one provider; never raises for what the provider does."""
    words = [scene.op, name, scene.dtype, scene.regime, str(scene.shape), device, str(threads)]
    command = [sys.executable, "-m", "bench.loss_probe", *words]
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return Probe(failure=f"not done after {TIMEOUT_S} s")
    if done.returncode:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        return Probe(failure=(said or [f"exit status {done.returncode}"])[-1][:300])
    return Probe(**json.loads(done.stdout.splitlines()[-1]))


def main(words: list[str]) -> int:
    op, name, dtype, regime, shape, device, threads = words
    torch.set_num_threads(int(threads))
    scene = Scene(op, dtype, Shape(*map(int, shape.split("x"))), regime)
    tensors = make_scene(scene, device=device)
    found = measured(name, make_inputs(Point(scene), tensors), device=device)
    train(provider(op, name).open(masked := make_inputs(Point(scene, 0.4), tensors)), masked)
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    print(json.dumps(asdict(found)))
    return 0


def measured(name: str, inputs: Inputs, *, device: str) -> Probe:
    scene = inputs.point.scene
    chosen = provider(scene.op, name)
    if device.startswith("cuda"):
        return _cuda_memory(chosen.open(inputs), inputs)
    if not CLEAR.exists():
        train(chosen.open(inputs), inputs)
        return Probe()
    # Loading libraries and building code is not the op's memory: a small run does both. What
    # torch.compile builds holds for one shape, so there the warm-up has the real one.
    tiny = Scene(scene.op, scene.dtype, TINY, scene.regime)
    warm = inputs if chosen.compiles else make_inputs(Point(tiny), make_scene(tiny, device=device))
    call = chosen.open(warm)
    train(call, warm)
    return _cpu_memory(call if chosen.compiles else chosen.open(inputs), inputs)


def train(call: Call, inputs: Inputs) -> None:
    inputs.clear()
    loss = call().loss
    if inputs.leaves:
        loss.backward()


def _gradient_bytes(inputs: Inputs) -> int:
    return sum(leaf.grad.nbytes for leaf in inputs.leaves if leaf.grad is not None)


def _cuda_memory(call: Call, inputs: Inputs) -> Probe:
    """A warm-up at the real shape keeps what tuning allocates out of the peak."""
    before = torch.cuda.memory_allocated()
    train(call, inputs)
    inputs.clear()
    torch.cuda.reset_peak_memory_stats()
    train(call, inputs)
    peak = torch.cuda.max_memory_allocated()
    return Probe(max(peak - before - _gradient_bytes(inputs), 0), peak)


def _cpu_memory(call: Call, inputs: Inputs) -> Probe:
    inputs.clear()
    before = status_bytes("VmRSS")
    reset_peak()
    train(call, inputs)
    peak = status_bytes("VmHWM")
    return Probe(max(peak - before - _gradient_bytes(inputs), 0), peak)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
