"""The vocabulary ops' and coherence's benchmark points as data: what is measured, where and why.

A `Scene` is one set of inputs (dtype, shape, how peaked the distributions are); a `Point` is a
scene with a share of its tokens masked out. Knows no tensor, provider or clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

LOSS_OPS = ("masked_imitation", "token_kl", "policy_loss", "corridor")
OTHER_OPS = ("coherence", "pooled_coherence", "top_k")
OPS = LOSS_OPS + OTHER_OPS
MODES = ("forward", "backward", "full")
"""forward without gradient; backward alone, after a training forward; both of a training step."""

REGIMES = {
    "uniform": "nearly all tokens alike, as before training",
    "peaked": "like a language model: a few candidates, p of the target from 1e-3 to 0.999",
    "saturated": "nearly certain, one row in eight of the wrong token",
    "walk": "trajectories of steps that resemble their neighbours",
    "rows": "random rows, some of them near copies",
}
MASKS = (0.0, 0.4, 0.7, 0.9)
NEIGHBOURS = 16
"""k of top_k."""


class Shape(NamedTuple):
    """tokens N, width D, vocabulary V; coherence: T steps of width D, pooled: N tokens of steps;
    top_k: N queries, V keys."""

    tokens: int
    width: int
    vocabulary: int

    def __str__(self) -> str:
        return "x".join(str(size) for size in self)


@dataclass(frozen=True)
class Scene:
    """One set of inputs.

    Example:
        Scene("masked_imitation", "bf16", Shape(512, 1024, 151936), "peaked")
    """

    op: str
    dtype: str
    shape: Shape
    regime: str

    @property
    def name(self) -> str:
        return f"{self.op} {self.dtype} {self.regime} {self.shape}"


@dataclass(frozen=True)
class Point:
    """A scene with `mask` of its tokens left out of the loss; primary ones get all providers."""

    scene: Scene
    mask: float = 0.0
    primary: bool = True

    @property
    def name(self) -> str:
        masked = f" masked {self.mask:.0%}" if self.scene.op in LOSS_OPS else ""
        return self.scene.name + masked

    @property
    def valid_tokens(self) -> int:
        tokens = self.scene.shape.tokens
        return tokens - round(self.mask * tokens)


VOCABULARY = 151_936  # Qwen's: 128 x 1187, no multiple of 256
CUDA_SHAPE = Shape(8192, 4096, VOCABULARY)  # the one public H100 figures exist for
CPU_SHAPE = Shape(512, 1024, VOCABULARY)
QUICK_SHAPES = {"cuda": Shape(2048, 4096, VOCABULARY), "cpu": Shape(128, 512, VOCABULARY)}
STEP_SHAPES = {"cuda": ((8192, 4096), (512, 4096)), "cpu": ((8192, 1024), (512, 1024))}
POOL_SHAPES = {"cuda": ((65536, 4096),), "cpu": ((8192, 1024),)}
PAIR_SHAPES = {"cuda": Shape(8192, 1024, 8192), "cpu": Shape(512, 1024, 8192)}


def points(op: str, *, device: str, quick: bool, shape: Shape | None) -> list[Point]:
    """What `op` is measured on, primary points first."""
    kind = "cuda" if device.startswith("cuda") else "cpu"
    if op in LOSS_OPS:
        usual = CUDA_SHAPE if kind == "cuda" else CPU_SHAPE
        found = shape or (QUICK_SHAPES[kind] if quick else usual)
        return _loss_points(op, found, kind=kind, quick=quick)
    if op != "top_k":
        usual_sizes = (STEP_SHAPES if op == "coherence" else POOL_SHAPES)[kind]
        sizes = ((shape.tokens, shape.width),) if shape else usual_sizes
        scenes = [Scene(op, "bf16", Shape(*size, 1), "walk") for size in sizes]
        return [Point(scene) for scene in (scenes[-1:] if quick else scenes)]
    pairs = Shape(shape.tokens, shape.width, shape.tokens) if shape else PAIR_SHAPES[kind]
    return [Point(Scene(op, "bf16", pairs, "rows"))]


def _loss_points(op: str, shape: Shape, *, kind: str, quick: bool) -> list[Point]:
    def scene(dtype: str, regime: str) -> Scene:
        return Scene(op, dtype, shape, regime)

    dtypes = ("bf16", "fp32") if kind == "cpu" else ("bf16",)
    found = [Point(scene(dtype, "peaked")) for dtype in dtypes]
    if quick and op != "masked_imitation":
        return found
    # On a GPU speed may depend on the data (filters), so there every provider meets all regimes.
    every = kind == "cuda"
    masks = MASKS[1:] if op == "masked_imitation" and not quick else (0.7,)
    regimes = REGIMES_OF[op][-1:] if quick else REGIMES_OF[op]
    found += [Point(scene("bf16", "peaked"), mask, primary=every) for mask in masks]
    found += [Point(scene("bf16", regime), primary=every) for regime in regimes]
    return found


REGIMES_OF: dict[str, tuple[str, ...]] = {
    "masked_imitation": ("uniform", "saturated"),
    "token_kl": ("saturated",),
    "policy_loss": (),
    "corridor": (),
}
"""Beside "peaked"; the policy loss and the corridor are functions of the others' statistics."""


ROW_WORK = {
    "coherence": {"forward": (6, 1), "backward": (8, 2), "full": (14, 2)},
    "pooled_coherence": {"forward": (1, 1), "backward": (1, 1), "full": (2, 2)},
}
"""By mode: operations an element, and how often every row is read or written."""


class Work(NamedTuple):
    """What the task needs at least, whoever does it."""

    flops: float
    bytes: float


def useful_work(point: Point, mode: str) -> Work:
    """Products over valid rows alone, and every input read and output written once."""
    (_, width, columns), op = point.scene.shape, point.scene.op
    rows, size = point.valid_tokens, {"bf16": 2, "fp32": 4}[point.scene.dtype]
    product, heads = 2.0 * rows * width * columns, 1 if op == "masked_imitation" else 2
    tensors = float(size * width * (rows + columns))
    if op == "top_k":
        return Work(product, tensors)
    if op in ROW_WORK:
        operations, passes = ROW_WORK[op][mode]
        return Work(float(operations * rows * width), float(passes * size * rows * width))
    forward = Work(heads * product, heads * tensors)
    backward = Work(2 * product, 2 * tensors)
    if mode == "full":
        return Work(forward.flops + backward.flops, forward.bytes + tensors)
    return forward if mode == "forward" else backward
