"""The state of a training and its steps: weights, their moving average, optimiser, log.

Scenes and prompts of a step follow from the seed and the step's number alone, so that a checkpoint
needs no generator's state and a resumed run repeats the interrupted one.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pixelis_fast.tools_trt.micro.batches import Batch, draw_batch
from pixelis_fast.tools_trt.micro.grading import (
    clip_ious,
    held_out_clips,
    held_out_pictures,
    picture_ious,
)
from pixelis_fast.tools_trt.micro.lessons import lesson
from pixelis_fast.tools_trt.micro.model import at_side, fresh_graphs
from pixelis_fast.tools_trt.micro.schedule import PHASES, Phase, is_clip_step, phase_at, rate_at
from pixelis_fast.tools_trt.micro.surfaces import Photographs

WEIGHT_DECAY, BETAS, CLIP = 0.02, (0.9, 0.98), 1.0
AVERAGE_DECAY = 0.998
SMOOTHING = 0.98
SEEDS_APART = 0x9E3779B1  # 2^32 over the golden ratio
"""Of the loss and IoU that are shown."""
HELD_OUT_PICTURES, HELD_OUT_CLIPS, HELD_OUT_FRAMES = 24, 6, 6


@dataclass(frozen=True)
class Budget:
    """One of the two is given."""

    steps: int | None
    seconds: float | None

    def share(self, step: int, elapsed_s: float) -> float:
        if self.steps is not None:
            return step / self.steps
        assert self.seconds is not None
        return elapsed_s / self.seconds


class HeldOut:
    """Scenes over photographs that no training scene shows, drawn once for each side."""

    def __init__(self, photographs: Photographs) -> None:
        self.photographs = photographs
        self._drawn: dict[int, tuple[list[Batch], list[Batch]]] = {}

    def at(self, side: int) -> tuple[list[Batch], list[Batch]]:
        if side not in self._drawn:
            self._drawn[side] = (
                held_out_pictures(self.photographs, count=HELD_OUT_PICTURES, side=side),
                held_out_clips(
                    self.photographs, count=HELD_OUT_CLIPS, frames=HELD_OUT_FRAMES, side=side
                ),
            )
        return self._drawn[side]


class Trainer:
    """Example:
    trainer = Trainer(photographs(TRAINING), Budget(steps=100, seconds=None), seed=0)
    while trainer.progress < 1:
        loss, iou = trainer.train_step()
    """

    def __init__(
        self,
        photographs: Photographs,
        budget: Budget,
        *,
        seed: int,
        peak_rate: float = 1e-3,
        phases: tuple[Phase, ...] = PHASES,
    ) -> None:
        self.photographs, self.budget, self.seed = photographs, budget, seed
        self.peak_rate, self.phases = peak_rate, phases
        self.step, self.elapsed_s, self.graded_at = 0, 0.0, 0.0
        self.shown: tuple[float, float] | None = None
        self.log: list[dict[str, Any]] = []
        self.graphs = fresh_graphs(side=phases[0].side, seed=seed).train()
        self.optimizer = optimizer_of(self.graphs)
        self.average = {name: value.clone() for name, value in self.graphs.state_dict().items()}

    @property
    def progress(self) -> float:
        return self.budget.share(self.step, self.elapsed_s)

    def train_step(self) -> tuple[float, float]:
        """(loss, IoU), both smoothed over steps."""
        begun = time.monotonic()
        phase = phase_at(self.progress, self.phases)
        self._change_side(phase.side)
        for group in self.optimizer.param_groups:
            group["lr"] = rate_at(self.step, self.progress, peak=self.peak_rate)
        batch = self._batch(phase)
        # Within 32 bits: the generator reads no more of a seed.
        random = torch.Generator().manual_seed((self.seed * SEEDS_APART + self.step) % 2**32)
        loss, iou = lesson(self.graphs, batch, random)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.graphs.parameters(), CLIP)
        self.optimizer.step()
        self._average()
        self.step += 1
        self.elapsed_s += time.monotonic() - begun
        return self._smoothed(float(loss.detach()), iou)

    def grade(self, held_out: HeldOut) -> dict[str, Any]:
        """A line of the log: the averaged weights on held-out scenes."""
        side = self.graphs.config.side
        graphs = at_side(self.average, side=side).eval()
        pictures, clips = held_out.at(side)
        found = picture_ious(graphs, pictures) | clip_ious(graphs, clips)
        means = {kind: round(float(ious.mean()), 4) for kind, ious in found.items()}
        loss, iou = self.shown or (0.0, 0.0)
        entry = {
            "step": self.step,
            "minutes": round(self.elapsed_s / 60, 1),
            "side": side,
            "loss": round(loss, 4),
            "iou": round(iou, 4),
            "held_out": means,
        }
        self.log.append(entry)
        self.graded_at = self.progress
        return entry

    def save(self, path: Path) -> None:
        """Whole or not at all, whenever the process ends."""
        state = {
            "step": self.step,
            "elapsed_s": self.elapsed_s,
            "graded_at": self.graded_at,
            "shown": self.shown,
            "log": self.log,
            "seed": self.seed,
            "side": self.graphs.config.side,
            "weights": self.graphs.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
        }
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)

    def load(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        if state["seed"] != self.seed:
            raise ValueError(f"{path}: expected a run of seed {self.seed}, got {state['seed']}")
        self.graphs = at_side(state["weights"], side=state["side"]).train()
        self.optimizer = optimizer_of(self.graphs)
        self.optimizer.load_state_dict(state["optimizer"])
        self.average, self.log = state["average"], state["log"]
        self.step, self.elapsed_s = state["step"], state["elapsed_s"]
        self.graded_at, self.shown = state["graded_at"], state["shown"]

    def _batch(self, phase: Phase) -> Batch:
        is_clip = is_clip_step(phase, self.step)
        return draw_batch(
            (self.seed, self.step),
            self.photographs,
            clips=phase.clips if is_clip else phase.pictures,
            objects=phase.objects,
            frames=phase.frames if is_clip else 1,
            side=phase.side,
        )

    def _change_side(self, side: int) -> None:
        if side == self.graphs.config.side:
            return
        moments = self.optimizer.state_dict()
        self.graphs = at_side(self.graphs.state_dict(), side=side).train()
        self.optimizer = optimizer_of(self.graphs)
        self.optimizer.load_state_dict(moments)

    @torch.no_grad()
    def _average(self) -> None:
        """Fast at first, so that the fresh weights are soon forgotten."""
        decay = min(AVERAGE_DECAY, (1 + self.step) / (10 + self.step))
        weights = self.graphs.state_dict()
        floats = [name for name, value in weights.items() if value.is_floating_point()]
        averages: list[Tensor] = [self.average[name] for name in floats]
        torch._foreach_lerp_(averages, [weights[name] for name in floats], 1 - decay)

    def _smoothed(self, loss: float, iou: float) -> tuple[float, float]:
        if self.shown is None:
            self.shown = loss, iou
        else:
            before_loss, before_iou = self.shown
            kept = SMOOTHING
            self.shown = (
                kept * before_loss + (1 - kept) * loss,
                kept * before_iou + (1 - kept) * iou,
            )
        return self.shown


def optimizer_of(graphs: nn.Module) -> torch.optim.AdamW:
    """Decay on matrices only."""
    trained = [weight for weight in graphs.parameters() if weight.requires_grad]
    groups = [
        {"params": [w for w in trained if w.ndim > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [w for w in trained if w.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=BETAS, fused=True)
