"""What the device can do at these shapes, measured first: bare matrix products and a plain copy.

The GEMM ceiling of a dtype is the fastest of the three products a loss is made of, by median:
hidden · headᵀ, dlogits · head and dlogitsᵀ · hidden. The copy ceiling counts bytes read and
written.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import median

import torch

from bench.loss_cases import Shape
from bench.loss_inputs import DTYPES
from bench.loss_timing import repeat_ms

COPY_BYTES = {"cpu": 1 << 28, "cuda": 1 << 31}
"""Far beyond any cache."""


@dataclass(frozen=True)
class Ceilings:
    """Achieved by the device's own library.

    Example:
        Ceilings("512x1024x151936", {"bf16": {"logits": 0.36, …}}, copy_gb_per_s=11.0)
    """

    shape: str
    products_tflops: dict[str, dict[str, float]]
    """By dtype and product."""
    copy_gb_per_s: float

    def gemm_tflops(self, dtype: str) -> float:
        return max(self.products_tflops[dtype].values())

    def as_json(self) -> dict[str, object]:
        return asdict(self)

    def table(self) -> dict[str, object]:
        rows = [
            [f"{dtype} {product}", f"{tflops:.4g} TFLOP/s"]
            for dtype, products in self.products_tflops.items()
            for product, tflops in products.items()
        ]
        rows.append(["copy", f"{self.copy_gb_per_s:.4g} GB/s"])
        title = f"Ceilings of this device at {self.shape}, measured in this run"
        return {"title": title, "columns": ["what", "rate"], "rows": rows}


def measure_ceilings(
    shape: Shape, *, dtypes: tuple[str, ...], device: str, quick: bool
) -> Ceilings:
    seconds = 0.3 if quick else 2.0
    products = {
        dtype: product_tflops(shape, dtype=dtype, device=device, seconds=seconds)
        for dtype in dtypes
    }
    return Ceilings(str(shape), products, copy_rate(device=device, seconds=seconds))


def product_tflops(shape: Shape, *, dtype: str, device: str, seconds: float) -> dict[str, float]:
    """TFLOP/s of the three products."""
    tokens, width, vocabulary = shape
    made = {"dtype": DTYPES[dtype], "device": device}
    hidden_ND, weight_VD = (
        torch.randn(tokens, width, **made),
        torch.randn(vocabulary, width, **made),
    )
    logits_NV = hidden_ND @ weight_VD.T
    dhidden_ND, dweight_VD = torch.empty_like(hidden_ND), torch.empty_like(weight_VD)
    calls = {
        "logits": lambda: torch.mm(hidden_ND, weight_VD.T, out=logits_NV),
        "dhidden": lambda: torch.mm(logits_NV, weight_VD, out=dhidden_ND),
        "dweight": lambda: torch.mm(logits_NV.T, hidden_ND, out=dweight_VD),
    }
    flops = 2.0 * tokens * width * vocabulary
    return {
        name: flops / median(repeat_ms(call, device=device, seconds=seconds, least=3)) / 1e9
        for name, call in calls.items()
    }


def copy_rate(*, device: str, seconds: float) -> float:
    count = COPY_BYTES[device.split(":")[0]]
    source = torch.ones(count, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    ms = median(repeat_ms(lambda: target.copy_(source), device=device, seconds=seconds, least=5))
    return 2 * count / ms / 1e6
