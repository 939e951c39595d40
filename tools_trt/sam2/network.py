"""SAM 2's graphs, preprocessing and cached image features: what segment and track engines share.

`Sam2` owns the graphs, what runs them and a byte-bounded cache of image features under content
keys: a click after a click, or a track after a click, encodes a frame once. Nothing here knows the
store or the 0..1000 frame.

Shapes: H, W = picture; S = model side; B = batch; C = channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pixelis_fast.tools_trt.backends.session import Session
from pixelis_fast.tools_trt.backends.torch_cpu import TorchSession
from pixelis_fast.tools_trt.models.sam2_config import config_for
from pixelis_fast.tools_trt.models.sam2_model import OUTPUTS, Sam2Graphs
from pixelis_fast.tools_trt.models.sam2_weights import load_graphs, random_graphs
from pixelis_fast.tools_trt.pixels.tiers import TensorMover, TierStore
from pixelis_fast.tools_trt.sam2.specs import Sam2Specs

PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_STD = (0.229, 0.224, 0.225)
RANDOM_WEIGHTS = "random weights: masks mean nothing, only shapes and time are real"
DEFAULT_CACHE_BYTES = 1 << 30

PxBox = tuple[int, int, int, int]
PxPoint = tuple[int, int]


@dataclass(frozen=True)
class ImageFeatures:
    """What the encoder knows of one picture: maps at strides 4, 8 and 16, each (1, C, h, w)."""

    maps: tuple[Tensor, ...]

    @property
    def num_bytes(self) -> int:
        return sum(level.numel() * level.element_size() for level in self.maps)


class Sam2:
    """The graphs on one device, at one input side, with their feature cache.

    `sessions` replaces what runs a graph, by the names of `OUTPUTS`; eager PyTorch runs the others.

    Example:
        sam2 = Sam2.load("sam2.1_hiera_tiny.pt", side=512)
        segment, track = Sam2Segment(sam2), Sam2Track(sam2)
    """

    def __init__(
        self,
        graphs: Sam2Graphs,
        *,
        name: str,
        degraded: str | None,
        device: str = "cpu",
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        sessions: Mapping[str, Session] | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.graphs = graphs.to(self.device)
        self.config, self.side = graphs.config, graphs.config.side
        self.weights_name = f"{name}:{self.side}"
        self.degraded = degraded
        self.cache = feature_store(cache_bytes, device=self.device)
        self.sessions = eager_sessions(self.graphs, device=self.device)
        self.compiled: dict[str, Session] = {}
        self.use(sessions or {})

    @classmethod
    def load(cls, weights: str | Path, *, side: int | None = None, **options: Any) -> Sam2:
        """Weights of an original `.pt`, a transformers folder or our `.safetensors`."""
        graphs = load_graphs(weights, side=side)
        return cls(graphs, name=f"sam2:{Path(weights).stem}", degraded=None, **options)

    @classmethod
    def random(
        cls, size: str = "tiny", *, side: int | None = None, seed: int = 0, **options: Any
    ) -> Sam2:
        """Seeded random weights, marked degraded."""
        graphs = random_graphs(config_for(size, side=side), seed=seed)
        return cls(graphs, name=f"sam2:random-{size}", degraded=RANDOM_WEIGHTS, **options)

    @property
    def name(self) -> str:
        """Weights and side, and what runs each graph that eager PyTorch does not."""
        runners = [f"{graph}={session.name}" for graph, session in sorted(self.compiled.items())]
        return f"{self.weights_name}[{','.join(runners)}]" if runners else self.weights_name

    @property
    def objects_together(self) -> int | None:
        """Objects a frame's graphs take at once: compiled ones one, eager ones any number."""
        return 1 if set(self.compiled) - {"encoder"} else None

    @property
    def compiles_memory(self) -> bool:
        """Whether memory attention takes compiled banks only."""
        return "memory_attention" in self.compiled

    def specs(self) -> Sam2Specs:
        """What compiled engines for the graphs are built from."""
        return Sam2Specs(self.graphs, trained=self.degraded is None)

    def use(self, sessions: Mapping[str, Session]) -> None:
        """Lets compiled sessions run graphs from now on; features encoded before are dropped."""
        if unknown := set(sessions) - set(self.sessions):
            raise ValueError(
                f"sam2 sessions: expected some of {sorted(self.sessions)}, got {sorted(unknown)}"
            )
        self.sessions |= sessions
        self.compiled |= sessions
        if "encoder" in sessions:
            self.cache = feature_store(self.cache.byte_budget, device=self.device)

    def run(self, graph: str, **inputs: Tensor) -> tuple[Tensor, ...]:
        """One graph's outputs, in the order of `OUTPUTS`."""
        outputs = self.sessions[graph].run(inputs)
        return tuple(outputs[name] for name in OUTPUTS[graph])

    def preprocess(self, image_HWC: np.ndarray) -> Tensor:
        """uint8 (H, W, 3) -> (1, 3, S, S): resized in float, then normalised.

        Antialiased bilinear as in the original release's transform; resizing the integers first
        would differ by up to half a grey level.
        """
        # A copy: the store's pixels are read-only, which torch does not know.
        pixels = torch.tensor(np.ascontiguousarray(image_HWC), device=self.device)
        planes = pixels.permute(2, 0, 1)[None].float()
        square = (self.side, self.side)
        resized = functional.interpolate(planes, square, mode="bilinear", antialias=True)
        std = torch.tensor(PIXEL_STD, device=self.device)[:, None, None]
        mean = torch.tensor(PIXEL_MEAN, device=self.device)[:, None, None]
        return torch.addcmul(-mean / std, resized, 1 / (255 * std))

    def knows(self, key: str) -> bool:
        """Whether the picture's features are kept."""
        return key in self.cache

    def encode(self, image_HWC: np.ndarray, *, key: str | None = None) -> ImageFeatures:
        """Features of a picture; a known key answers from the cache."""
        return self.encode_batch([image_HWC], keys=[key])[0]

    def encode_batch(
        self, images_HWC: Sequence[np.ndarray], *, keys: Sequence[str | None]
    ) -> list[ImageFeatures]:
        """Features of several pictures; those not in the cache are encoded together."""
        found = [self.cache.get(key) for key in keys]
        missing = [n for n, features in enumerate(found) if features is None]
        if missing:
            pixels = torch.cat([self.preprocess(images_HWC[n]) for n in missing])
            levels = self.run("encoder", pixels_B3SS=pixels)
            for row, n in enumerate(missing):
                features = ImageFeatures(tuple(_row(level, row) for level in levels))
                self.cache.put(keys[n], features)
                found[n] = features
        return [features for features in found if features is not None]


class Sam2Engine:
    """What a tool's engine is beside its work: a name, and pictures encoded before they are asked
    about."""

    def __init__(self, sam2: Sam2) -> None:
        self.sam2, self.degraded = sam2, sam2.degraded

    @property
    def name(self) -> str:
        return self.sam2.name

    def prepare(self, image_HWC: np.ndarray, *, key: str) -> None:
        """Encodes a picture or frame that may be asked about, or tracked from."""
        self.sam2.encode(image_HWC, key=key)

    def is_prepared(self, key: str) -> bool:
        return self.sam2.knows(key)


def _row(level_BChw: Tensor, row: int) -> Tensor:
    """One picture's map that keeps no other's alive."""
    return level_BChw if len(level_BChw) == 1 else level_BChw[row : row + 1].clone()


def feature_store(num_bytes: int, *, device: torch.device) -> TierStore:
    """Features by content key where they were made; nothing spills from a GPU to the host."""
    if device.type == "cpu":
        return TierStore(host_bytes=num_bytes)
    return TierStore(host_bytes=0, device_bytes=num_bytes, mover=TensorMover(device))


def eager_sessions(graphs: Sam2Graphs, *, device: torch.device) -> dict[str, Session]:
    """Every graph in eager fp32 PyTorch."""
    return {
        name: TorchSession(module, output_names=OUTPUTS[name], device=device)
        for name, module in graphs.modules_by_name().items()
    }
