"""Milliseconds of one call: forward without gradient, and a training step in its two halves.

On a GPU by events, the L2 cache flushed before every sample; the flush is long enough for the host
to queue a short op behind it, so launches are not what is timed. On a CPU by the clock. Gradients
are dropped before a sample, so allocating them is part of backward for everyone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from math import ceil
from typing import NamedTuple

import torch

from bench.harness import interleave
from bench.loss_inputs import Inputs
from bench.loss_provider import Call

FLUSH_BYTES = 1 << 30
"""20 times the L2 of an H100; 0.3 ms to write at its bandwidth."""


class Span(NamedTuple):
    """Milliseconds on the device's time line and of this process's processor time."""

    ms: float
    cpu_ms: float


class Split(NamedTuple):
    """A sample; None where the mode was not asked for."""

    forward: Span | None
    training_forward: Span | None
    backward: Span | None

    def of_mode(self, mode: str) -> Span | None:
        if mode == "forward":
            return self.forward
        if self.training_forward is None or self.backward is None or mode == "backward":
            return self.backward
        return Span(*map(sum, zip(self.training_forward, self.backward, strict=True)))


class Stopwatch:
    """Moments on the device's own time line.

    Example:
        watch = Stopwatch("cuda")
        start = watch.mark()
        work()
        print(watch.between(start, watch.mark()).ms)
    """

    def __init__(self, device: str) -> None:
        self.is_cuda = device.startswith("cuda")
        if self.is_cuda:
            self.flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device=device)

    def prepare(self) -> None:
        if self.is_cuda:
            self.flush.zero_()

    def mark(self) -> tuple[float | torch.cuda.Event, float]:
        if not self.is_cuda:
            return time.perf_counter(), time.process_time()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event, time.process_time()

    def between(
        self,
        start: tuple[float | torch.cuda.Event, float],
        end: tuple[float | torch.cuda.Event, float],
    ) -> Span:
        """Waits for the device."""
        cpu_ms = (end[1] - start[1]) * 1e3
        if isinstance(start[0], torch.cuda.Event):
            end[0].synchronize()
            return Span(start[0].elapsed_time(end[0]), cpu_ms)
        return Span((end[0] - start[0]) * 1e3, cpu_ms)


def split_sample(call: Call, inputs: Inputs, modes: tuple[str, ...], watch: Stopwatch) -> Split:
    forward = training = backward = None
    if "forward" in modes or not inputs.leaves:
        with torch.no_grad():
            forward = _time(call, watch)
    if inputs.leaves and {"backward", "full"} & set(modes):
        inputs.clear()
        watch.prepare()
        start = watch.mark()
        loss = call().loss
        middle = watch.mark()
        loss.backward()
        end = watch.mark()
        training, backward = watch.between(start, middle), watch.between(middle, end)
    return Split(forward, training, backward)


def _time(call: Callable[[], object], watch: Stopwatch) -> Span:
    watch.prepare()
    start = watch.mark()
    result = call()
    end = watch.mark()
    del result
    return watch.between(start, end)


class Rounds(NamedTuple):
    """How often a point is measured: as its time allows, within bounds."""

    seconds: float
    least: int
    most: int

    def count(self, round_seconds: float) -> int:
        return min(max(int(self.seconds / max(round_seconds, 1e-6)), self.least), self.most)


def measure(
    calls: Mapping[str, Call],
    inputs: Inputs,
    *,
    modes: tuple[str, ...],
    rounds: Rounds,
    device: str,
    tick: Callable[[str], None] = lambda _: None,
) -> dict[str, list[Split]]:
    """Providers in turn, the order rotated by one each round. They have run before, so the first
    round counts; it also says how many more there is time for."""
    watch = Stopwatch(device)
    arms = {name: partial(split_sample, call, inputs, modes, watch) for name, call in calls.items()}
    start = time.perf_counter()
    first = interleave(arms, warmup=0, runs=1, device=device, tick=tick)
    more = rounds.count(time.perf_counter() - start) - 1
    rest = interleave(arms, warmup=0, runs=more, device=device, tick=tick)
    return {name: first[name].results + rest[name].results for name in arms}


def repeat_ms(
    call: Callable[[], object], *, device: str, seconds: float, least: int
) -> list[float]:
    """Samples of one call alone, after two to warm up."""
    watch = Stopwatch(device)
    once = min(_time(call, watch).ms for _ in range(2))
    count = max(least, min(ceil(seconds * 1e3 / max(once, 1e-3)), 200))
    return [_time(call, watch).ms for _ in range(count)]
