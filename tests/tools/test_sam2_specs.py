"""The specifications describe the graphs as they are, and their gates tell good from bad."""

import copy

import pytest
import torch

from pixelis_fast.tools_trt.backends.torch_cpu import TorchSession
from pixelis_fast.tools_trt.models.sam2_config import config_for
from pixelis_fast.tools_trt.models.sam2_model import OUTPUTS
from pixelis_fast.tools_trt.models.sam2_weights import random_graphs
from pixelis_fast.tools_trt.results import MissingWeightsError
from pixelis_fast.tools_trt.sam2.specs import Sam2Specs

NAMES = ("encoder", "decoder", "object_decoder", "memory_encoder", "memory_attention")


@pytest.fixture(scope="module")
def specs():
    graphs = random_graphs(config_for("micro", side=128))
    return Sam2Specs(graphs, trained=False)


def session(module, name):
    return TorchSession(module, output_names=OUTPUTS[name])


@pytest.mark.parametrize("name", NAMES)
def test_shapes_are_those_of_the_graph(specs, name):
    spec = getattr(specs, name)()
    for bucket in spec.buckets[:2] + spec.buckets[-1:]:
        (probe,) = spec.probes(bucket)
        module = spec.build(bucket)
        assert {one.name for one in spec.inputs} == set(session(module, name).input_names)
        for one in spec.inputs:
            assert probe[one.name].shape == one.sizes(bucket), one.name
            assert probe[one.name].dtype == one.dtype
        outputs = session(module, name).run(probe)
        assert tuple(outputs) == tuple(one.name for one in spec.outputs)
        for one in spec.outputs:
            assert outputs[one.name].shape == one.sizes(bucket), one.name


@pytest.mark.parametrize("name", NAMES)
def test_gates_pass_bf16_and_stop_worse(specs, name):
    spec = getattr(specs, name)()
    bucket = spec.buckets[0]
    probes = spec.probes(bucket)
    reference = [session(spec.build(bucket), name).run(probe) for probe in probes]
    half = copy.deepcopy(spec.build(bucket)).bfloat16()
    report = spec.gate.compare(reference, [session(half, name).run(probe) for probe in probes])
    assert report.passed, report.failures()
    broken = copy.deepcopy(spec.build(bucket))
    with torch.no_grad():
        for weight in broken.parameters():
            weight += 0.1 * weight.std(correction=0) * torch.randn_like(weight)
    worse = spec.gate.compare(reference, [session(broken, name).run(probe) for probe in probes])
    assert not worse.passed


def test_trained_weights_are_judged_by_their_masks(specs):
    trained = Sam2Specs(specs.graphs, trained=True)
    metrics = {check.metric for check in trained.decoder().gate.checks}
    assert {"mask_iou_mean", "mask_iou_p01", "box_px"} <= metrics
    [box] = [check for check in trained.decoder().gate.checks if check.metric == "box_px"]
    side = trained.config.side
    assert box.scale * trained.decoder().outputs[0].shape[-1] == side


def test_empty_slots_fill_up_a_bucket(specs):
    """What an engine pads to a bucket changes no prompt's answer."""
    spec = specs.decoder()
    (probe,) = spec.probes({"B": 4, "P": 4})
    padded = dict(probe)
    for one in spec.inputs:
        if "P" in one.shape:
            place = one.shape.index("P")
            shape = list(probe[one.name].shape)
            shape[place] = 3
            filling = torch.full(shape, one.pad)
            padded[one.name] = torch.cat((probe[one.name], filling), dim=place)
    run = session(specs.graphs.decoder, "decoder").run
    for name, expected in run(probe).items():
        torch.testing.assert_close(run(padded)[name], expected, rtol=0, atol=2e-5)


def test_no_memory():
    from dataclasses import replace

    graphs = random_graphs(replace(config_for("micro", side=64), has_memory=False))
    specs = Sam2Specs(graphs, trained=False)
    with pytest.raises(MissingWeightsError, match="memory"):
        specs.memory_attention()
