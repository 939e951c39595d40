"""The log: chained, durable, one writer; what a crash tore is cut, what was changed is an error."""

import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from itertools import pairwise

import pytest

from pixelis_fast.audit import FIRST, AuditError, AuditLog, line_hash, line_of, read_events, verify

WRITER = """
import sys
from pathlib import Path
from pixelis_fast.audit import AuditLog
log = AuditLog(Path(sys.argv[1]))
for number in range(10**9):
    row = log.append("update", number=number, text="x" * 500)
    print(row["n"], flush=True)
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "audit.jsonl"


def write(path, count):
    with AuditLog(path) as log:
        for number in range(count):
            log.append("update", number=number, kl=0.1 * number)


def test_events_come_back_in_order_and_go_on(path):
    write(path, 3)
    write(path, 2)
    rows = read_events(path)
    assert [row["n"] for row in rows] == list(range(5))
    assert [row["data"]["number"] for row in rows] == [0, 1, 2, 0, 1]
    assert all(row["before"] == before["hash"] for before, row in pairwise(rows))
    assert verify(path).head == rows[-1]["hash"]


def test_numbers_that_json_has_not_are_named(path):
    with AuditLog(path) as log:
        log.append("drop", kl=float("nan"), most=[float("inf")], pair=(1, 2))
    assert read_events(path)[0]["data"] == {"kl": "nan", "most": ["inf"], "pair": [1, 2]}
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))


@pytest.mark.parametrize("error", [OSError("no room"), KeyboardInterrupt()])
def test_after_an_append_that_broke_off_the_chain_goes_on(path, monkeypatch, error):
    def broken(file):
        raise error

    with AuditLog(path) as log:
        log.append("update", number=0)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", broken)
            with pytest.raises(type(error)):
                log.append("update", number=1)
        log.append("update", number=2)
    assert [row["data"]["number"] for row in read_events(path)] == [0, 2]


def test_a_long_log_is_verified_line_by_line(path):
    """A server's log grows for months; opening it must not take its size in memory."""
    before, lines = FIRST, []
    for number in range(2000):
        data = {"text": "x" * 1000}
        row = {"n": number, "time_s": 0.0, "kind": "update", "data": data, "before": before}
        before = row["hash"] = line_hash(row)
        lines.append(line_of(row))
    path.parent.mkdir()
    path.write_bytes(b"".join(lines))
    tracemalloc.start()
    report = verify(path)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (report.num_events, report.head, report.torn_bytes) == (2000, before, 0)
    assert report.num_bytes == path.stat().st_size
    assert most < path.stat().st_size / 4


@pytest.mark.parametrize("kept", [1, 40, 200])
def test_a_torn_last_line_is_cut_with_a_note(path, kept):
    write(path, 3)
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    kept = min(kept, len(lines[2]) - 1)
    path.write_bytes(b"".join(lines[:2]) + lines[2][:kept])
    assert verify(path).torn_bytes == kept
    write(path, 1)
    rows = read_events(path)
    assert [row["kind"] for row in rows] == ["update", "update", "log_cut", "update"]
    assert rows[2]["data"] == {"torn_bytes": kept}
    assert path.read_bytes().startswith(b"".join(lines[:2]))


@pytest.mark.parametrize("damage", ["change", "remove", "swap", "insert", "twice", "last"])
def test_any_change_breaks_the_chain(path, damage):
    write(path, 5)
    lines = path.read_bytes().splitlines(keepends=True)
    if damage == "change":
        lines[1] = lines[1].replace(b'"number":1', b'"number":7')
    elif damage == "remove":
        del lines[2]
    elif damage == "swap":
        lines[1], lines[2] = lines[2], lines[1]
    elif damage == "insert":
        lines.insert(3, lines[3])
    elif damage == "twice":
        lines[1] = lines[1].replace(b'"data":', b'"data":{"number":7},"data":')
    else:
        lines[-1] = b"{}\n"
    path.write_bytes(b"".join(lines))
    with pytest.raises(AuditError, match=r"expected line \d to continue the chain"):
        verify(path)
    with pytest.raises(AuditError):
        AuditLog(path)


def test_a_second_writer_is_refused(path):
    with AuditLog(path), pytest.raises(AuditError, match="expected to be its only writer"):
        AuditLog(path)
    write(path, 1)


def test_a_full_disk_leaves_the_log_whole(path, monkeypatch):
    with AuditLog(path) as log:
        log.append("update", number=0)
        real = os.write
        monkeypatch.setattr(os, "write", lambda file, data: _half_then_full(real, file, data))
        with pytest.raises(OSError, match="No space"):
            log.append("update", number=1)
        monkeypatch.undo()
        log.append("update", number=2)
    assert [row["data"]["number"] for row in read_events(path)] == [0, 2]


def _half_then_full(real, file, data):
    if len(data) < 100:
        raise OSError(28, "No space left on device")
    return real(file, data[: len(data) // 2])


def test_kill_at_any_moment_loses_nothing_that_was_acknowledged(path):
    acknowledged = -1
    for round_number in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(20 + round_number):
            acknowledged = int(process.stdout.readline())
        time.sleep(0.003 * round_number)
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().split()
        process.wait()
        acknowledged = int(rest[-1]) if rest else acknowledged
        assert verify(path).num_events > acknowledged
    with AuditLog(path) as log:
        assert log.num_events > acknowledged
