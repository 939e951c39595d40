"""Weights into `Sam2Graphs`: an original `.pt`, a transformers folder, our `.safetensors`, a seed.

Released sizes and versions are told from the tensors; our own files carry their configuration, and
so hold any model. Everything is fp32. A tensor too many or too few is an error that names it.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pixelis_fast.tools_trt.models.sam2_config import SIZES, Sam2Config, config_for
from pixelis_fast.tools_trt.models.sam2_convert import convert
from pixelis_fast.tools_trt.models.sam2_folder import check_backbone, read_folder
from pixelis_fast.tools_trt.models.sam2_layers import bake
from pixelis_fast.tools_trt.models.sam2_model import Sam2Graphs
from pixelis_fast.tools_trt.results import MissingWeightsError

CONFIG_KEY = "sam2_config"
BLOCK = re.compile(r"^image_encoder\.trunk\.blocks\.(\d+)\.norm1\.weight$")


def load_graphs(weights: str | Path, *, side: int | None = None) -> Sam2Graphs:
    """The graphs with the weights at a path, at a side (by default the one they were made for)."""
    path = Path(weights)
    if path.is_dir():
        tensors, folder_config = read_folder(path)
        config = told_config(tensors, side=side)
        check_backbone(folder_config, config)
        return _converted(tensors, config, path)
    if not path.is_file():
        raise MissingWeightsError(
            f"sam2 weights: expected a folder, a .pt or a .safetensors file, got nothing at {path}"
        )
    if path.suffix == ".safetensors":
        return _own(path, side)
    tensors = _original(path)
    return _converted(tensors, told_config(tensors, side=side), path)


def random_graphs(config: Sam2Config, *, seed: int = 0) -> Sam2Graphs:
    """Seeded random weights: right shapes and cost, meaningless masks."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ready(Sam2Graphs(config))


def save_graphs(graphs: Sam2Graphs, path: str | Path) -> None:
    """Writes our own format: the tensors as they are and the configuration beside them."""
    tensors = {name: tensor.contiguous() for name, tensor in graphs.state_dict().items()}
    save_file(tensors, str(path), metadata={CONFIG_KEY: json.dumps(asdict(graphs.config))})


def ready(graphs: Sam2Graphs) -> Sam2Graphs:
    """For inference: no gradients, derived tables computed once."""
    graphs.eval().requires_grad_(False)
    bake(graphs)
    return graphs


def weights_id(graphs: Sam2Graphs) -> str:
    """sha256 over every tensor and its name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(graphs.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype};".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def told_config(tensors: Mapping[str, Tensor], *, side: int | None = None) -> Sam2Config:
    """The released model that tensors under the original's names belong to."""
    patches = tensors.get("image_encoder.trunk.patch_embed.proj.weight")
    if patches is None:
        raise MissingWeightsError("sam2 weights: expected an image encoder, got none")
    num_blocks = sum(BLOCK.match(name) is not None for name in tensors)
    version = "2.1" if "no_obj_embed_spatial" in tensors else "2"
    for size in ("tiny", "small", "base_plus", "large"):
        if (SIZES[size].width, sum(SIZES[size].blocks)) == (patches.shape[0], num_blocks):
            config = config_for(size, side=side, version=version)
            return replace(config, has_memory="maskmem_tpos_enc" in tensors)
    raise MissingWeightsError(
        f"sam2 weights: expected a released size, got width {patches.shape[0]} with {num_blocks} "
        "blocks"
    )


def _original(path: Path) -> dict[str, Tensor]:
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)["model"]
    except (KeyError, TypeError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise MissingWeightsError(
            f'sam2 weights: expected {{"model": tensors}} of the original release in {path}, '
            f"got {type(error).__name__}: {error}"
        ) from error
    return dict(tensors)


def _converted(tensors: Mapping[str, Tensor], config: Sam2Config, path: Path) -> Sam2Graphs:
    try:
        ours, unexpected = convert(tensors, config)
    except KeyError as error:
        raise MissingWeightsError(
            f"sam2 weights: expected {error} of {config.size} in {path}, got none"
        ) from error
    if unexpected:
        raise MissingWeightsError(
            f"sam2 weights: expected the tensors of {config.size}, got {len(unexpected)} more in "
            f"{path}: {sorted(unexpected)[:3]}"
        )
    return _filled(ours, config, path)


def _own(path: Path, side: int | None) -> Sam2Graphs:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise MissingWeightsError(
            f"sam2 weights: expected a safetensors file at {path}, got {error}"
        ) from error
    if CONFIG_KEY not in metadata:
        raise MissingWeightsError(
            f"sam2 weights: expected {CONFIG_KEY} in the metadata of {path}, got "
            f"{sorted(metadata)}; a transformers model is loaded by its folder"
        )
    fields: dict[str, Any] = json.loads(metadata[CONFIG_KEY])
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    config = Sam2Config(**fields)
    return _filled(tensors, replace(config, side=config.side if side is None else side), path)


def _filled(tensors: Mapping[str, Tensor], config: Sam2Config, path: Path) -> Sam2Graphs:
    graphs = Sam2Graphs(config)
    try:
        graphs.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    except RuntimeError as error:
        raise MissingWeightsError(
            f"sam2 weights: {path} does not fit {config.size}: {error}"
        ) from error
    return ready(graphs)
