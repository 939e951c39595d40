"""What bench/rollout.py says of its measurements: goals and tables. Measures nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.harness import Goal, Report, Timing
from bench.rollout_ablations import ABLATIONS
from bench.rollout_cases import GroupCase
from bench.rollout_runs import OURS, SERIAL, TOOLS_ALONE

RATIO_GOALS = {"G8-T5": 5.0, "G8-T8": 8.0}
"""Least wall time of the serial arm over ours, by group."""
MAX_OVERLAP = 1.15
"""Wall time over the longer of policy and tools."""
STAGES = ("policy", "tools", "prepare")

Table = dict[str, Any]


def timing_of(report: Report, case: str, arm: str) -> Timing | None:
    found = (timing for timing in report.timings if (timing.name, timing.arm) == (case, arm))
    return next(found, None)


def goals_of(report: Report, cases: Sequence[GroupCase]) -> list[Goal]:
    """Those of the groups that ran; a group that failed a check has no ratio."""
    ran = [case.name for case in cases if case.name in RATIO_GOALS]
    goals = []
    if {SERIAL, OURS} <= set(report.options.arms):
        ratios = report.ratios()
        goals += [
            Goal.at_least(
                f"{case}: wall time of {SERIAL} over ours", RATIO_GOALS[case], ratios.get(case)
            )
            for case in ran
        ]
    if OURS in report.options.arms:
        what = "wall time over the longer of policy and tools"
        goals += [
            Goal.at_most(f"{case}: {what}", MAX_OVERLAP, overlap(report, case)) for case in ran
        ]
    return goals


def overlap(report: Report, case: str) -> float:
    """Our wall time over the longer of two: its own forwards, and the tools when they run alone.

    What the loop does beside forwards (grammar, sampling, prompts) counts against it.
    """
    ours, tools = (timing_of(report, case, arm) for arm in (OURS, TOOLS_ALONE))
    assert ours is not None
    assert tools is not None
    longer = max(ours.extra["stage_ms"]["policy"], tools.percentile_ms(50))
    return round(ours.percentile_ms(50) / longer, 3)


def speed_table(report: Report) -> Table:
    """Seconds of every arm, the serial arm's over them, and whether the work was equal."""
    rows = [_speed_row(report, timing) for timing in report.timings if timing.arm != TOOLS_ALONE]
    columns = ["group", "arm", "wall s", "processor s", "serial / wall", "serial / processor"]
    columns += ["tokens equal", "same greedy choice"]
    return {"title": "Wall and processor time, medians", "columns": columns, "rows": rows}


def _speed_row(report: Report, timing: Timing) -> list[str]:
    wall_ms, cpu_ms = timing.percentile_ms(50), timing.extra["cpu_p50_ms"]
    serial = timing_of(report, timing.name, SERIAL)
    ratios = ["", ""]
    if serial is not None:
        ratios = [
            f"{serial.percentile_ms(50) / wall_ms:.2f}",
            f"{serial.extra['cpu_p50_ms'] / cpu_ms:.2f}",
        ]
    return [
        timing.name,
        timing.arm,
        _seconds(wall_ms),
        _seconds(cpu_ms),
        *ratios,
        "yes" if timing.extra["tokens_equal"] else "NO",
        f"{_percent(timing)} of {timing.extra['compared']}",
    ]


def stage_table(report: Report) -> Table:
    """Where the time goes; policy and tools may overlap."""
    rows = [
        [
            timing.name,
            timing.arm,
            *(_seconds(timing.extra["stage_ms"].get(stage)) for stage in STAGES),
            _seconds(timing.percentile_ms(50)),
        ]
        for timing in report.timings
    ]
    columns = ["group", "arm", *STAGES, "wall"]
    return {"title": "Seconds by stage, medians", "columns": columns, "rows": rows}


def ablation_table(report: Report, case: str) -> Table:
    """What each mechanism is worth: an arm without it over ours."""
    ours = timing_of(report, case, OURS)
    assert ours is not None
    rows = []
    for arm in (OURS, *ABLATIONS):
        timing = timing_of(report, case, arm)
        if timing is not None:
            wall = timing.percentile_ms(50) / ours.percentile_ms(50)
            cpu = timing.extra["cpu_p50_ms"] / ours.extra["cpu_p50_ms"]
            rows.append([arm, f"{wall:.2f}", f"{cpu:.2f}", _percent(timing)])
    columns = ["arm", "times ours, wall", "times ours, processor", "same greedy choice"]
    return {"title": f"{case}: one change at a time", "columns": columns, "rows": rows}


def loop_table(counted: Mapping[str, int]) -> Table:
    """What our arm's loop counted over all groups and in the set-up; zeros are left out."""
    rows = [[name.replace("_", " "), str(number)] for name, number in counted.items() if number]
    return {"title": "Counted by our loop", "columns": ["what", "times"], "rows": rows}


def _percent(timing: Timing) -> str:
    return f"{100 * timing.extra['same_greedy_choice']:.2f} %"


def _seconds(milliseconds: float | None) -> str:
    return "" if milliseconds is None else f"{milliseconds / 1e3:.2f}"
