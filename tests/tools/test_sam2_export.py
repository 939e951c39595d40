"""Every SAM 2 graph leaves PyTorch whole: ONNX without forbidden operators, and OpenVINO."""

import warnings
from dataclasses import replace

import numpy as np
import openvino
import pytest
import torch

from pixelis_fast.tools_trt.models.sam2_config import config_for
from pixelis_fast.tools_trt.models.sam2_weights import random_graphs

SIDE, SLOTS, FRAMES, OBJECTS = 96, 5, 2, 2
TOLERANCE = 1e-4
FORBIDDEN = {
    *("ScatterND", "ScatterElements", "Einsum", "If", "Loop", "Scan", "NonZero", "GatherND"),
    *("ComplexMul", "DFT", "STFT", "Where", "OneHot"),
}
COMPLEX = {14, 15}
"""TensorProto's numbers of complex64 and complex128."""


@pytest.fixture(scope="module")
def graphs():
    """Every kind of block once: pooling, padded, both at once, attending everywhere."""
    config = replace(config_for("micro", side=SIDE), blocks=(1, 1, 2, 1), global_blocks=(3,))
    return random_graphs(replace(config, memory_layers=1, fuser_layers=1))


def cases(graphs):
    """{name: (module, inputs by name)}."""
    config, generator = graphs.config, torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator)

    coarse, tokens = config.coarse_side, config.coarse_side**2
    channels, slots = config.channels, FRAMES * tokens + config.pointer_tokens
    bias = torch.zeros(OBJECTS, 1, 1, slots)
    bias[..., -5:] = -1e4
    return {
        "encoder": (graphs.encoder, {"pixels_B3SS": random(2, 3, SIDE, SIDE)}),
        "decoder": (
            graphs.decoder,
            {
                "coarse_BCgg": random(1, channels, coarse, coarse),
                "fine_BChw": random(1, channels // 8, 4 * coarse, 4 * coarse),
                "middle_BChw": random(1, channels // 4, 2 * coarse, 2 * coarse),
                "points_BP2": SIDE * torch.rand(OBJECTS, SLOTS, 2, generator=generator),
                "labels_BP": torch.tensor([[1.0, 0, -1, -2, -2], [2, 3, 1, 0, -1]]),
                "mask_B1hw": random(OBJECTS, 1, 4 * coarse, 4 * coarse),
                "has_mask_B1": torch.tensor([[0.0], [1.0]]),
            },
        ),
        "memory encoder": (
            graphs.memory.encoder,
            {
                "coarse_BCgg": random(1, channels, coarse, coarse),
                "mask_logits_B1SS": random(OBJECTS, 1, SIDE, SIDE),
                "is_clicked_B1": torch.tensor([[0.0], [1.0]]),
                "object_score_B1": torch.tensor([[1.0], [-1.0]]),
            },
        ),
        "memory attention": (
            graphs.memory.attention.for_bank(FRAMES, pointer_tokens=config.pointer_tokens),
            {
                "current_1LC": random(1, tokens, channels),
                "current_position_1LC": random(1, tokens, channels),
                "memory_BMK": random(OBJECTS, slots, config.memory_channels),
                "memory_position_BMK": random(OBJECTS, slots, config.memory_channels),
                "key_bias_B11M": bias,
            },
        ),
    }


NAMES = ["encoder", "decoder", "memory encoder", "memory attention"]


def expected_of(module, inputs):
    with torch.no_grad():
        outputs = module(*inputs.values())
    return outputs if isinstance(outputs, tuple) else (outputs,)


def near(found, expected):
    for ours, truth in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, truth.numpy(), rtol=0, atol=TOLERANCE)


def node_kinds(graph):
    """Operators of a graph and of the graphs inside its nodes."""
    kinds = set()
    for node in graph.node:
        kinds.add(node.op_type)
        for attribute in node.attribute:
            kinds |= node_kinds(attribute.g) if attribute.HasField("g") else set()
    return kinds


@pytest.mark.parametrize("name", NAMES)
def test_onnx(graphs, name, tmp_path):
    onnx = pytest.importorskip("onnx", reason="needs onnx: the `export` extra")
    pytest.importorskip("onnxscript", reason="needs onnxscript: the `export` extra")
    runtime = pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: the `ort` extra")
    module, inputs = cases(graphs)[name]
    path = tmp_path / "graph.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            tuple(inputs.values()),
            dynamo=True,
            opset_version=20,
            input_names=list(inputs),
            verbose=False,
        )
        program.save(str(path), external_data=False)
    model = onnx.load(path)
    assert not node_kinds(model.graph) & FORBIDDEN
    types = {value.type.tensor_type.elem_type for value in model.graph.value_info}
    assert not types & COMPLEX
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    found = session.run(None, {key: tensor.numpy() for key, tensor in inputs.items()})
    near(found, expected_of(module, inputs))


@pytest.mark.parametrize("name", NAMES)
def test_openvino(graphs, name):
    module, inputs = cases(graphs)[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = openvino.convert_model(module, example_input=tuple(inputs.values()))
    shapes = {n: openvino.PartialShape(list(t.shape)) for n, t in enumerate(inputs.values())}
    model.reshape(shapes)
    exact = compiled(model, "f32")([tensor.numpy() for tensor in inputs.values()])
    near([exact[n] for n in range(len(model.outputs))], expected_of(module, inputs))


def compiled(model, precision):
    hints = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": 1}
    return openvino.Core().compile_model(model, "CPU", hints)
