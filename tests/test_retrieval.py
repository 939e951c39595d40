"""Keys: words hashed the same everywhere, pixels by the policy's tower, one inner product."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixelis_fast.memory import ExperienceMemory, MemoryConfig
from pixelis_fast.policy.limits import PRESET_LIMITS
from pixelis_fast.policy.weights import random_policy
from pixelis_fast.retrieval import (
    HybridWeights,
    KeyMaker,
    MemoryKey,
    hybrid_similarity,
    spread_frames,
    text_embedding,
)
from pixelis_fast.types import Media, MediaKind, Sample


class Frames:
    """Pixels by media id; a video's frames by number."""

    def __init__(self, **pixels):
        self.pixels = pixels

    def image(self, media_id):
        return self.pixels[media_id]

    def frames(self, media_id, numbers):
        return [self.pixels[media_id][number] for number in numbers]


def noise(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def blocks(seed):
    return noise(seed, 9, 12).repeat(8, axis=0).repeat(8, axis=1)


def image(name):
    return Media(name, MediaKind.IMAGE, 96, 72)


@pytest.fixture(scope="module")
def keys():
    policy = random_policy("unit", seed=0)
    video = np.stack([blocks(10 + i) for i in range(8)])
    pixels = Frames(a=blocks(0), b=blocks(1), v=video, w=video[[0, 1, 2, 3, 4, 5, 6, 6]])
    return KeyMaker(policy, PRESET_LIMITS["unit"].image, pixels)


def cosine(one, other):
    return float(text_embedding(one) @ text_embedding(other))


def test_words_decide_how_alike_questions_are():
    asked = "What does the sign beside the red disk say?"
    near = cosine(asked, "what does the sign beside the blue disk say")
    far = cosine(asked, "how many coins lie on the table?")
    assert cosine(asked, " WHAT does the sign beside the red disk say ") == pytest.approx(1)
    assert 0.5 < near < 0.95
    assert far < 0.3


def test_the_order_of_words_counts_a_little():
    assert 0.3 < cosine("red left of blue", "blue left of red") < 0.99


def test_an_embedding_is_the_same_on_every_machine():
    # Python's own hash would differ from run to run.
    found_T = text_embedding("how many coins?", dimension=8)
    expected_T = np.array(EXPECTED, np.float32) / np.linalg.norm(EXPECTED)
    assert found_T.tolist() == pytest.approx(expected_T.tolist())


EXPECTED = [0, 0, -1, 0, 0, -1, -1, 0]


@given(st.text(max_size=60))
def test_embeddings_are_unit_or_zero(text):
    length = float(np.linalg.norm(text_embedding(text)))
    assert length == pytest.approx(1, abs=1e-5) or length == 0


def test_a_key_is_of_the_question_and_the_pixels(keys):
    first, again = (keys(Sample("1", (image("a"),), "how many?")) for _ in range(2))
    assert np.array_equal(first.pixel_P, again.pixel_P)
    assert first.pixel_P.dtype == np.float32
    assert np.linalg.norm(first.pixel_P) == pytest.approx(1, abs=1e-5)
    other = keys(Sample("2", (image("b"),), "how many?"))
    assert np.array_equal(first.text_T, other.text_T)
    assert first.pixel_P @ other.pixel_P < 1 - 1e-4


def test_several_media_count_the_same_in_any_order(keys):
    one = keys(Sample("1", (image("a"), image("b")), "?")).pixel_P
    other = keys(Sample("1", (image("b"), image("a")), "?")).pixel_P
    assert one == pytest.approx(other, abs=1e-6)
    alone = [keys(Sample("1", (image(name),), "?")).pixel_P for name in "ab"]
    assert one == pytest.approx(sum(alone) / np.linalg.norm(sum(alone)), abs=1e-6)


def test_a_video_is_the_mean_of_spread_frames(keys):
    def video(name):
        return keys(Sample("1", (Media(name, MediaKind.VIDEO, 96, 72, 8, 2.0),), "?")).pixel_P

    # Frames 1, 3, 5 and 7 are looked at; the two differ in the last.
    assert spread_frames(8) == [1, 3, 5, 7]
    assert np.abs(video("v") - video("w")).max() > 1e-4


@pytest.mark.parametrize(
    ("count", "numbers"), [(1, [0]), (2, [0, 1]), (4, [0, 1, 2, 3]), (5, [0, 1, 3, 4])]
)
def test_short_videos_give_each_frame_once(count, numbers):
    assert spread_frames(count) == numbers


def test_a_sample_without_media_has_words_only(keys):
    key = keys(Sample("1", (), "how many?"))
    assert not key.pixel_P.any()
    assert hybrid_similarity(key, key, HybridWeights(0.3, 0.7)) == pytest.approx(0.3)


unit_vectors = st.integers(0, 10_000).map(
    lambda seed: np.random.default_rng(seed).standard_normal(6)
)


@given(unit_vectors, unit_vectors, unit_vectors, unit_vectors, st.floats(0, 1))
def test_hybrid_similarity_is_the_weighted_sum_of_cosines(a, b, c, d, text):
    a, b, c, d = ((v / np.linalg.norm(v)).astype(np.float32) for v in (a, b, c, d))
    found = hybrid_similarity(MemoryKey(a, b), MemoryKey(c, d), HybridWeights(text, 1 - text))
    assert found == pytest.approx(text * float(a @ c) + (1 - text) * float(b @ d), abs=1e-5)


@pytest.mark.parametrize("wrong", [(0.5, 0.6), (-0.5, 1.5), (float("nan"), 1.0)])
def test_weights_sum_to_one(wrong):
    with pytest.raises(ValueError, match="hybrid weights: expected"):
        HybridWeights(*wrong)


def test_the_memory_finds_what_a_key_is_like(keys, tmp_path):
    from bench.memory_experiences import experience

    config = MemoryConfig(pixel_dimension=keys.pixel_dimension)
    asked = [
        Sample(name, (image(name),), text) for name in "ab" for text in ("how many?", "where?")
    ]
    with ExperienceMemory(tmp_path, config) as memory:
        for number, sample in enumerate(asked):
            memory.add(experience(number, key=keys(sample)))
        for number, sample in enumerate(asked):
            best = memory.nearest(keys(sample), 4, "lab")
            assert best[0].experience.id == str(number)
            expected = [
                hybrid_similarity(keys(sample), n.experience.key, config.weights) for n in best
            ]
            assert [n.similarity for n in best] == pytest.approx(expected, abs=1e-6)
