"""patchify against transformers' Qwen processors: equal to the torchvision ones, bit for bit."""

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from transformers import Qwen2VLImageProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

from pixelis_fast.kernels import _cpu
from pixelis_fast.kernels.patchify import patchify
from pixelis_fast.kernels.patchify.reference import patchify_reference
from pixelis_fast.kernels.resize import resize

QWEN3 = {"patch_size": 16, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
QWEN2 = {
    "patch_size": 14,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
LIMITS = {"shortest_edge": 64 * 64, "longest_edge": 1024 * 1024}
"""In pixels, for the processors' own choice of size."""


def layout(settings: dict, grid_thw: list[int]) -> dict:
    """Our arguments for the size the processor chose."""
    _, rows, columns = grid_thw
    patch_size = settings["patch_size"]
    return {
        "height": rows * patch_size,
        "width": columns * patch_size,
        "patch_size": patch_size,
        "mean": settings["image_mean"],
        "std": settings["image_std"],
    }


def random_image(generator: np.random.Generator) -> np.ndarray:
    height, width = generator.integers(20, 400, 2)
    return generator.integers(0, 256, (height, width, 3), dtype=np.uint8)


def bytes_of(patches: np.ndarray, settings: dict) -> np.ndarray:
    """Undoes the normalisation: pixels 0..255 in the order of the patches."""
    planes = patches.reshape(len(patches), 3, -1)
    mean, std = (np.array(settings[k])[:, None] for k in ("image_mean", "image_std"))
    return (planes * std + mean) * 255


def hf_patches(processor, image: np.ndarray) -> tuple[np.ndarray, list[int]]:
    out = processor(images=image, input_data_format="channels_last", return_tensors="pt")
    return out.pixel_values.numpy(), out.image_grid_thw[0].tolist()


@pytest.mark.parametrize("settings", [QWEN3, QWEN2], ids=["qwen3", "qwen2"])
@pytest.mark.parametrize("name", ["astronaut", "coffee", "rocket", "chelsea"])
def test_patchify(name, settings):
    image = getattr(data, name)().copy()
    expected, grid_thw = hf_patches(Qwen2VLImageProcessor(size=LIMITS, **settings), image)
    np.testing.assert_array_equal(patchify(image[None], **layout(settings, grid_thw)), expected)


def test_patchify_at_random_sizes():
    generator = np.random.default_rng(0)
    processor = Qwen2VLImageProcessor(size=LIMITS, **QWEN3)
    for _ in range(15):
        image = random_image(generator)
        expected, grid_thw = hf_patches(processor, image)
        np.testing.assert_array_equal(patchify(image[None], **layout(QWEN3, grid_thw)), expected)


@pytest.mark.parametrize("num_frames", [2, 4, 5])
def test_patchify_video(num_frames):
    frames = np.stack([data.coffee()[20 * t : 300 + 20 * t, ::2] for t in range(num_frames)])
    processor = Qwen3VLVideoProcessor(
        size={"shortest_edge": 64 * 64, "longest_edge": 5 * 256 * 256},
        do_sample_frames=False,
        cap_pixels_per_frame=False,
    )
    videos = torch.from_numpy(frames).permute(0, 3, 1, 2)
    out = processor(videos=[videos], return_tensors="pt")
    settings = layout(QWEN3, out.video_grid_thw[0].tolist())
    np.testing.assert_array_equal(patchify(frames, **settings), out.pixel_values_videos.numpy())


@pytest.mark.parametrize("name", ["astronaut", "rocket", "chelsea"])
def test_patchify_beside_the_pillow_variant(name):
    """Two roundings of the same weights, in two passes: never more than two steps of 255 apart,
    and hardly ever more than one. Pillow resizes beforehand, so that its version does not matter.
    """
    image = getattr(data, name)()
    _, grid_thw = hf_patches(Qwen2VLImageProcessor(size=LIMITS, **QWEN3), image.copy())
    arguments = layout(QWEN3, grid_thw)
    resized = resize(image, arguments["height"], arguments["width"])
    processor = Qwen2VLImageProcessorPil(do_resize=False, size=LIMITS, **QWEN3)
    expected, _ = hf_patches(processor, resized)
    ours = patchify(image[None], **arguments)
    steps = np.abs(bytes_of(ours, QWEN3) - bytes_of(expected, QWEN3)).round()
    assert steps.max() <= 2
    assert (steps > 1).mean() < 1e-5


REFERENCE_CASES = [
    ((1, 1, 1), {"height": 32, "width": 32}),
    ((3, 50, 37), {"height": 64, "width": 32}),
    ((2, 20, 90), {"height": 8, "width": 24, "patch_size": 4, "merge_size": 1}),
    ((4, 31, 33), {"height": 30, "width": 45, "patch_size": 5, "merge_size": 3}),
    ((5, 28, 56), {"height": 28, "width": 56, "patch_size": 14, "temporal_patch_size": 3}),
    ((1, 16, 16), {"height": 16, "width": 16, "merge_size": 1, "temporal_patch_size": 1}),
]


@pytest.mark.parametrize("simd", _cpu.simd_levels())
@pytest.mark.parametrize(("shape", "arguments"), REFERENCE_CASES, ids=str)
def test_patchify_beside_the_textbook(shape, arguments, simd):
    """16-bit weights against float64: two passes, so two steps of 255 at most, rarely over one."""
    frames = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    sizes = {"patch_size": 16, "temporal_patch_size": 2, "merge_size": 2} | arguments
    colours = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}
    ours = _cpu.patchify(frames, **sizes, **colours, threads=2, simd=simd)
    expected = patchify_reference(frames, **sizes, **colours)
    assert ours.shape == expected.shape
    assert ours.dtype == np.float32
    steps = np.abs(ours - expected) * 255 * 0.2  # the smallest std is the strictest
    assert steps.max() < 2.01
    assert (steps > 1.01).mean() < 1e-3


@pytest.mark.parametrize("simd", _cpu.simd_levels())
@pytest.mark.parametrize("threads", [1, 3])
def test_every_level_and_thread_count_gives_the_same_floats(simd, threads):
    frames = np.stack([data.coffee()[:300, :400], data.coffee()[50:350, :400]])
    arguments = (320, 352, 16, 2, 2, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    expected = _cpu.patchify(frames, *arguments, 1, simd="baseline")
    np.testing.assert_array_equal(_cpu.patchify(frames, *arguments, threads, simd=simd), expected)


def test_an_image_fills_both_time_slices():
    patches = patchify(data.chelsea()[None], height=64, width=96)
    slices = patches.reshape(-1, 3, 2, 16, 16)
    np.testing.assert_array_equal(slices[:, :, 0], slices[:, :, 1])


def test_patches_of_one_merged_block_are_neighbours():
    """A picture whose every patch has one colour: the first four patches are its top left 2 x 2."""
    numbers = np.arange(4 * 6, dtype=np.uint8).reshape(4, 6)
    picture = np.repeat(np.repeat(numbers, 16, axis=0), 16, axis=1)
    frames = np.stack([picture] * 3, axis=-1)[None]
    patches = patchify(frames, height=64, width=96, mean=(0, 0, 0), std=(1, 1, 1))
    assert (patches[:, 0] * 255).round().astype(int)[:8].tolist() == [0, 1, 6, 7, 2, 3, 8, 9]


def test_pillow_and_torch_agree_with_us_on_a_saved_photograph(tmp_path):
    path = tmp_path / "rocket.png"
    Image.fromarray(data.rocket()).save(path)
    processor = Qwen2VLImageProcessor(size=LIMITS, **QWEN3)
    out = processor(images=Image.open(path), return_tensors="pt")
    arguments = layout(QWEN3, out.image_grid_thw[0].tolist())
    ours = patchify(np.asarray(Image.open(path))[None], **arguments)
    np.testing.assert_array_equal(ours, out.pixel_values.numpy())


GOOD = np.zeros((1, 32, 32, 3), np.uint8)
BAD = [
    (GOOD[0], {}, "frames_THWC: expected 4 dimensions, got shape"),
    (GOOD.astype(np.int32), {}, "frames_THWC: expected dtype uint8, got int32"),
    (GOOD[:, :0], {}, "frames_THWC: expected at least one pixel"),
    (GOOD[..., ::-1], {}, "frames_THWC: expected rows of packed RGB bytes"),
    (GOOD, {"height": 40}, "height: expected a multiple of 32, got 40"),
    (GOOD, {"width": 0}, "width: expected a whole number of at least 1, got 0"),
    (GOOD, {"patch_size": True}, "patch_size: expected a whole number of at least 1, got True"),
    (GOOD, {"mean": (0.5, 0.5)}, "mean: expected three finite numbers"),
    (GOOD, {"std": (0.5, 0.0, 0.5)}, "std: expected three positive finite numbers"),
    (GOOD, {"threads": -1}, "threads: expected a whole number of at least 1, got -1"),
]


@pytest.mark.parametrize(("frames", "wrong", "message"), BAD, ids=[b[2][:40] for b in BAD])
def test_bad_input_is_one_clear_error(frames, wrong, message):
    with pytest.raises(ValueError, match=message):
        patchify(frames, **({"height": 32, "width": 32} | wrong))
