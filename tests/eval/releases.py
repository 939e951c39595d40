"""Tiny folders in the formats that the benchmarks' releases use, with drawn pictures and clips."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tests.chains import disk_frames, drawn_picture
from tests.scenes import encoded


def put_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def put_lines(path: Path, rows: Sequence[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def put_picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), drawn_picture()[..., ::-1])
    return path


def put_clip(path: Path, *, frames: int = 10) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(disk_frames(frames)[0]))
    return path


def vstar(folder: Path) -> Path:
    put_picture(folder / "direct_attributes/sa_1.jpg")
    notes = {"target_object": ["disk"], "bbox": [[240, 240, 120, 120]], "options": ["red"]}
    put_json(folder / "direct_attributes/sa_1.json", notes)
    put_picture(folder / "relative_position/sa_2.jpg")
    rows = [
        {
            "image": "direct_attributes/sa_1.jpg",
            "text": "What is the color of the disk?\n(A) red\n(B) blue",
            "category": "direct_attributes",
            "label": "A",
            "question_id": 0,
        },
        {
            "image": "relative_position/sa_2.jpg",
            "text": "Is the disk left or right of the sign?\n(A) right\n(B) left",
            "category": "relative_position",
            "label": "B",
            "question_id": 1,
        },
    ]
    put_lines(folder / "test_questions.jsonl", rows)
    return folder


def vsibench(folder: Path) -> Path:
    put_clip(folder / "arkitscenes/41069025.mp4")
    common = {"dataset": "arkitscenes", "scene_name": "41069025"}
    count = {"question_type": "object_counting", "question": "How many chairs?"}
    side = {"question_type": "object_rel_direction_easy", "question": "Is it to my left?"}
    rows = [
        {"id": 0, **common, **count, "ground_truth": "4", "options": None},
        {"id": 1, **common, **side, "ground_truth": "B", "options": ["A. left", "B. right"]},
    ]
    put_lines(folder / "test.jsonl", rows)
    return folder


def infovqa(folder: Path) -> Path:
    put_picture(folder / "infographicsvqa_images/30004.jpeg")
    row = {"questionId": 98313, "question": "What does the sign say?", "answers": ["KX42", "kx 42"]}
    content = {"dataset_split": "val", "data": [{**row, "image_local_name": "30004.jpeg"}]}
    put_json(folder / "infographicsVQA_val_v1.0_withQT.json", content)
    return folder


def videomme(folder: Path, *, nested: bool = False) -> Path:
    put_clip(folder / "data/fFjv93ACGo8.mp4")
    about = {"video_id": "001", "videoID": "fFjv93ACGo8", "duration": "short"}
    options = ["A. left", "B. right", "C. up", "D. down"]
    question = {"question_id": "001-1", "question": "Where does the disk go?", "answer": "B"}
    question["options"] = options
    if nested:
        put_json(folder / "videomme.json", [{**about, "questions": [question]}])
    else:
        put_lines(folder / "test.jsonl", [{**about, **question}])
    return folder


def mmstar(folder: Path) -> Path:
    picture = put_picture(folder / "source.png")
    cell = base64.b64encode(picture.read_bytes()).decode()
    picture.unlink()
    header = "index\tquestion\timage\tA\tB\tanswer\tcategory\tl2_category"
    first = f"0\tWhich colour?\t{cell}\tred\tblue\tA\tcoarse\tcolour"
    second = "1\tWhich side?\t0\tleft\tright\tA\tfine\tplace"
    (folder / "MMStar.tsv").write_text("\n".join((header, first, second)) + "\n")
    return folder


def mvbench(folder: Path) -> Path:
    put_clip(folder / "video/star/Charades_v1_480/ZS9XR.mp4", frames=20)
    put_clip(folder / "video/clevrer/video_validation/v1.mp4")
    for number in range(4):
        put_picture(folder / f"video/tvqa/frames_fps3_hq/house/{number:05d}.jpg")
    row = {"question": "What happened?", "candidates": ["It went left.", "It went right."]}
    part = {**row, "answer": "It went right.", "start": 0.5, "end": 1.5}
    put_json(folder / "json/action_sequence.json", [{**part, "video": "ZS9XR.mp4"}])
    whole = {**row, "answer": "It went left.", "video": "v1.mp4"}
    put_json(folder / "json/moving_direction.json", [whole])
    frames = {**row, "answer": "It went left.", "video": "house"}
    put_json(folder / "json/episodic_reasoning.json", [frames])
    return folder


def rewritten(path: Path, change: Any) -> None:
    """A release's JSON lines with its last row changed."""
    *rows, last = [json.loads(line) for line in path.read_text().splitlines()]
    put_lines(path, [*rows, {**last, **change}])


def is_clip(path: Path) -> bool:
    return np.frombuffer(path.read_bytes()[4:8], np.uint8).tobytes() == b"ftyp"
