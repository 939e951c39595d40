"""A trace holds a trajectory exactly, and names what differs."""

import json
from dataclasses import replace

import pytest

from pixelis_fast.trace import TraceError, differences, read_trace, write_trace
from pixelis_fast.types import (
    Mask,
    Media,
    MediaKind,
    Observation,
    RolloutStatus,
    Sample,
    Step,
    TokenRole,
    ToolCall,
    Trajectory,
    VisionSpan,
)


def make_trajectory() -> Trajectory:
    media = Media("picture", MediaKind.IMAGE, 64, 48)
    crop = Media("crop", MediaKind.IMAGE, 32, 32)
    seen = Observation(
        text='{"view":[0,0,500,500]}',
        media=(crop,),
        masks=(Mask("picture", None, (48, 64), "abc"),),
        degraded="classical",
        engine="classical:grabcut",
        stage_ms={"run": 1.25},
    )
    call = ToolCall("zoom", {"media": 0, "box": [0, 0, 500, 500]})
    return Trajectory(
        sample=Sample("s", (media,), "what?", "that"),
        policy_version="v1",
        seed=3,
        ids=[1, 2, 3, 4],
        roles=[TokenRole.PROMPT, TokenRole.OPERATION, TokenRole.OBSERVATION, TokenRole.ANSWER],
        logprobs=[0.0, -0.1234567890123, 0.0, -1e-9],
        forced=[False, True, False, False],
        spans=[VisionSpan(0, 1, "picture", (1, 2, 2))],
        steps=[Step(1, 2, call, seen), Step(3, 4)],
        answer="that",
        status=RolloutStatus.ANSWERED,
        stage_ms={"decode": 12.5},
    )


def test_round_trip_is_exact(tmp_path):
    trajectory = make_trajectory()
    write_trace(tmp_path, agent={"policy": "unit"}, trajectories=[trajectory])
    trace = read_trace(tmp_path)
    assert trace.agent == {"policy": "unit"}
    assert trace.trajectories == (trajectory,)
    assert trace.trajectories[0].steps[0].observation.stage_ms == {"run": 1.25}


def test_differences_ignores_times_only():
    recorded, replayed = make_trajectory(), make_trajectory()
    replayed.stage_ms = {"decode": 99.0}
    replayed.steps[0].observation.stage_ms["run"] = 77.0
    assert differences(recorded, replayed) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda t: t.ids.__setitem__(2, 9), "ids: at 2 recorded 3, replayed 9"),
        (lambda t: t.logprobs.__setitem__(1, -0.1), "logprobs: at 1"),
        (lambda t: t.steps.pop(), "steps: recorded 2, replayed 1"),
        (lambda t: setattr(t, "answer", "other"), "answer: recorded 'that', replayed 'other'"),
        (
            lambda t: setattr(t.steps[0], "observation", replace(t.steps[0].observation, text="")),
            "step 0: call or observation differs",
        ),
    ],
    ids=["ids", "logprobs", "steps", "answer", "observation"],
)
def test_differences_names_what_changed(change, expected):
    replayed = make_trajectory()
    change(replayed)
    assert any(found.startswith(expected) for found in differences(make_trajectory(), replayed))


def test_missing_trace_is_named(tmp_path):
    with pytest.raises(TraceError, match=r"expected trace\.jsonl"):
        read_trace(tmp_path)


def test_torn_line_is_named(tmp_path):
    write_trace(tmp_path, agent={}, trajectories=[make_trajectory()])
    path = tmp_path / "trace.jsonl"
    path.write_text(path.read_text()[:-40])
    with pytest.raises(TraceError, match=r"trace\.jsonl:2: expected one JSON object"):
        read_trace(tmp_path)


def test_other_format_is_refused(tmp_path):
    (tmp_path / "trace.jsonl").write_text(json.dumps({"format": 99}) + "\n")
    with pytest.raises(TraceError, match="expected format 1, got 99"):
        read_trace(tmp_path)
