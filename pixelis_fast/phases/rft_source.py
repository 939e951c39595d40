"""Where reinforcement fine-tuning takes its questions from: anything that gives sample number i.

A source is a function of the index alone, so a run that is resumed asks what it would have asked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pixelis_fast.data.cota import FILE_NAME, read_records
from pixelis_fast.data.pixelworld import PixelWorld, PixelWorldConfig, save_media
from pixelis_fast.samples import forget_media
from pixelis_fast.tools import ToolBox
from pixelis_fast.types import Sample


class SampleSource(Protocol):
    """Gives questions without end.

    Example:
        sample = source(17, agent.tools)
    """

    def __call__(self, index: int, tools: ToolBox) -> Sample:
        """The same sample for the same index; its media are in the tools' store."""

    def release(self, samples: Sequence[Sample], tools: ToolBox) -> None:
        """Nobody needs these samples' media any more, until one is asked for again."""

    def settings(self) -> dict[str, Any]:
        """What decides the samples, as JSON has it: a run does not go on with others."""


class ShuffledSamples:
    """A list of samples, in another order each time round."""

    def __init__(self, samples: Sequence[Sample], *, seed: int = 0) -> None:
        self._samples, self._seed = samples, seed
        self._order = Shuffle(len(samples), seed=seed)

    def __call__(self, index: int, tools: ToolBox) -> Sample:
        return self._samples[self._order.place(index)]

    def release(self, samples: Sequence[Sample], tools: ToolBox) -> None:
        """Nothing: who made the samples put their media there."""

    def settings(self) -> dict[str, Any]:
        names = "\n".join(f"{sample.id} {sample.question}" for sample in self._samples)
        return {"samples": digest(names.encode()), "seed": self._seed}


class RecordSamples:
    """The questions of a folder of Chain-of-Thought-Action records; their chains are not used."""

    def __init__(self, folder: Path, *, seed: int = 0) -> None:
        self._folder, self._seed = folder, seed
        self._records = list(read_records(folder / FILE_NAME))
        self._digest = digest((folder / FILE_NAME).read_bytes())
        self._order = Shuffle(len(self._records), seed=seed)

    def __call__(self, index: int, tools: ToolBox) -> Sample:
        record = self._records[self._order.place(index)]
        media = tuple(tools.add_media(self._folder / name) for name in record.media)
        return record.sample(media)

    def release(self, samples: Sequence[Sample], tools: ToolBox) -> None:
        forget_media(samples, tools)

    def settings(self) -> dict[str, Any]:
        """A folder whose records were changed is another, wherever it lies."""
        return {"records": self._digest, "seed": self._seed}


class PixelWorldSamples:
    """PixelWorld's tasks from number `first` on, drawn when asked for by way of `folder`."""

    def __init__(
        self,
        folder: Path,
        *,
        config: PixelWorldConfig | None = None,
        split: str = "train",
        first: int = 0,
    ) -> None:
        self._config = config or PixelWorldConfig()
        self._world = PixelWorld(self._config)
        self._folder, self._split, self._first = folder, split, first
        folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, index: int, tools: ToolBox) -> Sample:
        task = self._world.task(self._split, self._first + index)
        path = save_media(task, self._folder)
        media = tools.add_media(path)
        # The store has its bytes.
        path.unlink()
        return Sample(
            task.id, (media,), task.question, task.answer, task.answer_kind, task.evidence
        )

    def release(self, samples: Sequence[Sample], tools: ToolBox) -> None:
        forget_media(samples, tools)

    def settings(self) -> dict[str, Any]:
        return {"world": asdict(self._config), "split": self._split, "first": self._first}


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Shuffle:
    """Index -> place in a list, all places once in every round."""

    def __init__(self, size: int, *, seed: int) -> None:
        if size < 1:
            raise ValueError("samples: expected at least one, got none")
        self._size, self._seed, self._round = size, seed, -1

    def place(self, index: int) -> int:
        number, within = divmod(index, self._size)
        if number != self._round:
            self._places = np.random.default_rng((self._seed, number)).permutation(self._size)
            self._round = number
        return int(self._places[within])
