"""The original release's tensors -> those of `Sam2Graphs`.

What is linear is folded once, in double precision: the query scale, the pyramid's 1x1 convolutions
with the decoder's, the value and output projections of the memory attention, the fuser's scale per
channel; transposed convolutions become linear layers, and the rows of rotary projections are
reordered from pairs to halves. Every tensor is used or named as unused; others are an error.

Shapes: O = output rows, I = input columns.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pixelis_fast.tools_trt.models.sam2_config import NUM_MASKS, Sam2Config

TRUNK, NECK = "image_encoder.trunk", "image_encoder.neck"
PROMPTS, DECODER = "sam_prompt_encoder", "sam_mask_decoder"
UNUSED = ("no_mem_pos_enc",)
"""Belongs to a way of starting a video that the release does not use."""


class Checkpoint:
    """Tensors taken one by one from the original's names and given ours."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.left = {name: tensor.double() for name, tensor in tensors.items()}
        self.ours: dict[str, Tensor] = {}

    def take(self, name: str) -> Tensor:
        """Raises KeyError with the original's name where it is missing."""
        return self.left.pop(name)

    def put(self, name: str, tensor: Tensor) -> None:
        self.ours[name] = tensor.float().contiguous()

    def layer(self, ours: str, theirs: str) -> None:
        """Weight and bias as they are."""
        self.put_layer(ours, *self.take_layer(theirs))

    def pixelwise(self, ours: str, theirs: str) -> None:
        """A 1x1 convolution as a linear layer."""
        weight_OI11, bias = self.take_layer(theirs)
        self.put_layer(ours, weight_OI11[:, :, 0, 0], bias)

    def upscale(self, ours: str, theirs: str) -> None:
        """A transposed 2x2 convolution as a linear layer with four pixels' channels."""
        weight_IO22, bias = self.take_layer(theirs)
        self.put_layer(ours, weight_IO22.permute(2, 3, 1, 0).flatten(0, 2), bias.repeat(4))

    def mlp(self, ours: str, theirs: str, *, depth: int) -> None:
        for number in range(depth):
            self.layer(f"{ours}.layers.{number}", f"{theirs}.layers.{number}")

    def take_layer(self, name: str) -> tuple[Tensor, Tensor]:
        return self.take(f"{name}.weight"), self.take(f"{name}.bias")

    def put_layer(self, name: str, weight: Tensor, bias: Tensor) -> None:
        self.put(f"{name}.weight", weight)
        self.put(f"{name}.bias", bias)


def convert(
    tensors: Mapping[str, Tensor], config: Sam2Config
) -> tuple[dict[str, Tensor], set[str]]:
    """(our tensors, names that nobody asked for). Raises KeyError for a missing one."""
    source = Checkpoint(tensors)
    for name in UNUSED:
        source.left.pop(name, None)
    _encoder(source, config)
    _prompts(source)
    _decoder(source, config)
    source.put("no_memory", source.take("no_mem_embed").reshape(1, -1, 1, 1))
    if config.has_memory:
        _loose(source, config)
        _memory_encoder(source, config)
        _memory_attention(source, config)
    return source.ours, set(source.left)


def _encoder(source: Checkpoint, config: Sam2Config) -> None:
    source.layer("encoder.patches", f"{TRUNK}.patch_embed.proj")
    source.put("encoder.positions.background", source.take(f"{TRUNK}.pos_embed"))
    source.put("encoder.positions.window", source.take(f"{TRUNK}.pos_embed_window"))
    for number in range(sum(config.blocks)):
        _block(source, config, number)
    for stage, high_resolution in enumerate(
        (f"{DECODER}.conv_s0", f"{DECODER}.conv_s1", None, None)
    ):
        weight_OI11, bias_O = source.take_layer(f"{NECK}.convs.{3 - stage}.conv")
        weight_OI = weight_OI11[:, :, 0, 0]
        if high_resolution is not None:
            second_OI11, second_bias = source.take_layer(high_resolution)
            second_OI = second_OI11[:, :, 0, 0]
            weight_OI, bias_O = second_OI @ weight_OI, second_OI @ bias_O + second_bias
        source.put_layer(f"encoder.levels.{stage}", weight_OI, bias_O)


def _block(source: Checkpoint, config: Sam2Config, number: int) -> None:
    ours, theirs = f"encoder.blocks.{number}", f"{TRUNK}.blocks.{number}"
    source.layer(f"{ours}.norm_attention", f"{theirs}.norm1")
    weight_OI, bias_O = source.take_layer(f"{theirs}.attn.qkv")
    scale_O = torch.ones_like(bias_O)
    # Heads are added as fast as channels: their width is the same in all blocks.
    scale_O[: len(scale_O) // 3] = (config.width // config.heads) ** -0.5
    source.put_layer(f"{ours}.qkv", weight_OI * scale_O[:, None], bias_O * scale_O)
    source.layer(f"{ours}.out", f"{theirs}.attn.proj")
    source.layer(f"{ours}.norm_mlp", f"{theirs}.norm2")
    source.mlp(f"{ours}.mlp", f"{theirs}.mlp", depth=2)
    if number in config.first_blocks[1:]:
        source.layer(f"{ours}.shortcut", f"{theirs}.proj")


def _prompts(source: Checkpoint) -> None:
    ours, mask = "decoder.prompts", f"{PROMPTS}.mask_downscaling"
    frequencies = source.take(f"{PROMPTS}.pe_layer.positional_encoding_gaussian_matrix")
    source.put(f"{ours}.frequencies.directions", frequencies)
    points = [source.take(f"{PROMPTS}.point_embeddings.{label}.weight") for label in range(4)]
    labels = [source.take(f"{PROMPTS}.not_a_point_embed.weight"), *points]
    source.put(f"{ours}.labels", torch.cat(labels))
    source.put(f"{ours}.no_mask", source.take(f"{PROMPTS}.no_mask_embed.weight")[0])
    for name, number in (("conv1", 0), ("norm1", 1), ("conv2", 3), ("norm2", 4)):
        source.layer(f"{ours}.{name}", f"{mask}.{number}")
    source.pixelwise(f"{ours}.out", f"{mask}.6")


def _decoder(source: Checkpoint, config: Sam2Config) -> None:
    names = ("obj_score_token", "iou_token", "mask_tokens")
    source.put("decoder.tokens", torch.cat([source.take(f"{DECODER}.{n}.weight") for n in names]))
    source.upscale("decoder.upscale1", f"{DECODER}.output_upscaling.0")
    source.layer("decoder.upscale_norm", f"{DECODER}.output_upscaling.1")
    source.upscale("decoder.upscale2", f"{DECODER}.output_upscaling.3")
    for depth in range(3):
        heads = [
            f"{DECODER}.output_hypernetworks_mlps.{n}.layers.{depth}" for n in range(NUM_MASKS)
        ]
        layers = [source.take_layer(head) for head in heads]
        weights = torch.stack([weight_OI.T for weight_OI, _ in layers])
        source.put(f"decoder.mask_heads.weight{depth}", weights)
        source.put(f"decoder.mask_heads.bias{depth}", torch.stack([b[None] for _, b in layers]))
    source.mlp("decoder.iou_head", f"{DECODER}.iou_prediction_head", depth=3)
    source.mlp("decoder.object_head", f"{DECODER}.pred_obj_score_head", depth=3)
    ours, theirs = "decoder.transformer", f"{DECODER}.transformer"
    for number in range(config.decoder_layers):
        _two_way(source, config, f"{ours}.layers.{number}", f"{theirs}.layers.{number}")
    half = config.channels // 2 // config.decoder_heads
    _attention(source, f"{ours}.to_image", f"{theirs}.final_attn_token_to_image", head_width=half)
    source.layer(f"{ours}.norm", f"{theirs}.norm_final_attn")


def _two_way(source: Checkpoint, config: Sam2Config, ours: str, theirs: str) -> None:
    whole = config.channels // config.decoder_heads
    attentions = (
        ("to_tokens", "self_attn", whole),
        ("to_image", "cross_attn_token_to_image", whole // 2),
        ("from_image", "cross_attn_image_to_token", whole // 2),
    )
    for our_name, their_name, head_width in attentions:
        _attention(source, f"{ours}.{our_name}", f"{theirs}.{their_name}", head_width=head_width)
    for number in range(1, 5):
        source.layer(f"{ours}.norm{number}", f"{theirs}.norm{number}")
    source.mlp(f"{ours}.mlp", f"{theirs}.mlp", depth=2)


def _attention(source: Checkpoint, ours: str, theirs: str, *, head_width: int) -> None:
    weight_OI, bias_O = source.take_layer(f"{theirs}.q_proj")
    source.put_layer(f"{ours}.q", weight_OI / head_width**0.5, bias_O / head_width**0.5)
    for name in ("k", "v"):
        source.layer(f"{ours}.{name}", f"{theirs}.{name}_proj")
    source.layer(f"{ours}.out", f"{theirs}.out_proj")


def _loose(source: Checkpoint, config: Sam2Config) -> None:
    source.put("memory.temporal", source.take("maskmem_tpos_enc")[:, 0, 0])
    source.put("memory.no_object_pointer", source.take("no_obj_ptr")[0])
    source.layer("memory.mask_to_prompt", "mask_downsample")
    source.mlp("decoder.pointer_head", "obj_ptr_proj", depth=3)
    if config.version == "2.1":
        source.layer("memory.pointer_time", "obj_ptr_tpos_proj")
        source.put("memory.encoder.out_of_sight", source.take("no_obj_embed_spatial")[0])


def _memory_encoder(source: Checkpoint, config: Sam2Config) -> None:
    ours, theirs = "memory.encoder", "memory_encoder"
    for step in range(len(config.mask_widths)):
        source.layer(f"{ours}.convs.{step}", f"{theirs}.mask_downsampler.encoder.{3 * step}")
        source.layer(f"{ours}.norms.{step}", f"{theirs}.mask_downsampler.encoder.{3 * step + 1}")
    source.pixelwise(f"{ours}.mask_out", f"{theirs}.mask_downsampler.encoder.12")
    source.pixelwise(f"{ours}.picture", f"{theirs}.pix_feat_proj")
    source.pixelwise(f"{ours}.out", f"{theirs}.out_proj")
    for number in range(config.fuser_layers):
        mine, original = f"{ours}.fuser.{number}", f"{theirs}.fuser.layers.{number}"
        source.layer(f"{mine}.depthwise", f"{original}.dwconv")
        source.layer(f"{mine}.norm", f"{original}.norm")
        source.layer(f"{mine}.grow", f"{original}.pwconv1")
        scale_O = source.take(f"{original}.gamma")
        weight_OI, bias_O = source.take_layer(f"{original}.pwconv2")
        source.put_layer(f"{mine}.shrink", scale_O[:, None] * weight_OI, scale_O * bias_O)


def _memory_attention(source: Checkpoint, config: Sam2Config) -> None:
    ours, theirs = "memory.attention", "memory_attention"
    source.layer(f"{ours}.norm", f"{theirs}.norm")
    for number in range(config.memory_layers):
        mine, original = f"{ours}.layers.{number}", f"{theirs}.layers.{number}"
        for norm in ("norm1", "norm2", "norm3"):
            source.layer(f"{mine}.{norm}", f"{original}.{norm}")
        source.layer(f"{mine}.grow", f"{original}.linear1")
        source.layer(f"{mine}.shrink", f"{original}.linear2")
        _rotary(source, f"{mine}.to_itself", f"{original}.self_attn")
        _rotary(source, f"{mine}.to_bank", f"{original}.cross_attn_image")


def _rotary(source: Checkpoint, ours: str, theirs: str) -> None:
    q_OI, q_O = source.take_layer(f"{theirs}.q_proj")
    k_OI, k_O = source.take_layer(f"{theirs}.k_proj")
    rows = torch.arange(len(q_O))
    halves = torch.cat((rows[0::2], rows[1::2]))
    scale = len(q_O) ** 0.5
    source.put_layer(f"{ours}.q", q_OI[halves] / scale, q_O[halves] / scale)
    source.put_layer(f"{ours}.k", k_OI[halves], k_O[halves])
    value_OI, value_O = source.take_layer(f"{theirs}.v_proj")
    out_OI, out_O = source.take_layer(f"{theirs}.out_proj")
    source.put_layer(f"{ours}.out", out_OI @ value_OI, out_OI @ value_O + out_O)
