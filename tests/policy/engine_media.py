"""Pictures and openings for tests of the engine."""

import torch

from pixelis_fast.policy.engine import Chunk, Engine, VisionSlot
from pixelis_fast.policy.image import Patches, image_patches
from pixelis_fast.policy.limits import PRESET_LIMITS
from pixelis_fast.policy.model import Policy
from pixelis_fast.spans import Spans

TEXT = list(range(10, 40))


def load_picture(media_id: str) -> Patches:
    """Noise, another one for each id."""
    generator = torch.Generator().manual_seed(int(media_id))
    pixels = torch.randint(0, 256, (64, 96, 3), generator=generator)
    return image_patches(pixels.to(torch.uint8).numpy(), limits=PRESET_LIMITS["unit"].image)


def opening(policy: Policy, media_id: str = "1", *, question: tuple[int, ...] = (50, 51)) -> Chunk:
    """Text, one picture, text."""
    patches = load_picture(media_id)
    num_tokens = patches.tokens_per_frame
    pads = [policy.config.image_pad] * num_tokens
    slot = VisionSlot(len(TEXT), num_tokens, media_id, 0, patches.grid_thw)
    return Chunk([*TEXT, *pads, *question], (slot,), opens_turn=True)


def extend(engine: Engine, session, *chunks: Chunk) -> torch.Tensor:
    """Logits behind the last chunk."""
    for chunk in chunks:
        logits_BV = engine.extend([session], [chunk], spans=Spans())
    return logits_BV[0]


def run(engine: Engine, *chunks: Chunk) -> torch.Tensor:
    return extend(engine, engine.open(), *chunks)
