"""The reference chain of tool calls, by the naive tools and through our toolset.

Zoom, segment by a click, read a part, segment by another click on the same picture, track through
16 frames, zoom. Each run brings media that neither arm has seen. The naive arm decodes at every
call, sends crops as PNG and masks as JSON; it uses sam2, EasyOCR and Pillow. Ours has SAM 2's same
weights and EasyOCR's own. A group is several rollouts of one question that make the same calls one
after the other, as siblings of test-time RL do: ours computes them once.

SAM 2's weights are random here, so masks are not compared: the single cases compare logits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.harness import Check
from bench.naive_tools import NaiveTools
from bench.outputs import words
from bench.scenes import Scene, fresh, scene
from bench.tool_cases import MAX_TEXT_DISTANCE, Case, text_distance
from pixelis_fast.spans import Spans
from pixelis_fast.tools_trt.results import ToolError
from pixelis_fast.tools_trt.store import MediaStore
from pixelis_fast.tools_trt.toolset import Toolset
from pixelis_fast.types import ToolCall

Size = tuple[int, int]
CALLS = (
    ToolCall("zoom", {"media": 0, "box": [40, 200, 960, 760]}),
    ToolCall("segment", {"media": 0, "point": [800, 760]}),
    ToolCall("read_text", {"media": 0, "box": [40, 200, 960, 480]}),
    ToolCall("segment", {"media": 0, "point": [780, 740]}),
    ToolCall("track", {"media": 1, "box": [530, 40, 780, 800], "start": 4.4, "end": 5.0}),
    ToolCall("zoom", {"media": 1, "box": [120, 330, 700, 720], "time": 2.8}),
)
READ, TRACK = 2, 4
"""Places of these calls in the chain."""
SCENES = ("invoice", "bikes")


@dataclass(frozen=True)
class ChainResult:
    """What the chain's calls gave, as far as both arms must agree."""

    text: str
    frames: int
    """Frames the track visited."""
    crops: tuple[Size, ...]
    """Width and height of the zooms."""


class Media:
    """Media that an arm has not seen before, at each turn; two cases begin at different turns, for
    they share SAM 2's features."""

    def __init__(self, first: int = 0) -> None:
        self._turns = {"usual": first, "ours": first}

    def next(self, arm: str) -> list[Scene]:
        self._turns[arm] += 1
        return [fresh(scene(name), self._turns[arm]) for name in SCENES]


def naive_chain(tools: NaiveTools, scenes: list[Scene], *, crops: Sequence[Size]) -> ChainResult:
    """The zooms make crops of the given sizes, which are ours."""
    tools.open(scenes, use_sam2=True)
    spans, sizes = Spans(), iter(crops)
    outputs = [
        tools.run(call, spans, crop_size=next(sizes) if call.operation == "zoom" else None)[0]
        for call in CALLS
    ]
    [text] = [output.text for output in outputs if output.text is not None]
    zoomed = tuple(output.size for output in outputs if output.size is not None)
    return ChainResult(text, frames=len(outputs[TRACK].masks), crops=zoomed)


def our_chain(tools: Toolset, scenes: list[Scene]) -> ChainResult:
    store = tools.store
    adds = {"video": store.add_video, "image": store.add_image}
    ids = [adds[each.kind](each.encoded).id for each in scenes]
    results = [ask(tools, call, ids) for call in CALLS]
    zooms = [each for call, each in zip(CALLS, results, strict=True) if call.operation == "zoom"]
    return ChainResult(
        text=words(" ".join(line.text for line in results[READ].lines)),
        frames=len(results[TRACK].masks),
        crops=tuple((each.width, each.height) for each in zooms),
    )


def ask(tools: Toolset, call: ToolCall, ids: Sequence[str]) -> Any:
    """A tool's result; random weights may find nothing at a click, which is an answer."""
    arguments = dict(call.arguments)
    media_id, box = ids[arguments.pop("media")], arguments.pop("box", None)
    renamed = {"start": "start_s", "end": "end_s", "time": "time_s"}
    options = {renamed.get(key, key): value for key, value in arguments.items()}
    if call.operation == "segment" and box is not None:
        options["box"] = tuple(box)
    positional = () if box is None or call.operation == "segment" else (tuple(box),)
    ticket = tools.submit(call.operation, media_id, *positional, **options)
    try:
        return ticket.result()
    except ToolError as error:
        if call.operation != "segment":
            raise
        return error


def chain_case(
    naive: NaiveTools,
    open_tools: Callable[[MediaStore], Toolset],
    *,
    siblings: int,
    target: float | None,
    runs: int,
) -> Case:
    """The chain once, or by `siblings` rollouts of one question."""
    media, store = Media(first=16 * siblings), MediaStore()
    tools = open_tools(store)
    name = "chain" if siblings == 1 else f"chain, {siblings} rollouts"
    crops = our_chain(tools, media.next("ours")).crops

    def usual() -> list[ChainResult]:
        scenes = media.next("usual")
        return [naive_chain(naive, scenes, crops=crops) for _ in range(siblings)]

    def ours() -> list[ChainResult]:
        scenes = media.next("ours")
        return [our_chain(tools, scenes) for _ in range(siblings)]

    def compare(expected: list[ChainResult], found: list[ChainResult]) -> list[Check]:
        pairs = list(zip(expected, found, strict=True))
        distance = max(text_distance([one.text], [other.text]) for one, other in pairs)
        shapes = [[(each.frames, each.crops) for each in arm] for arm in (found, expected)]
        return [
            Check.at_most(name, "edits per character", distance, MAX_TEXT_DISTANCE),
            Check.same(name, "frames tracked and sizes of crops", *shapes),
        ]

    # A group takes minutes and is its own warm-up: each of its chains after the first is warm.
    warmup = 1 if siblings == 1 else 0
    return Case(name, usual, ours, compare, target, "naive", runs=runs, warmup=warmup)
