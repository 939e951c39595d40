"""Which examples a step of supervised training sees: a curriculum without state.

A step's examples follow from (seed, step) alone, so a run that is resumed sees what it would have
seen. Grounding examples (one call, no answer) come first, whole chains by and by; whole chains
enter from easy to hard. Grounding examples of one picture come together: the picture is encoded
once for all, and only the question can tell them apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pixelis_fast.data.prepared import Example, StoredPicture

GROUP_TOKENS = 512
"""Of the single calls on one picture that are drawn together."""


@dataclass(frozen=True)
class Curriculum:
    """Shares of the run.

    Example:
        Curriculum(grounding_until=0.4, whole_from=0.6)
    """

    grounding_until: float = 0.0
    """Until here only grounding examples."""
    whole_from: float = 0.0
    """From here only whole chains, but for `grounding_kept`; a ramp in between."""
    grounding_kept: float = 0.2
    """Share of grounding examples kept to the end."""
    hardest_from: float = 0.3
    """Share of the whole chains' part of the run by which the hardest are in."""

    def __post_init__(self) -> None:
        if not 0 <= self.grounding_until <= self.whole_from <= 1:
            raise ValueError(
                "curriculum: expected 0 <= grounding_until <= whole_from <= 1, got "
                f"{self.grounding_until} and {self.whole_from}"
            )

    def whole_share(self, progress: float) -> float:
        """Share of whole chains at this share of the run."""
        most = 1 - self.grounding_kept
        if progress < self.grounding_until:
            return 0.0
        if progress >= self.whole_from:
            return most
        ramp = self.whole_from - self.grounding_until
        return most * (progress - self.grounding_until) / ramp

    def hardness(self, progress: float) -> float:
        """Quantile of difficulty that is in."""
        done = (progress - self.grounding_until) / max(1 - self.grounding_until, 1e-9)
        if self.hardest_from <= 0:
            return 1.0
        return float(np.clip(0.3 + 0.7 * done / self.hardest_from, 0.3, 1.0))


class StepExamples:
    """Draws one step's examples.

    Example:
        examples = StepExamples(data.examples, Curriculum(), batch_tokens=4096, seed=0).draw(7, 0.1)
    """

    def __init__(
        self, examples: Sequence[Example], curriculum: Curriculum, *, batch_tokens: int, seed: int
    ) -> None:
        if not examples:
            raise ValueError("examples: expected at least one, got none")
        whole = [example for example in examples if example.is_whole]
        self._whole = sorted(whole, key=lambda example: example.difficulty)
        groups = by_picture([example for example in examples if not example.is_whole])
        self._grounding = [part for group in groups for part in parts_of(group)]
        self._curriculum, self._seed, self._batch_tokens = curriculum, seed, batch_tokens

    def draw(self, step: int, progress: float) -> list[Example]:
        """At least one, then as many as fit the batch's tokens; `progress` in [0, 1]."""
        rng = np.random.default_rng((self._seed, step))
        drawn: list[Example] = []
        room = self._batch_tokens
        while room > 0:
            some = self._some(rng, progress)
            room -= num_tokens(some)
            if room >= 0 or not drawn:
                drawn += some
        return drawn

    def _some(self, rng: np.random.Generator, progress: float) -> list[Example]:
        """One whole chain, or some single calls on one picture."""
        share = self._curriculum.whole_share(progress)
        if not self._grounding or (self._whole and rng.random() < share):
            count = max(1, round(len(self._whole) * self._curriculum.hardness(progress)))
            return [self._whole[rng.integers(count)]]
        return self._grounding[rng.integers(len(self._grounding))]


class StepPictures:
    """Draws one step's labelled pictures, for a tower that is trained alone.

    Example:
        media_ids = StepPictures(data.pictures, batch_tokens=864, seed=0, merge=2).draw(7)
    """

    def __init__(
        self, pictures: Mapping[str, StoredPicture], *, batch_tokens: int, seed: int, merge: int
    ) -> None:
        self._ids = [name for name, stored in pictures.items() if stored.labels is not None]
        self._pictures, self._merge = pictures, merge
        self._seed, self._batch_tokens = seed, batch_tokens

    def draw(self, step: int) -> list[str]:
        """At least one, then as many as fit; ValueError where no picture has labels.

        One that is drawn again takes up room and is not shown again.
        """
        if not self._ids:
            raise ValueError("pictures: expected labels of visual tokens in the data, got none")
        rng = np.random.default_rng((self._seed, step))
        drawn: list[str] = []
        room = self._batch_tokens
        while room > 0:
            name = self._ids[rng.integers(len(self._ids))]
            room -= int(np.prod(self._pictures[name].grid_thw)) // self._merge**2
            if name not in drawn and (room >= 0 or not drawn):
                drawn.append(name)
        return drawn


def parts_of(group: Sequence[Example]) -> Iterator[list[Example]]:
    """A group in runs of so many tokens. A draw that does not fit ends a step, and six retold
    chains of one picture are 1,800 tokens: more than one of two processes has of 3,072."""
    part: list[Example] = []
    for example in group:
        if part and num_tokens([*part, example]) > GROUP_TOKENS:
            yield part
            part = []
        part.append(example)
    yield part


def num_tokens(examples: Sequence[Example]) -> int:
    return sum(len(example.trajectory.ids) for example in examples)


def by_picture(examples: Sequence[Example]) -> list[list[Example]]:
    """Examples that show the same media, in the order the media came; of those that show none, the
    ones that are numbered together."""
    groups: dict[tuple[str, ...], list[Example]] = {}
    for example in examples:
        sample = example.trajectory.sample
        shown = tuple(media.id for media in sample.media)
        groups.setdefault(shown or (sample.id.rpartition("-")[0],), []).append(example)
    return list(groups.values())
