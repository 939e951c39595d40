"""RESULTS.md: one section per device, one entry per command, day and commit."""

import json

from bench.harness import Check, Report, Timing, parse_options
from bench.record import entry, placed, write_results


def document(bench: str = "demo") -> dict:
    options = parse_options("test", arms=("naive", "ours"), argv=["--quick"])
    made = Report(bench, options, ours="ours", baseline="naive")
    made.timings = [Timing("chain", "naive", (40.0,)), Timing("chain", "ours", (10.0,))]
    made.checks = [Check.at_most("chain", "difference", 0.1, 1.0)]
    made.extra["tables"] = [{"title": "Stages", "columns": ["stage", "ours"], "rows": [["a", "1"]]}]
    return made.document()


def test_recording_twice_changes_nothing(tmp_path):
    made = document()
    first = write_results(made, folder=tmp_path).read_text()
    assert write_results(made, folder=tmp_path).read_text() == first
    saved = json.loads((tmp_path / "results" / made["machine"]["slug"] / "demo.json").read_text())
    assert saved == made


def test_a_variant_leaves_the_benchmark_s_own_json(tmp_path):
    made = document()
    write_results(made, folder=tmp_path)
    write_results(made | {"variant": "ablate"}, folder=tmp_path)
    names = sorted(path.name for path in tmp_path.glob("results/*/*.json"))
    assert names == ["demo-ablate.json", "demo.json"]


def test_entry_shows_ratio_equality_and_tables():
    text = entry(document())
    assert "| chain | ours | 10.00 | 10.00 | 10.00 | 10.00 | 10.00 | 1 | 4.00 |" in text
    assert "Equal work: yes" in text
    assert "| stage | ours |" in text


def test_other_sections_and_entries_stay():
    text = placed("# Results\n\nWords.\n", section="## a", heading="### one", body="first")
    text = placed(text, section="## b", heading="### one", body="other device")
    text = placed(text, section="## a", heading="### two", body="second")
    again = placed(text, section="## a", heading="### one", body="newer")
    for kept in ("Words.", "other device", "second", "newer"):
        assert again.count(kept) == 1
    assert "first" not in again
    assert again.index("## a") < again.index("second") < again.index("## b")
