"""PixelWorld's traces survive the way through CoTA records; other records become examples."""

from __future__ import annotations

import shutil

import pytest

from pixelis_fast.data.cota import FILE_NAME, CotaRecord, CotaTurn, read_records, write_records
from pixelis_fast.data.pixelworld import PixelWorldConfig
from pixelis_fast.data.prepare import prepare
from pixelis_fast.data.prepared import Prepared
from pixelis_fast.data.preparer import PrepareConfig
from pixelis_fast.data.records import pixelworld_records, prepare_records
from pixelis_fast.policy.limits import PatchShape
from pixelis_fast.tools import ToolError
from pixelis_fast.types import ToolCall
from tests.media import picture

PLAIN = PixelWorldConfig(backgrounds="procedural", families={"read": 1.0, "count": 1.0})


def test_records_give_the_examples_that_preparing_gives(tmp_path):
    config = PrepareConfig(whole=5, grounding=0, trap_share=0.5)
    folder = tmp_path / "cota"
    records = list(pixelworld_records(folder, config, PLAIN))
    assert len(records) >= 3
    assert any(turn.kind == "trap" for record in records for turn in record.turns)
    write_records(folder / FILE_NAME, records)
    assert list(read_records(folder / FILE_NAME)) == records
    prepare_records(folder, tmp_path / "through", policy="pixelworld-5m")
    prepare(tmp_path / "direct", config, PLAIN)
    one, other = (Prepared([tmp_path / n], PatchShape()).examples for n in ("through", "direct"))
    assert [e.trajectory.ids for e in one] == [e.trajectory.ids for e in other]
    assert [e.imitated for e in one] == [e.imitated for e in other]
    assert [e.difficulty for e in one] == [e.difficulty for e in other]


def test_anybodys_records_become_examples_and_a_broken_picture_is_named(tmp_path):
    shutil.copy(picture("coins.png"), tmp_path / "coins.png")
    turn = CotaTurn("i look", ToolCall("zoom", {"media": 0, "box": [0, 0, 300, 300]}))
    record = CotaRecord("1", "count", ("coins.png",), "how many coins?", "24", turns=(turn,))
    write_records(tmp_path / FILE_NAME, [record])
    assert prepare_records(tmp_path, tmp_path / "out", policy="pixelworld-5m") == 1
    assert prepare_records(tmp_path, tmp_path / "out", policy="pixelworld-5m") == 0
    [example] = Prepared([tmp_path / "out"], PatchShape()).examples
    assert example.trajectory.steps[0].observation.text.startswith('{"media":1,"view":')
    assert len(example.trajectory.spans) == 2
    (tmp_path / "broken.png").write_bytes(b"no picture")
    write_records(tmp_path / FILE_NAME, [record, CotaRecord("2", "", ("broken.png",), "?", "so")])
    with pytest.raises(ToolError, match="image"):
        prepare_records(tmp_path, tmp_path / "out", policy="pixelworld-5m")
    assert len(Prepared([tmp_path / "out"], PatchShape()).examples) == 1
