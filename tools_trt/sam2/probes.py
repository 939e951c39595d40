"""Inputs that SAM 2's gates look at: a drawn picture, prompts on it, and memories of it.

Discs on a soft ground give a gate outlines instead of noise. Features come from the fp32 graphs;
everything is on the host and the same at every call.

Shapes: B = pictures, prompts or objects; P = point slots; M = rows of a memory bank.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from pixelis_fast.tools_trt.models.sam2_layers import to_tokens
from pixelis_fast.tools_trt.models.sam2_model import OUTPUTS, Sam2Graphs, Sam2Memory
from pixelis_fast.tools_trt.models.sam2_prompts import (
    BOX_END,
    BOX_START,
    EMPTY,
    HIDDEN,
    NEGATIVE,
    NO_POINT,
    POSITIVE,
    empty_mask,
)
from pixelis_fast.tools_trt.results import MissingWeightsError
from pixelis_fast.tools_trt.sam2.bank_size import BankSize

SEED = 20
DISCS = ((0.3, 0.35, 0.15), (0.7, 0.6, 0.2), (0.55, 0.2, 0.08))
"""x, y and radius as shares of the side."""
HOST = torch.device("cpu")


class Sam2Probes:
    """Probes for one model; its features are computed once, when they are first needed."""

    def __init__(self, graphs: Sam2Graphs) -> None:
        self.graphs, self.config = graphs, graphs.config

    @property
    def memory(self) -> Sam2Memory:
        if self.graphs.memory is None:
            raise MissingWeightsError("sam2: expected weights with a memory, got none")
        return self.graphs.memory

    def pictures(self, batch: int) -> dict[str, Tensor]:
        """Normalised pixels."""
        side = self.config.side
        ground = torch.randn(batch, 3, 5, 5, generator=_generator())
        pixels = functional.interpolate(ground, (side, side), mode="bicubic")
        for x, y, radius in DISCS:
            inside = self._distance(x, y) < radius
            pixels[:, :, inside] = pixels[:, :, inside].mul(0.2).add(2 * x - 3 * y)
        return {"pixels_B3SS": pixels}

    def prompts(self, batch: int, *, slots: int, pictures: int) -> dict[str, Tensor]:
        """A box and a click in turn, on one disc after the other."""
        slots_BP3 = torch.tensor([0.0, 0.0, EMPTY]).repeat(batch, slots, 1)
        for number in range(batch):
            rows = torch.tensor(_box(number) if number % 2 == 0 else _click(number))
            slots_BP3[number, : len(rows)] = rows
        mask_B1hw, has_mask_B1 = empty_mask(self.config, batch, device=HOST)
        coarse = self._features["coarse"] + self.graphs.no_memory.detach().cpu()
        return {
            "coarse_BCgg": coarse.expand(pictures, -1, -1, -1).contiguous(),
            "fine_BChw": self._features["fine"],
            "middle_BChw": self._features["middle"],
            "points_BP2": slots_BP3[..., :2] * self.config.side,
            "labels_BP": slots_BP3[..., 2].contiguous(),
            "mask_B1hw": mask_B1hw,
            "has_mask_B1": has_mask_B1,
        }

    def masks(self, batch: int) -> dict[str, Tensor]:
        """Discs with soft outlines, every second one clicked."""
        discs = [DISCS[number % len(DISCS)] for number in range(batch)]
        logits = [(radius - self._distance(x, y))[None] for x, y, radius in discs]
        return {
            "coarse_BCgg": self._features["coarse"],
            "mask_logits_B1SS": torch.stack(logits) * self.config.side / 8,
            "is_clicked_B1": torch.arange(batch)[:, None].remainder(2).float(),
            "object_score_B1": torch.ones(batch, 1),
        }

    def bank(self, batch: int, *, size: BankSize) -> dict[str, Tensor]:
        """Memories of the discs at every distance in time; half of the pointers are empty."""
        current = to_tokens(self._features["coarse"])
        rows, frames = size.rows(self.config), size.frames
        pointers, channels = size.pointer_tokens(self.config), self.config.memory_channels
        # Beyond the model's number of frames they are prompted ones, whose place is 0.
        prompted = max(frames - self.config.memory_frames, 0)
        device = self.memory.memory_positions.device
        with torch.no_grad():
            seen = self.memory.encoder(*(x.to(device) for x in self.masks(batch).values())).cpu()
            backs = [max(number - prompted, 0) for number in range(frames)]
            places = [self.memory.position_of(back).cpu() for back in backs]
        loose = torch.randn(batch, pointers, channels, generator=_generator())
        position = torch.cat((*places, torch.zeros(1, pointers, channels)), dim=1)
        bias = torch.zeros(batch, 1, 1, rows)
        bias[..., rows - pointers // 2 :] = HIDDEN
        return {
            "current_1LC": current,
            "current_position_1LC": self.memory.frame_positions.cpu(),
            "memory_BMK": torch.cat((*[to_tokens(seen)] * frames, loose), dim=1),
            "memory_position_BMK": position.expand(batch, -1, -1).contiguous(),
            "key_bias_B11M": bias,
        }

    @cached_property
    def _features(self) -> dict[str, Tensor]:
        device = self.graphs.no_memory.device
        with torch.no_grad():
            levels = self.graphs.encoder(self.pictures(1)["pixels_B3SS"].to(device))
        return {n: x.cpu().contiguous() for n, x in zip(OUTPUTS["encoder"], levels, strict=True)}

    def _distance(self, x: float, y: float) -> Tensor:
        """(S, S): how far each pixel is from a place, as a share of the side."""
        place = (torch.arange(self.config.side) + 0.5) / self.config.side
        return ((place - x) ** 2 + (place[:, None] - y) ** 2).sqrt()


Slots = tuple[tuple[float, float, float], ...]


def _box(number: int) -> Slots:
    x, y, radius = DISCS[number // 2 % len(DISCS)]
    start, end = (x - radius, y - radius, BOX_START), (x + radius, y + radius, BOX_END)
    return (start, end, (0.0, 0.0, NO_POINT))


def _click(number: int) -> Slots:
    x, y, _ = DISCS[number // 2 % len(DISCS)]
    return ((x, y, POSITIVE), (0.01, 0.01, NEGATIVE), (0.0, 0.0, NO_POINT))


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(SEED)
