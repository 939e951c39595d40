"""A memory outlives kills, damaged logs, full disks and second writers; few rounds of each.

`python bench/memory.py` does the same many times and prints what it found.
"""

import re

import pytest

from bench.memory_experiences import experience, small_config
from bench.memory_faults import (
    LOG_NAME,
    blank,
    cut,
    damage_tails,
    damaged_copy,
    file_size_limit,
    fill_up,
    flip,
    reopen,
    second_writer,
    write_and_kill,
)
from bench.memory_kills import kill_writers
from pixelis_fast.memory import ExperienceMemory, MemoryWriteError
from pixelis_fast.memory.wal_tail import FRAME_HEADER_BYTES, HEADER_BYTES, read_tail

ADDS = 12


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_and_kill(tmp_path_factory.mktemp("written") / "memory", adds=ADDS)


@pytest.fixture
def log(written):
    return (written.folder / LOG_NAME).read_bytes()


def test_no_add_that_returned_is_lost_to_a_kill(tmp_path):
    found = kill_writers(tmp_path, count=4, seed=1, most_adds=25)
    assert found.lost == found.gaps == found.problems == []
    assert found.acknowledged > 20
    assert 0 <= found.unacknowledged <= found.count


def test_a_log_cut_behind_an_add_keeps_it(written, log, tmp_path):
    for number in (0, ADDS // 2, ADDS - 1):
        got = reopen(damaged_copy(written, tmp_path / "copy", cut(log, written.log_bytes[number])))
        assert (got.kept, got.is_prefix, got.problems) == (number + 1, True, ())
        assert got.notes == ()


def test_an_add_whose_log_is_cut_is_dropped_whole(written, log, tmp_path):
    place = written.log_bytes[4] - 100
    got = reopen(damaged_copy(written, tmp_path / "copy", cut(log, place)))
    assert (got.kept, got.is_prefix, got.problems) == (4, True, ())
    assert re.fullmatch(r"log: \d+ pages of an add that never finished were dropped", *got.notes)


@pytest.mark.parametrize("damage", [flip, blank])
def test_damage_inside_a_log_costs_what_lies_behind_and_says_so(written, log, tmp_path, damage):
    place = written.log_bytes[6] + 2000
    got = reopen(damaged_copy(written, tmp_path / "copy", damage(log, place)))
    assert (got.kept, got.is_prefix, got.problems) == (7, True, ())
    [note] = got.notes
    if damage is flip:
        lost = int(re.search(r"(\d+) commits behind it are lost", note)[1])
        # The writer may have got an add further than it said.
        assert lost in (ADDS - 7, ADDS - 6)


def test_a_log_with_a_damaged_header_says_so(written, log, tmp_path):
    got = reopen(damaged_copy(written, tmp_path / "copy", flip(log, 17)))
    assert got.problems == ()
    assert re.fullmatch(r"log: \d+ bytes with a damaged header could not be read", *got.notes)


def test_damages_at_random_places(written, tmp_path):
    found = damage_tails(written, tmp_path / "copy", count=12, seed=3)
    assert (found.problems, found.lost_before_damage, found.silent_losses) == (0, 0, 0)
    assert found.kept > 0
    assert found.lost > 0


def test_a_whole_log_gives_no_note(written, log, tmp_path):
    got = reopen(damaged_copy(written, tmp_path / "copy", log))
    assert got.kept >= ADDS
    assert got.notes == ()


def test_an_older_log_behind_the_running_one_is_no_loss(tmp_path):
    # Long enough for a checkpoint: then the log begins again over its old pages.
    written = write_and_kill(tmp_path / "memory", adds=150)
    tail = read_tail(written.folder / LOG_NAME)
    whole = (max(written.log_bytes) - HEADER_BYTES) // (FRAME_HEADER_BYTES + 4096)
    assert 0 < len(tail.commits) < whole
    got = reopen(written.folder)
    assert got.kept >= 150
    assert (got.is_prefix, got.problems) == (True, ())
    # The kill may have fallen into an add, which has a few pages; the old log has hundreds.
    pages = [int(count) for note in got.notes for count in re.findall(r"(\d+) pages", note)]
    assert len(pages) == len(got.notes)
    assert all(count < 40 for count in pages)


def test_a_full_disk_is_one_clear_error_and_costs_nothing(tmp_path):
    got = fill_up(tmp_path, file_size_limit(600_000))
    assert got.stored > 5
    assert got.found_after == got.kept_after == got.stored
    assert got.goes_on
    assert got.problems == ()
    assert re.search(
        r"expected to store 1 experiences of \d+ bytes, got '.*(full|I/O).*'", got.message
    )
    assert "files limited to 600000 bytes" in got.message
    assert got.message.endswith("nothing stored before is lost")


def test_a_memory_that_cannot_begin_says_so(tmp_path):
    with (
        file_size_limit(5000),
        pytest.raises(MemoryWriteError, match="expected to store its tables"),
    ):
        ExperienceMemory(tmp_path, small_config())
    ExperienceMemory(tmp_path, small_config()).close()


def test_an_index_without_room_is_a_note(tmp_path):
    memory = ExperienceMemory(tmp_path, small_config())
    memory.add_many([experience(number) for number in range(200)])
    with file_size_limit(1000):
        memory._indexes.save_all()
    assert re.search(r"index of lab not saved, the next start builds it: .*large", *memory.notes)
    memory.close()
    with ExperienceMemory(tmp_path, small_config()) as again:
        assert again.verify().problems == ()


def test_a_second_process_is_told_who_writes(tmp_path):
    told, holder = second_writer(tmp_path)
    assert f"expected no other writer, got process {holder} on " in told
    # The kernel takes the lock of a killed writer back.
    ExperienceMemory(tmp_path, small_config(max_experiences=40, slack=0.1)).close()
