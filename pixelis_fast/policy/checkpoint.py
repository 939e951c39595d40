"""Checkpoint folders: config.json and safetensors shards, named tensors in and out.

Reads one file or an index with shards, tensor by tensor. Writes every file under a temporary name
first and renames them when all are on disk, the index last: a crash while writing leaves the old
checkpoint whole. Knows Hugging Face's folder layout and nothing of the model.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
STAGED = ".tmp"


class CheckpointError(ValueError):
    """A checkpoint folder cannot be used; the message names the file or the tensors."""


def read_config(folder: str | Path) -> dict[str, Any]:
    """config.json as a dict."""
    path = _folder(folder) / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{path}: expected a checkpoint's config.json, got no file")
    return _read_json(path)


def tensor_files(folder: str | Path) -> dict[str, Path]:
    """Tensor name -> the file that holds it."""
    root = _folder(folder)
    if (root / INDEX).is_file():
        return _indexed_files(root)
    if not (root / SINGLE).is_file():
        raise CheckpointError(f"{root}: expected {SINGLE} or {INDEX}, got neither")
    with _open(root / SINGLE, device="cpu") as file:
        return dict.fromkeys(file.keys(), root / SINGLE)


def read_tensors(
    files: Mapping[str, Path], *, device: torch.device | str
) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor on device), file by file; one tensor is alive at a time."""
    for path in sorted(set(files.values())):
        names = sorted(name for name, file in files.items() if file == path)
        with _open(path, device=str(device)) as shard:
            absent = sorted(set(names) - set(shard.keys()))
            if absent:
                raise CheckpointError(f"{path}: expected the index's tensors {absent}, got none")
            for name in names:
                yield name, shard.get_tensor(name)


def write_checkpoint(
    folder: str | Path,
    *,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    max_shard_bytes: int,
) -> None:
    """config.json and the tensors, in one file if they fit and in indexed shards if not."""
    if max_shard_bytes < 1:
        raise ValueError(f"max_shard_bytes: expected at least 1, got {max_shard_bytes}")
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    shards = _plan_shards(tensors, max_shard_bytes)
    names = _shard_names(len(shards))
    staged = [_stage_shard(root / name, shard) for name, shard in zip(names, shards, strict=True)]
    staged.append(_stage_json(root / "config.json", dict(config)))
    if len(shards) > 1:
        staged.append(_stage_json(root / INDEX, _index(names, shards)))
        names.append(INDEX)
    for path in staged:
        path.replace(path.with_name(path.name.removesuffix(STAGED)))
    _remove_stale(root, keep=set(names))


def _folder(folder: str | Path) -> Path:
    root = Path(folder)
    if not root.is_dir():
        raise CheckpointError(f"{root}: expected a checkpoint folder, got no such folder")
    return root


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path}: expected JSON, got {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def _indexed_files(root: Path) -> dict[str, Path]:
    weight_map = _read_json(root / INDEX).get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"{root / INDEX}: expected the key 'weight_map', got none")
    files = {name: root / file for name, file in weight_map.items()}
    missing = sorted({path.name for path in files.values() if not path.is_file()})
    if missing:
        raise CheckpointError(f"{root}: expected the index's shards {missing}, got no such files")
    return files


def _open(path: Path, *, device: str) -> Any:
    try:
        return safe_open(path, framework="pt", device=device)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: expected a whole safetensors file, got {error}") from error


def _plan_shards(tensors: Mapping[str, Tensor], max_bytes: int) -> list[dict[str, Tensor]]:
    shards: list[dict[str, Tensor]] = [{}]
    used = 0
    for name, tensor in tensors.items():
        if shards[-1] and used + tensor.nbytes > max_bytes:
            shards.append({})
            used = 0
        shards[-1][name] = tensor
        used += tensor.nbytes
    return shards


def _shard_names(count: int) -> list[str]:
    if count == 1:
        return [SINGLE]
    return [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]


def _index(names: list[str], shards: list[dict[str, Tensor]]) -> dict[str, Any]:
    total = sum(tensor.nbytes for shard in shards for tensor in shard.values())
    weight_map = {
        tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard
    }
    return {"metadata": {"total_size": total}, "weight_map": weight_map}


def _stage_shard(path: Path, tensors: Mapping[str, Tensor]) -> Path:
    # Clones: rows of a fused weight share storage, which the format refuses.
    plain = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
    staged = path.with_name(path.name + STAGED)
    save_file(plain, staged, metadata={"format": "pt"})
    return _flushed(staged)


def _stage_json(path: Path, content: dict[str, Any]) -> Path:
    staged = path.with_name(path.name + STAGED)
    staged.write_text(json.dumps(content, indent=2) + "\n")
    return _flushed(staged)


def _flushed(path: Path) -> Path:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return path


def _remove_stale(root: Path, *, keep: set[str]) -> None:
    # The index first: without it a reader takes the single file.
    for path in [root / INDEX, root / SINGLE, *root.glob("model-*-of-*.safetensors")]:
        if path.name not in keep:
            path.unlink(missing_ok=True)
