"""The command line, end to end: ask, rollout, replay, doctor, plain errors.

What needs a policy that calls tools is asked of the one that ships, the rest of the unit policy.
"""

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
from PIL import Image
from typer.testing import CliRunner

from pixelis_fast.cli import app
from pixelis_fast.trace import read_trace
from pixelis_fast.types import RolloutStatus, Trajectory
from tests.media import picture

UNIT = ["--policy", "unit", "--max-tokens", "120", "--max-steps", "2", "--max-thought", "40"]
runner = CliRunner()


def run(*arguments: str | Path):
    return runner.invoke(app, [str(each) for each in arguments])


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """PixelWorld's first seven test questions with their pictures and clips."""
    folder = tmp_path_factory.mktemp("world")
    drawn = run("world", folder, "--count", "7")
    assert drawn.exit_code == 0, drawn.output
    return folder


def questions(world: Path) -> dict[str, str]:
    """By the path of the media below the folder."""
    rows = [json.loads(line) for line in (world / "tasks.jsonl").open()]
    return {media: row["question"] for row in rows for media in row["media"]}


@pytest.fixture(scope="module")
def trace(world) -> Path:
    """Two sampled trajectories, one on an image and one on a video."""
    rows = [
        {"id": Path(media).stem.split("-")[0], "media": [media], "question": question}
        for media, question in questions(world).items()
        if media in ("media/compare-test-5.png", "media/localize-test-0.mp4")
    ]
    samples = world / "samples.jsonl"
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = world / "trace"
    result = run("rollout", samples, "--out", out, "--temperature", "1", "--seed", "5")
    assert result.exit_code == 0, result.output
    assert "compare" in result.output
    return out


def ran_a_tool(trajectory: Trajectory) -> bool:
    observations = [step.observation for step in trajectory.steps if step.call is not None]
    return any(each is not None and each.error is None for each in observations)


def test_replay_is_identical(trace):
    recorded = read_trace(trace).trajectories
    assert any(ran_a_tool(trajectory) for trajectory in recorded)
    result = run("rollout", "--replay", trace)
    assert result.exit_code == 0, result.output
    tokens = sum(len(trajectory.ids) for trajectory in recorded)
    assert f"replayed 2 trajectories, {tokens} tokens: identical" in " ".join(result.output.split())


def test_replay_of_what_the_clock_ended_is_identical(trace, tmp_path):
    out, samples = tmp_path / "hasty", trace.parent / "one-sample.jsonl"
    samples.write_text((trace.parent / "samples.jsonl").read_text().splitlines()[0])
    result = run("rollout", samples, "--out", out, "--max-time", "0.001", *UNIT)
    assert result.exit_code == 0, result.output
    ends = {trajectory.status for trajectory in read_trace(out).trajectories}
    assert ends == {RolloutStatus.TRUNCATED_MAX_TIME}
    result = run("rollout", "--replay", out)
    assert result.exit_code == 0, result.output
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
    assert f"{row['sample']['id']}: ids: at" in " ".join(result.output.split())


def test_ask_prints_the_chain_and_saves_a_trace(tmp_path):
    out = tmp_path / "ask"
    result = run("ask", picture("coins.png"), "How many coins?", "--out", out, *UNIT)
    assert result.exit_code == 0, result.output
    assert "How many coins?" in result.output
    assert "random weights" in result.output
    assert "where the time went" in result.output
    assert (out / "trace.jsonl").is_file()
    assert list((out / "media").iterdir())


@pytest.mark.parametrize(
    ("media", "kind"),
    [
        ("media/compare-test-5.png", "mask"),
        ("media/read-test-1.png", "crop"),
        ("media/track-test-6.mp4", "mask"),
    ],
    ids=["mask-on-a-picture", "crop-of-a-picture", "masks-in-a-video"],
)
def test_ask_saves_what_the_policy_saw_and_names_it(world, media, kind, tmp_path):
    """One picture per crop and mask of the trace, each named on a line of the tree."""
    out = tmp_path / "ask"
    result = run("ask", world / media, questions(world)[media], "--out", out)
    assert result.exit_code == 0, result.output
    [trajectory] = read_trace(out).trajectories
    made = [
        out / f"step-{number}-{what}-{index}.png"
        for number, step in enumerate(trajectory.steps, start=1)
        if step.observation is not None
        for what, pieces in (("crop", step.observation.media), ("mask", step.observation.masks))
        for index in range(len(pieces))
    ]
    assert any(kind in path.name for path in made)
    assert sorted(out.glob("*.png")) == sorted(made)
    # A long path is broken anywhere: the words are compared without spaces and the tree's lines.
    printed = re.sub(r"[\s│├└─]", "", result.output)
    assert all(f"saved{path}" in printed for path in made)
    shown = trajectory.sample.media[0]
    for path in made:
        if "mask" in path.name:
            assert Image.open(path).size == (shown.width, shown.height)


def test_the_readme_asks_about_something_that_it_draws(world):
    text = (Path(__file__).parents[1] / "README.md").read_text()
    asked = re.findall(r'^pixelis ask runs/world/(\S+) "(.+?)"', text, re.M)
    assert asked
    assert "pixelis world runs/world --count 7\n" in text
    for media, question in asked:
        assert questions(world)[media] == question


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
