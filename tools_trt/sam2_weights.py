"""SAM 2 and SAM 2.1 weights into transformers' Sam2VideoModel, at any image side.

Reads a transformers folder or a `.pt` of the original release (its size and version are told from
the tensors), or makes seeded random weights. Renames the original's tensors here; knows no image
and no prompt. Sizes: hiera tiny, small, base_plus, large.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import AutoConfig, Sam2Config, Sam2Model, Sam2VideoConfig, Sam2VideoModel

from pixelis_fast.tools_trt.results import MissingWeightsError

Model = Sam2VideoModel | Sam2Model
ConfigT = TypeVar("ConfigT", Sam2VideoConfig, Sam2Config)
SIDE_MULTIPLE = 32
"""The last of four stages has stride 32; the position tiles need stride 4 x 8."""


@dataclass(frozen=True)
class HieraSize:
    """What differs between the released sizes; facts of the release's configuration files."""

    width: int
    heads: int
    blocks: tuple[int, int, int, int]
    global_blocks: tuple[int, int, int]
    position_side: int
    windows: tuple[int, int, int, int]


SIZES = {
    "tiny": HieraSize(96, 1, (1, 2, 7, 2), (5, 7, 9), 7, (8, 4, 14, 7)),
    "small": HieraSize(96, 1, (1, 2, 11, 2), (7, 10, 13), 7, (8, 4, 14, 7)),
    "base_plus": HieraSize(112, 2, (2, 3, 16, 3), (12, 16, 20), 14, (8, 4, 14, 7)),
    "large": HieraSize(144, 2, (2, 6, 36, 4), (23, 33, 43), 7, (8, 4, 16, 8)),
}

# Applied in order to every name of the original release.
RENAMES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^maskmem_tpos_enc$", "memory_temporal_positional_encoding"),
        (r"^no_mem_embed$", "no_memory_embedding"),
        (r"^no_mem_pos_enc$", "no_memory_positional_encoding"),
        (r"^no_obj_ptr$", "no_object_pointer"),
        (r"^no_obj_embed_spatial$", "occlusion_spatial_embedding_parameter"),
        (r"^obj_ptr_tpos_proj\.", "temporal_positional_encoding_projection_layer."),
        (r"^obj_ptr_proj\.", "object_pointer_proj."),
        (r"^image_encoder\.trunk\.", "vision_encoder.backbone."),
        (r"^image_encoder\.neck\.convs\.(\d)\.conv\.", r"vision_encoder.neck.convs.\1."),
        (r"\.patch_embed\.proj\.", ".patch_embed.projection."),
        (r"^memory_encoder\.out_proj\.", "memory_encoder.projection."),
        (r"^memory_encoder\.pix_feat_proj\.", "memory_encoder.feature_projection."),
        (r"^memory_encoder\.fuser\.", "memory_encoder.memory_fuser."),
        (r"(memory_fuser\.layers\.\d)\.gamma$", r"\1.scale"),
        (r"\.dwconv\.", ".depthwise_conv."),
        (r"\.pwconv(\d)\.", r".pointwise_conv\1."),
        (r"\.mask_downsampler\.encoder\.12\.", ".mask_downsampler.final_conv."),
        (r"^sam_prompt_encoder\.mask_downscaling\.0\.", "prompt_encoder.mask_embed.conv1."),
        (r"^sam_prompt_encoder\.mask_downscaling\.1\.", "prompt_encoder.mask_embed.layer_norm1."),
        (r"^sam_prompt_encoder\.mask_downscaling\.3\.", "prompt_encoder.mask_embed.conv2."),
        (r"^sam_prompt_encoder\.mask_downscaling\.4\.", "prompt_encoder.mask_embed.layer_norm2."),
        (r"^sam_prompt_encoder\.mask_downscaling\.6\.", "prompt_encoder.mask_embed.conv3."),
        (r"^sam_prompt_encoder\.", "prompt_encoder."),
        (r"^sam_mask_decoder\.", "mask_decoder."),
        (r"\.output_upscaling\.0\.", ".upscale_conv1."),
        (r"\.output_upscaling\.1\.", ".upscale_layer_norm."),
        (r"\.output_upscaling\.3\.", ".upscale_conv2."),
        (r"\.norm_final_attn\.", ".layer_norm_final_attn."),
        (r"\.norm(\d?)\.", r".layer_norm\1."),
        (r"(attn|attn_\w+|attn_image)\.out_proj\.", r"\1.o_proj."),
        (r"\.mlp\.layers\.0\.", ".mlp.proj_in."),
        (r"\.mlp\.layers\.1\.", ".mlp.proj_out."),
        (r"(_mlps\.\d|_head|object_pointer_proj)\.layers\.0\.", r"\1.proj_in."),
        (r"(_mlps\.\d|_head|object_pointer_proj)\.layers\.1\.", r"\1.layers.0."),
        (r"(_mlps\.\d|_head|object_pointer_proj)\.layers\.2\.", r"\1.proj_out."),
    )
)
MASK_DOWNSAMPLER = re.compile(r"\.mask_downsampler\.encoder\.(\d+)\.")
POINT_EMBEDDING = "sam_prompt_encoder.point_embeddings.{}.weight"
FREQUENCIES = "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"


def config_for(size: str, *, side: int = 1024, version: str = "2.1") -> Sam2VideoConfig:
    """The release's hyperparameters of one size; `version` is "2" or "2.1"."""
    if size not in SIZES:
        raise ValueError(f"sam2 size: expected one of {sorted(SIZES)}, got {size!r}")
    hiera = SIZES[size]
    widths = [hiera.width * 2**stage for stage in range(4)]
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": hiera.width,
        "num_attention_heads": hiera.heads,
        "blocks_per_stage": list(hiera.blocks),
        "embed_dim_per_stage": widths,
        "num_attention_heads_per_stage": [hiera.heads * 2**stage for stage in range(4)],
        "window_size_per_stage": list(hiera.windows),
        "global_attention_blocks": list(hiera.global_blocks),
        "window_positional_embedding_background_size": [hiera.position_side] * 2,
    }
    vision = {
        "model_type": "sam2_vision_model",
        "backbone_config": backbone,
        "backbone_channel_list": widths[::-1],
    }
    config = Sam2VideoConfig(
        vision_config=vision,
        enable_occlusion_spatial_embedding=version == "2.1",
        enable_temporal_pos_encoding_for_object_pointers=version == "2.1",
    )
    return at_side(config, side)


def at_side(config: ConfigT, side: int) -> ConfigT:
    """The same model for square inputs of `side` pixels; no weight changes its shape."""
    if side % SIDE_MULTIPLE or side <= 0:
        raise ValueError(f"sam2 side: expected a multiple of {SIDE_MULTIPLE}, got {side}")
    vision: Any = config.vision_config
    prompts: Any = config.prompt_encoder_config
    vision.backbone_config.image_size = [side, side]
    vision.backbone_feature_sizes = [[side // stride] * 2 for stride in (4, 8, 16)]
    prompts.image_size = side
    if isinstance(config, Sam2VideoConfig):
        config.image_size = side
        config.memory_attention_rope_feat_sizes = [side // 16] * 2
    return config


def load_model(weights: str | Path, *, side: int) -> Model:
    """Model with the weights of a transformers folder or of an original `.pt`; fp32, eval."""
    path = Path(weights)
    if path.is_dir():
        return _from_folder(path, side)
    if path.is_file():
        return _from_checkpoint(path, side)
    raise MissingWeightsError(
        f"sam2 weights: expected a folder or a .pt file, got nothing at {path}"
    )


def random_model(size: str, *, side: int, seed: int = 0) -> Sam2VideoModel:
    """The full graph with seeded random weights: right shapes and cost, meaningless masks."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _built(config_for(size, side=side)).eval()


def rename_checkpoint(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The original release's names to transformers' names; four point embeddings become one."""
    rest = dict(tensors)
    points = [rest.pop(POINT_EMBEDDING.format(n)) for n in range(4)]
    frequencies = rest.pop(FREQUENCIES)
    renamed = {_rename(name): tensor for name, tensor in rest.items()}
    renamed["prompt_encoder.point_embed.weight"] = torch.cat(points)
    renamed["prompt_encoder.shared_embedding.positional_embedding"] = frequencies
    renamed["shared_image_embedding.positional_embedding"] = frequencies
    return renamed


def checkpoint_kind(tensors: Mapping[str, Tensor]) -> tuple[str, str]:
    """(size, version) of an original checkpoint, told from its tensors."""
    width = tensors["image_encoder.trunk.patch_embed.proj.weight"].shape[0]
    pattern = re.compile(r"^image_encoder\.trunk\.blocks\.(\d+)\.norm1\.weight$")
    num_blocks = sum(pattern.match(name) is not None for name in tensors)
    version = "2.1" if "no_obj_embed_spatial" in tensors else "2"
    for size, hiera in SIZES.items():
        if (hiera.width, sum(hiera.blocks)) == (width, num_blocks):
            return size, version
    raise MissingWeightsError(
        f"sam2 checkpoint: expected one of the sizes {sorted(SIZES)}, got width {width} with "
        f"{num_blocks} blocks"
    )


def _rename(name: str) -> str:
    # Convolution, norm and activation alternate: 0, 1, (2), 3, 4, (5), … in the original.
    name = MASK_DOWNSAMPLER.sub(_mask_downsampler_layer, name)
    for pattern, replacement in RENAMES:
        name = pattern.sub(replacement, name)
    return name


def _mask_downsampler_layer(match: re.Match[str]) -> str:
    layer, part = divmod(int(match[1]), 3)
    if layer == 4:
        return match[0]
    return f".mask_downsampler.layers.{layer}.{('conv', 'layer_norm')[part]}."


def _built(config: Sam2VideoConfig) -> Sam2VideoModel:
    return Sam2VideoModel._from_config(config, attn_implementation="sdpa")


def _from_folder(folder: Path, side: int) -> Model:
    if not (folder / "config.json").is_file():
        raise MissingWeightsError(f"sam2 weights: expected config.json in {folder}, got none")
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    graphs: dict[str, Any] = {"sam2_video": Sam2VideoModel, "sam2": Sam2Model}
    if config.model_type not in graphs:
        raise MissingWeightsError(
            f"sam2 weights: expected model_type in {sorted(graphs)}, got {config.model_type!r} "
            f"in {folder}"
        )
    model, report = graphs[config.model_type].from_pretrained(
        folder,
        config=at_side(config, side),
        attn_implementation="sdpa",
        dtype=torch.float32,
        local_files_only=True,
        output_loading_info=True,
    )
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise MissingWeightsError(f"sam2 weights: {folder} lacks {len(missing)}: {missing[:3]} …")
    return model.eval()


def _from_checkpoint(path: Path, side: int) -> Sam2VideoModel:
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)["model"]
        size, version = checkpoint_kind(tensors)
        renamed = rename_checkpoint(tensors)
    except (KeyError, TypeError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise MissingWeightsError(
            f'sam2 weights: expected {{"model": tensors}} of the original release in {path}, '
            f"got {type(error).__name__}: {error}"
        ) from error
    model = _built(config_for(size, side=side, version=version))
    try:
        model.load_state_dict(renamed)
    except RuntimeError as error:
        raise MissingWeightsError(f"sam2 weights: {path} does not fit {size}: {error}") from error
    return model.eval()
