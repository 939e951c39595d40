"""MVBench: json/<task>.json and the videos in the folders of its release.

A row has video, question, candidates and answer (one of them); start and end where the question is
about a part, which is then cut out. Scored as its own evaluation does, by the option's letter.
"""

from __future__ import annotations

from pathlib import Path
from string import ascii_uppercase

from pixelis_fast.data.rows import Row, RowError, read_rows
from pixelis_fast.eval.benchmark_types import Benchmark, Item
from pixelis_fast.eval.choices import lettered, mvbench_agrees
from pixelis_fast.eval.clips import cut, joined

VIDEO_FOLDERS = {
    "action_sequence": "star/Charades_v1_480",
    "action_prediction": "star/Charades_v1_480",
    "action_antonym": "ssv2_video",
    "fine_grained_action": "Moments_in_Time_Raw/videos",
    "unexpected_action": "FunQA_test/test",
    "object_existence": "clevrer/video_validation",
    "object_interaction": "star/Charades_v1_480",
    "object_shuffle": "perception/videos",
    "moving_direction": "clevrer/video_validation",
    "action_localization": "sta/sta_video",
    "scene_transition": "scene_qa/video",
    "action_count": "perception/videos",
    "moving_count": "clevrer/video_validation",
    "moving_attribute": "clevrer/video_validation",
    "state_change": "perception/videos",
    "fine_grained_pose": "nturgbd",
    "character_order": "perception/videos",
    "egocentric_navigation": "vlnqa",
    "episodic_reasoning": "tvqa/frames_fps3_hq",
    "counterfactual_inference": "clevrer/video_validation",
}
FRAME_RATE = 3
"""Of the task whose videos are folders of frames."""
ASK = "Only give the best option."


def load(folder: Path, cache: Path) -> list[Item]:
    """The tasks whose JSON is there."""
    tasks = [task for task in VIDEO_FOLDERS if (folder / "json" / f"{task}.json").is_file()]
    if not tasks:
        raise RowError(f"{folder}: expected json/<task>.json, found none")
    return [
        _item(row, task, number, folder, cache)
        for task in tasks
        for number, row in enumerate(read_rows(folder / "json", f"{task}.json"))
    ]


def _item(row: Row, task: str, number: int, folder: Path, cache: Path) -> Item:
    candidates, answer = row.texts("candidates"), row.text("answer")
    if answer not in candidates:
        raise row.error("answer", "one of the candidates", answer)
    question = f"Question: {row.text('question')}\nOptions:\n{lettered(candidates)}\n{ASK}"
    return Item(
        id=f"{task}-{number}",
        media=(_video(row, task, number, folder, cache),),
        question=question,
        truths=(ascii_uppercase[candidates.index(answer)],),
        category=task,
    )


def _video(row: Row, task: str, number: int, folder: Path, cache: Path) -> Path:
    place = Path(VIDEO_FOLDERS[task]) / row.text("video")
    video = row.file("video", folder / "video" / place, folder / place)
    name = f"{task}-{number}"
    if video.is_dir():
        video = joined(video, cache / f"{name}-joined.mp4", rate=FRAME_RATE)
    if row.values.get("start") is None:
        return video
    return cut(video, (row.number("start"), row.number("end")), cache / f"{name}.mp4")


def score(item: Item, answer: str) -> float:
    return float(mvbench_agrees(answer, item.truths[0]))


MVBENCH = Benchmark("mvbench", load, score)
