"""CoTA records from and into what training reads.

    python -m pixelis_fast.data.records write runs/cota --count 1000
    python -m pixelis_fast.data.records prepare runs/cota runs/prepared --policy FOLDER

`write` stores PixelWorld's traces, run by the real tools, as records and media; `prepare` turns any
folder of records into prepared examples for one policy. A record's own observations are shown as
they are; crops are cut again, and calls without an observation are run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.progress import track

from pixelis_fast.data.cota import FILE_NAME, CotaRecord, read_records, write_records
from pixelis_fast.data.pixelworld import PixelWorld, PixelWorldConfig, Task, save_media
from pixelis_fast.data.prepared import Example, PreparedWriter
from pixelis_fast.data.preparer import Chain, PrepareConfig, Preparer, hardness
from pixelis_fast.data.traces import imitated
from pixelis_fast.plain_errors import plainly

MEDIA = "media"


def pixelworld_records(
    folder: Path, config: PrepareConfig, world: PixelWorldConfig
) -> Iterator[CotaRecord]:
    """Of the first `config.whole` tasks; one whose tools did not show the answer is left out."""
    preparer = Preparer(config)
    generator = PixelWorld(replace(world, seed=config.seed))
    (folder / MEDIA).mkdir(parents=True, exist_ok=True)
    for number in track(range(config.whole), "running plans"):
        task = generator.task(config.split, number)
        path = save_media(task, folder / MEDIA)
        media = preparer.tools.add_media(path)
        chain = preparer.chain(task, media)
        if chain is None:
            path.unlink()
        else:
            yield record_of(task, chain, path=f"{MEDIA}/{path.name}")
        preparer.tools.store.forget(media.id)


def record_of(task: Task, chain: Chain, *, path: str) -> CotaRecord:
    """The task with what its calls returned."""
    turns = chain.turns
    steps = chain.trajectory.steps[: len(turns)]
    observations = [step.observation.text if step.observation else None for step in steps]
    pairs = zip(turns, observations, strict=True)
    return CotaRecord(
        id=task.id,
        task=task.family,
        media=(path,),
        question=task.question,
        answer=task.answer,
        answer_kind=task.answer_kind,
        turns=tuple(replace(turn, observation=text) for turn, text in pairs),
        answer_thought=chain.thought,
        difficulty=hardness(task, len(turns)),
        evidence=task.evidence,
        source="pixelworld",
    )


def prepare_records(folder: Path, out: Path, *, policy: str) -> int:
    """How many examples were added; goes on behind those that are there."""
    preparer = Preparer(PrepareConfig(policy=policy))
    header = {"policy": policy, "records": folder.name, "num_labels": []}
    patch = preparer.opened.limits.image.patch
    records = list(read_records(folder / FILE_NAME))
    with PreparedWriter(out, header=header, patch=patch) as writer:
        todo = range(writer.last_number + 1, len(records))
        for number in track(todo, "preparing"):
            example = example_of(preparer, records[number], folder)
            writer.add(example, preparer.views.patches, number=number)
            for media in example.trajectory.sample.media:
                preparer.tools.store.forget(media.id)
    return len(todo)


def example_of(preparer: Preparer, record: CotaRecord, folder: Path) -> Example:
    media = tuple(preparer.tools.add_media(folder / name) for name in record.media)
    trajectory = preparer.builder.build(
        record.sample(media), record.turns, answer=record.answer, thought=record.answer_thought
    )
    return Example(trajectory, imitated(record), record.task, record.difficulty)


app = typer.Typer(help="CoTA records: write PixelWorld's, prepare anybody's.", no_args_is_help=True)


@app.command()
@plainly
def write(
    folder: Annotated[Path, typer.Argument(help="For records.jsonl and media.")],
    count: Annotated[int, typer.Option(help="Tasks.")] = 1000,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "train",
    seed: Annotated[int, typer.Option(help="Of the world.")] = 0,
) -> None:
    """PixelWorld's traces as CoTA records."""
    torch.set_num_threads(1)
    config = PrepareConfig(split=split, whole=count, grounding=0, seed=seed)
    records = list(pixelworld_records(folder, config, PixelWorldConfig(seed=seed)))
    write_records(folder / FILE_NAME, records)
    typer.echo(f"{len(records)} of {count} tasks have a record in {folder / FILE_NAME}")


@app.command()
@plainly
def prepare(
    folder: Annotated[Path, typer.Argument(help="With records.jsonl and media.")],
    out: Annotated[Path, typer.Argument(help="For the prepared examples.")],
    policy: Annotated[str, typer.Option(help="Whose tokens and pixel limits.")] = "pixelworld-5m",
) -> None:
    """Any CoTA records as examples that `pixelis train sft --data` takes."""
    torch.set_num_threads(1)
    typer.echo(f"{prepare_records(folder, out, policy=policy)} examples added to {out}")


if __name__ == "__main__":
    app()
