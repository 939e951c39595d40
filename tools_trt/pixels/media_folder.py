"""A folder of media beside a trace: encoded files named by content, crops as recipes.

`media.json` lists the entries, parents before their crops. Writing twice into one folder adds
to it. Reading checks that every file still hashes to its name.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pixelis_fast.tools_trt.geometry import check_box
from pixelis_fast.tools_trt.pixels.media import CropRecipe, Source
from pixelis_fast.tools_trt.results import ToolInputError

LIST_NAME = "media.json"
SUFFIXES = ((b"\x89PNG", ".png"), (b"\xff\xd8", ".jpg"), (b"\x93NUMPY", ".npy"), (b"RIFF", ".webp"))


def write_folder(sources: Sequence[Source], folder: Path) -> None:
    """Adds the sources to the folder; parents must stand before their crops."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = {entry["id"]: entry for entry in _entries(folder)} if _has_list(folder) else {}
    for source in sources:
        if source.info.id not in entries:
            entries[source.info.id] = _write_entry(source, folder)
    _replace(folder / LIST_NAME, json.dumps(list(entries.values()), indent=1).encode())


def read_folder(folder: Path) -> Iterator[tuple[str, bytes] | CropRecipe]:
    """(kind, encoded bytes) of added media and recipes of crops, parents first."""
    if not _has_list(folder):
        raise ToolInputError(f"media folder: expected {LIST_NAME} in {folder}, got none")
    for entry in _entries(folder):
        read = _read_recipe if "recipe" in entry else _read_file
        yield read(entry, folder)


def _write_entry(source: Source, folder: Path) -> dict[str, Any]:
    if source.recipe is not None:
        return {"id": source.info.id, "recipe": asdict(source.recipe)}
    assert source.encoded is not None, "an entry has encoded bytes or a recipe"
    name = source.info.id + _suffix(source)
    _replace(folder / name, source.encoded)
    return {"id": source.info.id, "kind": source.info.kind, "file": name}


def _read_recipe(entry: dict[str, Any], folder: Path) -> CropRecipe:
    fields = entry["recipe"]
    recipe = CropRecipe(**{**fields, "box": check_box(fields["box"])})
    return _checked(recipe, recipe.id, entry, folder)


def _read_file(entry: dict[str, Any], folder: Path) -> tuple[str, bytes]:
    path = folder / Path(entry["file"]).name
    if not path.is_file():
        raise ToolInputError(f"media folder: expected {path.name} in {folder}, got no such file")
    encoded = path.read_bytes()
    return _checked((entry["kind"], encoded), hashlib.sha256(encoded).hexdigest(), entry, folder)


def _checked(value: Any, media_id: str, entry: dict[str, Any], folder: Path) -> Any:
    if media_id != entry["id"]:
        raise ToolInputError(
            f"media folder: expected content {entry['id']} in {folder}, got {media_id}"
        )
    return value


def _has_list(folder: Path) -> bool:
    return (folder / LIST_NAME).is_file()


def _entries(folder: Path) -> list[dict[str, Any]]:
    try:
        return json.loads((folder / LIST_NAME).read_bytes())
    except ValueError as error:
        raise ToolInputError(
            f"media folder: expected JSON in {folder / LIST_NAME} ({error})"
        ) from error


def _suffix(source: Source) -> str:
    if source.info.kind == "video":
        return ".mp4"
    encoded = source.encoded or b""
    return next((suffix for magic, suffix in SUFFIXES if encoded.startswith(magic)), ".image")


def _replace(path: Path, content: bytes) -> None:
    """Writes beside the target and renames, so a reader never sees half a file."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_bytes(content)
    os.replace(beside, path)
