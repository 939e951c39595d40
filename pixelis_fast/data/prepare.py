"""PixelWorld -> prepared training examples, every observation from the real tools.

    python -m pixelis_fast.data.prepare runs/pixelworld/train --count 6000 --grounding 6000

Three kinds. Whole chains: a plan of the task, run; one whose tools did not lead to the answer is
left out and counted. Grounding: one call and nothing behind it, which needs no tool and so costs
only the picture: the task's first call, and one for things in it that nobody asked for. Close
looks: a crop as the picture itself; what a wide one wants is a closer look, what a close one wants
is the bare answer. Some whole chains begin with a trap: a wrong call, what came back, and its
correction.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from pixelis_fast.agent import AgentConfig, OpenPolicy, open_policy
from pixelis_fast.crops import inner_box
from pixelis_fast.data.cota import CotaTurn
from pixelis_fast.data.evident import areas_of, content_of, is_evident
from pixelis_fast.data.labels import (
    NUM_LABELS,
    SHOWN_KINDS,
    SMALL_KINDS,
    WHOLE,
    cell_labels,
    place_of,
)
from pixelis_fast.data.pixelworld.config import PixelWorldConfig
from pixelis_fast.data.pixelworld.media import save_media
from pixelis_fast.data.pixelworld.task import Plan, Task, WorldObject
from pixelis_fast.data.pixelworld.world import PixelWorld
from pixelis_fast.data.prepared import (
    EXAMPLES,
    Example,
    PreparedWriter,
    example_from_json,
    whole_lines,
)
from pixelis_fast.data.traces import TraceBuilder
from pixelis_fast.data.traps import trapped
from pixelis_fast.prompt import PromptBuilder
from pixelis_fast.schemas import TIMES, TOOL_SCHEMAS
from pixelis_fast.tools import ToolBox, ToolConfig, Workspace, open_tools
from pixelis_fast.types import Box, Media, Observation, Sample, ToolCall, Trajectory
from pixelis_fast.views import Views

COUNTS = "counts.json"
WEIGHED = ("compare", "multi")
"""Families that choose by area."""
CLOSE = "-close-"
"""In the ids of samples whose picture is a crop."""
CLOSER = "i look closer"
SINGLE_KINDS = ("grounding", "close", "direct")
GRID = 50
"""Coordinates are rounded to fifties. A digit that a policy cannot tell is noise to imitate: with
tens, nll of the hundreds' digit came down and the next one stayed at chance."""
SLACK = 50
"""Added around what is zoomed or read: a box that is off by as much still shows the text, and a
small policy's are. Much more would let a neighbour's text in."""


@dataclass(frozen=True)
class PrepareConfig:
    """Example:
    PrepareConfig(split="train", whole=6000, grounding=6000)
    """

    split: str = "train"
    whole: int = 1000
    grounding: int = 1000
    direct: int = 0
    """Tasks with the bare answer and no call: what a policy without tools imitates."""
    seed: int = 0
    policy: str = "pixelworld-5m"
    """Whose tokenizer and pixel limits."""
    trap_share: float = 0.15
    asked_per_picture: int = 5
    """Grounding examples about things that no question is about, per picture."""
    close: int = 0
    """Tasks whose answer is also given to a crop that shows it."""
    close_per_picture: int = 3
    """Crops of one picture, each cut a little differently."""

    @property
    def num_tasks(self) -> int:
        return max(self.whole, self.grounding, self.direct, self.close)


class Preparer:
    """Makes examples of tasks.

    Example:
        for example in Preparer(config).whole(task): ...
    """

    def __init__(self, config: PrepareConfig) -> None:
        self.config = config
        self.opened = opened_policy(config.policy)
        self.tools: ToolBox = open_tools(ToolConfig())
        self.views = Views(self.tools, self.opened.limits)
        prompt = PromptBuilder(self.opened.tokenizer, TOOL_SCHEMAS)
        self.builder = TraceBuilder(
            self.opened.tokenizer, prompt=prompt, views=self.views, tools=self.tools
        )

    def whole(self, task: Task, media: Media) -> Example | None:
        """One chain with its answer; None where the tools did not show it."""
        chain = self.chain(task, media)
        if chain is None:
            return None
        turns, trajectory = chain
        imitated = (*(turn.is_imitated for turn in turns), True)
        return Example(trajectory, imitated, task.family, hardness(task, len(turns)))

    def chain(self, task: Task, media: Media) -> tuple[list[CotaTurn], Trajectory] | None:
        """A plan of the task, run; None where its observations do not show the answer."""
        rng = np.random.default_rng((self.config.seed, 1, number_of(task)))
        # The shortest plan as often as all longer ones together.
        longer = len(task.plans) > 1 and rng.random() < 0.5
        plan = task.plans[rng.integers(1, len(task.plans)) if longer else 0]
        turns = self.planned(plan, media)
        if rng.random() < self.config.trap_share:
            turns = trapped(turns, task, rng)
        turns = looking_closer(turns, task)
        turns, thought = restating(turns, task.question), restated(task.question)
        sample, build = self.sample(task, media), self.builder.build
        trajectory = build(sample, turns, answer=task.answer, thought=thought)
        if not is_evident(task, trajectory):
            return None
        if task.family in WEIGHED:
            turns, thought = weighing(turns, thought, task.question, trajectory)
            trajectory = build(sample, turns, answer=task.answer, thought=thought)
        return turns, trajectory

    def direct(self, task: Task, media: Media) -> Example:
        trajectory = self.builder.build(self.sample(task, media), [], answer=task.answer)
        return Example(trajectory, (True,), task.family, task.difficulty)

    def grounding(self, task: Task, media: Media) -> Iterator[Example]:
        """Single calls, not run: the task's own, then of other things in the picture."""
        rng = np.random.default_rng((self.config.seed, 2, number_of(task)))
        plan = task.plans[rng.integers(len(task.plans))]
        yield self._single(self.sample(task, media), self.planned(plan, media)[0], task)
        for question, turn in asked(task, rng, self.config.asked_per_picture):
            yield self._single(Sample(f"{task.id}-{question}", (media,), question), turn, task)

    def close(self, task: Task, media: Media) -> Iterator[tuple[Example, Box]]:
        """With what each crop shows: the second look that a wide one wants, and the bare answer to
        a close one; none where a plan of the task ends with something else than a look."""
        last = task.plans[0][-1].call
        if last.operation != "zoom" or len(task.frames) > 1:
            return
        rng = np.random.default_rng((self.config.seed, 3, number_of(task)))
        for number in range(self.config.close_per_picture):
            workspace = Workspace((media,))
            looked = self.tools.run(rounded(shaken(last, rng)), workspace)
            [(crop, view)] = crops_of(looked)
            inside = rounded(look_inside(view, task, media=0))
            sample = replace(self.sample(task, crop), id=f"{task.id}{CLOSE}{number}-wide")
            yield self._single(sample, CotaTurn(CLOSER, inside), task), view
            call = rounded(shaken(look_inside(view, task, media=1), rng))
            [(crop, view)] = crops_of(self.tools.run(call, workspace))
            sample = replace(self.sample(task, crop), id=f"{task.id}{CLOSE}{number}")
            trajectory = self.builder.build(sample, [], answer=task.answer)
            yield Example(trajectory, (True,), task.family, task.difficulty), view

    def planned(self, plan: Plan, media: Media) -> list[CotaTurn]:
        """The plan's calls, in places and times that a policy can tell."""
        seconds = self.views.tokens(media).timestamps_s
        return [CotaTurn(turn.thought, timed(rounded(turn.call), seconds)) for turn in plan]

    def sample(self, task: Task, media: Media) -> Sample:
        return Sample(
            id=task.id,
            media=(media,),
            question=task.question,
            answer=task.answer,
            answer_kind=task.answer_kind,
            evidence=task.evidence,
        )

    def _single(self, sample: Sample, turn: CotaTurn, task: Task) -> Example:
        trajectory = self.builder.build(sample, [turn], answer=None)
        return Example(trajectory, (True,), task.family, task.difficulty)

    def labels(self, task: Task, media: Media, *, view: Box = WHOLE) -> np.ndarray | None:
        """(M, L + 8): what each visual token of a picture shows; None for a video."""
        if len(task.frames) > 1:
            return None
        merge = self.opened.limits.image.patch.merge_size
        _, height, width = self.views.grid_thw(media)
        return cell_labels(task, height // merge, width // merge, view=view)

    def crop_labels(self, task: Task, trajectory: Trajectory) -> dict[str, np.ndarray]:
        """Of every crop that a chain looked at; none of a video's."""
        found = {
            media.id: self.labels(task, media, view=view)
            for step in trajectory.steps
            if step.observation is not None
            for media, view in crops_of(step.observation)
        }
        return {name: labels for name, labels in found.items() if labels is not None}


def hardness(task: Task, num_calls: int) -> float:
    """0..1: the task's own difficulty and the length of its chain, in halves."""
    return min((task.difficulty + num_calls / 6) / 2, 1.0)


def opened_policy(policy: str) -> OpenPolicy:
    return open_policy(AgentConfig(policy=policy, random_weights=not Path(policy).is_dir()))


def number_of(task: Task) -> int:
    return int(task.id.rsplit("-", 1)[-1])


def looking_closer(turns: Sequence[CotaTurn], task: Task) -> list[CotaTurn]:
    """Behind a last look at a still picture, a second one inside the crop.

    A box that a small policy draws in the whole picture must be loose, so that what it is about is
    small in the crop. The same error in the crop is as much smaller as the crop is.
    """
    last = turns[-1].call
    if last.operation != "zoom" or len(task.frames) > 1:
        return list(turns)
    index = sum(turn.call.operation == "zoom" for turn in turns)
    call = rounded(look_inside(last.arguments["box"], task, media=index))
    return [*turns, CotaTurn(CLOSER, call)]


def look_inside(view: Sequence[int], task: Task, *, media: int) -> ToolCall:
    """A zoom on the panel, in the crop that shows `view`."""
    panel = task.evidence[0].box
    assert panel is not None, "drawn with the task"
    x0, y0, x1, y1 = view
    return ToolCall("zoom", {"media": media, "box": list(inner_box((x0, y0, x1, y1), panel))})


def restating(turns: Sequence[CotaTurn], question: str) -> list[CotaTurn]:
    """Turns behind the first begin with the question: what was asked lies far back by then, and a
    small policy that does not look there answers every crop as if it were asked to count."""
    again = (replace(turn, thought=restated(question, turn.thought)) for turn in turns[1:])
    return [*turns[:1], *again]


def restated(question: str, thought: str = "") -> str:
    return f"{question}\n{thought}"


def weighing(
    turns: Sequence[CotaTurn], thought: str, question: str, trajectory: Trajectory
) -> tuple[list[CotaTurn], str]:
    """The turns, and the answer's thought, that choose between masks say their areas first.

    Two numbers far apart in a context are hard to compare; side by side, a few layers can.
    """
    seen = [step.observation for step in trajectory.steps]
    areas = [areas_of([content_of(one) for one in seen[:n] if one]) for n in range(len(seen))]
    weighed = [
        replace(turn, thought=quoting(turn.thought, question, known))
        if turn.call.operation in ("zoom", "read_text")
        else turn
        for turn, known in zip(turns, areas, strict=False)
    ]
    return weighed, quoting(thought, question, areas[-1])


def quoting(thought: str, question: str, areas: Sequence[float]) -> str:
    """What has been measured, between the question and the rest of a thought."""
    if len(areas) < 2:
        return thought
    return restated(restated(question, " ".join(map(str, areas))), thought.partition("\n")[2])


def rounded(call: ToolCall) -> ToolCall:
    """Points to the nearest of the grid, boxes outwards, with slack around what is looked at."""
    arguments: dict[str, Any] = dict(call.arguments)
    if "point" in arguments:
        arguments["point"] = [round(value / GRID) * GRID for value in arguments["point"]]
    if "box" in arguments:
        slack = SLACK if call.operation in ("zoom", "read_text") else 0
        x0, y0, x1, y1 = arguments["box"]
        low = [max(value - slack, 0) // GRID * GRID for value in (x0, y0)]
        high = [-(-min(value + slack, 1000) // GRID) * GRID for value in (x1, y1)]
        arguments["box"] = low + high
    return ToolCall(call.operation, arguments)


def shaken(call: ToolCall, rng: np.random.Generator) -> ToolCall:
    """Its box a little off in every direction, as a policy's is; what lies in it stays in it,
    because `rounded` adds as much around it."""
    x, y = rng.integers(-SLACK // 2, SLACK // 2 + 1, 2)
    x0, y0, x1, y1 = call.arguments["box"]
    box = [int(np.clip(value, 0, 1000)) for value in (x0 + x, y0 + y, x1 + x, y1 + y)]
    return ToolCall(call.operation, {**call.arguments, "box": box})


def timed(call: ToolCall, seconds: Sequence[float]) -> ToolCall:
    """No time lies behind the last that the prompt prints: an end is copied, not guessed; and so is
    the moment at which something is seen. Where a ball starts is not moved away from its box."""
    printed = [round(second, 1) for second in seconds]
    last = max(printed, default=math.inf)
    times = {name: min(call.arguments[name], last) for name in TIMES if name in call.arguments}
    if call.operation == "localize" and "time" in times:
        times["time"] = min(printed, key=lambda second: abs(second - times["time"]))
    return ToolCall(call.operation, {**call.arguments, **times})


def crops_of(observation: Observation) -> list[tuple[Media, Box]]:
    """A crop and the part of the picture that it shows."""
    view = json.loads(observation.text).get("view")
    return [] if view is None else [(media, tuple(view)) for media in observation.media]


def asked(task: Task, rng: np.random.Generator, count: int) -> list[tuple[str, CotaTurn]]:
    """Questions for things that are the only one of their kind in the picture."""
    if len(task.frames) > 1:
        return []
    names = Counter((thing.color, thing.shape) for thing in task.objects)
    things = [
        thing
        for thing in task.objects
        if thing.kind in SHOWN_KINDS and names[thing.color, thing.shape] == 1
    ]
    plates = [thing for thing in task.objects if thing.kind in SMALL_KINDS]
    possible = [each for thing in things for each in questions_about(thing, plates)]
    return [possible[index] for index in rng.permutation(len(possible))[:count]]


def questions_about(
    thing: WorldObject, plates: Sequence[WorldObject]
) -> Iterator[tuple[str, CotaTurn]]:
    """With the call that each wants: its own place, and that of the plate beside it."""
    name, (x, y, *_) = f"{thing.color} {thing.shape}", place_of(thing.box)
    yield question(f"segment the {name}", "segment", point=[x, y])
    yield question(f"look at the {name}", "zoom", box=list(thing.box))
    if not plates:
        return
    plate = min(plates, key=lambda each: apart(each.box, thing.box))
    yield question(f"look beside the {name}", "zoom", box=list(plate.box))
    if plate.text is not None:
        yield question(f"read the sign beside the {name}", "read_text", box=list(plate.box))


def question(text: str, operation: str, **arguments: Any) -> tuple[str, CotaTurn]:
    call = rounded(ToolCall(operation, {"media": 0, **arguments}))
    return text, CotaTurn(f"i {text}", call)


def apart(a: Box, b: Box) -> float:
    """Distance of two centres."""
    return math.dist(place_of(a)[:2], place_of(b)[:2])


def prepare(folder: Path, config: PrepareConfig, world: PixelWorldConfig) -> Path:
    """Fills the folder; goes on behind what is there. counts.json says how many of each family."""
    torch.set_num_threads(1)
    preparer = Preparer(config)
    generator = PixelWorld(replace(world, seed=config.seed))
    patch = preparer.opened.limits.image.patch
    with PreparedWriter(folder, header=header_of(config), patch=patch) as out:
        done = out.last_number + 1
        for number in track(range(done, config.num_tasks), "preparing"):
            add_task(out, preparer, generator.task(config.split, number), number)
            if number % 50 == 0:
                out.flush()
    counts = dict(sorted(counts_of(folder, config).items()))
    (folder / COUNTS).write_text(json.dumps(counts, indent=1))
    return folder


def header_of(config: PrepareConfig) -> dict[str, Any]:
    """What all examples of a folder share: whoever goes on with another is refused."""
    shared = ("policy", "split", "seed", "trap_share", "asked_per_picture", "close_per_picture")
    kinds = [kind for kind in ("whole", "grounding", "direct", "close") if getattr(config, kind)]
    found = {name: getattr(config, name) for name in shared}
    return found | {"kinds": kinds, "num_labels": list(NUM_LABELS)}


def counts_of(folder: Path, config: PrepareConfig) -> Counter[str]:
    """Whole chains by family, those whose tools did not show the answer, and the other kinds; read
    off the folder, so that a run in several goes counts them all."""
    counts: Counter[str] = Counter()
    for example in map(example_from_json, whole_lines(folder / EXAMPLES)):
        counts[example.task if example.is_whole else single_kind(example)] += 1
    numbers = sum(count for name, count in counts.items() if name not in SINGLE_KINDS)
    return counts + Counter({"not evident": config.whole - numbers})


def single_kind(example: Example) -> str:
    if CLOSE in example.trajectory.sample.id:
        return "close"
    return "grounding" if example.trajectory.answer is None else "direct"


def add_task(out: PreparedWriter, preparer: Preparer, task: Task, number: int) -> None:
    config, load = preparer.config, preparer.views.patches
    media = stored(preparer.tools, task)
    labels = preparer.labels(task, media)
    known = {} if labels is None else {media.id: labels}
    whole = preparer.whole(task, media) if number < config.whole else None
    if whole is not None:
        crops = preparer.crop_labels(task, whole.trajectory)
        out.add(whole, load, labels=known | crops, number=number)
    if number < config.grounding:
        for example in preparer.grounding(task, media):
            out.add(example, load, labels=known, number=number)
    if number < config.direct:
        out.add(preparer.direct(task, media), load, labels=known, number=number)
    if number < config.close:
        for example, view in preparer.close(task, media):
            [crop] = example.trajectory.sample.media
            seen = preparer.labels(task, crop, view=view)
            shown = {} if seen is None else {crop.id: seen}
            out.add(example, load, labels=shown, number=number)
    preparer.tools.store.forget(media.id)


def stored(tools: ToolBox, task: Task) -> Media:
    """The task's pixels in the tools' store."""
    if len(task.frames) == 1:
        return tools.media(tools.store.add_image(task.frames[0]).id)
    with tempfile.TemporaryDirectory() as folder:
        return tools.add_media(save_media(task, Path(folder)))


def command(
    folder: Annotated[Path, typer.Argument(help="Where the examples go.")],
    count: Annotated[int, typer.Option(help="Tasks with a whole chain.")] = 1000,
    grounding: Annotated[int, typer.Option(help="Tasks with single calls.")] = 1000,
    direct: Annotated[int, typer.Option(help="Tasks with the bare answer.")] = 0,
    close: Annotated[int, typer.Option(help="Tasks answered from a crop too.")] = 0,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "train",
    seed: Annotated[int, typer.Option(help="Of the world.")] = 0,
    policy: Annotated[str, typer.Option(help="Whose tokens and pixel limits.")] = "pixelworld-5m",
) -> None:
    """Prepares PixelWorld's traces for supervised training."""
    config = PrepareConfig(split, count, grounding, direct, seed, policy, close=close)
    prepare(folder, config, PixelWorldConfig(seed=seed))
    table = Table("examples", "count")
    for name, number in json.loads((folder / COUNTS).read_text()).items():
        table.add_row(name, str(number))
    Console().print(table)


if __name__ == "__main__":
    typer.run(command)
