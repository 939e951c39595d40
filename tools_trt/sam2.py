"""SAM 2's graph, preprocessing and cached image features: what segment and track engines share.

`Sam2` owns the graph, the preprocessing and a byte-bounded cache of image features under content
keys: a click after a click, or a track after a click, encodes a frame once. Prompts are in pixels
of the picture; nothing here knows the store or the 0..1000 frame.

Shapes: H, W = picture; S = model side; N = points; C = channels.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pixelis_fast.tools_trt.sam2_weights import Model, load_model, random_model

PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_STD = (0.229, 0.224, 0.225)
POINT_LABEL, CORNER_LABELS = 1, (2, 3)
"""The prompt encoder's labels: a click on the object, the two corners of a box."""
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


class FeatureCache:
    """Least recently used features under a byte budget; a budget of 0 keeps nothing."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.num_bytes = self.hits = self.misses = 0
        self._entries: OrderedDict[str, ImageFeatures] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str | None) -> ImageFeatures | None:
        with self._lock:
            found = self._entries.get(key) if key is not None else None
            self.hits += found is not None
            self.misses += found is None
            if found is not None:
                self._entries.move_to_end(str(key))
            return found

    def put(self, key: str | None, features: ImageFeatures) -> None:
        """Keeps the features unless they have no key or alone exceed the budget."""
        if key is None or features.num_bytes > self.budget_bytes:
            return
        with self._lock:
            replaced = self._entries.pop(key, None)
            self.num_bytes += features.num_bytes - (replaced.num_bytes if replaced else 0)
            self._entries[key] = features
            while self.num_bytes > self.budget_bytes:
                self.num_bytes -= self._entries.popitem(last=False)[1].num_bytes


class Sam2:
    """The graph on one device, at one input side, with its feature cache.

    Example:
        sam2 = Sam2.load("sam2.1_hiera_tiny.pt", side=512)
        segment, track = Sam2Segment(sam2), Sam2Track(sam2)
    """

    def __init__(
        self,
        model: Model,
        *,
        name: str,
        degraded: str | None,
        device: str = "cpu",
        cache_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> None:
        # Any: transformers wraps .to and .config with annotations that mypy cannot follow.
        graph: Any = model
        self.model = graph
        self.model.to(device).eval().requires_grad_(False)
        self.side = int(self.model.config.prompt_encoder_config.image_size)
        self.name = f"{name}:{self.side}"
        self.degraded = degraded
        self.device = torch.device(device)
        self.cache = FeatureCache(cache_bytes)
        neck = self.model.vision_encoder.neck
        neck.position_encoding = KeptPositions(neck.position_encoding)

    @classmethod
    def load(cls, weights: str | Path, *, side: int = 1024, **options: Any) -> Sam2:
        """Weights of a transformers folder or of an original `.pt`."""
        model = load_model(weights, side=side)
        return cls(model, name=f"sam2:{Path(weights).stem}", degraded=None, **options)

    @classmethod
    def random(cls, size: str = "tiny", *, side: int = 1024, seed: int = 0, **options: Any) -> Sam2:
        """Seeded random weights, marked degraded."""
        model = random_model(size, side=side, seed=seed)
        return cls(model, name=f"sam2:random-{size}", degraded=RANDOM_WEIGHTS, **options)

    def preprocess(self, image_HWC: np.ndarray) -> Tensor:
        """uint8 (H, W, 3) -> (1, 3, S, S): scale to 0..1, resize, then normalise, all in float.

        The order and the antialiased bilinear filter are those of the original release's image
        transform; resizing the integers first would differ by up to half a grey level.
        """
        # A copy: the store's pixels are read-only, which torch does not know.
        pixels = torch.tensor(np.ascontiguousarray(image_HWC), device=self.device)
        scaled = pixels.permute(2, 0, 1)[None].float() / 255
        square = (self.side, self.side)
        resized = functional.interpolate(scaled, square, mode="bilinear", antialias=True)
        mean = torch.tensor(PIXEL_MEAN, device=self.device)[:, None, None]
        std = torch.tensor(PIXEL_STD, device=self.device)[:, None, None]
        return (resized - mean) / std

    @torch.inference_mode()
    def encode(self, image_HWC: np.ndarray, *, key: str | None = None) -> ImageFeatures:
        """Features of a picture; a known key answers from the cache."""
        features = self.cache.get(key)
        if features is None:
            features = self._encode(self.preprocess(image_HWC))
            self.cache.put(key, features)
        return features

    def _encode(self, pixels: Tensor) -> ImageFeatures:
        flat = self.model.get_image_features(pixels, return_dict=True).fpn_hidden_states
        sizes = self.model.backbone_feature_sizes
        maps = (x.permute(1, 2, 0).unflatten(2, size) for x, size in zip(flat, sizes, strict=True))
        return ImageFeatures(tuple(level.contiguous() for level in maps))

    def prompt(
        self, *, size: tuple[int, int], point_px: PxPoint | None, box_px: PxBox | None
    ) -> tuple[Tensor, Tensor]:
        """Points (1, 1, N, 2) in model pixels and their labels (1, 1, N)."""
        if (point_px is None) == (box_px is None):
            raise ValueError(f"prompt: expected a point or a box, got {point_px} and {box_px}")
        flat = point_px if point_px is not None else box_px
        labels = (POINT_LABEL,) if point_px is not None else CORNER_LABELS
        height, width = size
        points = torch.tensor(flat, dtype=torch.float32, device=self.device).view(1, 1, -1, 2)
        scale = torch.tensor([self.side / width, self.side / height], device=self.device)
        return points * scale, torch.tensor(labels, dtype=torch.int32, device=self.device)[
            None, None
        ]


class KeptPositions(nn.Module):
    """Computes each shape's position encoding once.

    transformers remembers only one shape while an image asks for three in turn.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self._kept: dict[tuple[Any, ...], Tensor] = {}

    def forward(self, shape: torch.Size, device: Any, dtype: Any, mask: Any = None) -> Tensor:
        key = (tuple(shape), str(device), dtype)
        if mask is not None:
            return self.inner(shape, device, dtype, mask)
        if key not in self._kept:
            self._kept[key] = self.inner(shape, device, dtype, None)
        return self._kept[key]
