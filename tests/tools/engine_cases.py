"""Small real graphs and their specs for the engine tests."""

from dataclasses import replace

import torch
from torch import nn

from pixelis_fast.tools_trt.graphs.gates import Gate, embedding_checks
from pixelis_fast.tools_trt.graphs.spec import EngineSpec, TensorSpec


class Columns(nn.Module):
    """(B, 3, 8, W) -> per-column features (B, W, 4) and a score per item that ignores padding."""

    def __init__(self):
        super().__init__()
        self.grow = nn.Conv2d(3, 8, (8, 1))
        self.norm = nn.LayerNorm(8)
        self.shrink = nn.Linear(8, 4)

    def forward(self, x, weight):
        columns = self.grow(x).squeeze(2).transpose(1, 2)
        features = self.shrink(nn.functional.gelu(self.norm(columns)))
        score = (features * weight[..., None]).sum(1) / weight.sum(1, keepdim=True)
        return features, score


def columns(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Columns().eval()


def probes(bucket):
    generator = torch.Generator().manual_seed(1)
    shape = (bucket["B"], 3, 8, bucket["W"])
    return [
        {
            "x": torch.randn(shape, generator=generator),
            "weight": torch.rand(shape[0], shape[3], generator=generator),
        }
        for _ in range(2)
    ]


def columns_spec(module=None, **changes):
    module = module or columns()
    spec = EngineSpec(
        "test/columns",
        inputs=(
            TensorSpec("x", torch.float32, ("B", 3, 8, "W")),
            TensorSpec("weight", torch.float32, ("B", "W")),
        ),
        outputs=(
            TensorSpec("features", torch.float32, ("B", "W", 4)),
            TensorSpec("score", torch.float32, ("B", 4)),
        ),
        buckets=({"B": 1, "W": 16}, {"B": 1, "W": 32}, {"B": 4, "W": 32}),
        weights_id="0" * 64,
        probes=probes,
        gate=Gate(embedding_checks("features", "score")),
        build=lambda bucket: module,
    )
    return replace(spec, **changes)
