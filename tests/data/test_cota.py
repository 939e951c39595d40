"""CoTA records survive their file, and what is wrong in one is named with its line."""

from __future__ import annotations

import json

import pytest

from pixelis_fast.data.cota import (
    CotaRecord,
    CotaTurn,
    RecordError,
    read_records,
    record_line,
    write_records,
)
from pixelis_fast.types import AnswerKind, Evidence, ToolCall

RECORD = CotaRecord(
    id="read-1",
    task="read",
    media=("media/1.png",),
    question="what does the sign say?",
    answer="KX42",
    answer_kind=AnswerKind.TEXT,
    turns=(
        CotaTurn("i look", ToolCall("zoom", {"media": 0, "box": [0, 0, 300, 300]}), kind="trap"),
        CotaTurn("no", ToolCall("read_text", {"media": 0}), '{"lines":[]}', kind="correction"),
    ),
    difficulty=0.25,
    evidence=(Evidence("read_text", box=(1, 2, 3, 4), text="KX42"),),
)


CALL = {"operation": "read_text", "arguments": {"media": 0}}


def test_a_record_comes_back_as_it_was(tmp_path):
    path = tmp_path / "records.jsonl"
    write_records(path, [RECORD, RECORD])
    assert list(read_records(path)) == [RECORD, RECORD]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": " "}, "expected media, a question and an answer"),
        ({"difficulty": 3}, "difficulty: expected 0..1, got 3"),
        ({"media": []}, "expected media"),
        ({"answer_kind": "poem"}, "poem"),
        ({"answer": 24}, "answer: expected text, got 24"),
        ({"question": None}, "question: expected text, got None"),
        ({"media": "a.png"}, "media: expected a list of texts, got 'a.png'"),
        ({"answer_thought": 3}, "answer_thought: expected text, got 3"),
        ({"turns": [{"thought": 1, "call": CALL}]}, "thought: expected text, got 1"),
        (
            {"turns": [{"thought": "", "call": CALL, "observation": {"a": 1}}]},
            "observation: expected text",
        ),
        ({"turns": [{"thought": "", "call": {"operation": "fly", "arguments": {}}}]}, "fly"),
        (
            {"turns": [{"thought": "", "call": {"operation": "zoom", "arguments": {"media": 0}}}]},
            "box",
        ),
    ],
)
def test_a_wrong_record_is_named_with_its_line(tmp_path, change, message):
    row = json.loads(record_line(RECORD)) | change
    path = tmp_path / "records.jsonl"
    path.write_text(record_line(RECORD) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(RecordError, match=rf"records\.jsonl:2: .*{message}"):
        list(read_records(path))


def test_a_missing_field_is_named(tmp_path):
    row = json.loads(record_line(RECORD))
    row.pop("answer")
    path = tmp_path / "records.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(RecordError, match=r":1: expected the field 'answer', got none"):
        list(read_records(path))


def test_a_trap_may_be_a_call_that_no_schema_allows(tmp_path):
    trap = CotaTurn("", ToolCall("properties", {"mask": -1}), kind="trap")
    path = tmp_path / "records.jsonl"
    record = CotaRecord("1", "read", ("a.png",), "what?", "so", turns=(trap,))
    write_records(path, [record])
    assert list(read_records(path)) == [record]
