"""Soak and fuzz on the micro SAM 2: its feature store, sessions and prompts are exercised."""

import pytest

from bench import soak
from bench.fuzz import Fuzzer
from bench.mask_engines import CONFIGS, FEATURE_BYTES, feature_figures, open_mask_engines
from bench.soak_calls import SoakCall


def test_classical_engines_have_no_feature_store():
    segmenter, _ = open_mask_engines("classical", threads=1)
    assert segmenter.name.startswith("classical")
    assert feature_figures(segmenter) is None
    assert set(CONFIGS) == {"classical", "micro"}


@pytest.mark.filterwarnings("ignore")
def test_broken_input_gets_a_typed_answer_from_the_micro_engines():
    fuzzer = Fuzzer(seed=7, masks="micro")
    for number in range(30):
        fuzzer.run_one(number)
    assert fuzzer.findings.faults == []
    assert "micro" in fuzzer.tools.engines()["segment"]
    assert fuzzer.findings.outcomes["answered"] > 4
    fuzzer.tools.close()


def prompts_and_tracks(rng, media, *, count):
    """Two boxes on each of three pictures, then a clip tracked twice: no text, which is slow."""
    pictures = [info for info in media if info.kind == "image"][:3]
    [clip, *_] = [info for info in media if info.kind == "video"]
    boxes = [(100, 100, 400, 400), (300, 300, 700, 700)]
    calls = [SoakCall("segment", (info.id,), {"box": box}) for info in pictures for box in boxes]
    span = {"start_s": 0.0, "end_s": 0.4, "max_frames": 3}
    return [*calls, *(SoakCall("track", (clip.id, box), span) for box in boxes)][:count]


def test_a_soak_tells_how_often_features_were_there(monkeypatch):
    monkeypatch.setattr(soak, "draw_calls", prompts_and_tracks)
    argv = ["--quick", "--calls", "8", "--masks", "micro", "--clients", "2"]
    options = soak.parse_options(soak.__doc__, arms=soak.ARMS, add=soak.add_flags, argv=argv)
    report = soak.soak(options)
    wrong = [check for check in report.checks if not check.passed]
    assert wrong == []
    features = report.extra["features"]
    assert features["hits"] > 0
    assert features["hit_rate"] == pytest.approx(
        features["hits"] / (features["hits"] + features["misses"]), abs=1e-4
    )
    assert features["bytes"] <= FEATURE_BYTES
    assert "micro" in report.extra["engines"]["track"]
