"""Tasks meet the real tools; files; the commands."""

import json
from dataclasses import replace

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from pixelis_fast.data.pixelworld import (
    FAMILIES,
    PixelWorld,
    PixelWorldConfig,
    read_dataset,
    sample_of,
    save_media,
    write_dataset,
)
from pixelis_fast.data.pixelworld.check import check
from pixelis_fast.data.pixelworld.solve import solve
from pixelis_fast.tools import ToolConfig, open_tools
from pixelis_fast.types import MediaKind, ToolCall


@pytest.fixture(scope="module")
def tools():
    return open_tools(ToolConfig(store_bytes=1 << 27))


def task_of(family, number=0, split="train"):
    return PixelWorld(PixelWorldConfig(seed=11, families={family: 1.0})).task(split, number)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_plan_leads_to_the_answer(family, tools, tmp_path):
    task = task_of(family)
    for plan in task.plans:
        solved = solve(task, plan, tools, tmp_path)
        assert solved.is_right, solved.said
        assert all(iou > 0.85 for iou in solved.ious)


@pytest.mark.parametrize("family", ["read", "count", "track", "localize", "multi"])
def test_a_plan_that_points_elsewhere_is_wrong(family, tools, tmp_path):
    task = task_of(family)
    turn = task.plans[0][-1]
    elsewhere = {**turn.call.arguments, "box": [0, 0, 60, 60]}
    if family == "localize":
        elsewhere = {"media": 0, "event": "motion", "box": [0, 0, 60, 60]}
    wrong = replace(turn, call=ToolCall(turn.call.operation, elsewhere))
    assert not solve(task, (*task.plans[0][:-1], wrong), tools, tmp_path).is_right


def test_a_refused_call_is_wrong_and_says_why(tools, tmp_path):
    task = task_of("read")
    wrong = replace(task.plans[0][0], call=ToolCall("properties", {"mask": 0}))
    solved = solve(task, (wrong,), tools, tmp_path)
    assert not solved.is_right
    assert "mask" in solved.said


def test_a_picture_file_holds_the_very_pixels(tools, tmp_path):
    task = task_of("read")
    media = tools.add_media(save_media(task, tmp_path))
    assert media.kind is MediaKind.IMAGE
    assert np.array_equal(tools.image(media.id), task.frames[0])


def test_a_video_file_holds_every_frame_at_its_time(tools, tmp_path):
    task = task_of("track")
    media = tools.add_media(save_media(task, tmp_path))
    assert media.num_frames == len(task.frames)
    assert media.duration_s == pytest.approx(task.duration_s, abs=0.01)
    decoded = np.stack(tools.frames(media.id, range(media.num_frames))).astype(int)
    assert np.abs(decoded - task.frames).mean() < 4


def test_a_written_data_set_reads_back(tools, tmp_path):
    config = PixelWorldConfig(seed=5, video_s=(2.0, 2.0))
    path = write_dataset(config, "val", 8, tmp_path)
    world, stored = PixelWorld(config), read_dataset(tmp_path)
    assert len(stored) == 8
    assert json.loads((tmp_path / "world.json").read_text())["seed"] == 5
    for number, one in enumerate(stored):
        task = world.task("val", number)
        for name in ("id", "question", "answer", "answer_kind", "evidence", "plans", "objects"):
            assert getattr(one, name) == getattr(task, name)
        sample = sample_of(one, tools.add_media(one.media))
        assert sample.evidence == task.evidence
    with pytest.raises(ValueError, match="folder: expected one without"):
        write_dataset(config, "val", 1, tmp_path)
    path.write_text(path.read_text() + '{"id": "half"}\n')
    with pytest.raises(ValueError, match=r"tasks.jsonl:9: expected a task"):
        read_dataset(tmp_path)


def test_an_empty_folder_is_no_data_set(tmp_path):
    with pytest.raises(ValueError, match=r"folder: expected one with tasks.jsonl"):
        read_dataset(tmp_path)


def run(*arguments):
    app = typer.Typer()
    app.command()(check)
    return CliRunner().invoke(app, [str(each) for each in arguments])


def test_the_check_prints_a_row_per_family():
    result = run("--count", 1, "--families", "compare,count", "--backgrounds", "procedural")
    assert result.exit_code == 0, result.output
    assert "compare" in result.output
    assert "1/1" in result.output


def test_the_check_draws_a_sheet(tmp_path):
    result = run("--sheet", tmp_path / "sheet.png")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "sheet.png").stat().st_size > 100_000
