"""Other people's data -> CoTA records: Pixel-Reasoner's, DeepEyes', and a generic JSON.

Boxes in pixels become 0..1000 by the media's true size, crops of crops boxes of the original.
Media are gathered beside the records. No observation is taken over but a generic row's own: calls
are run by the real tools when traces are built.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import track

from pixelis_fast.data import deepeyes, generic, pixel_reasoner
from pixelis_fast.data.convert_media import MediaFolder
from pixelis_fast.data.convert_types import Source, ToRecord, UnsupportedError
from pixelis_fast.data.cota import FILE_NAME, CotaRecord, RecordError, write_records
from pixelis_fast.data.rows import RowError, read_file
from pixelis_fast.schemas import CallError

FORMATS: dict[str, ToRecord] = {
    "generic": generic.to_record,
    "pixel-reasoner": pixel_reasoner.to_record,
    "deepeyes": deepeyes.to_record,
}


@dataclass(frozen=True)
class ConvertConfig:
    """What to convert, and where to.

    Example:
        ConvertConfig("deepeyes", (Path("data_0.1.2.parquet"),), Path("data/deepeyes"))
    """

    format: str
    files: tuple[Path, ...]
    """.json, .jsonl or .parquet."""
    out: Path
    """Folder for records.jsonl and media."""
    media_root: Path | None = None
    """What relative media paths are relative to; None: each file's own folder."""
    skip_unsupported: bool = False
    """Leave records out whose calls no tool here can make, and count them; without, the first is
    an error."""
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ValueError(f"format: expected one of {', '.join(FORMATS)}, got {self.format}")
        if not self.files:
            raise ValueError("files: expected at least one, got none")


@dataclass(frozen=True)
class Converted:
    """What came of it."""

    records: tuple[CotaRecord, ...]
    skipped: tuple[UnsupportedError, ...]
    """One for each record left out: where it stands and what it asks for."""

    def reasons(self) -> dict[str, int]:
        """How many records each kind of reason left out."""
        return dict(Counter(error.kind for error in self.skipped))


def main(config: ConvertConfig) -> Converted:
    """Writes records.jsonl and media; nothing but media where a record is an error."""
    records: list[CotaRecord] = []
    skipped: list[UnsupportedError] = []
    for source in _sources(config):
        try:
            records.append(_record(config, source))
        except UnsupportedError as error:
            if not config.skip_unsupported:
                raise
            skipped.append(error)
        if config.limit is not None and len(records) >= config.limit:
            break
    _check_ids(records)
    write_records(config.out / FILE_NAME, records)
    return Converted(tuple(records), tuple(skipped))


def _sources(config: ConvertConfig) -> Iterator[Source]:
    media = MediaFolder(config.out)
    number = 0
    for path in config.files:
        root = config.media_root or path.parent
        for row in track(read_file(path), description=f"converting {path.name}"):
            yield Source(row, number, root, media)
            number += 1


def _record(config: ConvertConfig, source: Source) -> CotaRecord:
    """Every error says which record it is of."""
    try:
        return FORMATS[config.format](source)
    except (RowError, RecordError):
        raise
    except (UnsupportedError, CallError) as error:
        raise UnsupportedError(str(error), where=source.row.where) from error
    except ValueError as error:
        raise RowError(f"{source.row.where}: {error}") from error


def _check_ids(records: list[CotaRecord]) -> None:
    repeated = [name for name, times in Counter(r.id for r in records).items() if times > 1]
    if repeated:
        raise RecordError(f"id: expected each once, got {repeated[0]!r} more than once")


def convert(
    format_name: Annotated[str, typer.Argument(metavar="FORMAT", help=", ".join(FORMATS))],
    files: Annotated[list[Path], typer.Argument(help=".json, .jsonl or .parquet files.")],
    out: Annotated[Path, typer.Option(help="Folder for records.jsonl and media.")],
    media_root: Annotated[
        Path | None, typer.Option(help="Where relative media paths begin; else beside the file.")
    ] = None,
    skip_unsupported: Annotated[
        bool, typer.Option("--skip-unsupported", help="Leave out and count what no tool can do.")
    ] = False,
    limit: Annotated[int | None, typer.Option(help="So many records at most.", min=1)] = None,
) -> None:
    """Converts other formats' chains and questions to CoTA records."""
    config = ConvertConfig(format_name, tuple(files), out, media_root, skip_unsupported, limit)
    found = main(config)
    console = Console()
    for reason, times in found.reasons().items():
        console.print(f"[yellow]left out:[/yellow] {times} for their {escape(reason)}")
    console.print(f"{len(found.records)} records in {escape(str(out / FILE_NAME))}")
