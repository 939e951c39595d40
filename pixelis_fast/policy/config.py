"""Shapes of a Qwen3-VL policy: the text decoder, the vision tower, and the ids that join them.

`from_hf` reads a checkpoint's config.json (both spellings of the rope fields that transformers has
written), `to_hf` writes one that transformers reads. Knows no weights and no tensors.
Presets carry the true shapes of the dense Qwen3-VL models (their config.json files).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class TextConfig:
    """The decoder."""

    vocab_size: int = 151936
    hidden_size: int = 4096
    num_layers: int = 36
    num_heads: int = 32
    num_kv_heads: int = 8
    head_dim: int = 128
    intermediate_size: int = 12288
    rope_theta: float = 5e6
    mrope_section: tuple[int, int, int] = (24, 20, 20)
    """Rotary frequencies given to time, height and width; their sum is head_dim / 2."""
    rms_norm_eps: float = 1e-6
    max_positions: int = 262144

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads: expected a multiple of num_kv_heads={self.num_kv_heads}, "
                f"got {self.num_heads}"
            )
        if self.head_dim % 2 or sum(self.mrope_section) != self.head_dim // 2:
            raise ValueError(
                f"mrope_section: expected numbers that sum to head_dim/2={self.head_dim / 2}, "
                f"got {self.mrope_section}"
            )

    @property
    def group_size(self) -> int:
        """Query heads that share one key/value head."""
        return self.num_heads // self.num_kv_heads

    @property
    def qkv_size(self) -> int:
        return (self.num_heads + 2 * self.num_kv_heads) * self.head_dim


@dataclass(frozen=True)
class VisionConfig:
    """The vision tower."""

    depth: int = 27
    hidden_size: int = 1152
    num_heads: int = 16
    intermediate_size: int = 4304
    out_hidden_size: int = 4096
    deepstack_layers: tuple[int, ...] = (8, 16, 24)
    """Blocks whose outputs are merged and added to the decoder's first layers, in this order."""
    patch_size: int = 16
    temporal_patch_size: int = 2
    merge_size: int = 2
    num_positions: int = 2304
    """Learned positions, a square grid that is resampled to each image's grid."""
    rope_theta: float = 10000.0
    in_channels: int = 3

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_heads or self.head_dim % 4:
            raise ValueError(
                f"vision hidden_size: expected num_heads={self.num_heads} times a multiple of 4, "
                f"got {self.hidden_size}"
            )
        if self.grid_side**2 != self.num_positions:
            raise ValueError(f"num_positions: expected a square, got {self.num_positions}")
        if any(not 0 <= layer < self.depth for layer in self.deepstack_layers):
            raise ValueError(
                f"deepstack_layers: expected indices below depth={self.depth}, "
                f"got {self.deepstack_layers}"
            )

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def grid_side(self) -> int:
        return int(self.num_positions**0.5)

    @property
    def patch_values(self) -> int:
        """Numbers in one flattened patch."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2

    @property
    def merged_size(self) -> int:
        return self.hidden_size * self.merge_size**2


@dataclass(frozen=True)
class PolicyConfig:
    """Text, vision, and the placeholder ids.

    Example:
        PRESETS["bench-36m"].with_special_ids(image_pad=8000, video_pad=8001,
                                              vision_start=8002, vision_end=8003)
    """

    text: TextConfig = field(default_factory=TextConfig)
    vision: VisionConfig = field(default_factory=VisionConfig)
    tied: bool = False
    """The head is the token embedding."""
    image_pad: int = 151655
    video_pad: int = 151656
    vision_start: int = 151652
    vision_end: int = 151653

    def __post_init__(self) -> None:
        if self.vision.out_hidden_size != self.text.hidden_size:
            raise ValueError(
                f"vision out_hidden_size: expected the decoder's {self.text.hidden_size}, "
                f"got {self.vision.out_hidden_size}"
            )
        if len(self.vision.deepstack_layers) > self.text.num_layers:
            raise ValueError(
                f"deepstack_layers: expected at most {self.text.num_layers} (decoder layers), "
                f"got {len(self.vision.deepstack_layers)}"
            )
        for name in ("image_pad", "video_pad", "vision_start", "vision_end"):
            if not 0 <= getattr(self, name) < self.text.vocab_size:
                raise ValueError(
                    f"{name}: expected an id below vocab_size={self.text.vocab_size}, "
                    f"got {getattr(self, name)}"
                )

    def with_special_ids(
        self, *, image_pad: int, video_pad: int, vision_start: int, vision_end: int
    ) -> PolicyConfig:
        """The same shapes with a tokenizer's placeholder ids."""
        return replace(
            self,
            image_pad=image_pad,
            video_pad=video_pad,
            vision_start=vision_start,
            vision_end=vision_end,
        )

    @classmethod
    def from_hf(cls, config: dict[str, Any]) -> PolicyConfig:
        """config.json of a dense Qwen3-VL checkpoint."""
        if config.get("model_type") != "qwen3_vl":
            raise ValueError(
                f"model_type: expected 'qwen3_vl' (a dense Qwen3-VL checkpoint), "
                f"got {config.get('model_type')!r}"
            )
        fields = _fields_from_hf(config, POLICY_FIELDS, where="config")
        text, vision = fields.pop("text"), fields.pop("vision")
        tied = config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))
        return cls(text=_text_from_hf(text), vision=_vision_from_hf(vision), tied=tied, **fields)

    def to_hf(self) -> dict[str, Any]:
        """A config.json that transformers reads."""
        return {
            "architectures": ["Qwen3VLForConditionalGeneration"],
            "model_type": "qwen3_vl",
            "text_config": _text_to_hf(self.text, tied=self.tied),
            "vision_config": _vision_to_hf(self.vision),
            "tie_word_embeddings": self.tied,
            "image_token_id": self.image_pad,
            "video_token_id": self.video_pad,
            "vision_start_token_id": self.vision_start,
            "vision_end_token_id": self.vision_end,
        }


POLICY_FIELDS = {
    "text": "text_config",
    "vision": "vision_config",
    "image_pad": "image_token_id",
    "video_pad": "video_token_id",
    "vision_start": "vision_start_token_id",
    "vision_end": "vision_end_token_id",
}
TEXT_FIELDS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "intermediate_size": "intermediate_size",
    "rms_norm_eps": "rms_norm_eps",
    "max_positions": "max_position_embeddings",
}
VISION_FIELDS = {
    "depth": "depth",
    "hidden_size": "hidden_size",
    "num_heads": "num_heads",
    "intermediate_size": "intermediate_size",
    "out_hidden_size": "out_hidden_size",
    "patch_size": "patch_size",
    "temporal_patch_size": "temporal_patch_size",
    "merge_size": "spatial_merge_size",
    "num_positions": "num_position_embeddings",
    "in_channels": "in_channels",
    "deepstack_layers": "deepstack_visual_indexes",
}


def _text_from_hf(text: dict[str, Any]) -> TextConfig:
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    _expect(rope.get("rope_type", "default"), "default", "rope_type")
    _expect(rope.get("mrope_interleaved", True), True, "mrope_interleaved")
    _expect(text.get("hidden_act", "silu"), "silu", "text hidden_act")
    _expect(text.get("attention_bias", False), False, "attention_bias")
    theta = rope.get("rope_theta", text.get("rope_theta"))
    if theta is None:
        raise ValueError("rope_theta: expected a number in text_config, got none")
    fields = _fields_from_hf(text, TEXT_FIELDS, where="text_config")
    section = tuple(rope.get("mrope_section", (24, 20, 20)))
    return TextConfig(rope_theta=float(theta), mrope_section=section, **fields)


def _vision_from_hf(vision: dict[str, Any]) -> VisionConfig:
    _expect(vision.get("hidden_act", "gelu_pytorch_tanh"), "gelu_pytorch_tanh", "vision hidden_act")
    theta = (vision.get("rope_parameters") or {}).get("rope_theta", 10000.0)
    fields = _fields_from_hf(vision, VISION_FIELDS, where="vision_config")
    fields["deepstack_layers"] = tuple(fields["deepstack_layers"])
    return VisionConfig(rope_theta=float(theta), **fields)


def _text_to_hf(text: TextConfig, *, tied: bool) -> dict[str, Any]:
    rope = {
        "rope_type": "default",
        "rope_theta": text.rope_theta,
        "mrope_section": list(text.mrope_section),
        "mrope_interleaved": True,
    }
    fixed = {"model_type": "qwen3_vl_text", "hidden_act": "silu", "attention_bias": False}
    shapes = {theirs: getattr(text, ours) for ours, theirs in TEXT_FIELDS.items()}
    return fixed | shapes | {"rope_parameters": rope, "tie_word_embeddings": tied}


def _vision_to_hf(vision: VisionConfig) -> dict[str, Any]:
    fixed = {
        "model_type": "qwen3_vl_vision",
        "hidden_act": "gelu_pytorch_tanh",
        "rope_parameters": {"rope_type": "axial", "rope_theta": vision.rope_theta},
    }
    shapes = {theirs: getattr(vision, ours) for ours, theirs in VISION_FIELDS.items()}
    return fixed | shapes | {"deepstack_visual_indexes": list(vision.deepstack_layers)}


def _fields_from_hf(source: dict[str, Any], names: dict[str, str], *, where: str) -> dict[str, Any]:
    missing = sorted(set(names.values()) - source.keys())
    if missing:
        raise ValueError(f"{where}: expected the keys {missing}, got only {sorted(source)}")
    return {ours: source[theirs] for ours, theirs in names.items()}


def _expect(got: Any, wanted: Any, name: str) -> None:
    if got != wanted:
        raise ValueError(f"{name}: expected {wanted!r}, got {got!r}")


SMALL_TOWER = VisionConfig(
    depth=24,
    hidden_size=1024,
    intermediate_size=4096,
    out_hidden_size=2048,
    deepstack_layers=(5, 11, 17),
)

QWEN3_VL_2B = PolicyConfig(
    text=TextConfig(
        hidden_size=2048, num_layers=28, num_heads=16, num_kv_heads=8, intermediate_size=6144
    ),
    vision=SMALL_TOWER,
    tied=True,
)
QWEN3_VL_4B = PolicyConfig(
    text=TextConfig(hidden_size=2560, intermediate_size=9728),
    vision=replace(SMALL_TOWER, out_hidden_size=2560),
    tied=True,
)
QWEN3_VL_8B = PolicyConfig()
QWEN3_VL_32B = PolicyConfig(
    text=TextConfig(hidden_size=5120, num_layers=64, num_heads=64, intermediate_size=25600),
    vision=VisionConfig(out_hidden_size=5120),
)
BENCH_36M = PolicyConfig(
    text=TextConfig(
        vocab_size=8192,
        hidden_size=512,
        num_layers=8,
        num_heads=8,
        num_kv_heads=2,
        head_dim=64,
        intermediate_size=1536,
        mrope_section=(12, 10, 10),
        max_positions=32768,
    ),
    vision=VisionConfig(
        depth=4,
        hidden_size=128,
        num_heads=4,
        intermediate_size=512,
        out_hidden_size=512,
        deepstack_layers=(1, 2, 3),
        num_positions=1024,
    ),
    image_pad=8000,
    video_pad=8001,
    vision_start=8002,
    vision_end=8003,
)
UNIT = PolicyConfig(
    text=TextConfig(
        vocab_size=3072,
        hidden_size=64,
        num_layers=4,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        intermediate_size=128,
        mrope_section=(4, 2, 2),
        max_positions=32768,
    ),
    vision=VisionConfig(
        depth=4,
        hidden_size=48,
        num_heads=4,
        intermediate_size=96,
        out_hidden_size=64,
        deepstack_layers=(0, 1, 3),
        num_positions=64,
    ),
    image_pad=2048,
    video_pad=2049,
    vision_start=2050,
    vision_end=2051,
)

PIXELWORLD_5M = PolicyConfig(
    text=TextConfig(
        vocab_size=2048,
        hidden_size=192,
        num_layers=5,
        num_heads=4,
        num_kv_heads=2,
        head_dim=48,
        intermediate_size=512,
        mrope_section=(8, 8, 8),
        max_positions=8192,
    ),
    vision=VisionConfig(
        depth=4,
        hidden_size=128,
        num_heads=4,
        intermediate_size=384,
        out_hidden_size=192,
        deepstack_layers=(0, 1, 2),
        num_positions=256,
    ),
    tied=True,
    image_pad=2000,
    video_pad=2001,
    vision_start=2002,
    vision_end=2003,
)

PRESETS: dict[str, PolicyConfig] = {
    "unit": UNIT,
    "pixelworld-5m": PIXELWORLD_5M,
    "bench-36m": BENCH_36M,
    "qwen3-vl-2b": QWEN3_VL_2B,
    "qwen3-vl-4b": QWEN3_VL_4B,
    "qwen3-vl-8b": QWEN3_VL_8B,
    "qwen3-vl-32b": QWEN3_VL_32B,
}
"""32B: 64 heads of 128 on a hidden size of 5120, as its config.json has it."""
