"""The vision tower as an embedder: one unit vector per picture, the same alone and in a batch."""

import numpy as np
import pytest
import torch

from pixelis_fast.policy.config import PRESETS
from pixelis_fast.policy.embed import VisionEmbedder
from pixelis_fast.policy.engine import Engine
from pixelis_fast.policy.limits import PRESET_LIMITS
from pixelis_fast.policy.weights import random_policy


@pytest.fixture(scope="module")
def embed() -> VisionEmbedder:
    return VisionEmbedder(random_policy("unit", seed=0), PRESET_LIMITS["unit"].image)


def frames(seed: int, count: int = 3) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (count, 9, 12, 3), dtype=np.uint8)
    return noise.repeat(8, axis=1).repeat(8, axis=2)


def test_rows_are_unit_vectors_of_the_policys_size(embed):
    embeddings_TD = embed(frames(0))
    assert embeddings_TD.shape == (3, PRESETS["unit"].text.hidden_size)
    assert np.linalg.norm(embeddings_TD, axis=1) == pytest.approx(np.ones(3), abs=1e-5)


def test_a_batch_gives_what_each_gives_alone(embed):
    frames_THWC = frames(1)
    together = embed(frames_THWC)
    alone = np.concatenate([embed(frame[None]) for frame in frames_THWC])
    assert np.abs(together - alone).max() < 1e-5


def test_the_vector_depends_on_the_pixels(embed):
    first, second = embed(frames(2, 1))[0], embed(frames(3, 1))[0]
    again = embed(frames(2, 1))[0]
    assert first @ again == pytest.approx(1, abs=1e-6)
    assert first @ second < 1 - 1e-4


@pytest.mark.parametrize("how", ["no_grad", "data"])
def test_a_publish_of_another_tower_is_another_version(how):
    policy = random_policy("unit", seed=0)
    engine = Engine(policy, lambda _: pytest.fail("nothing is shown"))
    embed = VisionEmbedder(policy, PRESET_LIMITS["unit"].image)
    first = embed.version
    with torch.no_grad():
        policy.layers[0].gate_up.weight.mul_(1.5)
    engine.publish("the same tower")
    assert embed.version == first
    weight = policy.vision.blocks[0].qkv.weight
    with torch.no_grad():
        (weight if how == "no_grad" else weight.data).mul_(1.5)
    engine.publish("another")
    assert embed.version != first
