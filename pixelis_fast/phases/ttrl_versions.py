"""From an update that fits the corridor to a version that is served, and back again.

The canary is asked first, the log is told before anybody is served, the average follows last.
Every version is kept with its average for as long as the engine keeps it, and beyond that for as
long as its snapshot is on disk, so going back is exact, after a restart too.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from pixelis_fast.audit import AuditLog
from pixelis_fast.corridor import CanaryGate, CanaryScore
from pixelis_fast.phases.ttrl_canary import Canary
from pixelis_fast.phases.ttrl_serving import Publisher
from pixelis_fast.phases.ttrl_state import StateFiles
from pixelis_fast.phases.ttrl_types import TtrlStatus
from pixelis_fast.phases.ttrl_update import Updater, fill
from pixelis_fast.policy.adapters import AdapterBank
from pixelis_fast.policy.published import Published

Details = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What became of a query, and what the log is to know of its update."""

    status: TtrlStatus
    reason: str
    details: Details


class Versions:
    """Publishes an updater's bank.

    Example:
        outcome = versions.offer(17, details)
        versions.rollback("sft+ttrl-12")
    """

    def __init__(
        self,
        updater: Updater,
        publisher: Publisher,
        canary: Canary | None,
        gate: CanaryGate,
        files: StateFiles,
    ) -> None:
        """`files` has versions that the engine has let go of, or never had since its start."""
        if publisher.serves_bank:
            raise ValueError(
                "learner: expected the base served without a bank, got "
                f"{publisher.version!r}; engine.publish({publisher.versions()[0]!r}) begins anew"
            )
        self.base = publisher.version
        self._updater, self._publisher, self._files = updater, publisher, files
        self._canary, self._gate = canary, gate
        self._canary_before: CanaryScore | None = None
        self._kept: OrderedDict[str, tuple[AdapterBank, AdapterBank]] = OrderedDict()
        self._kept[self.base] = (updater.bank.copy().freeze(), updater.ema.copy())

    @property
    def serving(self) -> str:
        return self._publisher.version

    def names(self) -> list[str]:
        """That can be gone back to: the base, those on disk alone, those at hand."""
        base, *at_hand = self._at_hand()
        on_disk = [each for each in self._files.versions() if each not in (base, *at_hand)]
        return [base, *on_disk, *at_hand]

    def offer(self, number: int, reason: str, details: Details, audit: AuditLog) -> Outcome:
        """Publishes the updater's bank as update `number`, or undoes the update."""
        candidate = Published.of(self._updater.bank, self._publisher.name(self.base, number))
        self._publisher.prepare(candidate)
        refusal, canary = self._ask_canary(candidate)
        details = details | {"fingerprint": candidate.fingerprint, "canary": canary}
        if refusal is not None:
            self._updater.undo()
            return Outcome(TtrlStatus.REFUSED, refusal, details)
        self._announce(candidate, details, audit)
        pause_s = self._publisher.publish(candidate)
        self._updater.keep()
        self._keep(candidate)
        return Outcome(TtrlStatus.PUBLISHED, reason, details | {"pause_s": pause_s})

    def rollback(self, version: str) -> float:
        """Seconds for which no forward could run; ValueError for a version that is not kept."""
        if version in self._at_hand():
            pause_s = self._publisher.rollback(version)
            self._updater.go_back(*self._kept[version])
            return pause_s
        if version in self._files.versions():
            return self._fetch(version)
        raise ValueError(f"version: expected one of {self.names()}, got {version!r}")

    def _at_hand(self) -> list[str]:
        """Another tenant's learner publishes too, and the engine lets go of who came first."""
        known = self._publisher.versions()
        return [version for version in self._kept if version in known]

    def _fetch(self, version: str) -> float:
        """Serves what a snapshot has of it: the numbers that were published, bit for bit."""
        bank, ema = (self._bank_of(tensors) for tensors in self._files.banks(version))
        published = Published.of(bank, version)
        pause_s = self._publisher.publish(published)
        self._updater.go_back(bank, ema)
        self._keep(published)
        return pause_s

    def _bank_of(self, tensors: Sequence[Tensor]) -> AdapterBank:
        bank = self._updater.bank.copy().freeze()
        fill(bank, tensors)
        return bank

    def state(self) -> dict[str, Any]:
        before = self._canary_before
        return {
            "base": self.base,
            "serving": self.serving,
            "canary_before": None if before is None else asdict(before),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """After the updater: serves its bank again under the name it had."""
        self.check_base(state["base"])
        before = state["canary_before"]
        self._canary_before = None if before is None else CanaryScore(**before)
        if state["serving"] != self.base:
            published = Published.of(self._updater.bank, state["serving"])
            self._publisher.publish(published)
            self._keep(published)

    def check_base(self, base: str) -> None:
        """ValueError where an earlier run learned beside other weights."""
        if base != self.base:
            raise ValueError(
                f"resume: expected the policy {base!r} of the earlier run, got {self.base!r}"
            )

    def _ask_canary(self, candidate: Published) -> tuple[str | None, Details | None]:
        """Held against what learning began with, so that small losses do not add up."""
        if self._canary is None:
            return None, None
        before = self._canary_before or self._canary(Published.base(self.base))
        if not before.broken:
            self._canary_before = before
        found = self._canary(candidate)
        return self._gate.refusal(before, found), asdict(found)

    def _announce(self, candidate: Published, details: Details, audit: AuditLog) -> None:
        """What cannot be logged is not published."""
        facts = {"version": candidate.version, "fingerprint": candidate.fingerprint}
        audit.append("publish", **facts, number=details["number"], drift=details["drift"])

    def _keep(self, published: Published) -> None:
        assert published.bank is not None, "the base is kept from the start"
        self._kept[published.version] = (published.bank, self._updater.ema.copy())
        known = set(self._publisher.versions())
        for gone in [name for name in self._kept if name not in known]:
            del self._kept[gone]
