"""Questions about things that no task asks for."""

from collections import Counter

import numpy as np
import pytest

from pixelis_fast.data.asked import USES, apart, asked, questions_about
from pixelis_fast.data.labels import SMALL_KINDS
from pixelis_fast.data.pixelworld import PixelWorld, PixelWorldConfig
from pixelis_fast.data.pixelworld.spatial import COLUMN, ROW
from pixelis_fast.data.pixelworld.words import WORDINGS

COUNT = 5


def tasks(family: str, count: int = 6):
    config = PixelWorldConfig(backgrounds="procedural", families={family: 1.0})
    return [PixelWorld(config).task("train", number) for number in range(count)]


def asked_of(task, count: int = COUNT):
    return asked(task, np.random.default_rng(3), count)


def named(question: str, task) -> list:
    return [
        thing
        for thing in task.objects
        if thing.kind == "marker" and f"{thing.color} {thing.shape}" in question
    ]


def holds(outer, inner) -> bool:
    return (
        outer[0] <= inner[0] < inner[2] <= outer[2] and outer[1] <= inner[1] < inner[3] <= outer[3]
    )


def test_questions_beside_a_thing_want_the_plate_next_to_it():
    [task] = tasks("read", 1)
    marker, sign = task.objects[:2]
    found = dict(questions_about(marker, [t for t in task.objects if t.kind == "sign"]))
    name = f"{marker.color} {marker.shape}"
    assert len(found) == 3
    assert holds(found[f"look beside the {name}"].call.arguments["box"], sign.box)
    for text in (f"look at the {name}", f"segment the {name}"):
        assert holds(found[text].call.arguments["box"], marker.box)


@pytest.mark.parametrize("family", USES)
def test_a_task_s_wordings_ask_about_the_other_things_too(family):
    own = 0
    for task in tasks(family):
        plates = [thing for thing in task.objects if thing.kind in SMALL_KINDS]
        for question, turn in asked_of(task, 100):
            [thing] = named(question, task)
            if not question.startswith(("look", "segment")):
                own += 1
                assert f"{thing.color} {thing.shape}" not in task.question
                assert turn.thought == f"i look beside the {thing.color} {thing.shape}"
                plate = min(plates, key=lambda plate: apart(plate.box, thing.box))
                assert holds(turn.call.arguments["box"], plate.box)
    assert own > 5


@pytest.mark.parametrize("family", USES)
def test_none_is_in_a_wording_of_test_s_own(family):
    own = {each for use in USES[family] for each in WORDINGS[use][1]}
    for task in tasks(family):
        for question, _ in asked_of(task, 100):
            assert template_of(question, task) not in own


def template_of(question: str, task) -> str:
    [thing] = named(question, task)
    template = question.replace(f"{thing.color} {thing.shape}", "{x}")
    for place in ROW + COLUMN:
        template = template.replace(place, "{at}")
    return template


def test_things_of_one_colour_come_first():
    rivals = 0
    for task in tasks("read", 12):
        colors = Counter(thing.color for thing in task.objects if thing.kind == "marker")
        shared = [colors[named(question, task)[0].color] > 1 for question, _ in asked_of(task, 100)]
        assert shared == sorted(shared, reverse=True)
        rivals += any(shared)
    assert rivals > 3


def test_what_two_things_are_called_is_not_asked_about():
    for task in tasks("multi", 3):
        names = Counter((t.color, t.shape) for t in task.objects if t.kind == "marker")
        for question, _ in asked_of(task):
            assert all(names[thing.color, thing.shape] == 1 for thing in named(question, task))


def test_videos_ask_nothing_further():
    [task] = tasks("track", 1)
    assert asked_of(task) == []
