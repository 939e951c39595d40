"""Kept values under byte budgets, least recently used first out: device, then host, then gone.

Decoded pixels, image features, detections and whole results are kept here. What no longer fits the
device's budget moves to host memory, pinned so that the way back is one fast copy; what no longer
fits the host's is dropped. A value that was moved returns to its device when it is asked for.
Equal keys promise equal values: the first one put stays. Safe to share between threads. Knows no
media and no model.
"""

from __future__ import annotations

import dataclasses
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


class Mover(Protocol):
    """Takes values to host memory and back."""

    def is_on_device(self, value: Any) -> bool: ...

    def to_host(self, value: Any) -> Any: ...

    def to_device(self, value: Any) -> Any: ...


@dataclass(frozen=True)
class TensorMover:
    """Moves tensors, alone or inside tuples, lists, dictionaries and dataclasses.

    Example:
        TensorMover(torch.device("cuda:0"))
    """

    device: torch.device

    def is_on_device(self, value: Any) -> bool:
        return any(isinstance(leaf, Tensor) and leaf.device.type != "cpu" for leaf in leaves(value))

    def to_host(self, value: Any) -> Any:
        return with_tensors(value, _pinned)

    def to_device(self, value: Any) -> Any:
        return with_tensors(value, lambda tensor: tensor.to(self.device, non_blocking=True))


@dataclass(frozen=True)
class TierStats:
    """Bytes held now, and what happened so far."""

    device_bytes: int
    host_bytes: int
    entries: int
    hits: int
    misses: int
    spilled: int
    """Values moved from the device to the host."""
    fetched: int
    """Values moved back."""
    dropped: int
    """Values let go, or never kept, for want of room."""


@dataclass(frozen=True)
class Entry:
    value: Any
    num_bytes: int
    is_spilled: bool = False
    """On the host, and at home on the device."""


class Tier:
    """One memory: entries in the order of their last use, and their bytes. Not locked."""

    def __init__(self, byte_budget: int) -> None:
        if byte_budget < 0:
            raise ValueError(f"byte_budget: expected at least 0, got {byte_budget}")
        self.byte_budget = byte_budget
        self.num_bytes = 0
        self.entries: OrderedDict[Hashable, Entry] = OrderedDict()

    def touch(self, key: Hashable) -> Entry | None:
        if key in self.entries:
            self.entries.move_to_end(key)
        return self.entries.get(key)

    def add(self, key: Hashable, entry: Entry) -> list[tuple[Hashable, Entry]]:
        """Keeps the entry; hands back what had to leave, perhaps the entry itself."""
        if entry.num_bytes > self.byte_budget:
            return [(key, entry)]
        self.entries[key] = entry
        self.num_bytes += entry.num_bytes
        left = []
        while self.num_bytes > self.byte_budget:
            oldest = next(iter(self.entries))
            left.append((oldest, self.remove(oldest)))
        return left

    def remove(self, key: Hashable) -> Entry:
        entry = self.entries.pop(key)
        self.num_bytes -= entry.num_bytes
        return entry


class TierStore:
    """Values by key, never more than the budgets; a key of None keeps and finds nothing.

    Example:
        features = TierStore(host_bytes=1 << 30, device_bytes=4 << 30, mover=TensorMover(device))
        maps = features.get_or_make(key, lambda: encode(image))
    """

    def __init__(
        self, *, host_bytes: int, device_bytes: int = 0, mover: Mover | None = None
    ) -> None:
        self._host, self._device = Tier(host_bytes), Tier(device_bytes)
        self._mover = mover or TensorMover(torch.device("cpu"))
        self._lock = threading.Lock()
        self.hits = self.misses = 0
        self._spilled = self._fetched = self._dropped = 0

    @property
    def num_bytes(self) -> int:
        """Bytes held now in both tiers."""
        return self._host.num_bytes + self._device.num_bytes

    @property
    def byte_budget(self) -> int:
        return self._host.byte_budget + self._device.byte_budget

    def __contains__(self, key: Hashable) -> bool:
        """Whether it is kept now; counts as no use of it."""
        with self._lock:
            return key in self._device.entries or key in self._host.entries

    def get(self, key: Hashable | None) -> Any:
        """What was put under the key, on its own device, or None."""
        with self._lock:
            entry = self._device.touch(key) or self._host.touch(key)
            self.hits += entry is not None
            self.misses += entry is None
            if entry is None:
                return None
            return self._fetch(key, entry) if entry.is_spilled else entry.value

    def put(self, key: Hashable | None, value: Any) -> Any:
        """The value now kept under the key: this one, or an equal one that was there."""
        if key is None:
            return value
        with self._lock:
            found = self._device.touch(key) or self._host.touch(key)
            if found is not None and not found.is_spilled:
                return found.value
            if found is None:
                self._admit(key, value)
            return value

    def get_or_make(self, key: Hashable | None, make: Callable[[], Any]) -> Any:
        """Two threads that miss at once may both make the value, and get the same one."""
        found = self.get(key)
        return self.put(key, make()) if found is None else found

    def stats(self) -> TierStats:
        with self._lock:
            return TierStats(
                device_bytes=self._device.num_bytes,
                host_bytes=self._host.num_bytes,
                entries=len(self._host.entries) + len(self._device.entries),
                hits=self.hits,
                misses=self.misses,
                spilled=self._spilled,
                fetched=self._fetched,
                dropped=self._dropped,
            )

    def _admit(self, key: Hashable, value: Any) -> None:
        entry = Entry(value, size_of(value))
        if self._mover.is_on_device(value):
            self._admit_device(key, entry)
        else:
            self._admit_host(key, entry)

    def _admit_device(self, key: Hashable, entry: Entry) -> None:
        for left_key, left in self._device.add(key, entry):
            # What the host cannot hold either is not copied there first.
            if left.num_bytes > self._host.byte_budget:
                self._dropped += 1
                continue
            self._spilled += 1
            spilled = Entry(self._mover.to_host(left.value), left.num_bytes, is_spilled=True)
            self._admit_host(left_key, spilled)

    def _admit_host(self, key: Hashable, entry: Entry) -> None:
        self._dropped += len(self._host.add(key, entry))

    def _fetch(self, key: Hashable, entry: Entry) -> Any:
        value = self._mover.to_device(entry.value)
        self._fetched += 1
        # What is too large for the device's budget stays where it is and is only lent.
        if entry.num_bytes <= self._device.byte_budget:
            self._host.remove(key)
            self._admit_device(key, Entry(value, entry.num_bytes))
        return value


def size_of(value: Any) -> int:
    """Bytes of a value's arrays, tensors, texts and numbers; what holds them is not counted."""
    return sum(
        leaf.nbytes if hasattr(leaf, "nbytes") else sys.getsizeof(leaf) for leaf in leaves(value)
    )


def leaves(value: Any) -> list[Any]:
    """What lies inside nested tuples, lists, dictionaries and dataclasses without `nbytes`."""
    if hasattr(value, "nbytes"):
        return [value]
    if dataclasses.is_dataclass(value):
        return leaves([getattr(value, field.name) for field in dataclasses.fields(value)])
    if isinstance(value, dict):
        return leaves(list(value.values()))
    if isinstance(value, (tuple, list)):
        return [leaf for part in value for leaf in leaves(part)]
    return [value]


def with_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same nest with every tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return dataclasses.replace(value, **with_tensors(fields, change))
    if isinstance(value, dict):
        return {key: with_tensors(part, change) for key, part in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)([with_tensors(part, change) for part in value])
    return value


def _pinned(tensor: Tensor) -> Tensor:
    if tensor.device.type == "cpu":
        return tensor
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    # The copy waits: nobody reads the host's bytes before they are there.
    return host.copy_(tensor)
