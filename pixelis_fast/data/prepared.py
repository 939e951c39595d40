"""Training examples on disk, ready to be packed: trajectories, and each picture's patches once.

Written by appending, so a run that is killed goes on where it stopped; a torn last line is cut.
Patches are bytes of the resized picture in the tower's order (`Views.patches` within 1e-6), about
110 KB for 192 x 192: an epoch costs neither decoding nor resizing. A folder belongs to one
tokenizer and one set of pixel limits, which its header names.

Shapes: P = patches, K = values of a patch, M = merged tokens, L = kinds of labels.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pixelis_fast.policy.image import Patches
from pixelis_fast.policy.limits import PatchShape
from pixelis_fast.policy.positions import Grid
from pixelis_fast.trace import trajectory_from_json
from pixelis_fast.types import Point, Trajectory

EXAMPLES, PICTURES, PIXELS, HEADER = (
    "examples.jsonl",
    "pictures.jsonl",
    "pixels.bin",
    "header.json",
)
UNKNOWN = -100
BOX = 4
THINGS = 2
"""A token may show a large thing and a small one."""
SMALL = 2
"""The kind of the small thing in a token."""
SEEN = 3
"""Kinds of labels that every token has; those behind them tell a panel's contents, at one token."""


@dataclass(frozen=True)
class Example:
    """One trajectory to imitate.

    Example:
        Example(trajectory, imitated=(True, True), task="read", difficulty=0.3)
    """

    trajectory: Trajectory
    imitated: tuple[bool, ...]
    """One per step, the answer's included."""
    task: str
    difficulty: float
    shown_at: Point | None = None
    """Where the last picture shows the answer, in thousandths of it; None where it does not."""

    @property
    def is_whole(self) -> bool:
        """Calls and their answer are imitated; not one call, or one answer, alone."""
        return sum(self.imitated) > 1


@dataclass(frozen=True)
class StoredPicture:
    """Where one picture's bytes lie, and what its tokens show where that is known."""

    offset: int
    grid_thw: Grid
    still: bool
    """One of its temporal slices is kept: they are equal. Not so in a video of two frames."""
    labels: tuple[tuple[int, ...], ...] | None
    """(M, L + 8): kinds, then centre and size, in thousandths, of the large and of the small thing
    that the token shows; UNKNOWN where there is none."""


class PreparedWriter:
    """Appends examples to a folder.

    Example:
        with PreparedWriter(folder, header={"tokenizer": "embedded"}, patch=PatchShape()) as out:
            out.add(example, views.patches, number=0)
    """

    def __init__(self, folder: Path, *, header: dict[str, Any], patch: PatchShape) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._check_header(folder / HEADER, header)
        self._patch, self._folder = patch, folder
        known = cut_torn_line(folder / PICTURES)
        self._known = {row["id"] for row in known}
        examples = cut_torn_line(folder / EXAMPLES)
        self.last_number = max((row["number"] for row in examples), default=-1)
        """Of the task that the newest example came from."""
        end = max((row["offset"] + row["nbytes"] for row in known), default=0)
        self._pixels = (folder / PIXELS).open("ab")
        self._pixels.truncate(end)
        self._pictures = (folder / PICTURES).open("a")
        self._examples = (folder / EXAMPLES).open("a")
        self._waiting: list[tuple[int, str]] = []
        """Number of the task, and the line."""

    def __enter__(self) -> PreparedWriter:
        return self

    def __exit__(self, error: type[BaseException] | None, *details: object) -> None:
        if error is not None:
            self._leave_out_newest()
        self.flush()
        for file in (self._pixels, self._pictures, self._examples):
            file.close()

    def add(
        self,
        example: Example,
        load: Callable[[str], Patches],
        *,
        number: int,
        labels: dict[str, np.ndarray] | None = None,
    ) -> None:
        """Kept until `flush`: a file never names a picture that is not there."""
        for media_id in dict.fromkeys(span.media_id for span in example.trajectory.spans):
            if media_id not in self._known:
                self._add_picture(media_id, load(media_id), (labels or {}).get(media_id))
        row = asdict(example) | {"number": number}
        for name in ("logprobs", "forced", "stage_ms"):
            row["trajectory"].pop(name)
        line = json.dumps(row, default=lambda enum: enum.value) + "\n"
        self._waiting.append((number, line))
        self.last_number = max(self.last_number, number)

    def flush(self) -> None:
        """In the order of what names what."""
        for file in (self._pixels, self._pictures):
            file.flush()
            os.fsync(file.fileno())
        self._examples.write("".join(line for _, line in self._waiting))
        self._waiting.clear()
        self._examples.flush()
        os.fsync(self._examples.fileno())

    def _leave_out_newest(self) -> None:
        """The newest task may lack examples still; whoever goes on makes it again, as a whole."""
        newest = max((number for number, _ in self._waiting), default=None)
        self._waiting = [each for each in self._waiting if each[0] != newest]

    def _add_picture(self, media_id: str, patches: Patches, labels: np.ndarray | None) -> None:
        data = to_bytes(patches, self._patch)
        tokens = len(cells_of(patches.grid_thw, patches.merge_size))
        if labels is not None and len(labels) != tokens:
            raise ValueError(f"labels of {media_id}: expected {tokens} rows, got {len(labels)}")
        row = {
            "id": media_id,
            "offset": self._pixels.tell(),
            "nbytes": data.nbytes,
            "grid_thw": patches.grid_thw,
            "still": is_still(patches.grid_thw, data),
            "labels": None if labels is None else labels.tolist(),
        }
        self._pixels.write(data.tobytes())
        # A row never names bytes that a kill could still take away.
        self._pixels.flush()
        self._pictures.write(json.dumps(row) + "\n")
        self._known.add(media_id)

    def _check_header(self, path: Path, header: dict[str, Any]) -> None:
        if not path.is_file():
            path.write_text(json.dumps(header, indent=1))
        elif (found := json.loads(path.read_text())) != header:
            raise ValueError(f"{path}: expected the header {header}, got {found}")


class Prepared:
    """Folders of examples to train on, as one.

    Example:
        data = Prepared([folder], PatchShape())
        batch = training_batch(policy, [data.examples[0].trajectory], data.patches)
    """

    def __init__(self, folders: Sequence[Path], patch: PatchShape) -> None:
        missing = [str(folder) for folder in folders if not (folder / EXAMPLES).is_file()]
        if missing or not folders:
            raise ValueError(f"prepared: expected folders with {EXAMPLES}, got none in {missing}")
        self._patch = patch
        self.header: dict[str, Any] = common_header(folders)
        self.examples: list[Example] = []
        self.pictures: dict[str, StoredPicture] = {}
        self._pixels: dict[str, np.ndarray] = {}
        for folder in folders:
            self._open(folder)

    def _open(self, folder: Path) -> None:
        # In this order a folder that is still being written gives whole examples only.
        self.examples += [example_from_json(row) for row in whole_lines(folder / EXAMPLES)]
        pictures = dict(map(picture_from_json, whole_lines(folder / PICTURES)))
        self.pictures |= pictures
        if pictures:  # A folder of drills has no pixels, and an empty file cannot be mapped.
            pixels = np.memmap(folder / PIXELS, dtype=np.uint8, mode="r")
            self._pixels |= dict.fromkeys(pictures, pixels)

    def patches(self, media_id: str) -> Patches:
        """Normalised as the tower takes them, fp32."""
        stored, patch = self.pictures[media_id], self._patch
        slices = 1 if stored.still else patch.temporal_patch_size
        shape = (int(np.prod(stored.grid_thw)), 3, slices, patch.patch_size**2)
        start, count = stored.offset, int(np.prod(shape))
        pixels = self._pixels[media_id][start : start + count].reshape(shape)
        values = torch.from_numpy(pixels.astype(np.float32)) / 255
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (patch.mean, patch.std))
        full = ((values - mean) / std).expand(-1, -1, patch.temporal_patch_size, -1)
        return Patches(full.reshape(shape[0], -1), stored.grid_thw, patch.merge_size)


def common_header(folders: Sequence[Path]) -> dict[str, Any]:
    """What all folders say of themselves; ValueError where they are of different policies."""
    headers = [json.loads((folder / HEADER).read_text()) for folder in folders]
    first, *rest = headers
    for folder, header in zip(folders[1:], rest, strict=True):
        for name in ("policy", "num_labels"):
            if header.get(name) != first.get(name):
                raise ValueError(
                    f"{folder}: {name}: expected {first.get(name)}, got {header.get(name)}"
                )
    return first


def to_bytes(patches: Patches, patch: PatchShape) -> np.ndarray:
    """(P, C, slices, patch²) uint8; exact, because patches come from bytes."""
    values = patches.patches_PK.view(
        len(patches.patches_PK), 3, patch.temporal_patch_size, patch.patch_size**2
    )
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (patch.mean, patch.std))
    pixels = ((values * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    first = pixels[:, :, :1]
    still = patches.grid_thw[0] == 1 and bool((pixels == first).all())
    return (first if still else pixels).contiguous().numpy()


def is_still(grid: Grid, kept: np.ndarray) -> bool:
    """Whether what `to_bytes` kept of a picture is one slice for all."""
    return grid[0] == 1 and kept.shape[2] == 1


def example_from_json(row: dict[str, Any]) -> Example:
    raw = row["trajectory"]
    count = len(raw["ids"])
    filled = {"logprobs": [0.0] * count, "forced": [False] * count, "stage_ms": {}}
    trajectory = trajectory_from_json(raw | filled)
    shown_at = None if row["shown_at"] is None else tuple(row["shown_at"])
    return Example(trajectory, tuple(row["imitated"]), row["task"], row["difficulty"], shown_at)


def picture_from_json(row: dict[str, Any]) -> tuple[str, StoredPicture]:
    labels = None if row["labels"] is None else tuple(map(tuple, row["labels"]))
    return row["id"], StoredPicture(row["offset"], tuple(row["grid_thw"]), row["still"], labels)


def whole_lines(path: Path) -> list[dict[str, Any]]:
    """Every line that was written to its end."""
    if not path.is_file():
        return []
    *lines, _ = path.read_bytes().split(b"\n")
    return [json.loads(line) for line in lines]


def cut_torn_line(path: Path) -> list[dict[str, Any]]:
    """The whole lines; what a killed writer left behind the last of them is cut off."""
    rows = whole_lines(path)
    if path.is_file():
        data = path.read_bytes()
        os.truncate(path, data.rfind(b"\n") + 1)
    return rows


@dataclass(frozen=True)
class TokenLabels:
    """What visual tokens show, one row each; boxes are centre and size as shares of the picture.

    T = things: the large one, the small one.
    """

    kinds_ML: torch.Tensor
    """int64; UNKNOWN without a label."""
    boxes_MT4: torch.Tensor
    """fp32, of the things; below 0 where there is none."""
    cells_M4: torch.Tensor
    """fp32, of the token itself."""

    @property
    def num_kinds(self) -> int:
        return self.kinds_ML.shape[1]

    def to(self, device: torch.device) -> TokenLabels:
        return TokenLabels(*(part.to(device) for part in vars(self).values()))


def labels_of(data: Prepared, media_ids: Sequence[str], num_kinds: int, merge: int) -> TokenLabels:
    """Of all pictures' tokens, in order; ValueError where they were prepared for other labels."""
    rows, cells = [], []
    for media_id in media_ids:
        stored = data.pictures[media_id]
        cells.append(cells_of(stored.grid_thw, merge))
        nothing = torch.full((len(cells[-1]), num_kinds + THINGS * BOX), UNKNOWN)
        found = nothing if stored.labels is None else torch.tensor(stored.labels)
        if found.shape != nothing.shape:
            raise ValueError(
                f"labels of {media_id}: expected {tuple(nothing.shape)}, got {tuple(found.shape)}; "
                "prepare the examples again"
            )
        rows.append(found)
    kinds_ML, boxes_M8 = torch.cat(rows).split((num_kinds, THINGS * BOX), dim=1)
    boxes_MT4 = boxes_M8.float().view(-1, THINGS, BOX) / 1000
    return TokenLabels(kinds_ML, boxes_MT4, torch.cat(cells))


def cells_of(grid: Grid, merge: int) -> torch.Tensor:
    """(M, 4): centre and size of each merged token's part of the picture."""
    frames, rows, columns = grid[0], grid[1] // merge, grid[2] // merge
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    size = torch.tensor([1 / columns, 1 / rows])
    centre_M2 = (torch.stack((x, y), dim=-1).flatten(0, 1) + 0.5) * size
    return torch.cat((centre_M2, size.expand_as(centre_M2)), dim=1).repeat(frames, 1)
