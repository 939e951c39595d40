"""The tools as people assemble them today: one library call per tool, nothing kept between calls.

Media are decoded at each call, crops travel as PNG in base64, masks as JSON; EasyOCR's reader and
SAM2's predictors stay loaded, as any server would keep them. The classical engines are OpenCV's.
Shares no code with our tools; knows no policy.
"""

from __future__ import annotations

import base64
import io
import json
import math
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as coco
from skimage.measure import regionprops

from bench.naive_video import VideoFile
from bench.outputs import ToolOutput
from bench.scenes import Scene, package_folder
from pixelis_fast.spans import Spans
from pixelis_fast.types import ToolCall

GRABCUT_ROUNDS = 5
MAX_TRACK_FRAMES = 16


def open_reader(device: str) -> Any:
    """EasyOCR with its English weights from a package; never downloads."""
    import easyocr

    folder = package_folder("easyocr_en_models") / "models"
    return easyocr.Reader(
        ["en"],
        gpu=device.startswith("cuda"),
        model_storage_directory=str(folder),
        download_enabled=False,
        verbose=False,
    )


class NaiveTools:
    """Six functions over encoded media; one instance serves one chain at a time."""

    def __init__(self, reader: Any, sam2: Any | None) -> None:
        self._reader = reader
        self._sam2 = sam2
        self.scenes: list[Scene] = []
        self.use_sam2 = False
        self._masks: list[str] = []
        self._mask_places: list[tuple[int, float | None]] = []

    def open(self, scenes: list[Scene], *, use_sam2: bool) -> None:
        """Starts a chain: new media, no masks."""
        if use_sam2 and self._sam2 is None:
            raise ValueError("sam2: expected the package sam2, got none: the `baseline` extra")
        self.scenes, self.use_sam2 = scenes, use_sam2
        self._masks, self._mask_places = [], []

    def run(
        self, call: ToolCall, spans: Spans, *, crop_size: tuple[int, int] | None
    ) -> tuple[ToolOutput, str | None]:
        """The finding, and a data URL of the picture to show the policy, if any."""
        arguments = call.arguments
        if call.operation == "zoom":
            assert crop_size is not None
            return self._zoom(arguments, spans, crop_size)
        handler = getattr(self, f"_{call.operation}")
        return handler(arguments, spans), None

    def _frame(self, media: int, time_s: float | None) -> Image.Image:
        """Decodes the picture, or opens the video, seeks and decodes one frame."""
        source = self.scenes[media]
        if source.kind == "image":
            return Image.open(io.BytesIO(source.encoded)).convert("RGB")
        assert time_s is not None
        with VideoFile(source.encoded) as video:
            return Image.fromarray(video.frame(time_s))

    def _zoom(
        self, arguments: dict[str, Any], spans: Spans, size: tuple[int, int]
    ) -> tuple[ToolOutput, str]:
        with spans("tool.zoom.pre"):
            frame = self._frame(arguments["media"], arguments.get("time"))
        with spans("tool.zoom.run"):
            corners = pixel_box(arguments["box"], frame.width, frame.height)
            crop = frame.crop(corners).resize(size, Image.Resampling.BICUBIC)
        with spans("transport"):
            url = to_data_url(crop)
        return ToolOutput("zoom", picture=np.array(crop)), url

    def _read_text(self, arguments: dict[str, Any], spans: Spans) -> ToolOutput:
        with spans("tool.read_text.pre"):
            frame = self._frame(arguments["media"], arguments.get("time"))
            if "box" in arguments:
                frame = frame.crop(pixel_box(arguments["box"], frame.width, frame.height))
        with spans("tool.read_text.run"):
            found = self._reader.readtext(np.array(frame))
        with spans("tool.read_text.post"):
            return ToolOutput("read_text", text=in_reading_order(found))

    def _segment(self, arguments: dict[str, Any], spans: Spans) -> ToolOutput:
        with spans("tool.segment.pre"):
            frame = self._frame(arguments["media"], arguments.get("time"))
        with spans("tool.segment.run"):
            mask = self._mask_of(frame, arguments)
        with spans("tool.segment.post"):
            self._keep(mask, arguments["media"], arguments.get("time"))
        return ToolOutput("segment", masks=(mask,))

    def _mask_of(self, frame: Image.Image, arguments: dict[str, Any]) -> np.ndarray:
        if self.use_sam2:
            point = arguments.get("point")
            box = arguments.get("box")
            return self._sam2.segment(  # type: ignore[union-attr]
                frame,
                point=point and pixel_point(point, frame.width, frame.height),
                box=box and pixel_box(box, frame.width, frame.height),
            )
        if "box" not in arguments:
            raise ValueError(f"classical segment: expected a box, got {arguments}")
        return grabcut(np.array(frame), pixel_box(arguments["box"], frame.width, frame.height))

    def _track(self, arguments: dict[str, Any], spans: Spans) -> ToolOutput:
        source = self.scenes[arguments["media"]]
        with spans("tool.track.pre"), VideoFile(source.encoded) as video:
            frames, times_s = video.between(arguments["start"], arguments["end"], MAX_TRACK_FRAMES)
        height, width = frames[0].shape[:2]
        corners = pixel_box(arguments["box"], width, height)
        with spans("tool.track.run"):
            propagate = self._sam2.track if self.use_sam2 else follow  # type: ignore[union-attr]
            masks = propagate(frames, corners)
        with spans("tool.track.post"):
            seen = [i for i, mask in enumerate(masks) if mask is not None]
            if seen:
                self._keep(masks[seen[-1]], arguments["media"], times_s[seen[-1]])
        return ToolOutput("track", masks=tuple(masks))

    def _keep(self, mask: np.ndarray | None, media: int, time_s: float | None) -> None:
        """As JSON text: what a tool server sends back and a client sends again."""
        assert mask is not None
        self._masks.append(mask_json(mask))
        self._mask_places.append((media, time_s))

    def _localize(self, arguments: dict[str, Any], spans: Spans) -> ToolOutput:
        with spans("tool.localize.pre"):
            source = self.scenes[arguments["media"]]
            with VideoFile(source.encoded) as video:
                frames, times_s = video.all()
        with spans("tool.localize.run"):
            if arguments["event"] == "change":
                found = cuts(frames, times_s)
            elif arguments["event"] == "motion":
                found = motions(frames, times_s, arguments.get("box", (0, 0, 1000, 1000)))
            else:
                raise ValueError(f"localize: expected change or motion, got {arguments['event']}")
        return ToolOutput("localize", spans=tuple(found))

    def _properties(self, arguments: dict[str, Any], spans: Spans) -> ToolOutput:
        with spans("tool.properties.pre"):
            mask = mask_from_json(self._masks[arguments["mask"]])
            pixels = np.array(self._frame(*self._mask_places[arguments["mask"]]))
        with spans("tool.properties.run"):
            region = regionprops(mask.astype(np.uint8))[0]
            color = pixels[mask].mean(axis=0)
        return ToolOutput("properties", values=measured(region, color, mask.shape))


def measured(region: Any, color: np.ndarray, shape: tuple[int, ...]) -> dict[str, Any]:
    """skimage's rows and columns as x and y in 0..1000; its angle counts from the rows' axis."""
    height, width = shape
    top, left, bottom, right = region.bbox
    row, column = region.centroid
    return {
        "area": 1000 * float(region.area) / (height * width),
        "box": [
            1000 * left / width,
            1000 * top / height,
            1000 * right / width,
            1000 * bottom / height,
        ],
        "center": [1000 * (column + 0.5) / width, 1000 * (row + 0.5) / height],
        "rgb": [round(float(c)) for c in color],
        "angle": math.degrees(region.orientation) - 90,
        "elongation": region.axis_major_length / max(region.axis_minor_length, 1.0),
    }


def pixel_box(box: Any, width: int, height: int) -> tuple[int, int, int, int]:
    x0, y0, x1, y1 = box
    return (
        math.floor(x0 * width / 1000),
        math.floor(y0 * height / 1000),
        math.ceil(x1 * width / 1000),
        math.ceil(y1 * height / 1000),
    )


def pixel_point(point: Any, width: int, height: int) -> tuple[int, int]:
    return round(point[0] * width / 1000), round(point[1] * height / 1000)


def to_data_url(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def from_data_url(url: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(url.split(",", 1)[1]))).convert("RGB")


def mask_json(mask: np.ndarray) -> str:
    encoded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return json.dumps({"size": encoded["size"], "counts": encoded["counts"].decode()})


def mask_from_json(text: str) -> np.ndarray:
    return coco.decode(json.loads(text)).astype(bool)


def in_reading_order(found: list[Any]) -> str:
    """EasyOCR's boxes sorted into rows by their middles, then left to right."""
    boxes = [(np.array(corners, dtype=float), text) for corners, text, _ in found]
    rows: list[list[tuple[float, float, str]]] = []
    for corners, text in sorted(boxes, key=lambda box: box[0][:, 1].mean()):
        middle, half = corners[:, 1].mean(), np.ptp(corners[:, 1]) / 2
        left = corners[:, 0].min()
        if rows and middle - np.mean([word[0] for word in rows[-1]]) < 0.6 * half:
            rows[-1].append((middle, left, text))
        else:
            rows.append([(middle, left, text)])
    ordered = [word[2] for row in rows for word in sorted(row, key=lambda word: word[1])]
    return " ".join(" ".join(ordered).split())


def grabcut(image: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """OpenCV's GrabCut from a rectangle, at full size."""
    x0, y0, x1, y1 = box
    labels = np.zeros(image.shape[:2], np.uint8)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    rectangle = (x0, y0, x1 - x0, y1 - y0)
    cv2.setRNGSeed(0)
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    cv2.grabCut(bgr, labels, rectangle, *models, GRABCUT_ROUNDS, cv2.GC_INIT_WITH_RECT)
    return np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD))


def follow(frames: list[np.ndarray], box: tuple[int, int, int, int]) -> list[np.ndarray | None]:
    """GrabCut on the first frame, then the mask carried along by dense optical flow."""
    masks: list[np.ndarray | None] = [grabcut(frames[0], box)]
    grays = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    # DIS at its medium preset, which is what our engine runs too.
    optical_flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    for before, after in pairwise(grays):
        flow = optical_flow.calc(after, before, np.zeros((*after.shape, 2), np.float32))
        masks.append(_carried(masks[-1], np.asarray(flow)))
    return masks


def _carried(mask: np.ndarray | None, flow: np.ndarray) -> np.ndarray | None:
    """Each pixel takes the mask's value where it came from."""
    if mask is None:
        return None
    height, width = mask.shape
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    source_x = (columns + flow[..., 0]).astype(np.float32)
    source_y = (rows + flow[..., 1]).astype(np.float32)
    moved = cv2.remap(mask.astype(np.float32), source_x, source_y, cv2.INTER_LINEAR) > 0.5
    return moved if moved.any() else None


def cuts(frames: list[np.ndarray], times_s: list[float]) -> list[tuple[float, float]]:
    """Largest jumps of the colour histogram, best first."""
    histograms = [_histogram(frame) for frame in frames]
    jumps = np.array([np.abs(a - b).sum() for a, b in pairwise(histograms)])
    found = np.flatnonzero(jumps > jumps.mean() + 3 * jumps.std())
    ordered = sorted(found, key=lambda n: -jumps[n])
    return [(times_s[n], times_s[n + 1]) for n in ordered]


def _histogram(frame: np.ndarray) -> np.ndarray:
    counts = cv2.calcHist([frame], [0, 1, 2], None, [8, 8, 8], [0, 256] * 3)
    return counts.ravel() / counts.sum()


def motions(frames: list[np.ndarray], times_s: list[float], box: Any) -> list[tuple[float, float]]:
    """Runs of frames whose change inside the box is above its mean, strongest first."""
    height, width = frames[0].shape[:2]
    x0, y0, x1, y1 = pixel_box(box, width, height)
    grays = [cv2.cvtColor(f[y0:y1, x0:x1], cv2.COLOR_RGB2GRAY).astype(np.float32) for f in frames]
    energy = np.array([np.abs(a - b).mean() for a, b in pairwise(grays)])
    smooth = np.convolve(energy, np.ones(5) / 5, mode="same")
    above = np.concatenate([[False], smooth > smooth.mean(), [False]])
    edges = np.flatnonzero(above[1:] != above[:-1]).reshape(-1, 2)
    ordered = sorted(edges, key=lambda edge: -smooth[edge[0] : edge[1]].sum())
    return [(times_s[start], times_s[end]) for start, end in ordered]
