"""A camera that moves over a photograph, and prompts on its first frame."""

import numpy as np

from tests.scenes import photograph

NUM_FRAMES = 12
SIZE = (96, 144)
BOX = (10, 20, 70, 80)


def panned(count=NUM_FRAMES):
    """A camera that moves over a photograph."""
    picture = photograph("astronaut.png")
    height, width = SIZE
    crops = [picture[n : n + height, 12 * n : 12 * n + width] for n in range(count)]
    return [np.ascontiguousarray(crop) for crop in crops]


def drawn():
    mask = np.zeros(SIZE, dtype=bool)
    mask[20:60, 30:90] = True
    return mask
