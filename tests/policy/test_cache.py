"""The session cache: growth, truncation, forks, and what the forward refuses."""

import pytest
import torch

from pixelis_fast.policy.batch import PackedBatch, VisionFeatures, pack
from pixelis_fast.policy.cache import ROOM, KVCache
from pixelis_fast.policy.config import PRESETS
from pixelis_fast.policy.positions import mrope_positions
from tests.tiny_policy import make_sample, our_batch
from tests.tiny_policy import tiny_policy as make_policy

TEXT = PRESETS["unit"].text


@pytest.fixture(scope="module")
def policy():
    return make_policy(seed=41)


def text_batch(ids, start=0):
    return PackedBatch(torch.tensor(ids), mrope_positions([len(ids)], start)[0], [len(ids)])


@torch.inference_mode()
def run(policy, batch, cache):
    return policy.hidden(batch, [cache])


def test_a_full_tail_moves_and_keeps_the_tokens(policy):
    cache = policy.new_cache(capacity=3)
    assert cache.nbytes == 3 * cache.bytes_per_token
    run(policy, text_batch([1, 2, 3]), cache)
    assert (cache.length, cache.capacity) == (3, 3)
    assert cache.growth(1) == (1 + ROOM) * cache.bytes_per_token
    hidden = run(policy, text_batch([4], start=3), cache)
    assert (cache.length, cache.capacity) == (4, 4 + ROOM)
    assert cache.nbytes == (4 + ROOM) * cache.bytes_per_token
    assert cache.growth(ROOM) == 0
    roomy = policy.new_cache(capacity=64)
    expected = run(policy, text_batch([1, 2, 3, 4]), roomy)[-1:]
    torch.testing.assert_close(hidden, expected, atol=1e-5, rtol=1e-4)


def test_truncate_forgets(policy):
    cache = policy.new_cache()
    run(policy, text_batch([1, 2, 3]), cache)
    expected = run(policy, text_batch([5, 6], start=3), cache)
    cache.truncate(3)
    run(policy, text_batch([7, 8, 9], start=3), cache)
    cache.truncate(3)
    assert torch.equal(run(policy, text_batch([5, 6], start=3), cache), expected)
    with pytest.raises(ValueError, match=r"expected 0\.\.5, got 6"):
        cache.truncate(6)


def test_forks_go_their_own_way(policy):
    cache = policy.new_cache()
    run(policy, text_batch([1, 2, 3]), cache)
    twin = cache.fork()
    expected = run(policy, text_batch([4], start=3), cache)
    run(policy, text_batch([9], start=3), twin)
    assert (cache.length, twin.length) == (4, 4)
    twin.truncate(3)
    assert torch.equal(run(policy, text_batch([4], start=3), twin), expected)
    assert (cache.prefix_length, twin.prefix_length) == (3, 3)
    assert cache.prefix[0] is twin.prefix[0]
    empty = policy.new_cache().fork()
    assert (empty.length, empty.prefix) == (0, ())


def test_a_token_from_elsewhere_goes_behind_a_shared_beginning(policy):
    cache = policy.new_cache(capacity=64)
    run(policy, text_batch([1, 2, 3]), cache)
    twin = cache.fork()
    before = cache.prefix[0].tensor.clone()
    token_2LKF = torch.randn_like(before[:, :, :, 0])
    cache.append(token_2LKF)
    assert torch.equal(twin.prefix[0].tensor, before)
    assert torch.equal(cache.parts()[-1][:, :, :, 0], token_2LKF)
    assert (cache.length, twin.length) == (4, 3)


def test_failed_forward_leaves_the_cache(policy):
    cache = policy.new_cache()
    run(policy, text_batch([1, 2, 3]), cache)
    expected = run(policy, text_batch([4], start=3), cache.fork())
    broken = PackedBatch(
        torch.tensor([5, 6]),
        mrope_positions([2], 3)[0],
        [2],
        torch.tensor([0]),
        VisionFeatures(torch.zeros(1, 64), (torch.zeros(1, 63),)),
    )
    with pytest.raises(RuntimeError):
        run(policy, broken, cache)
    assert cache.length == 3
    assert torch.equal(run(policy, text_batch([4], start=3), cache), expected)


def test_cache_written_under_inference_mode_goes_on_under_no_grad(policy):
    cache = policy.new_cache(capacity=1)
    run(policy, text_batch([1, 2]), cache)
    with torch.no_grad():
        policy.hidden(text_batch([3], start=2), [cache])
    assert cache.length == 3


def test_forward_refuses_wrong_caches(policy):
    batch = pack([text_batch([1]), text_batch([2])])
    cache = policy.new_cache()
    with pytest.raises(ValueError, match="got gradients enabled"):
        policy.hidden(batch, [cache, policy.new_cache()])
    with torch.no_grad(), pytest.raises(ValueError, match=r"one per sequence \(2\), got 1"):
        policy.hidden(batch, [cache])
    with torch.no_grad(), pytest.raises(ValueError, match="got one twice"):
        policy.hidden(batch, [cache, cache])
    with pytest.raises(ValueError, match="capacity: expected at least 0"):
        KVCache(TEXT, capacity=-1, device="cpu", dtype=torch.float32)


def test_batch_refuses_what_does_not_fit(policy):
    ids, positions = torch.tensor([1, 2]), mrope_positions([2], 0)[0]
    with pytest.raises(ValueError, match="lengths: expected positive"):
        PackedBatch(ids, positions, [1])
    with pytest.raises(ValueError, match="lengths: expected positive"):
        PackedBatch(ids, positions, [2, 0])
    with pytest.raises(ValueError, match="positions_3N: expected"):
        PackedBatch(ids, positions[:, :1], [2])
    features = our_batch(policy, make_sample(policy.config, [("image", 4, 4)])).visual
    with pytest.raises(ValueError, match="expected both visual and visual_index_M"):
        PackedBatch(ids, positions, [2], visual=features)
    with pytest.raises(ValueError, match="expected 4 places, got 2"):
        PackedBatch(ids, positions, [2], torch.tensor([0, 1]), features)
    with pytest.raises(ValueError, match="sizes: expected a sum of 4"):
        features.split([1, 2])


def test_tower_refuses_wrong_grids(policy):
    patches = torch.zeros(16, policy.config.vision.patch_values)
    with pytest.raises(ValueError, match="in steps of 2"):
        policy.encode_vision(patches, [(1, 3, 4)])
    with pytest.raises(ValueError, match=r"patches_PK: expected \(24, 1536\)"):
        policy.encode_vision(patches, [(1, 6, 4)])


def test_positions_of_pieces():
    positions, following = mrope_positions([2, (1, 2, 3), 1, (2, 1, 1)], 5)
    assert following == 5 + 2 + 3 + 1 + 1
    assert positions[:, :2].tolist() == [[5, 6]] * 3
    assert positions[:, 2:8].tolist() == [[7] * 6, [7, 7, 7, 8, 8, 8], [7, 8, 9, 7, 8, 9]]
    assert positions[:, 8:].tolist() == [[10, 11, 12], [10, 11, 11], [10, 11, 11]]
    assert mrope_positions([], 4)[0].shape == (3, 0)
    with pytest.raises(ValueError, match="expected positive"):
        mrope_positions([(1, 0, 2)], 0)
