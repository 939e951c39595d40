"""LoRA banks: small trained corrections of a frozen decoder, several of them beside one base.

y = W x + (alpha / rank) · B (A x) on every linear layer of the decoder, through the `Apply` hook:
no module is replaced, so any number of banks runs on one policy, two of them in one forward too
(adapter_route.py). B starts at zero: a new bank is the base, bit for bit. Numbers are fp32 whatever
the base's are. A fused layer has one A per Hugging Face module, stacked, and one B each.
Method: LoRA (arXiv 2106.09685). Files are PEFT's (adapter_files.py).

Shapes: N = rows, D = inputs, O = outputs of one module, m = modules of a fused layer, R = rank.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from pixelis_fast.policy.adapter_fused import can_fuse, corrected_linear
from pixelis_fast.policy.adapter_sites import SiteShape, site_shapes
from pixelis_fast.policy.config import PolicyConfig
from pixelis_fast.policy.decoder import Apply, Site, apply_at_once
from pixelis_fast.policy.model import Policy


class Pair:
    """The correction of one fused linear layer; called like a layer."""

    def __init__(self, shape: SiteShape, rank: int, scale: float, device: torch.device) -> None:
        self.shape, self.rank, self.scale = shape, rank, scale
        stacked = rank * len(shape.modules)
        self.a_mRD = nn.Parameter(torch.empty(stacked, shape.inputs, device=device))
        self.b_OR = [
            nn.Parameter(torch.zeros(rows, rank, device=device)) for _, rows in shape.modules
        ]

    def __call__(self, x_ND: Tensor) -> Tensor:
        """(N, all outputs) fp32"""
        low_NmR = linear(x_ND.to(self.a_mRD.dtype), self.a_mRD) * self.scale
        parts = zip(low_NmR.split(self.rank, dim=-1), self.b_OR, strict=True)
        return torch.cat([linear(low_NR, b_OR) for low_NR, b_OR in parts], dim=-1)

    def beside(self, weight_OD: Tensor, x_ND: Tensor) -> Tensor:
        """(N, all outputs) of the matrix with its correction, fp32."""
        return corrected_linear(x_ND, weight_OD, self.a_mRD, self.b_OR, self.scale)

    def parameters(self) -> list[nn.Parameter]:
        return [self.a_mRD, *self.b_OR]

    def draw(self, generator: torch.Generator) -> None:
        """A as PEFT draws it, uniform within 1/sqrt(inputs); B stays zero."""
        bound = 1 / math.sqrt(self.shape.inputs)
        drawn_mRD = torch.empty(self.a_mRD.shape).uniform_(-bound, bound, generator=generator)
        self.a_mRD.data.copy_(drawn_mRD)

    def delta(self) -> Tensor:
        """(all outputs, D): what it adds to the fused matrix."""
        parts = zip(self.b_OR, self.a_mRD.split(self.rank), strict=True)
        return self.scale * torch.cat([b_OR @ a_RD for b_OR, a_RD in parts])


class AdapterBank:
    """One named set of pairs, for every linear layer of a decoder of this config.

    Example:
        bank = AdapterBank(policy.config, rank=8, seed=0)
        hidden_ND = policy.hidden(batch, apply=bank.apply())
        optimizer = torch.optim.AdamW(bank.parameters(), lr=1e-4)
    """

    def __init__(
        self,
        config: PolicyConfig,
        *,
        rank: int = 8,
        alpha: float = 16.0,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        if rank < 1:
            raise ValueError(f"rank: expected >= 1, got {rank}")
        if alpha <= 0:
            raise ValueError(f"alpha: expected > 0, got {alpha}")
        self.config, self.rank, self.alpha = config, rank, float(alpha)
        self.pairs = {
            shape.site: Pair(shape, rank, alpha / rank, torch.device(device))
            for shape in site_shapes(config)
        }
        # Drawn on the host: one seed is one bank on every device.
        generator = torch.Generator().manual_seed(seed)
        for pair in self.pairs.values():
            pair.draw(generator)

    def apply(self, base: Apply = apply_at_once) -> Apply:
        """Runs a layer by `base` and adds the layer's correction, run by `base` too."""

        def adapted(layer: Callable[[Tensor], Tensor], x_ND: Tensor) -> Tensor:
            pair = self.pair_of(layer)
            if pair is None:
                return base(layer, x_ND)
            if base is apply_at_once and can_fuse(layer, x_ND):
                return pair.beside(layer.weight, x_ND)
            y_NO = base(layer, x_ND)
            return (y_NO + base(pair, x_ND)).to(y_NO.dtype)

        return adapted

    def pair_of(self, layer: Callable[[Tensor], Tensor]) -> Pair | None:
        """None for what is no layer of the decoder: the head."""
        site: Site | None = getattr(layer, "site", None)
        return None if site is None else self.pairs[site]

    def parameters(self) -> Iterator[nn.Parameter]:
        """All A and B, in an order that is the same for every bank of one config and rank."""
        for pair in self.pairs.values():
            yield from pair.parameters()

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def nbytes(self) -> int:
        return sum(parameter.nbytes for parameter in self.parameters())

    def copy(self) -> AdapterBank:
        """The same numbers in memory of their own, with gradients where they were."""
        twin = AdapterBank(self.config, rank=self.rank, alpha=self.alpha, device=self.device)
        twin.copy_(self)
        for ours, theirs in zip(twin.parameters(), self.parameters(), strict=True):
            ours.requires_grad_(theirs.requires_grad)
        return twin

    def freeze(self) -> AdapterBank:
        """No gradients from here on; the bank itself."""
        for parameter in self.parameters():
            parameter.requires_grad_(False)
        return self

    @torch.no_grad()
    def copy_(self, other: AdapterBank) -> None:
        """Takes over another bank's numbers, bit for bit."""
        for ours, theirs in self._beside(other):
            ours.copy_(theirs)

    @torch.no_grad()
    def ema_update(self, other: AdapterBank, decay: float) -> None:
        """self <- decay · self + (1 - decay) · other, A and B each."""
        if not 0 <= decay <= 1:
            raise ValueError(f"decay: expected a number in [0, 1], got {decay}")
        for ours, theirs in self._beside(other):
            ours.lerp_(theirs, 1 - decay)

    @torch.no_grad()
    def lerp_toward(self, other: AdapterBank, share: float) -> AdapterBank:
        """A new bank on the line from this one (0, bit for bit) to the other (1, bit for bit)."""
        twin = (other if share == 1 else self).copy()
        if 0 < share < 1:
            for ours, theirs in twin._beside(other):
                ours.lerp_(theirs, share)
        return twin

    def equals(self, other: AdapterBank) -> bool:
        """Bit for bit."""
        return all(torch.equal(ours, theirs) for ours, theirs in self._beside(other))

    def is_finite(self) -> bool:
        return all(bool(parameter.isfinite().all()) for parameter in self.parameters())

    def fingerprint(self) -> str:
        """sha256 over shape, alpha and every number."""
        digest = hashlib.sha256(f"lora rank={self.rank} alpha={self.alpha!r}".encode())
        for parameter in self.parameters():
            digest.update(repr(tuple(parameter.shape)).encode())
            digest.update(parameter.detach().cpu().numpy().tobytes())
        return digest.hexdigest()

    @torch.no_grad()
    def merge_into(self, policy: Policy) -> None:
        """Adds every correction to the policy's own matrices, in place."""
        for layer in policy.modules():
            pair = self.pair_of(layer) if isinstance(layer, nn.Linear) else None
            if pair is not None:
                assert isinstance(layer, nn.Linear)
                layer.weight += pair.delta().to(layer.weight)

    def tensors(self) -> dict[str, Tensor]:
        """PEFT's names -> views of the numbers."""
        found = {}
        for pair in self.pairs.values():
            parts = zip(
                pair.shape.module_names(), pair.a_mRD.split(self.rank), pair.b_OR, strict=True
            )
            for name, a_RD, b_OR in parts:
                found[f"base_model.model.{name}.lora_A.weight"] = a_RD.detach()
                found[f"base_model.model.{name}.lora_B.weight"] = b_OR.detach()
        return found

    def save(self, folder: str | Path) -> None:
        """A folder that `load` and PEFT's from_pretrained read."""
        from pixelis_fast.policy.adapter_files import save_bank

        save_bank(self, Path(folder))

    @staticmethod
    def load(
        config: PolicyConfig, folder: str | Path, *, device: torch.device | str = "cpu"
    ) -> AdapterBank:
        """ValueError where the folder holds another adapter than this config's."""
        from pixelis_fast.policy.adapter_files import load_bank

        return load_bank(config, Path(folder), device=device)

    def _beside(self, other: AdapterBank) -> Iterator[tuple[nn.Parameter, nn.Parameter]]:
        if (self.config.text, self.rank, self.alpha) != (
            other.config.text,
            other.rank,
            other.alpha,
        ):
            raise ValueError(
                f"bank: expected rank {self.rank} and alpha {self.alpha} on the same decoder, "
                f"got rank {other.rank} and alpha {other.alpha}"
            )
        return zip(self.parameters(), other.parameters(), strict=True)
