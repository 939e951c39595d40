"""The command line, end to end on the unit policy: ask, rollout, replay, doctor, plain errors."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from pixelis_fast.cli import app
from tests.media import clip, picture

UNIT = ["--policy", "unit", "--max-tokens", "120", "--max-steps", "2", "--max-thought", "40"]
runner = CliRunner()


def run(*arguments: str | Path):
    return runner.invoke(app, [str(each) for each in arguments])


@pytest.fixture(scope="module")
def trace(tmp_path_factory) -> Path:
    """Two sampled trajectories, one on an image and one on a video."""
    folder = tmp_path_factory.mktemp("rollout")
    shutil.copy(picture("coins.png"), folder)
    shutil.copy(clip("carphone_pristine.mp4"), folder)
    rows = [
        {"id": "coins", "media": ["coins.png"], "question": "How many coins?"},
        {"id": "phone", "media": ["carphone_pristine.mp4"], "question": "Who speaks?"},
    ]
    samples = folder / "samples.jsonl"
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = folder / "trace"
    result = run("rollout", samples, "--out", out, "--temperature", "1", "--seed", "5", *UNIT)
    assert result.exit_code == 0, result.output
    assert "coins" in result.output
    return out


def test_replay_is_identical(trace):
    result = run("rollout", "--replay", trace)
    assert result.exit_code == 0, result.output
    assert "replayed 2 trajectories" in result.output
    assert "identical" in result.output


def test_replay_names_a_changed_token(trace, tmp_path):
    copy = tmp_path / "trace"
    shutil.copytree(trace, copy)
    path = copy / "trace.jsonl"
    header, first, second = path.read_text().splitlines()
    row = json.loads(first)
    row["ids"][-1] += 1
    path.write_text("\n".join([header, json.dumps(row), second]) + "\n")
    result = run("rollout", "--replay", copy)
    assert result.exit_code == 2
    assert "coins: ids: at" in result.output


def test_ask_prints_the_chain_and_saves_a_trace(tmp_path):
    out = tmp_path / "ask"
    result = run("ask", picture("coins.png"), "How many coins?", "--out", out, *UNIT)
    assert result.exit_code == 0, result.output
    assert "How many coins?" in result.output
    assert "random weights" in result.output
    assert "where the time went" in result.output
    assert (out / "trace.jsonl").is_file()
    assert list((out / "media").iterdir())


def test_questions_of_the_world_are_answered_and_scored(tmp_path):
    drawn = run("world", tmp_path / "world", "--count", "2", "--split", "val")
    assert drawn.exit_code == 0, drawn.output
    result = run("rollout", tmp_path / "world" / "tasks.jsonl", "--out", tmp_path / "trace", *UNIT)
    assert result.exit_code == 0, result.output
    assert "right of 2 with a known answer" in " ".join(result.output.split())


def test_an_unknown_kind_of_answer_is_named_by_line(tmp_path):
    shutil.copy(picture("coins.png"), tmp_path)
    row = {"id": "a", "media": ["coins.png"], "question": "?", "answer_kind": "guess"}
    (tmp_path / "samples.jsonl").write_text(json.dumps(row) + "\n")
    result = run("rollout", tmp_path / "samples.jsonl", *UNIT)
    assert result.exit_code == 2
    # A long path is broken anywhere: the words are compared without spaces.
    assert "samples.jsonl:1:answer_kind:expectedoneof" in "".join(result.output.split())


def test_doctor_names_every_backend_and_tool():
    result = run("doctor")
    assert result.exit_code == 0, result.output
    for name in ("openvino", "ort", "PP-OCRv6_det_small.onnx", "segment", "localize", "attention"):
        assert name in result.output


def test_doctor_names_weights_that_are_not_there():
    result = run("doctor", "--sam2", "no-such.pt")
    assert "got no-such.pt" in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ask", "no-such.png", "what?"], "expected a file, got no-such.png"),
        (["ask", __file__, "what?"], "expected"),
        (["rollout"], "expected either a file of samples or --replay"),
        (["rollout", "--replay", "no-such-folder"], "expected trace.jsonl"),
        (["ask", "x.png", "what?", "--policy", "qwen3-vl-8b"], "ships no weights"),
        (["ask", "x.png", "what?", "--policy", "nonesuch"], "expected a checkpoint folder or one"),
        (["ask", "x.png", "what?", "--dtype", "int3"], "dtype: expected one of"),
        (["ask", "x.png", "what?", "--temperature", "-1"], "temperature: expected"),
        (["ask", "x.png", "what?", "--max-steps", "0"], "max_steps: expected > 0"),
        (["serve", "--media-root", "no-such-folder"], "media root: expected a folder"),
        (["serve", "--max-requests", "0"], "max_requests: expected > 0, got 0"),
        (["serve", "--canary", "asked.jsonl"], "--canary: expected --ttrl with it"),
        (["serve", "--port", "0", "--policy", "nonesuch"], "expected a checkpoint folder or one"),
    ],
    ids=[
        "file",
        "text",
        "neither",
        "trace",
        "weights",
        "policy",
        "dtype",
        "temperature",
        "steps",
        "media-root",
        "max-requests",
        "canary",
        "served-policy",
    ],
)
def test_a_mistake_ends_in_one_sentence(arguments, message):
    extra = [] if "--policy" in arguments or arguments[0] == "rollout" else ["--policy", "unit"]
    result = run(*arguments, *extra)
    assert result.exit_code == 2
    assert message in result.output.replace("\n", " ")
    assert "Traceback" not in result.output


def test_serve_says_where_answers_and_stops_when_told(tmp_path):
    command = [sys.executable, "-c", "from pixelis_fast.cli import app; app()", "serve", *UNIT]
    options = ["--port", "0", "--name", "small", "--media-root", str(tmp_path)]
    environment = {**os.environ, "PIXELIS_API_KEY": "secret", "COLUMNS": "200"}
    process = subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        line = process.stdout.readline()
        url = re.search(r"http://127\.0\.0\.1:\d+", line)[0]
        client = httpx.Client(
            base_url=url,
            headers={"authorization": "Bearer secret"},
            timeout=60,
            # The port is told before the server listens on it.
            transport=httpx.HTTPTransport(retries=10),
        )
        body = {"model": "small", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}
        answer = client.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
        assert httpx.get(f"{url}/v1/models").status_code == 401
    finally:
        process.send_signal(signal.SIGTERM)
    assert process.wait(60) in (0, -signal.SIGTERM)
