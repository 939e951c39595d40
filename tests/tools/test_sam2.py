"""SAM 2 as an engine against the original package's image predictor; weights in every format."""

import json

import numpy as np
import pytest
import torch

from pixelis_fast.tools_trt.models.sam2_config import SIZES, config_for
from pixelis_fast.tools_trt.models.sam2_weights import (
    load_graphs,
    random_graphs,
    save_graphs,
    weights_id,
)
from pixelis_fast.tools_trt.results import MissingWeightsError, ToolInputError
from pixelis_fast.tools_trt.sam2.network import Sam2
from pixelis_fast.tools_trt.sam2.prompt import Prompt, prompt_tensors
from pixelis_fast.tools_trt.sam2.segment import Sam2Segment, at_size
from pixelis_fast.tools_trt.sam2.specs import DECODE_BATCH
from tests.sam2_original import original
from tests.scenes import photograph

SIDE = 256
TOLERANCE = 1e-4
"""Logits, fp32."""


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """(the original, ours with its checkpoint, the checkpoint)."""
    pytest.importorskip("sam2", reason="needs sam2, the original: the `baseline` extra")
    model = original("tiny", side=SIDE)
    path = tmp_path_factory.mktemp("sam2") / "sam2.1_hiera_tiny.pt"
    torch.save({"model": model.state_dict()}, path)
    return model, Sam2.load(path, side=SIDE), path


@pytest.fixture(scope="module")
def predictor(pair, image):
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    found = SAM2ImagePredictor(pair[0])
    found._bb_feat_sizes = [(SIDE // stride,) * 2 for stride in (4, 8, 16)]
    found.set_image(image)
    return found


@pytest.fixture(scope="module")
def image():
    return np.ascontiguousarray(photograph("astronaut.png")[:400, :500])


def earlier_logits():
    return torch.randn(SIDE // 4, SIDE // 4, generator=torch.Generator().manual_seed(0))


def test_preprocess(pair, image):
    from sam2.utils.transforms import SAM2Transforms

    expected = SAM2Transforms(SIDE, 0.0)(image)
    torch.testing.assert_close(pair[1].preprocess(image)[0], expected, rtol=0, atol=2e-6)


PROMPTS = {
    "point": Prompt(((200, 150),), (1,)),
    "negative point": Prompt(((30, 390),), (0,)),
    "points": Prompt(((200, 150), (400, 20), (90.5, 300.25)), (1, 0, 1)),
    "box": Prompt(box_px=(100, 50, 300, 350)),
    "box and points": Prompt(((200, 150), (120, 60)), (1, 0), box_px=(100, 50, 300, 350)),
    "mask": Prompt(mask=earlier_logits()),
    "mask and point": Prompt(((200, 150),), (1,), mask=earlier_logits()),
    "mask and box": Prompt(box_px=(100, 50, 300, 350), mask=earlier_logits()),
}


def asked(prompt):
    """A prompt in the original's words."""
    given = {}
    if prompt.points_px:
        given |= {
            "point_coords": np.array(prompt.points_px),
            "point_labels": np.array(prompt.labels),
        }
    if prompt.box_px is not None:
        given["box"] = np.array(prompt.box_px)
    if prompt.mask is not None:
        given["mask_input"] = prompt.mask.numpy()[None]
    return given


@pytest.mark.parametrize("several", [True, False], ids=["several", "single"])
@pytest.mark.parametrize("name", PROMPTS)
def test_logits(pair, predictor, image, name, several):
    masks, scores, _ = predictor.predict(
        multimask_output=several, return_logits=True, **asked(PROMPTS[name])
    )
    assert np.ptp(masks[0]) > 1, "a test of constant logits proves nothing"
    candidates = Sam2Segment(pair[1]).candidates(image, [PROMPTS[name]], key="astronaut")
    logits, ious = candidates.several() if several else candidates.single()
    found = at_size(logits, image.shape[:2])[0].numpy()
    np.testing.assert_allclose(found, masks, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(ious[0].numpy(), scores, rtol=0, atol=1e-5)


def test_several_prompts_at_once(pair, image):
    """Prompts of all kinds share a decode, and each gets what it gets alone."""
    engine, prompts = Sam2Segment(pair[1]), list(PROMPTS.values())
    together = engine.candidates(image, prompts, key="astronaut")
    for row, prompt in enumerate(prompts):
        alone = engine.candidates(image, [prompt], key="astronaut")
        for found, expected in (
            (together.logits_B4hw, alone.logits_B4hw),
            (together.ious_B4, alone.ious_B4),
            (together.object_score_B1, alone.object_score_B1),
        ):
            torch.testing.assert_close(found[row], expected[0], rtol=0, atol=TOLERANCE)


def test_more_prompts_than_one_decode_takes(micro, image):
    engine = Sam2Segment(micro)
    prompts = [Prompt(((n, 7 * n),), (1,)) for n in range(2 * DECODE_BATCH + 1)]
    together = engine.candidates(image, prompts, key="many").logits_B4hw
    assert len(together) == len(prompts)
    for row in (0, DECODE_BATCH, len(prompts) - 1):
        alone = engine.candidates(image, [prompts[row]], key="many").logits_B4hw
        torch.testing.assert_close(together[row], alone[0], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("prompt", "given"),
    [
        ({"point_px": (200, 150)}, {"point_coords": [[200, 150]], "point_labels": [1]}),
        ({"box_px": (100, 50, 300, 350)}, {"box": [100, 50, 300, 350], "multimask_output": False}),
    ],
    ids=["point", "box"],
)
def test_segment(pair, predictor, image, prompt, given):
    """A click takes the best of three; a box gives one."""
    arrays = {name: np.array(v) if isinstance(v, list) else v for name, v in given.items()}
    masks, scores, _ = predictor.predict(return_logits=True, **arrays)
    best = int(scores.argmax())
    mask, score = Sam2Segment(pair[1]).segment(image, key="astronaut", **prompt)
    certain = np.abs(masks[best]) > TOLERANCE
    assert mask.dtype == bool
    assert np.array_equal(mask[certain], masks[best][certain] > 0)
    assert score == pytest.approx(float(scores[best]), abs=1e-5)


def test_segment_all_chooses_as_segment_does(pair, image):
    engine = Sam2Segment(pair[1])
    prompts = [PROMPTS["point"], PROMPTS["box"]]
    masks, scores = engine.segment_all(image, prompts, key="astronaut")
    one, score = engine.segment(image, point_px=(200, 150), key="astronaut")
    other, other_score = engine.segment(image, box_px=(100, 50, 300, 350), key="astronaut")
    assert masks.shape == (2, *image.shape[:2])
    assert (masks[0] != one).mean() < 1e-3
    assert (masks[1] != other).mean() < 1e-3
    assert scores == pytest.approx([score, other_score], abs=1e-5)


@pytest.fixture(scope="module")
def hf(pair, tmp_path_factory):
    """The same weights as transformers writes them: with and without a memory."""
    from tests.sam2_transformers import save_folders

    return save_folders(pair[0].state_dict(), tmp_path_factory.mktemp("hf"), side=SIDE)


def test_folder_gives_the_same_tensors(pair, hf):
    expected = pair[1].graphs.state_dict()
    found = load_graphs(hf["sam2_video"], side=SIDE)
    assert found.config == pair[1].config
    for name, tensor in found.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_folder_without_a_memory(pair, hf, image):
    sam2 = Sam2.load(hf["sam2"], side=SIDE)
    assert sam2.graphs.memory is None
    assert set(sam2.sessions) == {"encoder", "decoder"}
    prompts = [PROMPTS["points"]]
    found = Sam2Segment(sam2).candidates(image, prompts)
    expected = Sam2Segment(pair[1]).candidates(image, prompts, key="astronaut")
    assert torch.equal(found.logits_B4hw, expected.logits_B4hw)


def test_folder_of_another_architecture(hf, tmp_path):
    config = json.loads((hf["sam2"] / "config.json").read_text())
    config["vision_config"]["backbone_config"]["window_size_per_stage"] = [8, 4, 16, 8]
    (tmp_path / "config.json").write_text(json.dumps(config))
    for file in hf["sam2"].glob("*.safetensors"):
        (tmp_path / file.name).symlink_to(file)
    with pytest.raises(MissingWeightsError, match="window_size_per_stage"):
        load_graphs(tmp_path)


def test_own_file_keeps_everything(tmp_path):
    graphs = random_graphs(config_for("micro", side=64, version="2"))
    save_graphs(graphs, tmp_path / "micro.safetensors")
    again = load_graphs(tmp_path / "micro.safetensors")
    assert again.config == graphs.config
    assert weights_id(again) == weights_id(graphs)
    assert weights_id(again) != weights_id(random_graphs(graphs.config, seed=1))
    larger = load_graphs(tmp_path / "micro.safetensors", side=96)
    assert larger.config.side == 96
    assert weights_id(larger) == weights_id(graphs)


@pytest.fixture(scope="module")
def micro():
    return Sam2.random("micro", side=128)


def test_random_weights_are_seeded_and_marked(micro, image):
    same, other = Sam2.random("micro", side=128), Sam2.random("micro", side=128, seed=1)
    assert "random weights" in micro.degraded
    first, second, third = (
        Sam2Segment(sam2).candidates(image, [PROMPTS["point"]]).logits_B4hw
        for sam2 in (micro, same, other)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_cache_answers_with_the_same_logits(image):
    cached, plain = Sam2.random("micro"), Sam2.random("micro", cache_bytes=0)
    for sam2 in (cached, plain):
        results = [Sam2Segment(sam2).candidates(image, [PROMPTS["box"]], key="k") for _ in "ab"]
        assert torch.equal(results[0].logits_B4hw, results[1].logits_B4hw)
    assert (cached.cache.hits, cached.cache.misses) == (1, 1)
    assert (plain.cache.hits, plain.cache.misses, plain.cache.num_bytes) == (0, 2, 0)


def test_cache_stays_in_its_budget(image):
    one = Sam2.random("micro").encode(image).num_bytes
    sam2 = Sam2.random("micro", cache_bytes=2 * one)
    for key in "abcab":
        sam2.encode(image, key=key)
    assert sam2.cache.num_bytes == 2 * one
    assert sam2.cache.hits == 0
    sam2.encode(image, key="b")
    assert sam2.cache.hits == 1


def test_encoding_together(micro, image):
    """Only what is not known is encoded, in order; a batch holds no other picture's memory."""
    pictures = [image, np.ascontiguousarray(image[::-1]), np.ascontiguousarray(image[:, ::-1])]
    second = micro.encode(pictures[1], key="second")
    found = micro.encode_batch(pictures, keys=["first", "second", None])
    assert found[1] is second
    for features, picture in zip(found, pictures, strict=True):
        for level, expected in zip(features.maps, micro.encode(picture).maps, strict=True):
            torch.testing.assert_close(level, expected, rtol=0, atol=1e-5)
            assert level.untyped_storage().nbytes() == level.numel() * level.element_size()
    assert micro.encode_batch([], keys=[]) == []


class Doubled:
    """A session that runs another one on pixels of twice the contrast."""

    name, reason, metadata = "doubled", "a test", {}

    def __init__(self, inner):
        self.inner, self.device, self.input_names = inner, inner.device, inner.input_names
        self.runs = 0

    def run(self, inputs):
        self.runs += 1
        return self.inner.run({"pixels_B3SS": 2 * inputs["pixels_B3SS"]})


def test_sessions_can_be_replaced(image):
    sam2 = Sam2.random("micro", side=128)
    plain = sam2.encode(image, key="k")
    doubled = Doubled(sam2.sessions["encoder"])
    sam2.use({"encoder": doubled})
    found = sam2.encode(image, key="k")
    assert doubled.runs == 1
    expected = sam2.graphs.encoder(2 * sam2.preprocess(image))
    assert torch.equal(found.maps[2], expected[2])
    assert not torch.equal(found.maps[2], plain.maps[2])
    with pytest.raises(ValueError, match="encoders"):
        sam2.use({"encoders": doubled})


def test_missing_weights(tmp_path):
    with pytest.raises(MissingWeightsError, match="got nothing"):
        Sam2.load(tmp_path / "none.pt")
    (tmp_path / "broken.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(MissingWeightsError, match="original release"):
        Sam2.load(tmp_path / "broken.pt")
    (tmp_path / "broken.safetensors").write_bytes(b"not a checkpoint")
    with pytest.raises(MissingWeightsError, match="safetensors file"):
        Sam2.load(tmp_path / "broken.safetensors")
    with pytest.raises(MissingWeightsError, match=r"config\.json"):
        Sam2.load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(MissingWeightsError, match="clip"):
        Sam2.load(tmp_path)
    with pytest.raises(ValueError, match="multiple of 32"):
        Sam2.random(side=100)


def test_tensors_too_few_or_too_many(pair, tmp_path):
    tensors = dict(pair[0].state_dict())
    path = tmp_path / "changed.pt"
    torch.save({"model": tensors | {"surprise": torch.zeros(1)}}, path)
    with pytest.raises(MissingWeightsError, match="surprise"):
        load_graphs(path)
    del tensors["sam_mask_decoder.conv_s0.bias"]
    torch.save({"model": tensors}, path)
    with pytest.raises(MissingWeightsError, match=r"conv_s0\.bias"):
        load_graphs(path)
    torch.save({"model": {"no": torch.zeros(1)}}, path)
    with pytest.raises(MissingWeightsError, match="image encoder"):
        load_graphs(path)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({}, "got none of them"),
        ({"points_px": ((1, 2),)}, "label"),
        ({"points_px": ((1, 2),), "labels": (2,)}, "label"),
        ({"points_px": ((1, float("nan")),), "labels": (1,)}, "finite"),
        ({"box_px": (0, 0, float("inf"), 4)}, "finite"),
    ],
    ids=str,
)
def test_bad_prompts(prompt, message):
    with pytest.raises(ToolInputError, match=message):
        Prompt(**prompt)


@pytest.mark.parametrize(
    "mask",
    [torch.zeros(9, 9), torch.full((64, 64), float("nan")), torch.zeros(64, 64).bool()],
    ids=["size", "nan", "type"],
)
def test_bad_masks(mask):
    config = SIZES["micro"]
    with pytest.raises(ToolInputError, match="64"):
        prompt_tensors([Prompt(mask=mask)], config, size=(9, 9), device=torch.device("cpu"))


def test_no_prompts(micro, image):
    with pytest.raises(ToolInputError, match="at least one"):
        Sam2Segment(micro).segment_all(image, [])
    with pytest.raises(ValueError, match="a point or a box"):
        Sam2Segment(micro).segment(image, point_px=(1, 1), box_px=(0, 0, 3, 3))
