"""Hyper-parameters of the SAM 2 and SAM 2.1 graphs: the released sizes, and `micro`.

Facts of the release's configuration files (facebookresearch/sam2, sam2/configs). A configuration
is complete: the modules beside this file read nothing else. Sides are square; no weight changes
its shape with the side.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

SIDE_MULTIPLE = 32
"""The last of four stages has stride 32; the first stage's windows need stride 4 x 8."""
VERSIONS = ("2", "2.1")
NUM_MASKS = 4
"""One mask for a clear prompt, three candidates for an ambiguous one."""


@dataclass(frozen=True)
class Sam2Config:
    """One model. The fields without a default differ between the released sizes.

    Example:
        config = replace(config_for("micro", side=256), channels=96)
        encoder = ImageEncoder(config)
    """

    size: str
    """Name for people; nothing depends on it."""
    width: int
    """Channels of the first stage; each later one has twice as many."""
    heads: int
    """Attention heads of the first stage; doubled like the width."""
    blocks: tuple[int, int, int, int]
    windows: tuple[int, int, int, int]
    """Sides of the attention windows, in tokens, by stage."""
    global_blocks: tuple[int, ...]
    """Blocks that attend over the whole picture."""
    position_side: int
    """Side of the learned background of position embeddings, before it is enlarged."""
    side: int = 1024
    version: str = "2.1"
    has_memory: bool = True
    """False for weights that know single pictures only."""
    mlp_ratio: int = 4
    channels: int = 256
    """Width of everything behind the backbone."""
    mask_prompt_width: int = 16
    decoder_layers: int = 2
    decoder_heads: int = 8
    decoder_mlp: int = 2048
    score_width: int = 256
    """Hidden width of the head that predicts each mask's IoU."""
    memory_channels: int = 64
    memory_frames: int = 7
    pointer_slots: int = 16
    memory_layers: int = 4
    memory_mlp: int = 2048
    mask_widths: tuple[int, int, int, int] = (4, 16, 64, 256)
    """Channels of the four steps that bring a mask from the side to the coarse grid."""
    fuser_layers: int = 2
    fuser_mlp: int = 1024

    def __post_init__(self) -> None:
        if self.side <= 0 or self.side % SIDE_MULTIPLE:
            raise ValueError(f"sam2 side: expected a multiple of {SIDE_MULTIPLE}, got {self.side}")
        if self.version not in VERSIONS:
            raise ValueError(f"sam2 version: expected one of {VERSIONS}, got {self.version!r}")
        self._check_widths()
        self._check_blocks()

    def _check_widths(self) -> None:
        shares = {
            "width by heads": (self.width, self.heads),
            "channels by 8": (self.channels, 8),
            "channels by memory_channels": (self.channels, self.memory_channels),
            "memory_channels by 4": (self.memory_channels, 4),
            "half the channels by decoder_heads": (self.channels // 2, self.decoder_heads),
        }
        for name, (number, divisor) in shares.items():
            if number % divisor:
                raise ValueError(f"sam2 config: expected {name}, got {number} and {divisor}")

    def _check_blocks(self) -> None:
        bad = sorted({*self.first_blocks[1:], 0} & set(self.global_blocks))
        if bad or max(self.global_blocks, default=0) >= sum(self.blocks):
            raise ValueError(
                "sam2 config: expected global_blocks inside stages and after a stage's first "
                f"block, got {self.global_blocks} for {self.blocks} blocks"
            )
        if any(window % 2 for window in self.windows[:-1]):
            raise ValueError(f"sam2 config: expected even windows, got {self.windows}")
        if (SIDE_MULTIPLE // 4) % self.windows[0]:
            raise ValueError(
                f"sam2 config: expected a first window of 8, 4 or 2, got {self.windows}"
            )

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels by stage."""
        return tuple(self.width * 2**stage for stage in range(4))

    @property
    def grids(self) -> tuple[int, ...]:
        """Side of the token grid by stage."""
        return tuple(self.side // (4 * 2**stage) for stage in range(4))

    @property
    def first_blocks(self) -> tuple[int, ...]:
        """Number of each stage's first block."""
        return tuple(sum(self.blocks[:stage]) for stage in range(4))

    @property
    def coarse_side(self) -> int:
        return self.side // 16

    @property
    def mask_side(self) -> int:
        """Side of the decoder's masks and of a mask prompt."""
        return self.side // 4

    @property
    def tokens_per_pointer(self) -> int:
        """An object pointer is as wide as several memory tokens."""
        return self.channels // self.memory_channels

    @property
    def pointer_tokens(self) -> int:
        return self.pointer_slots * self.tokens_per_pointer


SIZES = {
    "tiny": Sam2Config("tiny", 96, 1, (1, 2, 7, 2), (8, 4, 14, 7), (5, 7, 9), 7),
    "small": Sam2Config("small", 96, 1, (1, 2, 11, 2), (8, 4, 14, 7), (7, 10, 13), 7),
    "base_plus": Sam2Config("base_plus", 112, 2, (2, 3, 16, 3), (8, 4, 14, 7), (12, 16, 20), 14),
    "large": Sam2Config("large", 144, 2, (2, 6, 36, 4), (8, 4, 16, 8), (23, 33, 43), 7),
    "micro": Sam2Config(
        "micro",
        32,
        1,
        (1, 2, 4, 1),
        (8, 4, 8, 4),
        (4, 6),
        7,
        side=256,
        channels=128,
        decoder_heads=4,
        decoder_mlp=256,
        score_width=128,
        memory_channels=32,
        memory_layers=2,
        memory_mlp=256,
        mask_widths=(4, 16, 32, 64),
        fuser_mlp=256,
    ),
}


def config_for(size: str, *, side: int | None = None, version: str = "2.1") -> Sam2Config:
    """A size's configuration at a side (its own one by default)."""
    if size not in SIZES:
        raise ValueError(f"sam2 size: expected one of {sorted(SIZES)}, got {size!r}")
    config = SIZES[size]
    return replace(config, side=config.side if side is None else side, version=version)


def stage_of(config: Sam2Config, block: int) -> int:
    """The stage that a block's output belongs to."""
    return sum(block >= first for first in config.first_blocks) - 1


def window_of(config: Sam2Config, block: int) -> int:
    """Side of a block's attention window; 0 attends everywhere.

    A stage's first block still reads the previous grid, and so has the previous stage's window.
    """
    if block in config.global_blocks:
        return 0
    return config.windows[stage_of(config, max(block - 1, 0))]


def stage_ends(config: Sam2Config) -> tuple[int, ...]:
    """Number of each stage's last block."""
    bounds = (*config.first_blocks, sum(config.blocks))
    return tuple(after - 1 for _, after in pairwise(bounds))
