"""SAM 2 on compiled engines, through the tools: names, objects, and the same tracks."""

import numpy as np
import pytest
import torch

from pixelis_fast.tools_trt.micro.model import WEIGHTS
from pixelis_fast.tools_trt.sam2.bank_size import BankSize, fitting_bank
from pixelis_fast.tools_trt.sam2.engines import compile_sam2
from pixelis_fast.tools_trt.sam2.network import Sam2
from pixelis_fast.tools_trt.sam2.segment import Sam2Segment
from pixelis_fast.tools_trt.sam2.session import SessionConfig
from pixelis_fast.tools_trt.sam2.track import Sam2Track
from pixelis_fast.tools_trt.sam2.video import VideoSession
from pixelis_fast.tools_trt.tool_config import ToolConfig, open_masks
from tests.panned import BOX, panned


@pytest.fixture(scope="module")
def plan_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("plans")


@pytest.fixture(scope="module")
def compiled(plan_dir):
    sam2 = Sam2.load(WEIGHTS)
    compile_sam2(sam2, backend="torch_cpu", precision="fp32", plan_dir=plan_dir)
    return sam2


def test_the_name_tells_what_runs_each_graph(compiled):
    eager = Sam2.load(WEIGHTS)
    assert eager.name == eager.weights_name
    segment = Sam2Segment(compiled)
    assert segment.name.startswith(eager.name + "[decoder=torch_cpu")
    assert "encoder=torch_cpu" in segment.name
    # A result that was kept must not be taken for one of another engine.
    engine = Sam2Segment(eager)
    before = engine.name
    eager.use({"decoder": compiled.sessions["decoder"]})
    assert engine.name != before


def test_objects_are_tracked_one_by_one_on_compiled_graphs(compiled):
    eager = Sam2.load(WEIGHTS)
    assert (eager.objects_together, compiled.objects_together) == (None, 1)
    frames = panned(4)
    masks = []
    for sam2 in (eager, compiled):
        session = VideoSession(sam2)
        for number, frame in enumerate(frames):
            session.add_frame(frame, key=f"panned@{number}")
        session.prompt("one", 0, box_px=BOX)
        session.prompt("two", 0, box_px=(60, 10, 130, 90))
        masks.append([found.logits_B1mm for found in session.propagate()])
    for expected, found in zip(*masks, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-4)


def test_a_track_runs_every_graph_compiled(compiled):
    frames = panned(3)
    found = list(Sam2Track(compiled).track(frames, BOX, keys=["a", "b", "c"]))
    assert len(found) == 3
    used = {name: engine.precisions() for name, engine in compiled.compiled.items()}
    assert set(used) == {"encoder", "decoder", "memory_encoder", "memory_attention"}
    # The fullest bank was chosen on; the short ones opened when they were met.
    assert {"B1-M304", "B1-M560", "B1-M1840"} <= set(used["memory_attention"])


def prompted(sam2, prompts, frames):
    """A session whose object is drawn a box on each of the first frames."""
    session = VideoSession(sam2)
    for number, frame in enumerate(frames):
        session.add_frame(frame, key=f"panned@{number}")
    for number in range(prompts):
        session.prompt("one", number, box_px=BOX)
    return session


@pytest.mark.parametrize(("prompts", "bank"), [(2, (10, 19)), (5, (14, 23))])
def test_banks_of_several_prompts_run_compiled(compiled, prompts, bank):
    """They outgrow the model's seven frames, and must not fall back to eager graphs."""
    frames = panned(prompts + 8)
    expected = list(prompted(Sam2.load(WEIGHTS), prompts, frames).propagate())
    calls = compiled.sessions["memory_attention"].use.calls
    before = sum(calls.values())
    found = list(prompted(compiled, prompts, frames).propagate())
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other.logits_B1mm, one.logits_B1mm, atol=1e-3, rtol=1e-4)
    rows = BankSize(*bank).rows(compiled.config)
    assert calls[f"B1-M{rows}"] >= 1
    # Every frame without a prompt went through the engine.
    assert sum(calls.values()) - before == len(frames) - prompts


def test_a_session_that_outgrows_every_compiled_bank_is_refused(compiled):
    with pytest.raises(ValueError, match=r"attended_prompts <= 8 with compiled .*, got 9"):
        VideoSession(compiled, config=SessionConfig(prompted_frames=9))
    VideoSession(compiled, config=SessionConfig(prompted_frames=9, attended_prompts=4))
    VideoSession(Sam2.load(WEIGHTS), config=SessionConfig(prompted_frames=9))
    with pytest.raises(ValueError, match=r"expected room in BankSize.*, got 15 frames"):
        fitting_bank(compiled.config, frames=15, pointers=16)


def test_the_tools_serve_it(plan_dir, monkeypatch):
    monkeypatch.setenv("PIXELIS_FAST_PLANS", str(plan_dir))
    options = {"sam2": str(WEIGHTS), "sam2_engine": "torch_cpu", "sam2_precision": "fp32"}
    segmenter, _ = open_masks(ToolConfig(**options), device="cpu", threads=1)
    plain, _ = open_masks(
        ToolConfig(sam2=str(WEIGHTS), sam2_engine="eager"), device="cpu", threads=1
    )
    image = panned(1)[0]
    found, expected = (engine.segment(image, box_px=BOX)[0] for engine in (segmenter, plain))
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(ValueError, match="sam2_precision: expected"):
        open_masks(
            ToolConfig(sam2=str(WEIGHTS), sam2_engine="eager", sam2_precision="bf16"),
            device="cpu",
            threads=1,
        )


def test_only_the_graphs_named_are_compiled(plan_dir):
    sam2 = Sam2.load(WEIGHTS)
    options = {"backend": "torch_cpu", "precision": "fp32", "plan_dir": plan_dir}
    assert set(compile_sam2(sam2, graphs=["encoder"], **options)) == {"encoder"}
    assert set(sam2.compiled) == {"encoder"}
    assert sam2.objects_together is None
    with pytest.raises(ValueError, match="graphs: expected some of"):
        compile_sam2(sam2, graphs=["encodr"], **options)
