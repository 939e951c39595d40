"""The experience memory: what comes back, who sees it, what is refused, who may write."""

import json
import threading
from dataclasses import asdict, replace

import numpy as np
import pytest

from bench.memory_experiences import PIXEL, TEXT, experience, key, small_config, trajectory, unit
from pixelis_fast.memory import (
    ExperienceMemory,
    HybridWeights,
    MemoryDamagedError,
    MemoryKey,
    MemoryLockedError,
    MemoryStoreError,
    Outcome,
    Provenance,
    Source,
)
from pixelis_fast.memory.index_file import FOLDER
from pixelis_fast.memory.rows import experience_from_text, experience_text, trajectory_body


@pytest.fixture
def memory(tmp_path):
    with ExperienceMemory(tmp_path / "memory", small_config()) as opened:
        yield opened


def found_ids(memory, wanted, k=3, tenant="lab"):
    return [n.experience.id for n in memory.nearest(wanted, k, tenant)]


def test_an_experience_comes_back_as_it_was(memory):
    given = experience(
        7,
        outcome=Outcome(None, 0.25, 0.5),
        provenance=Provenance("sft-1#update-3", 1.75e9, Source.USER),
    )
    memory.add(given)
    found, similarity = (lambda n: (n.experience, n.similarity))(
        memory.nearest(key(7), 1, "lab")[0]
    )
    assert similarity == pytest.approx(1, abs=1e-6)
    assert replace(found, key=given.key) == given
    assert np.array_equal(found.key.text_T, given.key.text_T)
    assert np.array_equal(found.key.pixel_P, given.key.pixel_P)


def test_an_experience_alone_comes_back_as_it_was():
    given = experience(7, outcome=Outcome(None, 0.25, 0.5))
    found = experience_from_text(experience_text(given))
    assert replace(found, key=given.key) == given
    assert np.array_equal(found.key.text_T, given.key.text_T)
    assert np.array_equal(found.key.pixel_P, given.key.pixel_P)


def test_a_trajectory_is_stored_as_its_asdict():
    one = trajectory(3)
    assert trajectory_body(one) == json.dumps(asdict(one), default=lambda enum: enum.value)


def test_nearest_equals_a_sort_of_all(memory):
    memory.add_many([experience(i) for i in range(40)])
    wanted = key(100)
    similarity_40 = np.array(
        [
            0.5 * key(i).text_T @ wanted.text_T + 0.5 * key(i).pixel_P @ wanted.pixel_P
            for i in range(40)
        ]
    )
    best = np.argsort(-similarity_40)[:5]
    found = memory.nearest(wanted, 5, "lab")
    assert [n.experience.id for n in found] == [str(i) for i in best]
    assert [n.similarity for n in found] == pytest.approx(similarity_40[best].tolist(), abs=1e-6)


def test_weights_decide_between_words_and_pixels(tmp_path):
    by_words = MemoryKey(unit(TEXT, 1), unit(PIXEL, 2))
    by_pixels = MemoryKey(unit(TEXT, 3), unit(PIXEL, 4))
    asked = MemoryKey(by_words.text_T, by_pixels.pixel_P)
    for text, first in ((0.9, "words"), (0.1, "pixels")):
        config = small_config(weights=HybridWeights(text, 1 - text))
        with ExperienceMemory(tmp_path / first, config) as memory:
            memory.add(experience(id="words", key=by_words))
            memory.add(experience(id="pixels", key=by_pixels))
            assert found_ids(memory, asked, k=1) == [first]


def test_equal_similarities_come_oldest_first(memory):
    # Better ones that come later push equal ones out of faiss's heap in no order.
    equal = [experience(number, key=key(0)) for number in range(40)]
    better = [experience(number, key=key(5)) for number in range(40, 43)]
    memory.add_many([*equal, *better])
    assert found_ids(memory, key(5), k=8) == ["40", "41", "42", "0", "1", "2", "3", "4"]


def test_other_weights_build_another_index(tmp_path):
    with ExperienceMemory(tmp_path, small_config()) as memory:
        memory.add(experience(1))
    with ExperienceMemory(tmp_path, small_config(weights=HybridWeights(1, 0))) as memory:
        found = memory.nearest(MemoryKey(key(1).text_T, unit(PIXEL, 9)), 1, "lab")[0]
        assert found.similarity == pytest.approx(1, abs=1e-6)
        assert memory.verify().problems == ()


def test_tenants_see_their_own_and_what_is_shared(tmp_path):
    config = small_config(shared_tenants=("common",))
    with ExperienceMemory(tmp_path, config) as memory:
        for tenant in ("lab", "shop", "common"):
            memory.add(experience(1, tenant=tenant, id=f"of-{tenant}"))
        assert found_ids(memory, key(1), tenant="lab") == ["of-lab", "of-common"]
        assert found_ids(memory, key(1), tenant="shop") == ["of-shop", "of-common"]
        assert found_ids(memory, key(1), tenant="nobody") == ["of-common"]
        assert found_ids(memory, key(1), tenant="common") == ["of-common"]


def test_without_sharing_a_tenant_is_alone(memory):
    memory.add(experience(1, tenant="lab"))
    memory.add(experience(2, tenant="shop/../lab"))
    assert found_ids(memory, key(1), tenant="shop/../lab") == ["2"]
    assert found_ids(memory, key(1), tenant="") == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"key": MemoryKey(unit(TEXT, 0), unit(PIXEL + 1, 0))}, r"pixel .*\(8,\), got .*\(9,\)"),
        (
            {"key": MemoryKey(unit(TEXT, 0).astype(float), unit(PIXEL, 0))},
            "text .*float32.*float64",
        ),
        ({"key": MemoryKey(unit(TEXT, 0) * np.float32("nan"), unit(PIXEL, 0))}, "got nan at 0"),
        (
            {"key": MemoryKey(unit(TEXT, 0) * 2, unit(PIXEL, 0))},
            "expected length 1 .*, got length 2",
        ),
        (
            {"outcome": Outcome("24", 1.5, 1.0)},
            "confidence: expected a number from 0 to 1, got 1.5",
        ),
        ({"outcome": Outcome("24", 0.5, float("nan"))}, "success: expected .*, got nan"),
        ({"visfid": -0.1}, "visfid: expected .*, got -0.1"),
        ({"id": ""}, "id: expected some text"),
        ({"provenance": Provenance("v", float("inf"), Source.TTRL)}, "created_s: .*, got inf"),
        ({"trajectory": replace(trajectory(), logprobs=[float("nan")])}, "trajectory: .*finite"),
    ],
)
def test_refusals_say_what_was_expected(memory, changes, message):
    memory.add(experience(1))
    with pytest.raises(ValueError, match=message):
        memory.add(experience(2, **changes))
    assert memory.ids("lab") == ["1"]
    assert memory.verify().problems == ()


def test_a_search_refuses_what_it_cannot_take(memory):
    with pytest.raises(ValueError, match="pixel embedding: expected"):
        memory.nearest(MemoryKey(unit(TEXT, 0), unit(3, 0)), 1, "lab")
    with pytest.raises(ValueError, match="k: expected at least 1, got 0"):
        memory.nearest(key(0), 0, "lab")


def test_an_id_is_stored_once_in_its_tenant(memory):
    memory.add(experience(1))
    assert ("lab", "1") in memory
    assert ("shop", "1") not in memory
    with pytest.raises(ValueError, match="id: expected a new one in lab, got 1 again"):
        memory.add(experience(1))
    memory.add(experience(1, tenant="shop"))


def test_many_are_added_together_or_not_at_all(memory):
    memory.add(experience(5))
    with pytest.raises(ValueError, match="got 5 again"):
        memory.add_many([experience(4), experience(5)])
    with pytest.raises(ValueError, match="of one tenant"):
        memory.add_many([experience(6), experience(6, tenant="shop")])
    assert memory.ids("lab") == ["5"]


def test_a_second_writer_learns_who_holds_the_folder(tmp_path):
    with (
        ExperienceMemory(tmp_path, small_config()),
        pytest.raises(MemoryLockedError, match=r"no other writer, got process \d+ on .* since 20"),
    ):
        ExperienceMemory(tmp_path, small_config())
    ExperienceMemory(tmp_path, small_config()).close()


def test_readers_follow_the_writer(tmp_path):
    config = small_config(max_experiences=10, slack=0.2)
    with ExperienceMemory(tmp_path, config) as writer:
        reader = ExperienceMemory(tmp_path, config, read_only=True)
        for number in range(30):
            writer.add(experience(number))
            assert found_ids(reader, key(number), k=1) == [str(number)]
        assert reader.verify() == writer.verify()
        assert reader.verify().problems == ()
        with pytest.raises(ValueError, match="expected a writer"):
            reader.add(experience(99))
        reader.close()


def test_a_reader_outlives_the_writer(tmp_path):
    with ExperienceMemory(tmp_path, small_config()) as writer:
        writer.add(experience(1))
    reader = ExperienceMemory(tmp_path, small_config(), read_only=True)
    assert found_ids(reader, key(1)) == ["1"]
    reader.close()


def test_a_reader_needs_a_memory(tmp_path):
    with pytest.raises(MemoryStoreError, match="found none"):
        ExperienceMemory(tmp_path, small_config(), read_only=True)


def test_settings_must_be_those_of_the_folder(tmp_path):
    ExperienceMemory(tmp_path, small_config()).close()
    with pytest.raises(ValueError, match=r"pixel_dimension: expected 8, as in .*, got 9"):
        ExperienceMemory(tmp_path, small_config(pixel_dimension=9))


def test_another_schema_is_refused(tmp_path):
    ExperienceMemory(tmp_path, small_config()).close()
    change(tmp_path, "PRAGMA user_version=2")
    with pytest.raises(MemoryStoreError, match="expected schema 1, got 2"):
        ExperienceMemory(tmp_path, small_config())


def test_a_file_that_is_no_database_is_named(tmp_path):
    (tmp_path / "experiences.sqlite").write_bytes(b"nothing of the kind" * 100)
    with pytest.raises(MemoryStoreError, match=r"expected a whole database, got .*not a database"):
        ExperienceMemory(tmp_path, small_config())


def test_any_thread_may_add_and_search(memory):
    def work(tenant):
        for number in range(15):
            memory.add(experience(number, tenant=tenant))
            assert found_ids(memory, key(number), k=1, tenant=tenant) == [str(number)]

    threads = [threading.Thread(target=work, args=(f"tenant-{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert memory.verify().experiences == 60
    assert memory.verify().problems == ()


def saved_index(folder):
    [path] = (folder / FOLDER).glob("*.faiss")
    return path


@pytest.mark.parametrize("damage", ["torn", "flipped", "gone", "old"])
def test_an_index_file_is_only_a_cache(tmp_path, damage):
    with ExperienceMemory(tmp_path, small_config()) as memory:
        memory.add_many([experience(i) for i in range(20)])
    path = saved_index(tmp_path)
    old = path.read_bytes()
    if damage == "torn":
        path.write_bytes(old[: len(old) // 2])
    elif damage == "flipped":
        path.write_bytes(old[:-9] + bytes([old[-9] ^ 1]) + old[-8:])
    elif damage == "gone":
        path.unlink()
    else:
        with ExperienceMemory(tmp_path, small_config()) as memory:
            memory.add(experience(20))
        path.write_bytes(old)
    with ExperienceMemory(tmp_path, small_config()) as memory:
        for number in range(20):
            assert found_ids(memory, key(number), k=1) == [str(number)]
        assert memory.verify().problems == ()


def test_a_whole_index_file_is_used(tmp_path, monkeypatch):
    with ExperienceMemory(tmp_path, small_config()) as memory:
        memory.add_many([experience(i) for i in range(20)])
    monkeypatch.setattr("pixelis_fast.memory.indexes.Indexes._catch_up", None)
    with ExperienceMemory(tmp_path, small_config()) as memory:
        assert found_ids(memory, key(3), k=1) == ["3"]


def test_few_indexes_are_held_and_none_is_lost(tmp_path):
    with ExperienceMemory(tmp_path, small_config(open_indexes=2)) as memory:
        for number in range(12):
            memory.add(experience(number, tenant=f"tenant-{number % 4}"))
        for number in range(12):
            assert found_ids(memory, key(number), k=1, tenant=f"tenant-{number % 4}") == [
                str(number)
            ]
        assert memory.verify().problems == ()


def test_many_tenants_hold_no_more_than_their_bytes(tmp_path):
    """The one asked for longest ago is closed; its next question opens it again, whole."""
    one = 5 * ((TEXT + PIXEL) * 4 + 8)
    config = small_config(open_index_bytes=3 * one)
    with ExperienceMemory(tmp_path, config) as memory:
        indexes = memory._indexes
        for number in range(60):
            memory.add(experience(number, tenant=f"tenant-{number // 5}"))
            assert indexes.nbytes <= 3 * one
        assert list(indexes._open) == ["tenant-9", "tenant-10", "tenant-11"]
        assert set(indexes._on_disk) <= set(indexes._open)
        assert found_ids(memory, key(47), k=1, tenant="tenant-9") == ["47"]
        assert found_ids(memory, key(0), k=1, tenant="tenant-0") == ["0"]
        assert list(indexes._open) == ["tenant-11", "tenant-9", "tenant-0"]
        for number in range(60):
            assert found_ids(memory, key(number), k=1, tenant=f"tenant-{number // 5}") == [
                str(number)
            ]
        assert memory.verify().experiences == 60
        assert memory.verify().problems == ()


def test_a_closed_tenant_is_opened_from_its_file(tmp_path, monkeypatch):
    with ExperienceMemory(tmp_path, small_config(open_indexes=1)) as memory:
        memory.add_many([experience(number, tenant="lab") for number in range(5)])
        memory.add(experience(5, tenant="shop"))
        monkeypatch.setattr("pixelis_fast.memory.indexes.Indexes._catch_up", None)
        assert found_ids(memory, key(3), k=1, tenant="lab") == ["3"]
        assert memory._indexes.num_open == 1


def test_a_tenant_larger_than_the_bytes_is_still_found(tmp_path):
    with ExperienceMemory(tmp_path, small_config(open_index_bytes=1)) as memory:
        for number in range(6):
            memory.add(experience(number, tenant=f"tenant-{number % 2}"))
            assert memory._indexes.num_open == 1
        assert found_ids(memory, key(4), k=1, tenant="tenant-0") == ["4"]
        assert memory.verify().problems == ()


def change(folder, statement):
    """What a disk or a stranger may do to the file behind our back."""
    import sqlite3

    connection = sqlite3.connect(folder / "experiences.sqlite")
    connection.execute(statement)
    connection.commit()
    connection.close()


def test_a_truth_that_contradicts_itself_is_told(tmp_path):
    with ExperienceMemory(tmp_path, small_config()) as memory:
        memory.add_many([experience(i) for i in range(5)])
    saved_index(tmp_path).unlink()
    change(tmp_path, "DELETE FROM experiences WHERE id = '3'")
    with (
        ExperienceMemory(tmp_path, small_config()) as memory,
        pytest.raises(MemoryDamagedError, match=r"expected .*count=5.*, got rows for .*count=4"),
    ):
        memory.nearest(key(0), 1, "lab")


def test_damaged_pages_are_told(tmp_path):
    with ExperienceMemory(tmp_path, small_config()) as memory:
        memory.add_many([experience(i) for i in range(50)])
    path = tmp_path / "experiences.sqlite"
    content = path.read_bytes()
    path.write_bytes(content[:8192] + b"\xff" * (len(content) - 12288) + content[-4096:])
    with (
        pytest.raises(MemoryDamagedError, match=r"expected a whole database, got .*malformed"),
        ExperienceMemory(tmp_path, small_config()) as memory,
    ):
        memory.nearest(key(0), 1, "lab")


def test_a_check_finds_a_changed_embedding(tmp_path):
    with ExperienceMemory(tmp_path, small_config()) as memory:
        memory.add_many([experience(i) for i in range(5)])
    change(tmp_path, "UPDATE embeddings SET pixel = zeroblob(32) WHERE number = 2")
    with ExperienceMemory(tmp_path, small_config()) as memory:
        problems = memory.verify().problems
        assert "lab: digests differ from the embeddings" in problems
        assert "lab: vectors of the index differ" in problems


def test_every_commit_waits_for_the_disk(memory):
    assert memory._truth.rows("PRAGMA journal_mode") == [("wal",)]
    assert memory._truth.rows("PRAGMA synchronous") == [(2,)], "2 is FULL"
