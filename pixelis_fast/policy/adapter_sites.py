"""Which linear layers of a decoder an adapter sits on, and what Hugging Face calls their parts.

One fused linear here (qkv, gate_up) is several modules there; each of them has a pair of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from pixelis_fast.policy.config import PolicyConfig, TextConfig
from pixelis_fast.policy.decoder import Site

TARGET_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class SiteShape:
    """One fused linear: its inputs, and name and outputs of each module in it."""

    site: Site
    inputs: int
    modules: tuple[tuple[str, int], ...]
    """Hugging Face's path below the layer, and the rows that it has of the fused matrix."""

    @property
    def outputs(self) -> int:
        return sum(rows for _, rows in self.modules)

    def module_names(self) -> list[str]:
        """Full Hugging Face paths, in the order of the fused rows."""
        prefix = f"model.language_model.layers.{self.site.layer}"
        return [f"{prefix}.{name}" for name, _ in self.modules]


def site_shapes(config: PolicyConfig) -> list[SiteShape]:
    """Every linear of every layer, in order."""
    return [shape for layer in range(config.text.num_layers) for shape in _of(config.text, layer)]


def _of(text: TextConfig, layer: int) -> list[SiteShape]:
    hidden, inner = text.hidden_size, text.intermediate_size
    queries, keys = text.num_heads * text.head_dim, text.num_kv_heads * text.head_dim
    fused = {
        "qkv": (
            hidden,
            (
                ("self_attn.q_proj", queries),
                ("self_attn.k_proj", keys),
                ("self_attn.v_proj", keys),
            ),
        ),
        "out": (queries, (("self_attn.o_proj", hidden),)),
        "gate_up": (hidden, (("mlp.gate_proj", inner), ("mlp.up_proj", inner))),
        "down": (inner, (("mlp.down_proj", hidden),)),
    }
    return [
        SiteShape(Site(layer, name), *inputs_and_modules)
        for name, inputs_and_modules in fused.items()
    ]
