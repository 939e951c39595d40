"""Chain metrics of trajectories written by hand."""

from dataclasses import replace

import pytest

from pixelis_fast.eval.metrics import (
    calls_of,
    chain_metrics,
    grounding,
    stage_percentiles,
)
from pixelis_fast.types import (
    AnswerKind,
    Evidence,
    Media,
    MediaKind,
    Observation,
    Sample,
    Step,
    ToolCall,
    Trajectory,
)

PICTURE = Media("m", MediaKind.IMAGE, 100, 100)
NEAR, NEARER, FAR = (1.0, 0.0), (1.0, 0.5), (0.0, 1.0)
SAMPLE = Sample("s", (PICTURE,), "how many?", "3", AnswerKind.NUMBER)


def zoom(x: int, embedding=NEAR, error: str | None = None) -> Step:
    view = [x, 0, x + 100, 100]
    observation = Observation(f'{{"view":{view}}}', error=error)
    return Step(0, 0, ToolCall("zoom", {"media": 0, "box": view}), observation, embedding)


def unreadable() -> Step:
    return Step(0, 0, None, Observation('{"error":"expected"}', error="expected"), NEAR)


def trajectory(*steps: Step, answer: str | None = "3", sample: Sample = SAMPLE) -> Trajectory:
    return Trajectory(sample, policy_version="v", seed=0, steps=[*steps, Step(0, 0)], answer=answer)


def test_counts_by_hand():
    chains = [
        trajectory(zoom(0), zoom(100, NEARER), zoom(100, NEARER), zoom(200, FAR)),
        trajectory(zoom(0), unreadable(), answer="4"),
        trajectory(answer=None),
    ]
    metrics = chain_metrics(chains)
    assert metrics.count == 3
    assert metrics.accuracy == pytest.approx(1 / 3)
    assert metrics.length == 2
    assert metrics.validity == pytest.approx(5 / 6)
    assert metrics.rapr == pytest.approx(5 / 9)
    # Of four pairs only the first is valid, coherent and no repetition.
    assert metrics.racpr == pytest.approx(1 / 4)
    assert metrics.visfid is None


def test_a_chain_that_was_cut_off_does_not_blank_the_others():
    """Its last call has neither observation nor embedding: that pair did not work."""
    whole = trajectory(zoom(0), zoom(100, NEARER))
    pending = Step(0, 0, ToolCall("zoom", {"media": 0, "box": [0, 0, 9, 9]}))
    cut = Trajectory(SAMPLE, policy_version="v", seed=0, steps=[zoom(0), pending])
    assert chain_metrics([whole, cut]).racpr == pytest.approx(1 / 2)
    unknown = trajectory(zoom(0), zoom(100, None))
    assert chain_metrics([whole, unknown]).racpr == 1


def test_what_cannot_be_measured_is_none():
    untold = replace(SAMPLE, answer=None)
    metrics = chain_metrics([trajectory(sample=untold)])
    assert metrics.accuracy is metrics.validity is metrics.racpr is None
    assert metrics.length == metrics.rapr == 0
    blind = chain_metrics([trajectory(zoom(0, None), zoom(100, None))])
    assert blind.racpr is None
    with pytest.raises(ValueError, match="trajectories: expected at least one"):
        chain_metrics([])


def test_visfid_is_of_samples_with_evidence_only():
    judged = replace(SAMPLE, evidence=(Evidence("zoom", box=(0, 0, 100, 100)),))
    chains = [trajectory(zoom(0)), trajectory(zoom(0), sample=judged), trajectory(sample=judged)]
    assert chain_metrics(chains).visfid == pytest.approx(0.5)
    assert grounding(chains) == {"zoom": 1.0}


def test_a_call_that_was_cut_off_is_a_call_and_not_valid():
    cut = Step(0, 0, ToolCall("zoom", {}))
    assert calls_of(trajectory(cut)) == [cut]
    assert chain_metrics([trajectory(cut)]).validity == 0


def test_percentiles_by_stage():
    chains = [replace(trajectory(), stage_ms={"decode": float(ms)}) for ms in range(101)]
    chains[0].stage_ms["vision"] = 1000.0
    table = stage_percentiles(chains)
    assert table["decode"] == {"p50": 50, "p90": 90, "p99": 99}
    assert table["vision"]["p50"] == 0
    assert table["total"]["p50"] == 51
    assert stage_percentiles([]) == {}
