"""PixelWorld -> prepared training examples, every observation from the real tools.

    python -m pixelis_fast.data.prepare runs/pixelworld/train --count 6000 --grounding 6000

Five kinds. Whole chains: a plan of the task, run; one whose tools did not lead to the answer is
left out and counted. Grounding: one call and nothing behind it, which needs no tool and so costs
only the picture: the task's first call, and one for things in it that nobody asked for. Close
looks: a crop as the picture itself; what a wide one wants is a closer look, what a close one wants
is the bare answer, about every glyph of a panel. Retold chains: other observations, and only what
follows from them imitated (retold.py). Drills: numbers without a picture (drills.py). Some whole
chains begin with a trap: a wrong call, what came back, and its correction.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from pixelis_fast.data.drills import DRILL
from pixelis_fast.data.labels import NUM_LABELS
from pixelis_fast.data.pixelworld.config import PixelWorldConfig
from pixelis_fast.data.pixelworld.media import save_media
from pixelis_fast.data.pixelworld.task import Task
from pixelis_fast.data.pixelworld.world import PixelWorld
from pixelis_fast.data.prepared import (
    EXAMPLES,
    Example,
    PreparedWriter,
    example_from_json,
    whole_lines,
)
from pixelis_fast.data.preparer import CLOSE, RETOLD, PrepareConfig, Preparer
from pixelis_fast.tools import ToolBox
from pixelis_fast.types import Media

COUNTS = "counts.json"
SINGLE_KINDS = ("grounding", "close", "retold", "drill", "direct")


def prepare(folder: Path, config: PrepareConfig, world: PixelWorldConfig) -> Path:
    """Fills the folder; goes on behind what is there. counts.json says how many of each family."""
    torch.set_num_threads(1)
    preparer = Preparer(config)
    generator = PixelWorld(replace(world, seed=config.seed))
    patch = preparer.opened.limits.image.patch
    with PreparedWriter(folder, header=header_of(config), patch=patch) as out:
        done = out.last_number + 1
        for number in track(range(done, config.num_tasks), "preparing"):
            if number < config.num_drawn:
                add_task(out, preparer, generator.task(config.split, number), number)
            if number < config.drills:
                for example in preparer.drills(number):
                    out.add(example, preparer.views.patches, labels={}, number=number)
            if number % 50 == 0:
                out.flush()
    counts = dict(sorted(counts_of(folder, config).items()))
    (folder / COUNTS).write_text(json.dumps(counts, indent=1))
    return folder


def header_of(config: PrepareConfig) -> dict[str, Any]:
    """What all examples of a folder share: whoever goes on with another is refused."""
    shared = (
        *("policy", "split", "seed", "trap_share"),
        *("asked_per_picture", "close_per_picture", "retold_per_task"),
    )
    known = ("whole", "grounding", "direct", "close", "retold", "drills")
    kinds = [kind for kind in known if getattr(config, kind)]
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
    for mark in (CLOSE, RETOLD, DRILL):
        if mark in example.trajectory.sample.id:
            return mark.strip("-")
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
    if number < config.retold:
        for example in preparer.retold(task, media):
            out.add(example, load, labels=known, number=number)
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
    retold: Annotated[int, typer.Option(help="Tasks told with other observations.")] = 0,
    drills: Annotated[int, typer.Option(help="Groups of exercises in numbers.")] = 0,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "train",
    seed: Annotated[int, typer.Option(help="Of the world.")] = 0,
    policy: Annotated[str, typer.Option(help="Whose tokens and pixel limits.")] = "pixelworld-5m",
) -> None:
    """Prepares PixelWorld's traces for supervised training."""
    config = PrepareConfig(
        split, count, grounding, direct, seed, policy, close=close, retold=retold, drills=drills
    )
    prepare(folder, config, PixelWorldConfig(seed=seed))
    table = Table("examples", "count")
    for name, number in json.loads((folder / COUNTS).read_text()).items():
        table.add_row(name, str(number))
    Console().print(table)


if __name__ == "__main__":
    typer.run(command)
