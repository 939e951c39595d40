"""Calls begun before their turn ends, and pictures prepared for tools: used, cancelled, counted."""

from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import pytest

from pixelis_fast.agent import Agent, AgentConfig, build_agent
from pixelis_fast.loop import LoopConfig, Request
from pixelis_fast.loop_ahead import closing, complete_call
from pixelis_fast.tools import Preparation, ToolBox
from pixelis_fast.types import Media, MediaKind, Sample, ToolCall, Trajectory
from tests.loop_fixtures import ANSWER, READ, SEGMENT, ZOOM, HeldTools, call_text, script
from tests.media import clip, picture

STILL = Media("a", MediaKind.IMAGE, 100, 100)
CLIP = Media("b", MediaKind.VIDEO, 100, 100, 10, 1.0)
BOX = '{"name":"zoom","arguments":{"media":0,"box":[1,2,3,4]'
POINT = '{"name":"segment","arguments":{"media":0,"point":[1,2]'
TEXT = '{"name":"read_text","arguments":{"media":0'
EVENT = '{"name":"localize","arguments":{"media":0,"event":"motion"'
UNSTEPPED = {"jump_ahead": False}
"""Closing tokens come one by one, so that a call has something to be early by."""


@pytest.fixture(scope="module")
def agent() -> Agent:
    return build_agent(AgentConfig(policy="unit"))


def with_tools(agent: Agent, wrap, **loop: Any) -> Agent:
    return agent.variant(replace(agent.config, loop=LoopConfig(**loop)), wrap_tools=wrap)


def run(agent: Agent, *turns: str, name: str = "coins.png", **options: Any) -> Trajectory:
    path = picture(name) if name.endswith("png") else clip(name)
    request = Request(Sample("1", (agent.tools.add_media(path),), "What?"), **options)
    with agent.loop as loop:
        ticket = loop.submit(request, chooser=script(agent, *turns))
        trajectory = ticket.result(60)
    assert trajectory.error is None
    return trajectory


@pytest.mark.parametrize(
    ("text", "media", "is_complete"),
    [
        (BOX[:-1], STILL, False),
        (BOX, STILL, True),
        (BOX, CLIP, False),
        (BOX + ',"time":1', CLIP, False),
        (BOX + ',"time":1}', CLIP, True),
        (BOX + "}", CLIP, True),
        (BOX + "}}\n", CLIP, True),
        (BOX + "}}}", STILL, False),
        (POINT, STILL, True),
        (TEXT, STILL, False),
        (TEXT + "}", STILL, True),
        (EVENT, CLIP, False),
        (EVENT + ',"query":"a ]}"', CLIP, True),
        (EVENT + ',"query":"a ]', CLIP, False),
        (BOX.replace("3", "0"), STILL, False),
        ('{"name":"fly","arguments":{}', STILL, False),
    ],
)
def test_a_call_is_complete_when_nothing_more_can_be_said(text, media, is_complete):
    call = complete_call(text, (media,))
    assert (call is not None) == is_complete
    if call is not None:
        assert closing(text).startswith(text.rstrip())


class Watched(HeldTools):
    """Counts what is submitted; holds nothing back."""

    def __init__(self, tools: ToolBox) -> None:
        super().__init__(tools, held=())
        self.submitted: list[tuple[ToolCall, bool]] = []

    def submit(self, call, workspace, **options):
        self.submitted.append((call, options.get("speculative", False)))
        return super().submit(call, workspace, **options)


@pytest.mark.parametrize("turn", [ZOOM, SEGMENT, READ], ids=["zoom", "segment", "read_text"])
def test_an_early_call_is_used_and_changes_nothing(agent, turn):
    early = with_tools(agent, Watched, prefetch=False)
    late = with_tools(agent, Watched, prefetch=False, early_start=False)
    runs = [run(each, turn, ANSWER, **UNSTEPPED) for each in (early, late)]
    assert runs[0].ids == runs[1].ids
    assert runs[0].steps[0].observation.text == runs[1].steps[0].observation.text
    stats = early.loop.stats()
    assert (stats.early_started, stats.early_used, stats.early_cancelled) == (1, 1, 0)
    assert early.tools.submitted[0] == (runs[0].steps[0].call, True)
    assert late.loop.stats().early_started == 0
    assert [speculative for _, speculative in late.tools.submitted] == [False]


def test_masks_are_named_once(agent):
    """The early call and the turn's are one: the next call finds its mask under 0."""
    early = with_tools(agent, None)
    trajectory = run(early, SEGMENT, call_text("properties", mask=0), ANSWER, **UNSTEPPED)
    assert all(step.observation.error is None for step in trajectory.steps[:2])
    assert early.loop.stats().early_used == 2


def test_an_early_call_that_is_not_made_is_cancelled(agent):
    """Without a grammar text may follow what was a call; the policy then reads an error."""
    held = with_tools(agent, lambda tools: HeldTools(tools, held=("zoom",)), prefetch=False)
    broken = ZOOM.replace("\n</tool_call>", " and more\n</tool_call>")
    trajectory = run(held, broken, ANSWER, constrained=False, jump_ahead=False)
    assert [(c.speculative, c.was_cancelled) for c in held.tools.calls] == [(True, True)]
    assert trajectory.steps[0].call is None
    assert trajectory.steps[0].observation.error is not None
    stats = held.loop.stats()
    assert (stats.early_started, stats.early_used, stats.early_cancelled) == (1, 0, 1)


class Preparing(HeldTools):
    """Tells what was asked to be prepared; nothing of it ever starts."""

    def __init__(self, tools: ToolBox) -> None:
        super().__init__(tools, held=())
        self.prepared: list[Preparation] = []

    def prepare(self, operation, media, *, time_s=None):
        ticket = Future()
        ticket.source = "ran"
        self.prepared.append(Preparation(operation, media.id, time_s, ticket))
        return self.prepared[-1]


def told(agent: Agent) -> list[tuple[str, float | None]]:
    return [(each.operation, each.time_s) for each in agent.tools.prepared]


def test_a_named_tool_prepares_its_picture(agent):
    ready = with_tools(agent, Preparing, prefetch_arrivals=False)
    run(ready, SEGMENT, READ, ZOOM, ANSWER)
    assert told(ready) == [("segment", None), ("read_text", None)]
    stats = ready.loop.stats()
    assert (stats.prefetches, stats.prefetch_used, stats.prefetch_cancelled) == (2, 2, 0)


def test_a_tool_on_a_clip_prepares_the_frame_it_names(agent):
    ready = with_tools(agent, Preparing)
    track = call_text("track", media=0, box=[300, 200, 700, 800], start=0.5, end=1)
    run(ready, track, ANSWER, name="carphone_pristine.mp4", jump_ahead=False)
    assert told(ready) == [("track", 0.5)]
    assert ready.loop.stats().prefetch_used == 1


def test_arriving_pictures_are_prepared_and_cancelled_when_nobody_asked(agent):
    ready = with_tools(agent, Preparing, prefetch_arrivals=True)
    run(ready, READ, ANSWER)
    assert told(ready) == [("segment", None), ("read_text", None)]
    stats = ready.loop.stats()
    assert (stats.prefetches, stats.prefetch_used, stats.prefetch_cancelled) == (2, 1, 1)
    assert [each.ticket.cancelled() for each in ready.tools.prepared] == [True, False]


def test_a_named_tool_that_is_not_called_is_cancelled(agent):
    ready = with_tools(agent, Preparing, prefetch_arrivals=False)
    broken = '<tool_call>\n{"name":"segment","arguments":{"media":0}}\n</tool_call>'
    trajectory = run(ready, broken, ANSWER, constrained=False, jump_ahead=False)
    assert trajectory.steps[0].observation.error is not None
    stats = ready.loop.stats()
    assert (stats.prefetches, stats.prefetch_used, stats.prefetch_cancelled) == (1, 0, 1)


@pytest.mark.parametrize("time", ["50.0", "1.2.3"])
def test_a_frame_that_is_not_there_is_the_calls_own_error(agent, time):
    """Nothing is prepared of it, and the policy reads what was wrong."""
    read = call_text("read_text", media=0, time=9).replace("9", time)
    free = {"constrained": False, "jump_ahead": False}
    trajectory = run(agent, read, ANSWER, name="carphone_pristine.mp4", **free)
    assert trajectory.steps[0].observation.error is not None
    assert trajectory.answer is not None


def test_real_preparations_serve_real_calls(agent):
    """Text places found ahead: the reading is the same, and its detection was not run again."""
    plain, ready = (with_tools(agent, None, prefetch=flag) for flag in (False, True))
    runs = [run(each, READ, ANSWER, name="text.png") for each in (plain, ready)]
    assert runs[0].steps[0].observation.text == runs[1].steps[0].observation.text
    assert ready.loop.stats().prefetch_used == 1
    calls = ready.tools.toolset.stats().calls
    assert calls.tools["prepare"].ran == 1
    assert plain.loop.stats().prefetches == 0


def test_real_preparations_at_arrival_serve_real_calls(agent):
    """Both tools of a picture look at it before anyone asks; whoever asks then gets the same."""
    plain = with_tools(agent, None, prefetch=False)
    ready = with_tools(agent, None, prefetch_arrivals=True)
    runs = [run(each, READ, SEGMENT, ANSWER, name="text.png") for each in (plain, ready)]
    for one, other in zip(runs[0].steps, runs[1].steps, strict=True):
        assert other.observation is None or other.observation.text == one.observation.text
    stats = ready.loop.stats()
    assert (
        stats.prefetch_used
        == stats.prefetches
        == ready.tools.toolset.stats().calls.tools["prepare"].ran
    )
    assert stats.prefetches >= 1
    assert "prepare" not in plain.tools.toolset.stats().calls.tools


def test_arrivals_need_prefetch():
    with pytest.raises(ValueError, match="prefetch_arrivals: expected prefetch=True"):
        LoopConfig(prefetch=False, prefetch_arrivals=True)
