"""What an audit log says of a run of test-time RL, in a few numbers.

python -m pixelis_fast.phases.ttrl_summary runs/ttrl/audit.jsonl
"""

from __future__ import annotations

import json
import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pixelis_fast.audit import read_events
from pixelis_fast.corridor import CorridorConfig

Row = dict[str, Any]


@dataclass(frozen=True)
class TtrlSummary:
    """Of a verified log; a query that was asked again after a crash counts once, as it ended.

    KL numbers are those of published updates, None without any.

    Example:
        summarize(Path("runs/ttrl/audit.jsonl")).share_not_above  # 1.0: none left at the top
    """

    num_queries: int
    statuses: dict[str, int]
    num_updates: int
    """Gradients that were taken, whatever became of them."""
    scaled_back: int
    kl_median: float | None
    kl_maximum: float | None
    share_inside: float | None
    """low <= KL <= high."""
    share_not_above: float | None
    """KL <= high: the first updates start below the corridor."""
    beta_last: float | None
    pause_s_maximum: float | None
    update_s_median: float | None
    """Wall time of gradient, drift and scaling back."""
    rollbacks: int


def summarize(path: Path, *, low: float | None = None, high: float | None = None) -> TtrlSummary:
    """Against the corridor that the log's start names, or against another one."""
    events = read_events(path)
    corridor = corridor_of(events)
    low, high = corridor.low if low is None else low, corridor.high if high is None else high
    queries = list({row["data"]["query"]: row["data"] for row in of_kind(events, "query")}.values())
    updates = [row["update"] for row in queries if row["update"]]
    published = [row["update"] for row in queries if row["status"] == "published"]
    kls = [each["drift"]["exact"] for each in published]
    return TtrlSummary(
        num_queries=len(queries),
        statuses=dict(Counter(row["status"] for row in queries)),
        num_updates=len(updates),
        scaled_back=sum(each["verdict"] == "scale_back" for each in published),
        kl_median=statistics.median(kls) if kls else None,
        kl_maximum=max(kls, default=None),
        share_inside=share([low <= kl <= high for kl in kls]),
        share_not_above=share([kl <= high for kl in kls]),
        beta_last=updates[-1]["losses"]["beta"] if updates else None,
        pause_s_maximum=max((each["pause_s"] for each in published), default=None),
        update_s_median=statistics.median([u["seconds"] for u in updates]) if updates else None,
        rollbacks=len(of_kind(events, "rollback")),
    )


def corridor_of(events: Sequence[Row]) -> CorridorConfig:
    begun = [row for row in events if row["kind"] in ("start", "resume")]
    if not begun:
        raise ValueError("log: expected a learner's start or resume, got neither")
    return CorridorConfig(**begun[0]["data"]["settings"]["corridor"])


def of_kind(events: Sequence[Row], kind: str) -> list[Row]:
    return [row for row in events if row["kind"] == kind]


def share(flags: Sequence[bool]) -> float | None:
    return sum(flags) / len(flags) if flags else None


if __name__ == "__main__":
    print(json.dumps(asdict(summarize(Path(sys.argv[1]))), indent=1))
