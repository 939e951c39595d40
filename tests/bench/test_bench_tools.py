"""bench/tools.py's own parts: what is compared, and that a wrong answer is seen."""

import pytest
import torch

from bench.harness import Report, parse_options
from bench.tool_cases import Case, clip, cosine, text_case, text_distance
from bench.tool_chain import CALLS, Media, our_chain
from bench.tools import chosen_cases, goals, measure, pages
from pixelis_fast.tools_trt.classical.track import ClassicalTrack
from pixelis_fast.tools_trt.read_text import ReadText
from pixelis_fast.tools_trt.sam2.network import Sam2
from pixelis_fast.tools_trt.sam2.segment import Sam2Segment
from pixelis_fast.tools_trt.store import MediaStore
from pixelis_fast.tools_trt.toolset import Toolset


def test_lines_in_another_order_are_equal_and_a_wrong_letter_counts():
    lines = ["Total due 619.30", "Pears 7 crates"]
    assert text_distance(lines, lines[::-1]) == 0
    assert text_distance(lines, ["Total due 619.80", "Pears 7 crates"]) == pytest.approx(1 / 26)
    assert text_distance([], ["x"]) == 1


def test_cosine_sees_a_turned_feature():
    one = torch.randn(1, 8, 4, 4)
    assert cosine(one, 3 * one) == pytest.approx(1, abs=1e-6)
    assert cosine(one, one.flip(1)) < 0.9


def test_a_clip_has_frames_that_differ():
    frames = clip(3)
    assert len({frame.tobytes() for frame in frames}) == 3


def test_reading_is_compared_with_what_the_usual_reader_says():
    store = MediaStore()
    reader = ReadText(store, backend="openvino")
    page, lines = pages(quick=True)["16 lines"]
    assert len(lines) == 16
    options = {"target": 1.0, "baseline": "x"}
    case = text_case("page", page, lines, lambda _: lines, reader, store, **options)
    assert [check.passed for check in case.compare(lines, case.ours())] == [True]
    assert [check.passed for check in case.compare(lines, ["nothing of the kind"])] == [False]
    # Where the usual reader errs, ours may err as much.
    assert [check.passed for check in case.compare(lines[:8], lines[:8])] == [True]


def test_every_run_of_the_chain_brings_new_media():
    store = MediaStore()
    sam2 = Sam2.random("micro", side=64)
    tools = Toolset(
        store,
        segmenter=Sam2Segment(sam2),
        tracker=ClassicalTrack(),
        read_text=ReadText(store, backend="openvino"),
    )
    media = Media()
    one, other = (our_chain(tools, media.next("ours")) for _ in range(2))
    assert one == other
    assert (one.frames, len(one.crops)) == (16, 2)
    assert "Apples" in one.text
    stats = tools.stats().calls.tools
    assert sum(tool.memo_hits for tool in stats.values()) == 0
    assert sum(tool.calls for tool in stats.values()) == 2 * len(CALLS)
    again = Media()
    assert our_chain(tools, again.next("ours")) == one
    assert sum(tool.memo_hits for tool in tools.stats().calls.tools.values()) >= len(CALLS) - 2
    tools.close()


def test_a_case_is_timed_in_both_arms_and_judged():
    options = parse_options("", arms=("usual", "ours"), argv=["--quick"])
    report = Report("tools", options, ours="ours", baseline={})
    case = Case("sum", lambda: sum(range(200_000)), lambda: 1, lambda one, other: [], 2, "python")
    measure(case, report, tick=lambda _: None)
    [goal] = goals([case], report)
    assert goal.met
    assert {timing.arm for timing in report.timings} == {"python", "ours"}


def test_unknown_cases_are_refused():
    assert chosen_cases("text,load") == ("text", "load")
    with pytest.raises(SystemExit, match="--cases: expected some of"):
        chosen_cases("texts")
