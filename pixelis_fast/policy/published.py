"""What an engine serves: the base with one bank or none, by version, and the versions before it.

A published bank never changes again, so going back to one is exact. Knows no engine and no thread.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from pixelis_fast.policy.adapters import AdapterBank

BASE_FINGERPRINT = "base"


@dataclass(frozen=True)
class Published:
    """One version.

    Example:
        version = Published.of(bank, "v7")  # copies; then the pause is a pointer's
        engine.publish_bank(version)
    """

    version: str
    bank: AdapterBank | None
    """Frozen; None is the base alone."""
    fingerprint: str

    @staticmethod
    def of(bank: AdapterBank, version: str) -> Published:
        """A frozen copy of the bank as it is now."""
        frozen = bank.copy().freeze()
        return Published(version, frozen, frozen.fingerprint())

    @staticmethod
    def base(version: str) -> Published:
        return Published(version, None, BASE_FINGERPRINT)


class Shelf:
    """Who is served what, and what can be gone back to.

    A tenant (salt) with a version of its own gets that one, everybody else the version of "".
    """

    def __init__(self, base: str, *, keep: int) -> None:
        if keep < 1:
            raise ValueError(f"keep_versions: expected >= 1, got {keep}")
        self._keep = keep
        self._kept: OrderedDict[str, Published] = OrderedDict()
        self._serving: dict[str, Published] = {}
        self.reset(base)

    def reset(self, base: str) -> None:
        """Only the base is left, under this version: banks belong to the weights beneath them."""
        self._kept.clear()
        self._serving.clear()
        self._base = self._serving[""] = Published.base(base)

    def serving(self, salt: str = "") -> Published:
        return self._serving.get(salt) or self._serving[""]

    def pin(self, salt: str) -> None:
        """From here on this tenant is served the base, or its own, and nothing of everybody's."""
        self._serving.setdefault(salt, self._base)

    def versions(self) -> list[str]:
        """That can be gone back to, the base first."""
        return [self._base.version, *self._kept]

    def publish(self, published: Published, *, salt: str = "") -> None:
        """Keeps and serves it; ValueError where its version was something else."""
        known = self._find(published.version)
        if known is not None and known.fingerprint != published.fingerprint:
            raise ValueError(f"version: expected a new name, got {published.version!r} again")
        self._serving[salt] = self._kept[published.version] = known or published
        self._drop_old()

    def rollback(self, version: str, *, salt: str = "") -> Published:
        """Serves a kept version again; ValueError where it is not kept."""
        found = self._find(version)
        if found is None:
            raise ValueError(f"version: expected one of {self.versions()}, got {version!r}")
        self._serving[salt] = found
        return found

    def _find(self, version: str) -> Published | None:
        return self._base if version == self._base.version else self._kept.get(version)

    def _drop_old(self) -> None:
        served = {published.version for published in self._serving.values()}
        idle = [version for version in self._kept if version not in served]
        for version in idle[: max(0, len(self._kept) - self._keep)]:
            del self._kept[version]
