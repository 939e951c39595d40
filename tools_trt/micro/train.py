"""Trains the micro SAM 2 from scratch on generated scenes over real photographs.

The committed weights come from one run of

    python -m pixelis_fast.tools_trt.micro.train --seed 0 --minutes 45 --out runs/sam2_micro

on one core; its log lies beside them as sam2_micro.json. `--steps` in place of `--minutes` makes
a run independent of the machine's speed: its phases then change at the same steps everywhere, and
an interrupted run ends in the same bits. A checkpoint is written every few minutes and read when
the same --out is given again. Pictures come from the `baseline` extra.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from pixelis_fast.tools_trt.micro.grading import MOST_SEED
from pixelis_fast.tools_trt.micro.model import save_micro
from pixelis_fast.tools_trt.micro.photographs import HELD_OUT, TRAINING, photographs
from pixelis_fast.tools_trt.micro.trainer import Budget, HeldOut, Trainer

SAVE_EVERY_S = 120.0
GRADE_EVERY = 0.05
"""Share of the training between two looks at held-out scenes."""


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    budget = Budget(options.steps, None if options.minutes is None else 60 * options.minutes)
    checkpoint = options.out / "checkpoint.pt"
    trainer = Trainer(photographs(TRAINING), budget, seed=options.seed, peak_rate=options.rate)
    if checkpoint.exists():
        trainer.load(checkpoint)
        print(f"resumed at step {trainer.step} from {checkpoint}")
    run(trainer, HeldOut(photographs(HELD_OUT)), checkpoint)
    weights = options.out / "sam2_micro.safetensors"
    save_micro(trainer.average, weights)
    (options.out / "sam2_micro.json").write_text(log_text(trainer, options))
    print(f"wrote {weights} ({weights.stat().st_size / 1e6:.2f} MB) after {trainer.step} steps")
    return 0


def run(trainer: Trainer, held_out: HeldOut, checkpoint: Path) -> None:
    """Steps until the budget is spent."""
    saved_at = time.monotonic()
    with progress_bar() as bar:
        task = bar.add_task("micro SAM 2", total=1.0, note="")
        while trainer.progress < 1.0:
            loss, iou = trainer.train_step()
            note = f"step {trainer.step} loss {loss:.3f} iou {iou:.3f}"
            bar.update(task, completed=trainer.progress, note=note)
            if trainer.progress >= trainer.graded_at + GRADE_EVERY:
                entry = trainer.grade(held_out)
                bar.console.print(json.dumps(entry), soft_wrap=True)
            if time.monotonic() - saved_at > SAVE_EVERY_S:
                trainer.save(checkpoint)
                bar.console.print(note)
                saved_at = time.monotonic()
    trainer.grade(held_out)
    trainer.save(checkpoint)


def progress_bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    return Progress(*columns, TextColumn("{task.fields[note]}"))


def log_text(trainer: Trainer, options: argparse.Namespace) -> str:
    """The run as compact JSON: one line for each look at held-out scenes."""
    head: dict[str, Any] = {
        "command": f"python -m pixelis_fast.tools_trt.micro.train --seed {options.seed} "
        + (f"--minutes {options.minutes:g}" if options.minutes else f"--steps {options.steps}"),
        "torch": torch.__version__,
        "steps": trainer.step,
        "parameters": sum(weight.numel() for weight in trainer.average.values()),
    }
    lines = ",\n".join(json.dumps(entry) for entry in trainer.log)
    return json.dumps(head)[:-1] + ', "log": [\n' + lines + "\n]}\n"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=float, help="of training, interruptions not counted")
    length.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoint and results")
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(argv)
    if not 0 <= options.seed < MOST_SEED:
        parser.error(f"--seed: expected 0 to {MOST_SEED - 1}, got {options.seed}")
    if max(options.minutes or 0, options.steps or 0) <= 0:
        parser.error("--minutes or --steps: expected more than 0")
    return options


if __name__ == "__main__":
    sys.exit(main())
