"""SAM 2's graphs as engine specifications: shapes, buckets, probes and gates.

Gates on trained weights compare masks; random weights have none worth comparing, there it is
embeddings. `probes.py` says what is compared on.

Shapes: B = pictures, prompts or objects; P = point slots; M = rows of a memory bank.
"""

from __future__ import annotations

from functools import cached_property
from itertools import product

import torch
from torch import nn

from pixelis_fast.tools_trt.graphs.gates import (
    Check,
    Gate,
    embedding_checks,
    mask_checks,
    score_checks,
)
from pixelis_fast.tools_trt.graphs.spec import EngineSpec, TensorSpec
from pixelis_fast.tools_trt.models.sam2_model import Sam2Graphs
from pixelis_fast.tools_trt.models.sam2_prompts import EMPTY, HIDDEN
from pixelis_fast.tools_trt.models.sam2_weights import weights_id
from pixelis_fast.tools_trt.sam2.bank_size import BankSize, compiled_banks, full_bank
from pixelis_fast.tools_trt.sam2.probes import Sam2Probes

Sizes = tuple[int, ...]
DECODE_BATCH = 16
"""Prompts on a picture that are decoded together at most."""


class Sam2Specs:
    """One specification per graph, each under the name of the session it is for.

    Example:
        specs = sam2.specs()
        sam2.use({"encoder": open_engine(specs.encoder(), …)})
    """

    def __init__(self, graphs: Sam2Graphs, *, trained: bool) -> None:
        self.graphs, self.config, self.trained = graphs, graphs.config, trained
        # Weights are a part of a plan's key by themselves: who built it finds it by any path.
        self.name = f"sam{graphs.config.version}-{graphs.config.size}@{graphs.config.side}"
        self.probes = Sam2Probes(graphs)
        side, channels = self.config.coarse_side, self.config.channels
        self.maps = {
            "fine": (channels // 8, 4 * side, 4 * side),
            "middle": (channels // 4, 2 * side, 2 * side),
            "coarse": (channels, side, side),
        }

    @cached_property
    def weights_id(self) -> str:
        return weights_id(self.graphs)

    def served(self) -> dict[str, EngineSpec]:
        """By session name, those that tools run: a picture, and one tracked object at a time."""
        found = {"encoder": self.encoder(), "decoder": self.decoder()}
        if self.graphs.memory is not None:
            found["memory_encoder"] = self.memory_encoder(batches=(1,))
            found["memory_attention"] = self.memory_attention(batches=(1,))
        return found

    def encoder(self, *, batches: Sizes = (1,)) -> EngineSpec:
        side = self.config.side
        return EngineSpec(
            f"{self.name}/encoder",
            inputs=(_spec("pixels_B3SS", "B", 3, side, side),),
            outputs=tuple(_spec(name, "B", *shape) for name, shape in self.maps.items()),
            buckets=tuple({"B": batch} for batch in batches),
            weights_id=self.weights_id,
            probes=lambda bucket: [self.probes.pictures(bucket["B"])],
            gate=Gate(embedding_checks(*self.maps)),
            build=lambda _: self.graphs.encoder,
        )

    def decoder(
        self, *, batches: Sizes = (1, 4, DECODE_BATCH), slots: Sizes = (4, 16, 64)
    ) -> EngineSpec:
        """Prompts on one picture."""
        return self._decoder("decoder", 1, batches=batches, slots=slots)

    def object_decoder(self, *, batches: Sizes = (1, 4), slots: Sizes = (4,)) -> EngineSpec:
        """Objects of one frame, each with the frame as its memory sees it."""
        return self._decoder("object_decoder", "B", batches=batches, slots=slots)

    def memory_encoder(self, *, batches: Sizes = (1, 4)) -> EngineSpec:
        memory, side, coarse = self.probes.memory, self.config.side, self.config.coarse_side
        return EngineSpec(
            f"{self.name}/memory_encoder",
            inputs=(
                _spec("coarse_BCgg", 1, *self.maps["coarse"]),
                _spec("mask_logits_B1SS", "B", 1, side, side),
                _spec("is_clicked_B1", "B", 1),
                _spec("object_score_B1", "B", 1),
            ),
            outputs=(_spec("memory", "B", self.config.memory_channels, coarse, coarse),),
            buckets=tuple({"B": batch} for batch in batches),
            weights_id=self.weights_id,
            probes=lambda bucket: [self.probes.masks(bucket["B"])],
            gate=Gate(embedding_checks("memory")),
            build=lambda _: memory.encoder,
        )

    def full_bank(self) -> dict[str, int]:
        """Memory attention's bucket from the eighth frame of a track with one prompt on."""
        return {"B": 1, "M": full_bank(self.config).rows(self.config)}

    def memory_attention(self, *, batches: Sizes = (1, 4)) -> EngineSpec:
        """Banks of each number of frames up to the model's, and wide ones for more prompts.

        A bank needs exactly a bucket's rows: frames cannot be added behind the pointers.
        """
        memory, row = self.probes.memory, self.config.memory_channels
        tokens, channels = self.config.coarse_side**2, self.config.channels
        sizes = {size.rows(self.config): size for size in compiled_banks(self.config)}

        def attention(size: BankSize) -> nn.Module:
            pointers = size.pointer_tokens(self.config)
            return memory.attention.for_bank(size.frames, pointer_tokens=pointers)

        return EngineSpec(
            f"{self.name}/memory_attention",
            inputs=(
                _spec("current_1LC", 1, tokens, channels),
                _spec("current_position_1LC", 1, tokens, channels),
                _spec("memory_BMK", "B", "M", row),
                _spec("memory_position_BMK", "B", "M", row),
                TensorSpec("key_bias_B11M", torch.float32, ("B", 1, 1, "M"), pad=HIDDEN),
            ),
            outputs=(_spec("seen", "B", tokens, channels),),
            buckets=tuple({"B": b, "M": m} for b, m in product(batches, sizes)),
            exact_axes=frozenset({"M"}),
            weights_id=self.weights_id,
            probes=lambda bucket: [self.probes.bank(bucket["B"], size=sizes[bucket["M"]])],
            gate=Gate(embedding_checks("seen")),
            build=lambda bucket: attention(sizes[bucket["M"]]),
        )

    def _decoder(
        self, name: str, pictures: int | str, *, batches: Sizes, slots: Sizes
    ) -> EngineSpec:
        small, channels = self.config.mask_side, self.config.channels
        scale = self.config.side // small
        masks = mask_checks("masks", scale=scale) if self.trained else embedding_checks("masks")
        checks: tuple[Check, ...] = (*masks, *score_checks("ious"), *embedding_checks("pointers"))
        return EngineSpec(
            f"{self.name}/{name}",
            inputs=(
                _spec("coarse_BCgg", pictures, *self.maps["coarse"]),
                _spec("fine_BChw", 1, *self.maps["fine"]),
                _spec("middle_BChw", 1, *self.maps["middle"]),
                _spec("points_BP2", "B", "P", 2),
                TensorSpec("labels_BP", torch.float32, ("B", "P"), pad=EMPTY),
                _spec("mask_B1hw", "B", 1, small, small),
                _spec("has_mask_B1", "B", 1),
            ),
            outputs=(
                _spec("masks", "B", 4, small, small),
                _spec("ious", "B", 4),
                _spec("pointers", "B", 4, channels),
                _spec("score", "B", 1),
            ),
            buckets=tuple({"B": b, "P": p} for b, p in product(batches, slots)),
            weights_id=self.weights_id,
            probes=lambda bucket: [
                self.probes.prompts(
                    bucket["B"],
                    slots=bucket["P"],
                    pictures=1 if pictures == 1 else bucket["B"],
                )
            ],
            gate=Gate(checks),
            build=lambda _: self.graphs.decoder,
        )


def _spec(name: str, *shape: int | str) -> TensorSpec:
    return TensorSpec(name, torch.float32, shape)
