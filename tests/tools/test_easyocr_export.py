"""CRAFT and the CRNN: EasyOCR's own modules as the oracle, and their ONNX files in ONNX Runtime."""

import numpy as np
import pytest
import torch

from pixelis_fast.tools_trt.models.crnn import LINE_HEIGHT, Crnn
from pixelis_fast.tools_trt.ocr.easyocr_weights import (
    ALPHABET,
    DETECTOR,
    RECOGNIZER,
    load_craft,
    load_crnn,
    weights_path,
)
from pixelis_fast.tools_trt.results import MissingWeightsError
from tests.tools.rendered import LINES, document

pytest.importorskip("easyocr_en_models", reason="needs EasyOCR's weights: the `baseline` extra")

TOLERANCE = {"module": 1e-5, "onnx": 1e-4, "bfloat16": 0.05}
BUCKETS = {"craft": [(1, 64, 96), (2, 96, 160)], "crnn": [(1, 64), (3, 192)]}


def page_planes(height, width, *, channels):
    """Real strokes, not noise: the maps are near 0 and near 1, the logits far apart."""
    page = document(16, lines=LINES[:3], width=max(width, 200))[:height, :width].astype(np.float32)
    planes = (page / 255 - 0.45) / 0.225
    return torch.from_numpy(planes.transpose(2, 0, 1)[:channels].copy())


def craft_input(batch, height, width):
    planes = page_planes(height, width, channels=3)
    return torch.stack([planes.roll(5 * n, dims=2) for n in range(batch)])


def crnn_input(batch, width):
    planes = page_planes(LINE_HEIGHT, width, channels=1)
    return torch.stack([planes.roll(7 * n, dims=2) for n in range(batch)])


def easyocr_weights(file_name):
    saved = torch.load(weights_path(file_name), map_location="cpu", weights_only=True)
    return {name.removeprefix("module."): tensor for name, tensor in saved.items()}


@pytest.fixture(scope="module")
def craft():
    return load_craft()


@pytest.fixture(scope="module")
def crnn():
    return load_crnn()


@torch.no_grad()
def test_craft_equals_easyocr_s_module(craft):
    peer = pytest.importorskip(
        "easyocr.craft", reason="needs easyocr, the original: the `baseline` extra"
    ).CRAFT()
    peer.load_state_dict(easyocr_weights(DETECTOR))
    pixels = craft_input(2, 96, 160)
    expected = peer.eval()(pixels)[0].permute(0, 3, 1, 2)
    (maps,) = craft(pixels)
    assert maps.shape == (2, 2, 48, 80)
    assert expected.max() > 0.5
    assert (maps - expected).abs().max() <= TOLERANCE["module"]


@torch.no_grad()
def test_crnn_equals_easyocr_s_module(crnn):
    module = pytest.importorskip(
        "easyocr.model.vgg_model", reason="needs easyocr, the original: the `baseline` extra"
    )
    peer = module.Model(1, 256, 256, len(ALPHABET) + 1)
    peer.load_state_dict(easyocr_weights(RECOGNIZER))
    lines = crnn_input(3, 192)
    expected = peer.eval()(lines, None)
    (logits,) = crnn(lines)
    assert logits.shape == (3, 192 // 4 - 1, len(ALPHABET) + 1)
    assert (logits - expected).abs().max() <= TOLERANCE["module"]


@torch.no_grad()
def test_mixed_precision_keeps_the_maps(craft):
    pixels = craft_input(1, 64, 128)
    mixed = craft.in_bfloat16()
    (maps,), (exact,) = mixed(pixels), craft(pixels)
    assert maps.dtype == torch.float32
    assert {p.dtype for p in mixed.parameters()} == {torch.float32, torch.bfloat16}
    assert {p.dtype for p in craft.parameters()} == {torch.float32}
    assert 0 < (maps - exact).abs().max() <= TOLERANCE["bfloat16"]


def test_weights_must_fit(tmp_path):
    with pytest.raises(MissingWeightsError, match=f"expected {DETECTOR}, got no such file"):
        load_craft(tmp_path)
    torch.save(Crnn(classes=5).state_dict(), tmp_path / RECOGNIZER)
    with pytest.raises(MissingWeightsError, match="expected the tensors of Crnn, got others"):
        load_crnn(tmp_path)


def exported(tmp_path, module, example, axes):
    """An ONNX file with dynamic axes, opened in ONNX Runtime."""
    pytest.importorskip("onnxscript", reason="needs onnxscript: the `export` extra")
    runtime = pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: the `ort` extra")
    path = tmp_path / "graph.onnx"
    shapes = ({n: torch.export.Dim(name, min=low) for n, (name, low) in axes.items()},)
    torch.onnx.export(
        module, (example,), path, dynamo=True, dynamic_shapes=shapes, verbose=False, optimize=False
    )
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda tensor: session.run(None, {session.get_inputs()[0].name: tensor.numpy()})[0]


@torch.no_grad()
def test_craft_s_onnx_file(tmp_path, craft):
    run = exported(tmp_path, craft, craft_input(2, 64, 96), {0: ("B", 1), 2: ("H", 2), 3: ("W", 2)})
    for batch, height, width in BUCKETS["craft"]:
        pixels = craft_input(batch, height, width)
        assert np.abs(run(pixels) - craft(pixels)[0].numpy()).max() <= TOLERANCE["onnx"]


@torch.no_grad()
def test_crnn_s_onnx_file(tmp_path, crnn):
    run = exported(tmp_path, crnn, crnn_input(2, 128), {0: ("B", 1), 3: ("W", 8)})
    for batch, width in BUCKETS["crnn"]:
        lines = crnn_input(batch, width)
        assert np.abs(run(lines) - crnn(lines)[0].numpy()).max() <= TOLERANCE["onnx"]
