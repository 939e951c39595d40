"""Media by content: encoded bytes are kept, decoded pixels are cached under byte budgets.

The id of a picture or video is the sha256 of its encoded bytes; the id of a crop is the sha256 of
its recipe, so a zoom's result has a name before its pixels exist. Pixels that were dropped are
made again from the source, which is never dropped. A call that fails changes nothing. Safe to
share between threads: two threads that miss at once may both decode, and get equal pixels.

Pixels are handed out read-only, because everyone shares them. With a device, crops are made there
and `tensor` hands pixels out there. Knows no tool and no agent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import count
from numbers import Real
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pixelis_fast.kernels.resize import resize
from pixelis_fast.kernels.resize.op import Filter
from pixelis_fast.tools_trt.geometry import box_to_px, check_box, shown
from pixelis_fast.tools_trt.pixels.decoded_frame import DecodedFrame
from pixelis_fast.tools_trt.pixels.images import (
    decode_image,
    encoded_image,
    pixels_digest,
    read_media,
)
from pixelis_fast.tools_trt.pixels.media import (
    CropRecipe,
    MediaInfo,
    Source,
    check_crop,
    refuse_time,
)
from pixelis_fast.tools_trt.pixels.media_folder import read_folder, write_folder
from pixelis_fast.tools_trt.pixels.resample import resample
from pixelis_fast.tools_trt.pixels.tiers import TensorMover, TierStats, TierStore
from pixelis_fast.tools_trt.pixels.video import VideoIndex, read_video
from pixelis_fast.tools_trt.pixels.video_cursor import OpenVideos
from pixelis_fast.tools_trt.results import ToolInputError

__all__ = ["CropRecipe", "MediaInfo", "MediaStore"]

KEPT_SHARE = 0.5
"""Share of the host's budget that the decoded frames of one video, or of one pass through a part
of it, may take."""


class MediaStore:
    """Images, videos and crops by id.

    Example:
        store = MediaStore()
        page = store.add_image("page.png")
        crop = store.add_crop(page.id, (0, 0, 500, 500), None, 512, 512)
        pixels_HWC = store.image(crop.id)
    """

    def __init__(
        self,
        byte_budget: int = 1 << 30,
        *,
        device: torch.device | str | None = None,
        device_bytes: int = 0,
    ) -> None:
        """`byte_budget` is the host's; `device_bytes` is what pixels may take on a GPU."""
        self.device = None if device is None else torch.device(device)
        self._video_bytes = int(KEPT_SHARE * byte_budget)
        mover = TensorMover(self.device or torch.device("cpu"))
        self._pixels = TierStore(host_bytes=byte_budget, device_bytes=device_bytes, mover=mover)
        self._sources: dict[str, Source] = {}
        self._arrivals: dict[str, int] = {}
        self._count = count()
        self._videos = OpenVideos()

    @property
    def pixel_bytes(self) -> int:
        """Decoded bytes held now; at most the budgets."""
        return self._pixels.num_bytes

    @property
    def stats(self) -> TierStats:
        """Of decoded pixels."""
        return self._pixels.stats()

    @property
    def resampler(self) -> str:
        """What makes crops."""
        return "cpu" if self.device is None else f"torch-{self.device.type}"

    def __contains__(self, media_id: str) -> bool:
        return media_id in self._sources

    def add_image(self, image: bytes | str | Path | np.ndarray) -> MediaInfo:
        """Encoded bytes, a path, or a uint8 array HW/HWC; the same content gets the same id."""
        encoded = encoded_image(image)
        media_id = hashlib.sha256(encoded).hexdigest()
        if media_id in self._sources:
            return self._sources[media_id].info
        pixels = decode_image(encoded)
        pixels_id = pixels_digest(pixels)
        info = MediaInfo(media_id, "image", pixels.shape[1], pixels.shape[0])
        self._keep(pixels_id, pixels)
        return self._add(Source(info, encoded=encoded, pixels_id=pixels_id))

    def add_video(self, video: bytes | str | Path) -> MediaInfo:
        """Encoded bytes or a path; decodes all of it to learn every frame's time."""
        encoded = read_media(video, "video")
        media_id = hashlib.sha256(encoded).hexdigest()
        if media_id in self._sources:
            return self._sources[media_id].info
        index, frames = read_video(encoded, keep_bytes=self._video_bytes)
        for number, frame in frames.items():
            self._pixels.put(_decoded_key(media_id, number), frame)
        size = (index.width, index.height, len(index.pts), index.duration_s)
        info = MediaInfo(media_id, "video", *size)
        return self._add(Source(info, encoded=encoded, index=index, pixels_id=media_id))

    def add_crop(
        self,
        parent_id: str,
        box: Sequence[int],
        time_s: float | None,
        width: int,
        height: int,
        filter: Filter = "bicubic",
    ) -> MediaInfo:
        """Part of a picture or frame, resized; pixels are made when first asked for."""
        return self._add_recipe(self._recipe(parent_id, box, time_s, width, height, filter))

    def info(self, media_id: str) -> MediaInfo:
        return self._source(media_id).info

    def pixels_id(self, media_id: str, time_s: float | None = None) -> str:
        """Key for results computed from pixels: equal keys mean equal pixels."""
        source = self._source(media_id)
        if source.index is None:
            refuse_time(source.info, time_s)
            return source.pixels_id
        return f"{source.pixels_id}@{self._frame_number(source, time_s)}"

    def recipe(self, media_id: str) -> CropRecipe | None:
        """How a crop was made; None for media that were added."""
        return self._source(media_id).recipe

    def index(self, media_id: str) -> VideoIndex:
        """Times of a video's frames."""
        index = self._video(media_id).index
        assert index is not None, "only a video has frames"
        return index

    def encoded(self, media_id: str) -> bytes:
        """The bytes that were added; a crop has none."""
        source = self._source(media_id)
        if source.encoded is None:
            raise ToolInputError(f"media: expected added media, got the crop {media_id}")
        return source.encoded

    def image(self, media_id: str) -> np.ndarray:
        """RGB uint8 HWC of an image or a crop, read-only."""
        source = self._source(media_id)
        if source.index is not None:
            raise ToolInputError(f"media: expected an image, got the video {media_id}")
        found = self._pixels.get(source.pixels_id)
        return self._keep(source.pixels_id, self._make(source)) if found is None else found

    def tensor(self, media_id: str, time_s: float | None = None) -> Tensor:
        """The image or frame as (H, W, 3) uint8 on the store's device; not to be written to."""
        source = self._source(media_id)
        if self.device is None:
            raise ToolInputError("media: expected a store with a device, got one of the host")
        if source.index is not None:
            return self._tensor(source, self._frame_number(source, time_s))
        refuse_time(source.info, time_s)
        return self._tensor(source, None)

    def frame(self, media_id: str, time_s: float | None = None) -> np.ndarray:
        """The frame nearest to a time; with time_s None, the image itself."""
        source = self._source(media_id)
        if source.index is None:
            refuse_time(source.info, time_s)
            return self.image(media_id)
        return self._frames(source, [self._frame_number(source, time_s)])[0]

    def frames(self, media_id: str, times_s: Sequence[float]) -> list[np.ndarray]:
        """The frames nearest to some times, decoded in one forward pass."""
        source = self._video(media_id)
        return self._frames(source, [self._frame_number(source, t) for t in times_s])

    def stream(self, media_id: str, times_s: Sequence[float]) -> Iterator[np.ndarray]:
        """The frames nearest to some ascending times, each decoded when it is asked for."""
        source = self._video(media_id)
        numbers = [self._frame_number(source, time_s) for time_s in times_s]
        return (self._frames(source, [number])[0] for number in numbers)

    def decoded_frames(self, media_id: str, numbers: Iterable[int]) -> Iterator[DecodedFrame]:
        """A video's frames by number, ascending, each once, before their colours are converted."""
        source = self._video(media_id)
        return (frame for _, frame in self._decoded(source, sorted(set(numbers))))

    def forget(self, media_id: str) -> None:
        """Lets go of media and of every crop of them; pixels still kept leave by age."""
        self._source(media_id)
        # A copy: other threads add media meanwhile.
        sources = list(self._sources.values())
        crops = [s.info.id for s in sources if self._is_cut_from(s, media_id)]
        for each in (media_id, *crops):
            self._sources.pop(each, None)
            self._arrivals.pop(each, None)
            self._videos.close(each)

    def export(self, media_ids: Iterable[str], folder: str | Path) -> None:
        """Writes media, and the parents of crops, into a folder that `import_folder` reads."""
        ids: dict[str, None] = {}
        for media_id in media_ids:
            ids |= dict.fromkeys(self._with_parents(media_id))
        write_folder([self._source(media_id) for media_id in ids], Path(folder))

    def import_folder(self, folder: str | Path) -> list[MediaInfo]:
        """Adds everything an `export` wrote; each entry must hash to the id it bears."""
        return [self._add_entry(entry) for entry in read_folder(Path(folder))]

    def _add_entry(self, entry: tuple[str, bytes] | CropRecipe) -> MediaInfo:
        if isinstance(entry, CropRecipe):
            return self._add_recipe(entry)
        kind, encoded = entry
        return self.add_video(encoded) if kind == "video" else self.add_image(encoded)

    def _with_parents(self, media_id: str) -> list[str]:
        recipe = self._source(media_id).recipe
        return [*(self._with_parents(recipe.parent_id) if recipe else []), media_id]

    def _is_cut_from(self, source: Source, media_id: str) -> bool:
        while source.recipe is not None and source.info.id != media_id:
            parent = self._sources.get(source.recipe.parent_id)
            if parent is None:  # forgotten meanwhile, and its crops with it
                return False
            source = parent
        return source.info.id == media_id

    def _add_recipe(self, recipe: CropRecipe) -> MediaInfo:
        info = MediaInfo(recipe.id, "image", recipe.width, recipe.height)
        return self._add(Source(info, recipe=recipe, pixels_id=recipe.id))

    def arrival(self, media_id: str) -> int:
        """A number that changes when media are forgotten and come again: their crops are gone."""
        return self._arrivals[self._source(media_id).info.id]

    def _add(self, source: Source) -> MediaInfo:
        self._arrivals.setdefault(source.info.id, next(self._count))
        return self._sources.setdefault(source.info.id, source).info

    def _source(self, media_id: str) -> Source:
        source = self._sources.get(media_id) if isinstance(media_id, str) else None
        if source is None:
            raise ToolInputError(f"media: expected an id of the store, got {shown(media_id)}")
        return source

    def _video(self, media_id: str) -> Source:
        source = self._source(media_id)
        if source.index is None:
            raise ToolInputError(f"media: expected a video, got the image {media_id}")
        return source

    def _recipe(
        self,
        parent_id: str,
        box: Sequence[int],
        time_s: float | None,
        width: int,
        height: int,
        filter: Filter,
    ) -> CropRecipe:
        check_crop(width, height, filter)
        source = self._source(parent_id)
        if source.index is None:
            refuse_time(source.info, time_s)
            return CropRecipe(parent_id, check_box(box), None, width, height, filter)
        frame = self._frame_number(source, time_s)
        return CropRecipe(parent_id, check_box(box), frame, width, height, filter)

    def _make(self, source: Source) -> np.ndarray:
        if source.encoded is not None:
            return decode_image(source.encoded)
        assert source.recipe is not None, "an image has encoded bytes or a recipe"
        return self._make_crop(source.recipe)

    def _make_crop(self, recipe: CropRecipe) -> np.ndarray:
        if self.device is not None:
            return self._tensor(self._source(recipe.id), None).cpu().numpy().copy()
        parent = self._source(recipe.parent_id)
        image_HWC = (
            self.image(recipe.parent_id)
            if recipe.frame is None
            else self._frames(parent, [recipe.frame])[0]
        )
        x0, y0, x1, y1 = box_to_px(recipe.box, parent.info.width, parent.info.height)
        part_HWC = image_HWC[y0:y1, x0:x1]
        if part_HWC.shape[:2] == (recipe.height, recipe.width):
            return part_HWC.copy()
        return resize(part_HWC, recipe.height, recipe.width, filter=recipe.filter)

    def _tensor(self, source: Source, frame: int | None) -> Tensor:
        key = (source.pixels_id, frame, "tensor")
        return self._pixels.get_or_make(key, lambda: self._make_tensor(source, frame))

    def _make_tensor(self, source: Source, frame: int | None) -> Tensor:
        if source.recipe is not None:
            return self._crop_tensor(source.recipe)
        pixels_HWC = (
            self.image(source.info.id) if frame is None else self._frames(source, [frame])[0]
        )
        return torch.tensor(pixels_HWC, device=self.device)

    def _crop_tensor(self, recipe: CropRecipe) -> Tensor:
        parent = self._source(recipe.parent_id)
        x0, y0, x1, y1 = box_to_px(recipe.box, parent.info.width, parent.info.height)
        part_HWC = self._tensor(parent, recipe.frame)[y0:y1, x0:x1]
        return resample(part_HWC, recipe.height, recipe.width, filter=recipe.filter)

    def _frame_number(self, source: Source, time_s: float | None) -> int:
        assert source.index is not None, "only a video has frames"
        end = source.index.duration_s
        if not isinstance(time_s, Real) or not 0 <= time_s <= end:
            raise ToolInputError(
                f"time: expected 0..{end:.3f} seconds of the video, got {shown(time_s)}"
            )
        return source.index.nearest(time_s)

    def _frames(self, source: Source, numbers: Sequence[int]) -> list[np.ndarray]:
        media_id = source.info.id
        found = {n: self._pixels.get((media_id, n)) for n in set(numbers)}
        missing = sorted(n for n, pixels in found.items() if pixels is None)
        for number, frame in self._decoded(source, missing, keeps_groups=True):
            found[number] = self._keep((media_id, number), frame.rgb())
        return [found[number] for number in numbers]

    def _decoded(
        self, source: Source, numbers: list[int], *, keeps_groups: bool = False
    ) -> Iterator[tuple[int, DecodedFrame]]:
        """(number, frame), ascending; what is decoded on the way may be kept for the next call."""
        assert source.index is not None, "only a video has frames"
        assert source.encoded is not None, "a video has encoded bytes"
        media_id, index = source.info.id, source.index
        room = self._video_bytes // index.frame_bytes

        def keep(number: int, frame: DecodedFrame) -> None:
            self._pixels.put(_decoded_key(media_id, number), frame)

        for number in numbers:
            frame = self._pixels.get(_decoded_key(media_id, number))
            if frame is None:
                cursor = self._videos.cursor(media_id, source.encoded, index)
                frame = cursor.read(number, keep=keep if keeps_groups else None, room=room)
            yield number, frame

    def _keep(self, key: Hashable, pixels_HWC: np.ndarray) -> np.ndarray:
        pixels_HWC.flags.writeable = False
        return self._pixels.put(key, pixels_HWC)


def _decoded_key(media_id: str, number: int) -> tuple[str, int, str]:
    return media_id, number, "decoded"
