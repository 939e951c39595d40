"""A transformers folder of SAM 2 (model types sam2 and sam2_video) under the original's names.

Reads config.json and the safetensors files directly; transformers itself is not imported.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from pixelis_fast.tools_trt.models.sam2_config import Sam2Config
from pixelis_fast.tools_trt.results import MissingWeightsError

MODEL_TYPES = ("sam2", "sam2_video")
POINTS = "prompt_encoder.point_embed.weight"
COPIED_FREQUENCIES = "shared_image_embedding.positional_embedding"
"""The same tensor as the prompt encoder's."""

# Applied in order to every name of the folder.
RENAMES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^memory_temporal_positional_encoding$", "maskmem_tpos_enc"),
        (r"^no_memory_embedding$", "no_mem_embed"),
        (r"^no_memory_positional_encoding$", "no_mem_pos_enc"),
        (r"^no_object_pointer$", "no_obj_ptr"),
        (r"^occlusion_spatial_embedding_parameter$", "no_obj_embed_spatial"),
        (r"^temporal_positional_encoding_projection_layer\.", "obj_ptr_tpos_proj."),
        (r"^object_pointer_proj\.", "obj_ptr_proj."),
        (r"^vision_encoder\.backbone\.", "image_encoder.trunk."),
        (r"^vision_encoder\.neck\.convs\.(\d)\.", r"image_encoder.neck.convs.\1.conv."),
        (r"\.patch_embed\.projection\.", ".patch_embed.proj."),
        (r"^memory_encoder\.projection\.", "memory_encoder.out_proj."),
        (r"^memory_encoder\.feature_projection\.", "memory_encoder.pix_feat_proj."),
        (r"^memory_encoder\.memory_fuser\.", "memory_encoder.fuser."),
        (r"(\.fuser\.layers\.\d)\.scale$", r"\1.gamma"),
        (r"\.depthwise_conv\.", ".dwconv."),
        (r"\.pointwise_conv(\d)\.", r".pwconv\1."),
        (r"\.mask_downsampler\.final_conv\.", ".mask_downsampler.encoder.12."),
        (r"^prompt_encoder\.mask_embed\.conv1\.", "sam_prompt_encoder.mask_downscaling.0."),
        (r"^prompt_encoder\.mask_embed\.layer_norm1\.", "sam_prompt_encoder.mask_downscaling.1."),
        (r"^prompt_encoder\.mask_embed\.conv2\.", "sam_prompt_encoder.mask_downscaling.3."),
        (r"^prompt_encoder\.mask_embed\.layer_norm2\.", "sam_prompt_encoder.mask_downscaling.4."),
        (r"^prompt_encoder\.mask_embed\.conv3\.", "sam_prompt_encoder.mask_downscaling.6."),
        (
            r"^prompt_encoder\.shared_embedding\.positional_embedding$",
            "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
        ),
        (r"^prompt_encoder\.", "sam_prompt_encoder."),
        (r"^mask_decoder\.", "sam_mask_decoder."),
        (r"\.upscale_conv1\.", ".output_upscaling.0."),
        (r"\.upscale_layer_norm\.", ".output_upscaling.1."),
        (r"\.upscale_conv2\.", ".output_upscaling.3."),
        (r"\.layer_norm_final_attn\.", ".norm_final_attn."),
        (r"\.layer_norm(\d?)\.", r".norm\1."),
        (r"^memory_attention\.layer_norm\.", "memory_attention.norm."),
        (r"\.o_proj\.", ".out_proj."),
        (r"\.mlp\.proj_in\.", ".mlp.layers.0."),
        (r"\.mlp\.proj_out\.", ".mlp.layers.1."),
        (r"(_mlps\.\d|_head|obj_ptr_proj)\.layers\.0\.", r"\1.layers.1."),
        (r"(_mlps\.\d|_head|obj_ptr_proj)\.proj_in\.", r"\1.layers.0."),
        (r"(_mlps\.\d|_head|obj_ptr_proj)\.proj_out\.", r"\1.layers.2."),
    )
)
MASK_DOWNSAMPLER = re.compile(r"\.mask_downsampler\.layers\.(\d)\.(conv|layer_norm)\.")


def read_folder(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors under the original's names, config.json)."""
    if not (folder / "config.json").is_file():
        raise MissingWeightsError(f"sam2 weights: expected config.json in {folder}, got none")
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    if config.get("model_type") not in MODEL_TYPES:
        raise MissingWeightsError(
            f"sam2 weights: expected model_type in {MODEL_TYPES}, got {config.get('model_type')!r} "
            f"in {folder}"
        )
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise MissingWeightsError(f"sam2 weights: expected *.safetensors in {folder}, got none")
    tensors = {name: tensor for file in files for name, tensor in load_file(file).items()}
    return original_names(tensors), config


def original_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """transformers' names to the original release's; the point embeddings become four."""
    rest = dict(tensors)
    rest.pop(COPIED_FREQUENCIES, None)
    points = rest.pop(POINTS, torch.empty(0))
    renamed = {_renamed(name): tensor for name, tensor in rest.items()}
    for label, row in enumerate(points):
        renamed[f"sam_prompt_encoder.point_embeddings.{label}.weight"] = row[None]
    return renamed


def check_backbone(config: Mapping[str, Any], ours: Sam2Config) -> None:
    """Windows and global blocks leave no trace in the tensors: config.json must agree on them."""
    backbone = config.get("vision_config", {}).get("backbone_config", {})
    expected = {
        "window_size_per_stage": list(ours.windows),
        "global_attention_blocks": list(ours.global_blocks),
        "blocks_per_stage": list(ours.blocks),
    }
    for name, value in expected.items():
        if backbone.get(name, value) != value:
            raise MissingWeightsError(
                f"sam2 weights: expected {name} {value} of {ours.size}, got {backbone[name]}"
            )


def _renamed(name: str) -> str:
    # Convolution, norm and activation alternate in the original: 0, 1, (2), 3, 4, (5), ...
    name = MASK_DOWNSAMPLER.sub(
        lambda found: f".mask_downsampler.encoder.{3 * int(found[1]) + (found[2] != 'conv')}.", name
    )
    for pattern, replacement in RENAMES:
        name = pattern.sub(replacement, name)
    return name
