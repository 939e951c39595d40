"""Reading's benchmark: its pictures say what it claims, edits are counted, every switch differs."""

import json

import numpy as np
import pytest

from bench.harness import Report, Samples, parse_options
from bench.text import (
    ARMS,
    ORACLE,
    OURS,
    RULES,
    SWITCHES,
    checks_of,
    goals,
    main,
    measure_group,
    reading_table,
    scored,
)
from bench.text_lines import cut_lines, turned_lines
from bench.text_pictures import TextPicture, drawn, text_pictures

WHITE = np.full((40, 60, 3), 255, np.uint8)
PICTURES = (
    TextPicture("fake", "one", WHITE, ("AB C",)),
    TextPicture("fake", "two", WHITE, ("DEF", "G")),
)


def report_of(read: dict[str, list[str]]) -> Report:
    options = parse_options("test", arms=ARMS, argv=[])
    report = Report("text", options, ours="ours", baseline={"fake": RULES})
    for arm, texts in read.items():
        samples = Samples([10.0 if arm == "ours" else 40.0] * 2, texts, [9.0, 11.0])
        report.timings.append(scored("fake", PICTURES, arm, samples))
    return report


def test_pictures_are_the_same_each_time_and_named_once():
    first, second = text_pictures(quick=False), text_pictures(quick=False)
    assert len({picture.name for picture in first}) == len(first) > 100
    assert all(np.array_equal(a.image_HWC, b.image_HWC) for a, b in zip(first, second, strict=True))
    quick = text_pictures(quick=True)
    assert {picture.group for picture in quick} == {picture.group for picture in first}
    assert {picture.name for picture in quick} < {picture.name for picture in first}


def test_spaces_do_not_count():
    assert [picture.letters for picture in PICTURES] == ["ABC", "DEFG"]


def test_edits_are_counted_by_group_and_named_by_picture():
    report = report_of({"ours": ["ABC", "DEFG"], RULES: ["AXC", "DE"]})
    [ours, rules] = report.timings
    assert (ours.extra["wrong"], rules.extra["wrong"], rules.extra["characters"]) == (0, 3, 7)
    assert rules.extra["misread"] == {"one": 1, "two": 2}
    table = reading_table(report)
    assert table["rows"] == [["ours", "0", "0", "10"], [RULES, "3", "3", "10"]]
    assert [check.passed for check in checks_of(report)] == [True, False, True]
    assert [goal.met for goal in goals(report)] == [True, True]


def test_more_wrong_characters_than_the_rules_miss_the_goal():
    report = report_of({"ours": ["ABX", "DEFG"], RULES: ["ABC", "DEFG"]})
    assert [goal.met for goal in goals(report)] == [False, True]


def test_arms_take_turns_on_each_picture():
    seen: list[tuple[str, str]] = []

    def read(arm):
        def run(picture):
            seen.append((arm, picture.name))
            return picture.letters

        return run

    timings = measure_group("fake", PICTURES, {arm: read(arm) for arm in "ab"}, tick=lambda _: None)
    assert seen == [("a", "one"), ("b", "one"), ("b", "two"), ("a", "two")]
    assert [timing.extra["wrong"] for timing in timings] == [0, 0]


def test_every_switch_changes_a_setting():
    assert OURS not in SWITCHES.values()
    assert len({repr(config) for config in (OURS, ORACLE, *SWITCHES.values())}) == len(SWITCHES) + 2


def test_lines_on_their_head_are_told():
    image = drawn(("Invoice 2024-117", "Gate 21"), "DejaVuSans", 24, width=320, margin=12)
    picture = TextPicture("fake", "letter", image, ("Invoice 2024-117", "Gate 21"))
    assert len(cut_lines([picture], threads=1)) == 2
    table = turned_lines([picture], threads=1)
    assert table["rows"][0][:4] == ["upright", "2", "2", "2"]
    assert table["rows"][1][:2] == ["on their head", "2"]
    assert table["rows"][1][3] == "0"


def test_the_whole_command_on_one_group(capsys):
    assert main(["--quick", "--groups", "words", "--arms", "ours"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["equal"]
    assert {case["name"] for case in document["cases"]} == {"words"}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--runs", "3"], "--runs: expected none"),
        (["--groups", "nothing"], "--groups: expected some of"),
        (["--ablate", "--arms", "rapidocr"], "--ablate: expected ours"),
    ],
)
def test_bad_options(argv, message):
    with pytest.raises(SystemExit, match=message):
        main(argv)
