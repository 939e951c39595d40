"""GrabCut on a small working window: cut, solve, clean, refine, and how far to trust the result.

GrabCut's cost grows with pixels and its colour models need few, so every solve runs on a window of
at most `side` pixels and the mask is enlarged afterwards. Same input, same mask: the random
generator of its k-means is seeded per solve. Models that were learnt once are handed on, which
saves the k-means. Knows no prompt and no video.

Shapes: H, W = picture; h, w = working window.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from pixelis_fast.tools_trt.pixels.shrink import shrink

PxBox = tuple[int, int, int, int]
MIN_SAMPLES = 5
"""GrabCut fits five Gaussians per side and refuses fewer pixels than that."""
MIN_WINDOW_PX = 16
MIN_OBJECT_PX = 24
"""Small objects are enlarged to this many pixels, so that their border is more than one pixel."""
COLOR_BINS = 8
BIN_BLUR = 0.5 * np.eye(COLOR_BINS) + 0.25 * (np.eye(COLOR_BINS, k=1) + np.eye(COLOR_BINS, k=-1))
"""A quarter of each bin goes to each neighbour, at the ends to itself."""
BIN_BLUR[0, 0] = BIN_BLUR[-1, -1] = 0.75
MODEL_SIZE = (1, 65)
"""Five Gaussians of 13 numbers: OpenCV's form."""


@dataclass
class ColorModels:
    """Colour models of ground and object; a solve that gets them starts there and updates them."""

    ground: np.ndarray = field(default_factory=lambda: np.zeros(MODEL_SIZE))
    object: np.ndarray = field(default_factory=lambda: np.zeros(MODEL_SIZE))

    @property
    def are_learnt(self) -> bool:
        return bool(self.ground.any())


@dataclass(frozen=True)
class Window:
    """A part of a picture at working size.

    Example:
        window = cut_window(image_HWC, (40, 40, 90, 90), margin=0.2, side=192)
        mask_HW = window.enlarge(solve(window.image, trimap_hw))
    """

    image: np.ndarray
    box: PxBox
    """What the window shows, in pixels of the picture."""
    size: tuple[int, int]
    """Height and width of the picture."""

    def to_window(self, x: float, y: float) -> tuple[float, float]:
        """A position of the picture in the window."""
        x0, y0, x1, y1 = self.box
        height, width = self.image.shape[:2]
        return (x - x0) * width / (x1 - x0), (y - y0) * height / (y1 - y0)

    def reduce(self, mask_HW: np.ndarray) -> np.ndarray:
        """A mask of the picture in the window, bool."""
        x0, y0, x1, y1 = self.box
        height, width = self.image.shape[:2]
        return resize_mask(mask_HW[y0:y1, x0:x1], (width, height))

    def enlarge(self, mask_hw: np.ndarray) -> np.ndarray:
        """A mask of the window in the picture, bool."""
        x0, y0, x1, y1 = self.box
        mask_HW = np.zeros(self.size, dtype=bool)
        part = cv2.resize(mask_hw.view(np.uint8) * np.uint8(255), (x1 - x0, y1 - y0))
        mask_HW[y0:y1, x0:x1] = part > 127
        return mask_HW


def cut_window(image_HWC: np.ndarray, box_px: PxBox, *, margin: float, side: int) -> Window:
    """The box and `margin` of its sides around it, at most `side` pixels long."""
    height, width = image_HWC.shape[:2]
    x0, y0, x1, y1 = box_px
    pad_x, pad_y = int((x1 - x0) * margin) + 4, int((y1 - y0) * margin) + 4
    left, top = max(x0 - pad_x, 0), max(y0 - pad_y, 0)
    right, bottom = min(x1 + pad_x, width), min(y1 + pad_y, height)
    part = image_HWC[top:bottom, left:right]
    wish = max(1.0, MIN_OBJECT_PX / min(x1 - x0, y1 - y0))
    scale = min(wish, side / max(part.shape[:2]))
    small_w, small_h = (max(round(n * scale), MIN_WINDOW_PX) for n in (right - left, bottom - top))
    return Window(shrink(part, (small_w, small_h)), (left, top, right, bottom), (height, width))


def resize_mask(mask_HW: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A bool mask at another (width, height): set where at least half of the pixel is covered."""
    return shrink(mask_HW.view(np.uint8) * np.uint8(255), size) > 127


def solve(
    image_hwC: np.ndarray,
    trimap_hw: np.ndarray,
    *,
    iterations: int,
    models: ColorModels | None = None,
) -> np.ndarray:
    """Foreground of a GrabCut trimap (cv2.GC_* per pixel), bool.

    With fewer pixels on one side than the colour models need, the trimap is the answer.
    """
    foreground_hw = (trimap_hw == cv2.GC_FGD) | (trimap_hw == cv2.GC_PR_FGD)
    count = int(foreground_hw.sum())
    if min(count, foreground_hw.size - count) < MIN_SAMPLES:
        return foreground_hw
    labels_hw = trimap_hw.copy()
    cv2.setRNGSeed(0)
    models = models or ColorModels()
    cv2.grabCut(
        image_hwC,
        labels_hw,
        (0, 0, 0, 0),  # not read: the trimap says where
        models.ground,
        models.object,
        iterations,
        cv2.GC_EVAL if models.are_learnt else cv2.GC_INIT_WITH_MASK,
    )
    return (labels_hw == cv2.GC_FGD) | (labels_hw == cv2.GC_PR_FGD)


def one_object(mask_hw: np.ndarray, *, at: tuple[int, int] | None = None) -> np.ndarray:
    """The connected part under (x, y), else the largest; its holes filled."""
    count, labels_hw, stats, _ = cv2.connectedComponentsWithStats(mask_hw.astype(np.uint8))
    if count == 1:
        return mask_hw
    chosen = int(labels_hw[at[1], at[0]]) if at is not None else 0
    if chosen == 0:
        chosen = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    part_hw = (labels_hw == chosen).astype(np.uint8)
    outlines, _ = cv2.findContours(part_hw, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(part_hw, outlines, -1, 1, cv2.FILLED) > 0


def refine(image_HWC: np.ndarray, mask_HW: np.ndarray, *, side: int) -> np.ndarray:
    """The mask with its border solved again at a finer scale; its core and far ground are kept."""
    if not mask_HW.any():
        return mask_HW
    window = cut_window(image_HWC, mask_box(mask_HW), margin=0.2, side=side)
    trimap_hw = band_trimap(window.reduce(mask_HW), width=0.06)
    return window.enlarge(one_object(solve(window.image, trimap_hw, iterations=1)))


def band_trimap(mask_hw: np.ndarray, *, width: float) -> np.ndarray:
    """Certain inside and outside a band of `width` x object size around the mask's border."""
    reach = max(1, int(width * np.sqrt(mask_hw.sum())))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    inside = mask_hw.astype(np.uint8)
    core_hw, reach_hw = cv2.erode(inside, kernel), cv2.dilate(inside, kernel)
    trimap_hw = np.where(mask_hw, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    trimap_hw[core_hw > 0] = cv2.GC_FGD
    trimap_hw[reach_hw == 0] = cv2.GC_BGD
    return trimap_hw


def mask_box(mask_HW: np.ndarray) -> PxBox:
    """Bounding box of a mask that is not empty, end exclusive."""
    rows, columns = np.flatnonzero(mask_HW.any(1)), np.flatnonzero(mask_HW.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def confidence(image_hwC: np.ndarray, mask_hw: np.ndarray) -> float:
    """0..1: separation of the colours x (rank of the edge strength along the border) squared.

    Separation is 1 - the Bhattacharyya coefficient between the object's colours and those of the
    ring around it; the rank is the mean percentile of the border's gradient within the window.
    It says whether a visible border encloses a distinct colour, not whether the object was meant.
    """
    reach = max(2, int(0.12 * np.sqrt(mask_hw.sum())))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    ring_hw = (cv2.dilate(mask_hw.astype(np.uint8), kernel) > 0) & ~mask_hw
    if min(mask_hw.sum(), ring_hw.sum()) < MIN_SAMPLES:
        return 0.0
    inside, outside = color_histogram(image_hwC[mask_hw]), color_histogram(image_hwC[ring_hw])
    separation = 1.0 - float(np.sqrt(inside * outside).sum())
    return max(0.0, separation) * _border_rank(image_hwC, mask_hw) ** 2


def color_histogram(pixels_NC: np.ndarray) -> np.ndarray:
    """Share of each of 8 x 8 x 8 colours, blurred by half a bin so that noise stays similar."""
    bins_NC = (pixels_NC >> 5).astype(np.int64)
    index_N = (bins_NC[:, 0] * COLOR_BINS + bins_NC[:, 1]) * COLOR_BINS + bins_NC[:, 2]
    counts = np.bincount(index_N, minlength=COLOR_BINS**3).astype(np.float64)
    cube = counts.reshape((COLOR_BINS,) * 3)
    for _ in range(3):
        # Each turn blurs the first axis and moves it to the end.
        cube = np.tensordot(cube, BIN_BLUR, axes=(0, 0))
    return (cube / cube.sum()).ravel()


def _border_rank(image_hwC: np.ndarray, mask_hw: np.ndarray) -> float:
    smooth = cv2.GaussianBlur(image_hwC, (3, 3), 0)
    lab = cv2.cvtColor(smooth, cv2.COLOR_RGB2Lab).astype(np.float32)
    slopes = (cv2.Sobel(lab, cv2.CV_32F, 1, 0), cv2.Sobel(lab, cv2.CV_32F, 0, 1))
    strength_hw = sum(np.square(slope).sum(2) for slope in slopes)
    inside, cross = mask_hw.astype(np.uint8), np.ones((3, 3), np.uint8)
    border_hw = cv2.dilate(inside, cross) > cv2.erode(inside, cross)
    ordered = np.sort(strength_hw, axis=None)
    # Equal strengths share the middle of their ranks: a flat picture has rank one half.
    low = np.searchsorted(ordered, strength_hw[border_hw], side="left")
    high = np.searchsorted(ordered, strength_hw[border_hw], side="right")
    return float((low + high).mean() / (2 * ordered.size))
