"""Kernels beside what people use today: the same inputs, results compared first, then timed.

Host kernels: patchify against transformers' Qwen processors, resize against Pillow, region against
scikit-image; --ablate adds our own code at every lower instruction set. Losses without logits:
masked_imitation and token_kl against eager, torch.compile, torch's own linear_cross_entropy, Liger,
cut-cross-entropy, flash-linear-attention and QuACK; policy_loss and corridor against the first two.
Rows: coherence of steps, of steps pooled from tokens, top_k nearest rows. Who is not installed or
needs a GPU is named.

    python bench/kernels.py --quick
    python bench/kernels.py --ops masked_imitation,token_kl --device cuda --record
    python bench/kernels.py --ops coherence --shape 4096,2048,1 --modes full
    python bench/kernels.py --profile token_kl

An op whose own results are wrong, against float64 or a peer, prints no speed. The ceilings of the
device, matrix products and a copy at these shapes, are measured first in the same run; each row
says how much of them its useful work reaches: 2NDV operations a product, valid tokens only.
forward runs without gradient; backward follows a training forward; full is that forward and it.
"""

from __future__ import annotations

import argparse
import sys

if __name__ == "__main__":
    import rooted  # noqa: F401

from bench import kernel_host, loss_cases, loss_ops, loss_report
from bench.flags import listed
from bench.harness import Options, Report, finish, parse_options, progress_bar, rich_table
from bench.kernel_host import run_host_ops
from bench.loss_cases import MODES, Shape, points
from bench.loss_ceilings import Ceilings, measure_ceilings
from bench.loss_picture import draw_bars, draw_roofline
from bench.loss_profile import run_profile
from bench.loss_row import Plan, Row
from bench.loss_run import run_op
from bench.record import results_folder

ARMS = tuple(dict.fromkeys(kernel_host.ARMS + loss_ops.ARMS))
OPS = kernel_host.OPS + loss_cases.OPS


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    modes = ",".join(MODES)
    parser.add_argument("--ops", help=f"comma list of {', '.join(OPS)}; default: all of the device")
    parser.add_argument("--modes", default=modes, help=f"comma list, default {modes}")
    parser.add_argument("--shape", metavar="N,D,V", help="tokens, width, vocabulary of tensor ops")
    parser.add_argument(
        "--profile", metavar="OP", choices=loss_cases.OPS, help="trace ours, draw its roofline"
    )
    parser.add_argument("--bare", action="store_true", help="with --profile: only its NVTX ranges")


def main(argv: list[str] | None = None) -> int:
    options = parse_options(__doc__, arms=ARMS, add=add_options, argv=argv)
    if "ours" not in options.arms:
        raise SystemExit("--arms: expected ours among them, every check is against it")
    shape = parsed_shape(options.extra.shape)
    if options.extra.profile:
        return run_profile(options.extra.profile, options, shape, bare=options.extra.bare)
    ops = chosen_ops(options)
    modes = chosen(options.extra.modes, MODES, flag="--modes")
    report = Report("kernels", options, ours="ours", baseline={})
    tensor_ops = [op for op in loss_cases.OPS if op in ops]
    if len(tensor_ops) < len(ops):
        run_host_ops([op for op in kernel_host.OPS if op in ops], options, report)
    if tensor_ops:
        run_tensor_ops(tensor_ops, modes, shape, report)
    return finish(report, options)


def parsed_shape(words: str | None) -> Shape | None:
    if words is None:
        return None
    sizes = words.split(",")
    if len(sizes) != 3 or not all(size.isdigit() and int(size) > 0 for size in sizes):
        raise SystemExit(f"--shape: expected three sizes N,D,V, got {words!r}")
    return Shape(*map(int, sizes))


def chosen(words: str, known: tuple[str, ...], *, flag: str) -> tuple[str, ...]:
    """In the order of `known`."""
    asked = set(listed(words))
    if not asked or asked - set(known):
        raise SystemExit(f"{flag}: expected some of {', '.join(known)}, got {words!r}")
    return tuple(word for word in known if word in asked)


def chosen_ops(options: Options) -> tuple[str, ...]:
    """All that run on the device, unless some are named."""
    known = OPS if options.device == "cpu" else loss_cases.OPS
    return known if options.extra.ops is None else chosen(options.extra.ops, known, flag="--ops")


def run_tensor_ops(
    ops: list[str], modes: tuple[str, ...], shape: Shape | None, report: Report
) -> None:
    plan = make_plan(ops, modes, shape, report.options)
    rows: list[Row] = []
    with progress_bar() as progress:
        for op in ops:
            task = progress.add_task(op, total=None)
            asked = points(op, device=plan.device, quick=plan.quick, shape=shape)
            rows += run_op(op, asked, plan, report, tick=lambda _, t=task: progress.advance(t))
            progress.update(task, total=progress.tasks[task].completed)
    tables = [plan.ceilings.table(), *loss_report.tables(rows, plan.ceilings)]
    report.tables += [rich_table(table) for table in tables]
    report.extra |= {"ceilings": plan.ceilings.as_json(), "tables": tables}
    report.extra["peer_versions"] = loss_ops.peer_versions()
    report.goals += loss_report.goals(rows, report)
    report.notes.append(loss_report.memory_note(plan.device))
    if report.options.record and rows:
        draw(rows, plan.ceilings, report)


def make_plan(
    ops: list[str], modes: tuple[str, ...], shape: Shape | None, options: Options
) -> Plan:
    """With the ceilings measured at the first op's first shape, before anything else runs."""
    largest = points(ops[0], device=options.device, quick=options.quick, shape=shape)[0].scene.shape
    ceilings = measure_ceilings(
        largest, dtypes=("bf16", "fp32"), device=options.device, quick=options.quick
    )
    return Plan(
        arms=options.arms,
        modes=modes,
        device=options.device,
        threads=options.threads,
        quick=options.quick,
        runs=options.runs,
        ceilings=ceilings,
    )


def draw(rows: list[Row], ceilings: Ceilings, report: Report) -> None:
    document = report.document()
    folder, slug = results_folder(document), document["machine"]["slug"]
    title = f"{slug}\n{report.options.command}"
    draw_bars(rows, folder / "kernels-bars.svg", title=title)
    draw_roofline(rows, ceilings, folder / "kernels-roofline.svg", title=title)


if __name__ == "__main__":
    sys.exit(main())
