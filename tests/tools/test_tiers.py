"""Tiers: budgets, least recently used first, spilling to the host and back."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pixelis_fast.tools_trt.pixels.tiers import TensorMover, TierStore, size_of, with_tensors


@dataclass(frozen=True)
class Block:
    """A value that says where it lies."""

    name: str
    nbytes: int = 100
    on_device: bool = True


class BlockMover:
    def is_on_device(self, value):
        return value.on_device

    def to_host(self, value):
        return Block(value.name, value.nbytes, on_device=False)

    def to_device(self, value):
        return Block(value.name, value.nbytes, on_device=True)


def tiers(*, host=0, device=0):
    return TierStore(host_bytes=host, device_bytes=device, mover=BlockMover())


def test_the_least_recently_used_is_dropped():
    store = TierStore(host_bytes=250)
    for name in "ab":
        store.put(name, np.zeros(100, np.uint8))
    store.get("a")
    store.put("c", np.zeros(100, np.uint8))
    assert [store.get(name) is not None for name in "abc"] == [True, False, True]
    stats = store.stats()
    assert (stats.host_bytes, stats.entries, stats.dropped) == (200, 2, 1)
    assert (stats.hits, stats.misses) == (3, 1)


def test_the_first_value_of_a_key_stays():
    store = TierStore(host_bytes=1000)
    first, second = np.zeros(4), np.zeros(4)
    assert store.put("a", first) is first
    assert store.put("a", second) is first
    assert store.num_bytes == first.nbytes


def test_no_key_keeps_nothing_and_no_budget_neither():
    store = TierStore(host_bytes=1000)
    assert store.put(None, "value") == "value"
    assert store.get(None) is None
    nothing = TierStore(host_bytes=0)
    assert nothing.put("a", np.zeros(4)).sum() == 0
    assert nothing.get("a") is None
    assert nothing.stats().dropped == 1


def test_what_leaves_the_device_waits_on_the_host():
    store = tiers(host=200, device=200)
    for name in "abcd":
        store.put(name, Block(name))
    stats = store.stats()
    assert (stats.device_bytes, stats.host_bytes, stats.spilled, stats.dropped) == (200, 200, 2, 0)
    assert store.get("a") == Block("a", on_device=True)
    stats = store.stats()
    # The way back pushed the oldest of the device to the host.
    assert (stats.device_bytes, stats.host_bytes, stats.fetched, stats.spilled) == (200, 200, 1, 3)
    store.put("e", Block("e"))
    assert store.stats().dropped == 1
    assert [store.get(name) is not None for name in "bace"] == [False, True, True, True]


def test_values_of_the_host_stay_there():
    store = tiers(host=200, device=200)
    store.put("a", Block("a", on_device=False))
    assert store.get("a") == Block("a", on_device=False)
    assert (store.stats().device_bytes, store.stats().fetched) == (0, 0)


def test_what_the_device_cannot_hold_is_lent():
    store = tiers(host=1000, device=50)
    store.put("a", Block("a"))
    for _ in range(2):
        assert store.get("a") == Block("a", on_device=True)
    stats = store.stats()
    assert (stats.device_bytes, stats.host_bytes, stats.fetched) == (0, 100, 2)


def test_what_the_host_cannot_hold_is_not_copied():
    store = tiers(host=50, device=100)
    for name in "ab":
        store.put(name, Block(name))
    assert (store.stats().spilled, store.stats().dropped) == (0, 1)


@given(
    order=st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=60),
    host=st.integers(0, 500),
    device=st.integers(0, 500),
)
def test_budgets_hold_and_values_are_right(order, host, device):
    store = tiers(host=host, device=device)
    for number, on_device in order:
        size = 40 * (number + 1)
        found = store.get_or_make(number, lambda n=number, d=on_device, s=size: Block(str(n), s, d))
        assert (found.name, found.nbytes) == (str(number), size)
        stats = store.stats()
        assert stats.host_bytes <= host
        assert stats.device_bytes <= device
        assert store.num_bytes == stats.host_bytes + stats.device_bytes


def test_threads_never_see_a_wrong_value():
    store, wrong = TierStore(host_bytes=300), []

    def work(seed):
        for n in np.random.default_rng(seed).integers(0, 6, 200):
            made = store.get_or_make(int(n), lambda n=n: np.full(100, n, np.uint8))
            if (made != n).any() or store.num_bytes > 300:
                wrong.append(n)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert not wrong


@dataclass(frozen=True)
class Features:
    maps: tuple
    note: str = "x"


def test_bytes_of_nested_values():
    value = Features((torch.zeros(2, 3), {"a": np.zeros(5, np.uint8)}), note="")
    assert size_of(value) == 24 + 5 + size_of("")


def test_tensors_in_a_nest_are_changed():
    value = Features((torch.zeros(2), [torch.ones(1), 7]))
    changed = with_tensors(value, lambda tensor: tensor + 1)
    assert changed.maps[0].tolist() == [1, 1]
    assert changed.maps[1][0].tolist() == [2]
    assert (changed.maps[1][1], changed.note) == (7, "x")
    assert not TensorMover(torch.device("cpu")).is_on_device(value)


def test_a_budget_below_nothing_is_refused():
    with pytest.raises(ValueError, match="byte_budget: expected"):
        TierStore(host_bytes=-1)


@pytest.mark.gpu
def test_features_spill_to_pinned_memory_and_return():
    mover = TensorMover(torch.device("cuda"))
    store = TierStore(host_bytes=1 << 20, device_bytes=5000, mover=mover)
    made = {n: Features((torch.randn(1000, device="cuda"),)) for n in range(3)}
    for n, value in made.items():
        store.put(n, value)
    assert (store.stats().spilled, store.stats().device_bytes) == (2, 4000)
    for n, value in made.items():
        found = store.get(n).maps[0]
        assert found.is_cuda
        assert torch.equal(found, value.maps[0])
    assert mover.to_host(made[0]).maps[0].is_pinned()
