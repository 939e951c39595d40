"""SAM 2 against the original package: same weights in, same logits out, picture and video."""

import warnings

import numpy as np
import pytest
import torch

from pixelis_fast.tools_trt.results import MissingWeightsError
from pixelis_fast.tools_trt.rle import decode_mask
from pixelis_fast.tools_trt.sam2 import Sam2
from pixelis_fast.tools_trt.sam2_segment import Sam2Segment
from pixelis_fast.tools_trt.sam2_track import Sam2Track
from pixelis_fast.tools_trt.sam2_weights import (
    SIZES,
    Sam2VideoModel,
    checkpoint_kind,
    config_for,
    rename_checkpoint,
)
from pixelis_fast.tools_trt.segment import Segment
from pixelis_fast.tools_trt.store import MediaStore
from pixelis_fast.tools_trt.track import Track
from tests.media import clip
from tests.scenes import photograph

SIDE = 256
TOLERANCE = 1e-4
"""Logits, fp32."""
CONFIGS = {
    "tiny": "hiera_t",
    "small": "hiera_s",
    "base_plus": "hiera_b+",
    "large": "hiera_l",
}


def original(size, *, version="2.1", side=SIDE):
    """The original video predictor with seeded weights; every tensor differs from its default."""
    from sam2.build_sam import build_sam2_video_predictor

    grid = f"[{side // 16},{side // 16}]"
    attention = "++model.memory_attention.layer"
    overrides = [
        f"++model.image_size={side}",
        f"{attention}.self_attention.feat_sizes={grid}",
        f"{attention}.cross_attention.feat_sizes={grid}",
    ]
    torch.manual_seed(0)
    name = f"configs/sam{version}/sam{version}_{CONFIGS[size]}.yaml"
    model = build_sam2_video_predictor(name, None, device="cpu", hydra_overrides_extra=overrides)
    generator = torch.Generator().manual_seed(1)
    for tensor in model.state_dict().values():
        if tensor.ndim <= 1 or tensor.shape[0] == 1:
            tensor += 0.05 * torch.randn(tensor.shape, generator=generator)
    # Default weights give logits near zero, where any two models agree.
    for head in model.sam_mask_decoder.output_hypernetworks_mlps:
        head.layers[-1].weight.data *= 20
    # The object stays visible: a lost one's logits are one constant.
    model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.data += 1
    return model


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """(the original predictor, ours with its checkpoint)."""
    model = original("tiny")
    path = tmp_path_factory.mktemp("sam2") / "sam2.1_hiera_tiny.pt"
    torch.save({"model": model.state_dict()}, path)
    return model, Sam2.load(path, side=SIDE)


@pytest.fixture(scope="module")
def image():
    return np.ascontiguousarray(photograph("astronaut.png")[:400, :500])


def test_preprocess(pair, image):
    from sam2.utils.transforms import SAM2Transforms

    expected = SAM2Transforms(SIDE, 0.0)(image)
    torch.testing.assert_close(pair[1].preprocess(image)[0], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("prompt", "theirs"),
    [
        ({"point_px": (200, 150)}, {"point_coords": [[200, 150]], "point_labels": [1]}),
        ({"box_px": (100, 50, 300, 350)}, {"box": [100, 50, 300, 350], "multimask_output": False}),
    ],
    ids=["point", "box"],
)
def test_picture_logits(pair, image, prompt, theirs):
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    model, ours = pair
    predictor = SAM2ImagePredictor(model)
    predictor._bb_feat_sizes = [(SIDE // stride,) * 2 for stride in (4, 8, 16)]
    predictor.set_image(image)
    given = {name: np.array(v) if isinstance(v, list) else v for name, v in theirs.items()}
    masks, scores, _ = predictor.predict(return_logits=True, **given)
    logits, score = Sam2Segment(ours).logits(image, key="astronaut", **prompt)
    best = int(scores.argmax())
    assert np.ptp(masks[best]) > 1, "a test of constant logits proves nothing"
    np.testing.assert_allclose(logits.numpy(), masks[best], rtol=0, atol=TOLERANCE)
    assert score == pytest.approx(float(scores[best]), abs=1e-5)


def test_video_logits(pair, monkeypatch):
    import sam2.sam2_video_predictor as theirs

    model, ours = pair
    store = MediaStore()
    media = store.add_video(clip("carphone_pristine.mp4"))
    frames = store.frames(media.id, [0.0, 0.4, 0.8])
    box = (50, 20, 110, 118)
    size = frames[0].shape[:2]
    pixels = torch.cat([ours.preprocess(frame) for frame in frames])
    monkeypatch.setattr(theirs, "load_video_frames", lambda **_: (pixels, *size))
    state = model.init_state("frames")
    with warnings.catch_warnings():
        # It warns that its CUDA hole filling is not built; a CPU build of it never fills holes.
        warnings.simplefilter("ignore")
        model.add_new_points_or_box(state, 0, 0, box=np.array(box, np.float32))
        expected = [masks[0, 0] for _, _, masks in model.propagate_in_video(state)]
    keys = [f"frame {n}" for n in range(3)]
    found = [logits for logits, _ in Sam2Track(ours).logits(frames, box, keys=keys)]
    assert min(float(np.ptp(mask.numpy())) for mask in expected) > 1
    torch.testing.assert_close(torch.stack(found), torch.stack(expected), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("size", "version"), [("tiny", "2"), *((size, "2.1") for size in SIZES)], ids=str
)
def test_every_checkpoint_fits(size, version):
    """Names and shapes of each released size; ours is built without the cost of its values."""
    tensors = original(size, version=version).state_dict()
    assert checkpoint_kind(tensors) == (size, version)
    with torch.device("meta"):
        ours = Sam2VideoModel(config_for(size, version=version)).state_dict()
    renamed = {name: tensor.shape for name, tensor in rename_checkpoint(tensors).items()}
    assert renamed == {name: tensor.shape for name, tensor in ours.items()}


def test_folder_round_trip(pair, image, tmp_path):
    ours = pair[1]
    folder = tmp_path / "hf"
    ours.model.save_pretrained(folder)
    again = Sam2.load(folder, side=SIDE)
    prompt = {"point_px": (200, 150)}
    expected = Sam2Segment(ours).logits(image, **prompt)[0]
    assert torch.equal(Sam2Segment(again).logits(image, **prompt)[0], expected)


@pytest.fixture(scope="module")
def random():
    return Sam2.random("tiny", side=128)


def test_random_weights_are_seeded_and_marked(random, image):
    same, other = Sam2.random("tiny", side=128), Sam2.random("tiny", side=128, seed=1)
    assert "random weights" in random.degraded
    first, second, third = (
        Sam2Segment(sam2).logits(image, point_px=(9, 9))[0] for sam2 in (random, same, other)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_cache_answers_with_the_same_logits(image):
    cached, plain = Sam2.random(side=128), Sam2.random(side=128, cache_bytes=0)
    for sam2 in (cached, plain):
        results = [Sam2Segment(sam2).logits(image, box_px=(9, 9, 90, 90), key="k") for _ in "ab"]
        assert torch.equal(results[0][0], results[1][0])
    assert (cached.cache.hits, cached.cache.misses) == (1, 1)
    assert (plain.cache.hits, plain.cache.misses, plain.cache.num_bytes) == (0, 2, 0)


def test_cache_stays_in_its_budget(image):
    one = Sam2.random(side=128).encode(image).num_bytes
    sam2 = Sam2.random(side=128, cache_bytes=2 * one)
    for key in "abcab":
        sam2.encode(image, key=key)
    assert sam2.cache.num_bytes == 2 * one
    assert sam2.cache.hits == 0
    sam2.encode(image, key="b")
    assert sam2.cache.hits == 1


def test_tools_share_one_encoder(random):
    """Segmenting a frame, then tracking from it, encodes it once; masks fit the frame."""
    store = MediaStore()
    media = store.add_video(clip("carphone_pristine.mp4"))
    box = (280, 150, 620, 820)
    random.cache.misses = random.cache.hits = 0
    with_mask = Segment(store, Sam2Segment(random))(media.id, box=box, time_s=0.0)
    assert decode_mask(with_mask.mask).shape == (144, 176)
    result = Track(store, Sam2Track(random))(media.id, box, start_s=0.0, end_s=1.0, max_frames=3)
    assert (random.cache.hits, random.cache.misses) == (1, 3)
    assert len(result.times_s) == len(result.masks) == 3
    assert result.degraded == with_mask.degraded


def test_missing_weights(tmp_path):
    with pytest.raises(MissingWeightsError, match="got nothing"):
        Sam2.load(tmp_path / "none.pt", side=SIDE)
    (tmp_path / "broken.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(MissingWeightsError, match="original release"):
        Sam2.load(tmp_path / "broken.pt", side=SIDE)
    with pytest.raises(MissingWeightsError, match=r"config\.json"):
        Sam2.load(tmp_path, side=SIDE)
    with pytest.raises(ValueError, match="multiple of 32"):
        Sam2.random(side=100)
