"""One vector per picture from the policy's own vision tower: no extra weights, no extra model.

Shapes: T = pictures, H, W = pixels, D = hidden size.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import normalize

from pixelis_fast.policy.image import image_patches
from pixelis_fast.policy.limits import ImageLimits
from pixelis_fast.policy.model import Policy
from pixelis_fast.policy.packed import weights_stamp


class VisionEmbedder:
    """Mean of a picture's vision tokens, of length one.

    Example:
        embeddings_TD = VisionEmbedder(policy, limits.image)(frames_THWC)
    """

    def __init__(self, policy: Policy, limits: ImageLimits, *, threads: int = 1) -> None:
        self._policy, self._limits, self._threads = policy, limits, threads

    @property
    def version(self) -> str:
        """Of the tower: another after every update in place, which for writes that torch does not
        see (`.data`) is told by a publish."""
        return str(weights_stamp(self._policy.vision))

    @torch.inference_mode()
    def __call__(self, frames_THWC: np.ndarray) -> np.ndarray:
        """(T, H, W, 3) uint8 -> (T, D) float32."""
        views = [
            image_patches(frame_HWC, limits=self._limits, threads=self._threads)
            for frame_HWC in frames_THWC
        ]
        patches_PK = torch.cat([view.patches_PK for view in views])
        features = self._policy.encode_vision(
            patches_PK.to(self._policy.device, self._policy.dtype), [v.grid_thw for v in views]
        )
        sizes = [view.tokens_per_frame for view in views]
        means = [part.embeds_MD.float().mean(dim=0) for part in features.split(sizes)]
        return normalize(torch.stack(means), dim=-1).cpu().numpy()
