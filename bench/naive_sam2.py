"""sam2's own predictors, called anew for each step as its notebooks show.

`shared_weights` writes one checkpoint of seeded random weights in the original release's format,
which both arms load: masks mean nothing, graph, shapes and cost are SAM2.1-tiny's.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

CONFIG = "configs/sam2.1/sam2.1_hiera_t.yaml"
SIDE = 512
SEED = 0
STRIDES = (4, 8, 16)


def overrides(side: int) -> list[str]:
    attention = "++model.memory_attention.layer"
    grid = f"[{side // 16},{side // 16}]"
    return [
        f"++model.image_size={side}",
        f"{attention}.self_attention.feat_sizes={grid}",
        f"{attention}.cross_attention.feat_sizes={grid}",
    ]


def shared_weights(folder: Path, *, side: int = SIDE) -> Path:
    """A `.pt` with {"model": tensors} in `folder`."""
    from sam2.build_sam import build_sam2

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = build_sam2(CONFIG, None, device="cpu", hydra_overrides_extra=overrides(side))
    path = folder / "sam2.1_hiera_tiny.pt"
    torch.save({"model": model.state_dict()}, path)
    return path


class NaiveSam2:
    """Both predictors, loaded once; images and videos are encoded at every call."""

    def __init__(self, weights: Path, *, device: str, side: int = SIDE) -> None:
        from sam2.build_sam import build_sam2, build_sam2_video_predictor
        from sam2.sam2_image_predictor import SAM2ImagePredictor

        options: dict[str, Any] = {"device": device, "hydra_overrides_extra": overrides(side)}
        self._image = SAM2ImagePredictor(build_sam2(CONFIG, str(weights), **options))
        # The predictor's table of map sizes is fixed for 1024 pixels.
        self._image._bb_feat_sizes = [(side // s, side // s) for s in STRIDES]
        self._video = build_sam2_video_predictor(CONFIG, str(weights), **options)
        # Filling holes needs sam2's CUDA extension, which is not built here; neither arm does it.
        self._video.fill_hole_area = 0

    def segment(
        self,
        frame: Image.Image,
        *,
        point: tuple[int, int] | None,
        box: tuple[int, int, int, int] | None,
    ) -> np.ndarray:
        self._image.set_image(frame)
        masks, scores, _ = self._image.predict(
            point_coords=np.array([point]) if point else None,
            point_labels=np.array([1]) if point else None,
            box=np.array(box) if box else None,
            multimask_output=point is not None,
        )
        return masks[int(scores.argmax())].astype(bool)

    def encode(self, image_HWC: np.ndarray) -> torch.Tensor:
        """Coarse features with the embedding of no memory added, (1, C, h, w)."""
        self._image.set_image(image_HWC)
        return self._image._features["image_embed"]

    def candidates(self, image_HWC: np.ndarray, point: tuple[int, int]) -> torch.Tensor:
        """Low-resolution logits (3, h, w) of a click on a picture, which is encoded anew."""
        self._image.set_image(image_HWC)
        click = {"point_coords": np.array([point]), "point_labels": np.array([1])}
        return torch.from_numpy(self._image.predict(**click, multimask_output=True)[2])

    @torch.inference_mode()
    def track_logits(
        self, frames: list[np.ndarray], box: tuple[int, int, int, int]
    ) -> list[torch.Tensor]:
        """(H, W) per frame, which go through a folder of JPEG files: what init_state reads
        without decord."""
        with tempfile.TemporaryDirectory(prefix="pixelis-bench-") as folder:
            for number, frame in enumerate(frames):
                Image.fromarray(frame).save(Path(folder) / f"{number:05d}.jpg", quality=95)
            state = self._video.init_state(folder)
        self._video.add_new_points_or_box(state, frame_idx=0, obj_id=1, box=np.array(box))
        return [logits[0, 0] for _, _, logits in self._video.propagate_in_video(state)]

    def track(
        self, frames: list[np.ndarray], box: tuple[int, int, int, int]
    ) -> list[np.ndarray | None]:
        """The masks of `track_logits`; None where nothing is seen."""
        masks = [(logits > 0).cpu().numpy() for logits in self.track_logits(frames, box)]
        return [mask if mask.any() else None for mask in masks]
