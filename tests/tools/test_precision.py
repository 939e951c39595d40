"""Lowered modules keep fp32 at their borders; islands are found where rounding hurts."""

import pytest
import torch
from torch import nn

from pixelis_fast.tools_trt.graphs.precision import (
    Precision,
    at_precision,
    called_submodules,
    find_islands,
    smallest_islands,
)

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Part(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)

    def forward(self, x):
        return self.second(self.first(x).tanh())


class Whole(nn.Module):
    """The input's type reaches the first layer as it is; a table meets a half result."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList(Part() for _ in range(4))
        self.unused = nn.Linear(4, 4)
        self.lstm = nn.LSTM(4, 4, batch_first=True)
        self.register_buffer("table", torch.rand(4))

    def forward(self, x):
        for part in self.parts:
            x = x + part(x)
        return self.lstm(x * self.table)[0], x.long()


def weight_types(module):
    return {parameter.dtype for parameter in module.parameters()}


@pytest.mark.parametrize("rung", HALF)
def test_a_lowered_module_keeps_its_borders(rung):
    module, x = Whole().eval(), torch.randn(2, 3, 4)
    lowered = at_precision(module, Precision(rung))
    features, whole = lowered(x)
    assert weight_types(lowered) == {HALF[rung]}
    assert weight_types(module) == {torch.float32}
    assert (features.dtype, whole.dtype) == (torch.float32, torch.int64)
    assert 0 < (features - module(x)[0]).abs().max() < 0.05


def test_fp32_is_the_module_itself():
    module = Whole()
    assert at_precision(module, Precision("fp32")) is module


@pytest.mark.parametrize("rung", HALF)
def test_islands_keep_their_weights_exactly(rung):
    module, x = Whole().eval(), torch.randn(2, 3, 4)
    lowered = at_precision(module, Precision(rung, ("parts.1", "parts.3.first")))
    kept = {n for n, p in lowered.module.named_parameters() if p.dtype == torch.float32}
    assert kept == {
        *(
            f"parts.1.{layer}.{kind}"
            for layer in ("first", "second")
            for kind in ("weight", "bias")
        ),
        "parts.3.first.weight",
        "parts.3.first.bias",
    }
    assert torch.equal(lowered.module.parts[1].first.weight, module.parts[1].first.weight)
    assert lowered(x)[0].isfinite().all()


@pytest.mark.parametrize("needed", [(), ("c",), ("a", "h"), ("b", "c", "g")])
def test_smallest_islands(needed):
    asked = []

    def passes(kept):
        asked.append(kept)
        return set(needed) <= set(kept)

    assert set(smallest_islands(list("abcdefgh"), passes)) == set(needed)
    assert len(asked) <= 2 + 4 * (len(needed) + 1)


def test_no_islands_help_where_the_module_itself_fails():
    assert smallest_islands(["a", "b"], lambda kept: False) is None


def test_called_submodules():
    module = Whole()
    called = called_submodules(module, lambda: module(torch.randn(1, 2, 4)))
    assert called[:4] == ["parts.0", "parts.0.first", "parts.0.second", "parts.1"]
    assert "unused" not in called
    assert called[-1] == "lstm"


@pytest.mark.parametrize("layer", ["parts.2.second", "parts.0.second"])
def test_bisection_finds_the_layer_that_overflows(layer):
    """One layer's result is past fp16's largest number; only that layer must stay fp32."""
    module, x = Whole().eval(), torch.rand(1, 3, 4) + 0.5
    big = module.get_submodule(layer)
    with torch.no_grad():
        big.weight.copy_(torch.eye(4) * 3)
        big.bias.fill_(1e5)
    narrow = Narrow(big)
    module.set_submodule(layer, narrow)

    def passes(islands):
        return bool(at_precision(module, Precision("fp16", islands))(x)[0].isfinite().all())

    assert not passes(())
    assert find_islands(module, lambda: module(x), passes) == (layer,)


class Narrow(nn.Module):
    """A layer whose large result shrinks again before it leaves."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x) * 1e-5


def test_bad_precisions_are_refused():
    with pytest.raises(ValueError, match="expected one of fp16, bf16, int8, fp32, got 'fp8'"):
        Precision("fp8")
    with pytest.raises(ValueError, match="precision of a module: expected"):
        at_precision(Whole(), Precision("int8"))
