"""Tensors of a scene: hidden states and heads with a chosen sharpness, steps, rows to compare.

The heads' rows are random and of norm one, so a hidden state that is a sum of rows times levels
gives those rows about those logits: candidates whose levels the regime says, everything else small.
Deterministic per scene. Knows no op of ours.

Shapes: N = tokens, D = width, V = vocabulary, K = candidates, T = steps, B = trajectories.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from bench.loss_cases import Point, Scene, Shape

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
IGNORED = -100
CANDIDATES = 20
TRAJECTORY = 32
"""Steps of a trajectory, the last one shorter."""
STEP_TOKENS = 16
"""Tokens of a pooled step."""
ROWS = 256
"""Tokens whose logits exist at a time while a rollout's log-probabilities are made up."""
RATIO_STEP = 0.5
"""exp(0.5) = 1.65 and exp(-0.5) = 0.61: outside of every clip."""
DRIFT = 0.15
"""Standard deviation of the logits' difference between policy and reference: KL near 0.01."""


class Levels(NamedTuple):
    """Logit of the best candidate, drawn evenly between; mean distance to the next one."""

    low: float
    high: float
    gap: float


LEVELS = {"peaked": Levels(12, 27, 1.5), "saturated": Levels(25, 40, 8)}


@dataclass
class Inputs:
    """What providers get; `leaves` collect gradients, in the order hidden, weight."""

    point: Point
    leaves: tuple[Tensor, ...]
    rest: dict[str, Tensor] = field(default_factory=dict)

    def clear(self) -> None:
        for leaf in self.leaves:
            leaf.grad = None


def generator(device: str) -> torch.Generator:
    return torch.Generator(device).manual_seed(0)


def make_scene(scene: Scene, *, device: str) -> dict[str, Tensor]:
    """All tensors of a scene by name; the masks come later, see `make_inputs`."""
    random = generator(device)
    make = MAKERS.get(scene.op, _heads)
    with torch.no_grad():
        return make(scene, random)


def _normal(*shape: int, random: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=random, device=random.device)


def _heads(scene: Scene, random: torch.Generator) -> dict[str, Tensor]:
    (tokens, width, vocabulary), dtype = scene.shape, DTYPES[scene.dtype]
    weight_VD = _normal(vocabulary, width, random=random).mul_(width**-0.5)
    hidden_ND, targets_N = _sharpened(scene, weight_VD, random)
    tensors = {"hidden": hidden_ND.to(dtype), "targets": targets_N}
    uniform_N = torch.rand(tokens, generator=random, device=random.device)
    tensors["token_weights"] = 0.1 + 1.9 * uniform_N
    tensors["order"] = torch.randperm(tokens, generator=random, device=random.device)
    tensors["weight"] = weight_VD.to(dtype)
    if scene.op != "masked_imitation":
        moved_ND = hidden_ND + DRIFT * _normal(tokens, width, random=random)
        tensors["reference_hidden"] = moved_ND.to(dtype)
        noise_VD = _normal(vocabulary, width, random=random).mul_(1e-3 * width**-0.5)
        tensors["reference_weight"] = weight_VD.add_(noise_VD).to(dtype)
    if scene.op == "policy_loss":
        tensors |= _rollout(tensors, random)
    return tensors


def _rollout(tensors: dict[str, Tensor], random: torch.Generator) -> dict[str, Tensor]:
    """advantages (N); behaviour (N): the policy's log-probabilities, a third of them each moved
    up, down or not, far past the clip's bounds so that rounding cannot change who is stopped."""
    targets_N = tensors["targets"]
    known = [
        functional.linear(part.float(), tensors["weight"].float()).log_softmax(-1).gather(1, target)
        for part, target in zip(
            tensors["hidden"].split(ROWS), targets_N[:, None].split(ROWS), strict=True
        )
    ]
    moved_N = torch.randint(-1, 2, targets_N.shape, generator=random, device=random.device)
    advantages_N = _normal(len(targets_N), random=random)
    return {
        "advantages": advantages_N,
        "behaviour": torch.cat(known)[:, 0] + RATIO_STEP * moved_N,
    }


def _sharpened(scene: Scene, weight_VD: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """hidden (N, D) float32 and targets (N)."""
    (tokens, width, vocabulary), device = scene.shape, random.device
    shape_NK = (tokens, CANDIDATES)
    candidates_NK = torch.randint(vocabulary, shape_NK, generator=random, device=device)
    hidden_ND = 0.5 * _normal(tokens, width, random=random)
    if scene.regime == "uniform":
        return hidden_ND, candidates_NK[:, 0]
    low, high, gap = LEVELS[scene.regime]
    top_N1 = low + (high - low) * torch.rand(tokens, 1, generator=random, device=device)
    gaps_NK = torch.empty(shape_NK, device=device).exponential_(1 / gap, generator=random)
    gaps_NK[:, 0] = 0
    # Levels below zero would only widen the bulk.
    level_NK = (top_N1 - gaps_NK.cumsum(1)).clamp_min(0)
    hidden_ND += torch.einsum("nk,nkd->nd", level_NK, weight_VD[candidates_NK])
    if scene.regime == "peaked":
        chosen_N1 = torch.multinomial(level_NK.softmax(1), 1, generator=random)
    else:
        chosen_N1 = (torch.arange(tokens, device=device) % 8 == 7).long()[:, None]
    return hidden_ND, candidates_NK.gather(1, chosen_N1)[:, 0]


def _steps(scene: Scene, random: torch.Generator) -> dict[str, Tensor]:
    steps, width, _ = scene.shape
    noise_TD = _normal(steps, width, random=random)
    base_TD = _normal(-(-steps // TRAJECTORY), width, random=random).repeat_interleave(
        TRAJECTORY, 0
    )
    bounds = [*range(0, steps, TRAJECTORY), steps]
    return {
        "steps": (base_TD[:steps] + noise_TD).to(DTYPES[scene.dtype]),
        "bounds": torch.tensor(bounds, dtype=torch.int32, device=random.device),
        "upstream": _normal(len(bounds) - 1, random=random),
    }


def _rows(scene: Scene, random: torch.Generator) -> dict[str, Tensor]:
    queries, width, keys = scene.shape
    keys_MD = _normal(keys, width, random=random)
    near_N = torch.randint(keys, (queries,), generator=random, device=random.device)
    queries_ND = keys_MD[near_N] + _normal(queries, width, random=random)
    dtype = DTYPES[scene.dtype]
    return {"queries": queries_ND.to(dtype), "keys": keys_MD.to(dtype)}


def _tokens(scene: Scene, random: torch.Generator) -> dict[str, Tensor]:
    """The rows of `_steps`, each of them STEP_TOKENS times with noise; the last step is shorter."""
    tokens, width, _ = scene.shape
    offsets = [*range(0, tokens, STEP_TOKENS), tokens]
    steps = Scene(scene.op, "fp32", Shape(len(offsets) - 1, width, 1), scene.regime)
    tensors = _steps(steps, random)
    rows_ND = tensors.pop("steps").repeat_interleave(STEP_TOKENS, 0)[:tokens]
    rows_ND = rows_ND + _normal(tokens, width, random=random)
    tensors["hidden"] = rows_ND.to(DTYPES[scene.dtype])
    tensors["offsets"] = torch.tensor(offsets, dtype=torch.int32, device=random.device)
    return tensors


MAKERS = {"coherence": _steps, "pooled_coherence": _tokens, "top_k": _rows}
LEAVES = {
    "coherence": ("steps",),
    "pooled_coherence": ("hidden",),
    "top_k": (),
    "corridor": (),
}
"""Where it is not a policy's hidden states and head that collect gradients."""


def make_inputs(point: Point, tensors: dict[str, Tensor]) -> Inputs:
    """Masks the last tokens of the scene's random order; leaves are fresh, storage is shared."""
    rest = dict(tensors)
    names = LEAVES.get(point.scene.op, ("hidden", "weight"))
    leaves = tuple(rest.pop(name).detach().requires_grad_() for name in names)
    if "order" in rest:
        valid_N = torch.zeros_like(rest["targets"], dtype=torch.bool)
        valid_N[rest.pop("order")[: point.valid_tokens]] = True
        rest["valid"] = valid_N
        rest["targets"] = torch.where(valid_N, rest["targets"], IGNORED)
    return Inputs(point, leaves, rest)
