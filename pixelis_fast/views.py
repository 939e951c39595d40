"""How the policy sees media: which frames, how many tokens, which patches.

One canonical tensor per image or video, whoever asks: prompt, rollout and training. Knows neither
tokens' ids nor sessions.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from pixelis_fast.policy.image import (
    Patches,
    image_patches,
    sample_frames,
    smart_resize,
    timestamps,
    video_patches,
    video_size,
)
from pixelis_fast.policy.limits import MediaLimits, PatchShape
from pixelis_fast.policy.positions import Grid
from pixelis_fast.prompt import MediaTokens
from pixelis_fast.tools import ToolBox
from pixelis_fast.types import Media, MediaKind

MAX_VIEWS = 4096
"""Views kept; one that was dropped is computed again from the media's size."""


@dataclass(frozen=True)
class View:
    """What the policy sees of one image or video, known before any pixel is read."""

    grid_thw: Grid
    """Patches in time, height, width, before merging."""
    tokens: MediaTokens
    frames: tuple[int, ...] = ()
    """Numbers of a video's sampled frames."""


class Views:
    """Views of the media in one tool box; any thread may ask.

    Example:
        views.tokens(media).tokens_per_frame
        views.patches(media.id).grid_thw
    """

    def __init__(self, tools: ToolBox, limits: MediaLimits, *, threads: int = 1) -> None:
        self._tools, self._limits, self._threads = tools, limits, threads
        self._views: OrderedDict[str, View] = OrderedDict()
        self._lock = threading.Lock()

    def view(self, media: Media) -> View:
        with self._lock:
            if media.id not in self._views:
                is_video = media.kind is MediaKind.VIDEO
                self._views[media.id] = self._of_video(media) if is_video else self._of_image(media)
            self._views.move_to_end(media.id)
            while len(self._views) > MAX_VIEWS:
                self._views.popitem(last=False)
            return self._views[media.id]

    def tokens(self, media: Media) -> MediaTokens:
        return self.view(media).tokens

    def grid_thw(self, media: Media) -> Grid:
        return self.view(media).grid_thw

    def patches(self, media_id: str) -> Patches:
        """Reads pixels; what comes out has the grid that `grid_thw` promised."""
        media = self._tools.media(media_id)
        if media.kind is MediaKind.IMAGE:
            image_HWC = self._tools.image(media_id)
            return image_patches(image_HWC, limits=self._limits.image, threads=self._threads)
        frames_THWC = np.stack(self._tools.frames(media_id, self.view(media).frames))
        return video_patches(frames_THWC, limits=self._limits.video, threads=self._threads)

    def _of_image(self, media: Media) -> View:
        limits = self._limits.image
        height, width = smart_resize(
            media.height,
            media.width,
            factor=limits.patch.factor,
            min_pixels=limits.min_pixels,
            max_pixels=limits.max_pixels,
        )
        grid = (1, height // limits.patch.patch_size, width // limits.patch.patch_size)
        return View(grid, MediaTokens(MediaKind.IMAGE, tokens_per_frame(grid, limits.patch)))

    def _of_video(self, media: Media) -> View:
        limits = self._limits.video
        fps = media.num_frames / media.duration_s
        frames = sample_frames(media.num_frames, fps, limits=limits)
        height, width = video_size(len(frames), media.height, media.width, limits=limits)
        patch = limits.patch
        grid_t = math.ceil(len(frames) / patch.temporal_patch_size)
        grid = (grid_t, height // patch.patch_size, width // patch.patch_size)
        seconds = timestamps(frames, fps, temporal_patch_size=patch.temporal_patch_size)
        tokens = MediaTokens(MediaKind.VIDEO, tokens_per_frame(grid, patch), tuple(seconds))
        return View(grid, tokens, tuple(frames))


def tokens_per_frame(grid_thw: Grid, patch: PatchShape) -> int:
    _, height, width = grid_thw
    return (height // patch.merge_size) * (width // patch.merge_size)
