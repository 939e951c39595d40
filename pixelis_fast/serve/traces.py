"""The latest traces, in a ring bounded by bytes: JSON, masks, and the media they show."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock

from pixelis_fast.serve.media import MediaLedger
from pixelis_fast.trace_pictures import render
from pixelis_fast.trace_record import TraceRecord


class TraceRing:
    """Keeps the newest traces; a trace that alone is larger than the budget is not kept.

    A picture that two traces show counts for both: the budget is an upper bound.

    Example:
        ring = TraceRing(ledger, byte_budget=1 << 28)
        ring.add(record)
        ring.get(record.id).page
    """

    def __init__(self, ledger: MediaLedger, *, byte_budget: int) -> None:
        self._ledger, self._byte_budget = ledger, byte_budget
        self._records: OrderedDict[str, tuple[TraceRecord, int]] = OrderedDict()
        self._lock = Lock()
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._records)

    def add(self, record: TraceRecord) -> bool:
        """Whether it is kept; its media must be held by the caller now."""
        num_bytes = record.num_bytes + self._ledger.num_bytes(record.media_ids)
        if num_bytes > self._byte_budget:
            return False
        with self._lock:
            self._ledger.hold(record.media_ids)
            self._records[record.id] = (record, num_bytes)
            self.num_bytes += num_bytes
            while self.num_bytes > self._byte_budget:
                self._drop_oldest()
        return True

    def get(self, trace_id: str) -> TraceRecord | None:
        found = self._records.get(trace_id)
        return found[0] if found else None

    def picture(self, trace_id: str, number: int) -> bytes | None:
        """JPEG; None for a trace or a picture that is not there (any more)."""
        with self._lock:
            record = self.get(trace_id)
            if record is None or not 0 <= number < len(record.pictures):
                return None
            # Held while it is rendered: the trace may leave meanwhile.
            self._ledger.hold(record.media_ids)
        try:
            return render(record.pictures[number], self._ledger.store)
        finally:
            self._ledger.release(record.media_ids)

    def _drop_oldest(self) -> None:
        _, (record, num_bytes) = self._records.popitem(last=False)
        self.num_bytes -= num_bytes
        self._ledger.release(record.media_ids)
