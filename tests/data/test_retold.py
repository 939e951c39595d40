"""Retold chains: what they say and what of them is imitated; what a panel is asked about."""

import json
from dataclasses import replace

import numpy as np
import pytest

from pixelis_fast.copies import is_said
from pixelis_fast.data.evident import areas_of, is_evident
from pixelis_fast.data.labels import shown_at
from pixelis_fast.data.pixelworld import PixelWorld, PixelWorldConfig
from pixelis_fast.data.pixelworld.words import is_of_split
from pixelis_fast.data.plans import planned, plans_of
from pixelis_fast.data.prepare import counts_of, prepare, stored
from pixelis_fast.data.prepared import Prepared
from pixelis_fast.data.preparer import PrepareConfig, Preparer
from pixelis_fast.data.retold import other_areas, other_text
from pixelis_fast.data.siblings import siblings
from pixelis_fast.policy.limits import PatchShape
from pixelis_fast.types import TokenRole

TIMES = 4


@pytest.fixture(scope="module")
def preparer() -> Preparer:
    return Preparer(PrepareConfig(retold=1, retold_per_task=TIMES))


def task_of(family: str, number: int = 0):
    config = PixelWorldConfig(backgrounds="procedural", families={family: 1.0})
    return PixelWorld(config).task("train", number)


def told(preparer: Preparer, family: str):
    for number in range(3):
        task = task_of(family, number)
        for example in preparer.retold(task, stored(preparer.tools, task)):
            yield task, example


def text_of(preparer: Preparer, example, roles) -> str:
    trajectory = example.trajectory
    start = trajectory.steps[-1].start
    kept = [
        token
        for token, role in zip(trajectory.ids[start:], trajectory.roles[start:], strict=True)
        if role in roles
    ]
    return preparer.opened.tokenizer.decode(kept)


def context_of(preparer: Preparer, example) -> str:
    trajectory = example.trajectory
    return preparer.opened.tokenizer.decode(trajectory.ids[: trajectory.steps[-1].start])


@pytest.mark.parametrize("family", ["read", "compare", "multi"])
def test_only_what_follows_from_the_observations_is_imitated(preparer, family):
    found = list(told(preparer, family))
    assert len(found) == 3 * TIMES
    for _, example in found:
        assert example.imitated == (*[False] * (len(example.imitated) - 1), True)
        assert len(example.imitated) == len(example.trajectory.steps)
        assert not example.is_whole


@pytest.mark.parametrize("family", ["read", "multi"])
def test_a_sign_s_answer_is_what_the_tool_is_said_to_have_read(preparer, family):
    texts = []
    for task, example in told(preparer, family):
        answer = example.trajectory.answer
        if answer is None:
            continue
        assert f'"text":"{answer}"' in context_of(preparer, example)
        assert is_of_split(answer, task.split)
        assert answer in text_of(preparer, example, {TokenRole.ANSWER})
        assert is_said(example.trajectory), "the copy is guided"
        texts.append(answer)
    assert len(texts) >= TIMES
    assert len(set(texts)) > len(texts) - 3, "texts differ"


def test_who_compares_answers_by_the_areas_that_are_said(preparer):
    larger = set()
    for task, example in told(preparer, "compare"):
        thought = text_of(preparer, example, {TokenRole.THOUGHT}).removeprefix(task.question)
        first, second, _, which = thought.split()
        assert f'"area":{first}' in context_of(preparer, example)
        assert f'"area":{second}' in context_of(preparer, example)
        assert which == ("first" if float(first) > float(second) else "second")
        names = [turn.thought.split()[-2] for turn in task.plans[0]]
        assert example.trajectory.answer == names[which == "second"]
        larger.add(which)
    assert larger == {"first", "second"}, "whatever the picture shows"


def test_who_looks_beside_the_larger_keeps_to_the_picture(preparer):
    """The call goes to a place, so the real order stays and the numbers change."""
    looks = [one for one in told(preparer, "multi") if one[1].trajectory.answer is None]
    assert len(looks) >= TIMES
    for task, example in looks:
        real = preparer.run(task, example.trajectory.sample.media[0], turns_of(preparer, task))
        measured = areas_of([json.loads(s.observation.text) for s in real.trajectory.steps[:-1]])
        thought = text_of(preparer, example, {TokenRole.THOUGHT}).removeprefix(task.question)
        first, second, _, which = thought.split()[:4]
        assert (float(first) > float(second)) == (measured[0] > measured[1])
        assert which == ("first" if measured[0] > measured[1] else "second")
        call = example.trajectory.steps[-1].call
        assert call == next(s.call for s in real.trajectory.steps if s.call.operation == "zoom")


def turns_of(preparer: Preparer, task):
    plan = plans_of(task)[0]
    media = stored(preparer.tools, task)
    return planned(plan, preparer.views.tokens(media).timestamps_s)


@pytest.mark.parametrize("family", ["count", "spatial", "track", "localize"])
def test_other_families_have_nothing_to_tell_again(preparer, family):
    task = task_of(family)
    assert list(preparer.retold(task, stored(preparer.tools, task))) == []


def test_they_are_counted_as_a_kind_of_their_own(tmp_path):
    world = PixelWorldConfig(backgrounds="procedural", families={"read": 1.0})
    config = PrepareConfig(whole=1, grounding=0, retold=2, retold_per_task=TIMES)
    prepare(tmp_path, config, world)
    assert counts_of(tmp_path, config) == {"read": 1, "retold": 2 * TIMES}
    assert sum(example.is_whole for example in Prepared([tmp_path], PatchShape()).examples) == 1


def test_areas_differ_and_either_is_the_larger():
    rng = np.random.default_rng(0)
    pairs = [other_areas(rng) for _ in range(200)]
    assert all(first != second for first, second in pairs)
    assert 60 < sum(first > second for first, second in pairs) < 140
    assert all(round(value, 1) == value for pair in pairs for value in pair)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_texts_are_of_their_split(split):
    rng = np.random.default_rng(0)
    texts = {other_text(rng, split, ["wo", "od", "bird"]) for _ in range(50)}
    assert len(texts) > 20
    assert all(is_of_split(text, split) for text in texts)


def test_siblings_ask_about_every_glyph_of_the_panel():
    seen = set()
    for number in range(6):
        task = task_of("spatial", number)
        found = list(siblings(task))
        assert len({one.answer for one in found}) == len({one.question for one in found}) == 3
        assert (task.question, task.answer) in {(one.question, one.answer) for one in found}
        places = [shown_at(one, task.evidence[-1].box) for one in found]
        assert places == sorted(places, key=sum), "from the left or from the top"
        seen.add("left" in found[0].question)
    assert seen == {True, False}, "rows and columns"


def test_other_tasks_are_their_own_only_sibling():
    task = task_of("count")
    assert list(siblings(task)) == [task]


def test_a_chain_that_measured_the_other_thing_larger_is_not_evident(preparer):
    task = task_of("multi")
    media = stored(preparer.tools, task)
    chain = preparer.run(task, media, turns_of(preparer, task))
    assert is_evident(task, chain.trajectory)
    steps = [step for step in chain.trajectory.steps if step.observation][:2]
    areas = [json.loads(step.observation.text)["area"] for step in steps]
    for step, area in zip(steps, reversed(areas), strict=True):
        content = json.loads(step.observation.text) | {"area": area}
        step.observation = replace(step.observation, text=json.dumps(content))
    assert not is_evident(task, chain.trajectory)
