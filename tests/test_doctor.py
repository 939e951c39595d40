"""`pixelis doctor` says what is here: nothing it prints is assumed."""

import re
import sys
from importlib import metadata
from pathlib import Path

import pytest

from pixelis_fast.doctor import Finding, findings
from pixelis_fast.tools import ToolConfig, Workspace, describe_tools, open_tools
from pixelis_fast.types import ToolCall
from tests.media import picture

ROOT = Path(__file__).parents[1]
OPENVINO = ("openvino", "pixelis_fast.tools_trt.backends.openvino")


@pytest.fixture
def no_openvino(monkeypatch):
    package, ours = OPENVINO
    monkeypatch.delitem(sys.modules, ours, raising=False)
    monkeypatch.setitem(sys.modules, package, None)


@pytest.fixture
def no_rapidocr(monkeypatch):
    monkeypatch.setitem(sys.modules, "rapidocr", None)


def found(section: str, name: str, config: ToolConfig | None = None, **options) -> Finding:
    [finding] = [
        each
        for each in findings(config or ToolConfig(), **options)
        if (each.section, each.name) == (section, name)
    ]
    return finding


def test_the_text_engine_is_the_one_that_reads():
    state = describe_tools(ToolConfig())["read_text"]
    assert (state.engine, state.is_good) == ("pp-ocrv6-small on openvino", True)
    tools = open_tools(ToolConfig())
    workspace = Workspace((tools.add_media(picture("coins.png")),))
    read = tools.run(ToolCall("read_text", {"media": 0, "box": [0, 0, 300, 300]}), workspace)
    assert "openvino" in read.engine


def test_a_text_backend_that_does_not_import_is_said(no_openvino):
    for tool in ("read_text", "localize"):
        finding = found("tools", tool)
        assert not finding.good
        assert "unavailable: backend openvino: expected the package openvino" in finding.value
    assert found("tools", "read_text", ToolConfig(text_backend="ort")).good


def test_sam2_without_openvino_names_the_backends_that_are_left(no_openvino):
    here = describe_tools(ToolConfig(sam2="random"))["segment"].engine
    assert "on the fastest of ort, torch_cpu" in here
    named = describe_tools(ToolConfig(sam2="random", sam2_engine="openvino"))["segment"]
    assert not named.is_good
    assert named.engine.startswith("unavailable: backend openvino")


def test_missing_text_weights_are_said(no_rapidocr):
    assert "expected the package rapidocr" in found("weights", "text").value
    assert not found("tools", "read_text").good


@pytest.mark.parametrize("tool", ["segment", "track"])
def test_sam2_weights_that_are_not_there_are_said(tool, tmp_path):
    missing = found("tools", tool, ToolConfig(sam2=str(tmp_path / "none.pt")))
    assert not missing.good
    assert f"got {tmp_path / 'none.pt'}" in missing.value
    empty = found("tools", tool, ToolConfig(sam2=str(tmp_path)))
    assert f"unavailable: expected config.json in {tmp_path}" in empty.value


def test_sam2_weights_that_are_there_are_named_with_their_engines(tmp_path):
    weights = tmp_path / "sam2.pt"
    weights.touch()
    eager = describe_tools(ToolConfig(sam2=str(weights), sam2_engine="eager"))["segment"]
    assert (eager.engine, eager.is_good) == (f"sam2 from {weights}, eager PyTorch on cpu", True)
    on_cpu = describe_tools(ToolConfig(sam2=str(weights)))["track"]
    assert on_cpu.is_good
    assert "openvino" in on_cpu.engine
    assert "torch_graph" not in on_cpu.engine


def test_a_device_that_is_not_there_is_said(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    for tool, is_on_device in (("zoom", True), ("segment", False), ("properties", False)):
        value = found("tools", tool, device="cuda:1").value
        assert ("expected cuda:1, got a torch that finds 1 CUDA" in value) is is_on_device
    states = describe_tools(ToolConfig(), device="cuda:0")
    assert states["zoom"].engine == "torch resize on cuda:0"


@pytest.mark.parametrize("device", ["tpu", "cuda:", "cuda:x", ""])
def test_a_device_of_another_kind_is_refused(device):
    with pytest.raises(ValueError, match="device: expected cpu, cuda or cuda:NUMBER"):
        findings(ToolConfig(), device=device)


def test_every_run_time_dependency_has_its_version():
    listed = re.search(
        r"^dependencies = \[\n(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.M | re.S
    )
    names = re.findall(r'^  "([\w-]+)', listed[1], re.M)
    assert len(names) > 15
    for name in names:
        assert found("versions", name).value == metadata.version(name)


def test_an_optional_package_that_is_missing_names_its_extra():
    versions = {each.name: each for each in findings(ToolConfig()) if each.section == "versions"}
    missing = [each for name, each in versions.items() if not each.good]
    assert {"starlette", "sam2", "tensorrt", "flash-attn"} <= set(versions)
    assert "pytest" not in versions
    assert all(re.fullmatch(r"not installed: pip install '.+'", each.value) for each in missing)
