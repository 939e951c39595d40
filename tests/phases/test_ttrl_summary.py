"""An audit log in a few numbers."""

from pathlib import Path

import pytest

from pixelis_fast.audit import AuditLog
from pixelis_fast.corridor import CorridorConfig
from pixelis_fast.phases.ttrl_summary import summarize
from pixelis_fast.phases.ttrl_types import TtrlConfig
from tests.phases.ttrl_fixtures import events


def test_a_log_is_summed_up(bench):
    learning = bench(corridor=CorridorConfig(low=0.001, high=0.01, searches=6))
    for number in range(2):
        learning.step(number)
    learning.run.answers = {"24": 2, "7": 2}
    learning.step(2)
    found = summarize(Path(learning.config.out) / "audit.jsonl")
    assert found.statuses == {"published": 2, "abstained": 1}
    assert found.num_updates == 2
    kls = [row["update"]["drift"]["exact"] for row in events(learning, "query") if row["update"]]
    assert found.kl_median == pytest.approx(sum(kls) / 2)
    assert found.share_not_above == 1
    assert found.share_inside == 1
    assert found.scaled_back >= 1
    assert found.update_s_median > 0


def test_a_log_is_summed_up_from_where_it_begins(tmp_path):
    """Somebody moved the log away: the next one begins with a resume."""
    settings = TtrlConfig(out="run", corridor=CorridorConfig(low=0.05)).run_settings()
    with AuditLog(tmp_path / "resumed.jsonl") as log:
        log.append("resume", settings=settings)
    assert summarize(tmp_path / "resumed.jsonl").num_queries == 0
    AuditLog(tmp_path / "empty.jsonl").close()
    with pytest.raises(ValueError, match="log: expected a learner's start or resume, got neither"):
        summarize(tmp_path / "empty.jsonl")
