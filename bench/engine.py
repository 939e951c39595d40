"""The engine's steps: eight sessions behind a shared prompt, a long prompt, the matrix products.

Every arm of a step is the same engine with one mechanism off; all must give the same logits. The
products are those of one forward of bench-36m at several numbers of rows, plain, packed and int8.

    python bench/engine.py --quick

Shapes: N = rows, D = inputs, I = outputs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

if __name__ == "__main__":
    import rooted  # noqa: F401

import torch
from torch import Tensor, nn

from bench.harness import Check, Options, Report, finish, interleave, parse_options, timed
from pixelis_fast.policy.engine import Chunk, Engine, EngineConfig, Session
from pixelis_fast.policy.model import Policy
from pixelis_fast.policy.packed import PackedLinears
from pixelis_fast.policy.quantize import Int8Linear
from pixelis_fast.policy.weights import random_policy

POLICY = "bench-36m"
CONFIGS = {
    "ours": EngineConfig(prefix_cache_bytes=0),
    "copied prefixes": EngineConfig(prefix_cache_bytes=0, share_prefix=False),
    "plain matrices": EngineConfig(prefix_cache_bytes=0, packed_weights=False),
    "neither": EngineConfig(prefix_cache_bytes=0, share_prefix=False, packed_weights=False),
    "batch invariant": EngineConfig(prefix_cache_bytes=0, share_prefix=False, batch_invariant=True),
}
ARMS = tuple(CONFIGS)
SHARED, OWN, MEMBERS = 1700, 200, 8
ROWS, QUICK_ROWS = (1, 2, 4, 8, 13, 64, 213), (1, 4, 8, 64)
RUNS, QUICK_RUNS = 15, 5
MAX_DIFFERENCE = 1e-4


def group(policy: Policy, config: EngineConfig, size: int) -> tuple[Engine, list[Session]]:
    """Members behind one prompt, each with tokens of its own."""
    engine = Engine(policy, no_pictures, config=config)
    first = engine.open()
    engine.extend(
        [first], [Chunk(list(range(100, 100 + SHARED)), opens_turn=True)], spans=engine.spans()
    )
    members = [first, *(engine.fork(first) for _ in range(size - 1))]
    for index, member in enumerate(members):
        engine.extend([member], [Chunk([50 + index] * OWN)], spans=engine.spans())
    return engine, members


def no_pictures(media_id: str) -> Any:
    raise AssertionError(f"{media_id}: expected no picture")


def step(policy: Policy, config: EngineConfig, size: int) -> Callable[[], Tensor]:
    """One token for every member; nothing is kept, so that every call does the same."""
    engine, members = group(policy, config, size)
    before = [(m.cache.length, m.next_position) for m in members]

    def run() -> Tensor:
        logits_BV = engine.extend(members, [Chunk([7])] * size, spans=engine.spans())
        for member, (length, position) in zip(members, before, strict=True):
            member.cache.truncate(length)
            member.next_position = position
        return logits_BV

    return run


def prompt(policy: Policy, config: EngineConfig) -> Callable[[], Tensor]:
    engine = Engine(policy, no_pictures, config=config)
    chunk = Chunk(list(range(100, 100 + SHARED + OWN)), opens_turn=True)
    return lambda: engine.extend([engine.open()], [chunk], spans=engine.spans())


def measure_steps(options: Options, report: Report) -> None:
    policy = random_policy(POLICY)
    cases = {
        f"step, {size} sessions, {SHARED} shared, {OWN} own": lambda config, size=size: step(
            policy, config, size
        )
        for size in (1, MEMBERS)
    }
    cases[f"prompt of {SHARED + OWN}"] = lambda config: prompt(policy, config)
    for case, make in cases.items():
        arms = {name: make(CONFIGS[name]) for name in options.arms}
        samples = interleave(arms, warmup=2, runs=runs_of(options))
        report.baseline[case] = "neither"
        report.timings += [timed(case, arm, sample) for arm, sample in samples.items()]
        for arm, sample in samples.items():
            apart = float((sample.results[-1] - samples["ours"].results[-1]).abs().max())
            check = f"largest difference of {arm}"
            report.checks.append(Check.at_most(case, check, apart, MAX_DIFFERENCE))


@torch.inference_mode()
def measure_products(options: Options, report: Report) -> None:
    """Plain and packed in both precisions, and int8 behind bf16."""
    for num_rows in QUICK_ROWS if options.quick else ROWS:
        case = f"products, {num_rows} rows"
        arms = {}
        for dtype in (torch.float32, torch.bfloat16):
            layers = linears(dtype)
            name = str(dtype).removeprefix("torch.")
            arms[name] = products(layers, num_rows, lambda layer, x_ND: layer(x_ND))
            arms[f"{name} packed"] = products(layers, num_rows, PackedLinears())
        int8 = [Int8Linear(layer) for layer in layers]
        arms["int8"] = products(layers, num_rows, lambda layer, x_ND, i=int8: layer(x_ND), int8)
        samples = interleave(arms, warmup=2, runs=runs_of(options))
        report.timings += [timed(case, arm, sample) for arm, sample in samples.items()]


def linears(dtype: torch.dtype) -> list[nn.Linear]:
    policy = random_policy(POLICY, dtype=dtype)
    found = [m for m in policy.layers.modules() if isinstance(m, nn.Linear)]
    return [*found, policy.lm_head] if policy.lm_head is not None else found


def products(
    layers: Sequence[nn.Linear], num_rows: int, apply: Callable, called: Sequence | None = None
) -> Callable[[], None]:
    rows = [torch.randn(num_rows, x.in_features, dtype=x.weight.dtype) for x in layers]
    pairs = list(zip(called or layers, rows, strict=True))

    def run() -> None:
        for layer, rows_ND in pairs:
            apply(layer, rows_ND)

    return run


def runs_of(options: Options) -> int:
    return options.runs or (QUICK_RUNS if options.quick else RUNS)


def main(argv: Sequence[str] | None = None) -> int:
    options = parse_options(__doc__, arms=ARMS, argv=argv)
    if options.device != "cpu":
        raise SystemExit(f"--device: expected cpu, got {options.device}")
    if "ours" not in options.arms:
        raise SystemExit("--arms: expected ours among them, every check is against it")
    torch.set_num_threads(options.threads)
    report = Report("engine", options, ours="ours", baseline={})
    measure_steps(options, report)
    measure_products(options, report)
    report.notes.append(f"policy: {POLICY} has random weights; its text and choices mean nothing")
    return finish(report, options)


if __name__ == "__main__":
    sys.exit(main())
