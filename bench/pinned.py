"""The token ids of a chain, fixed once: prompt, turns and observations of a reference run.

Every arm then computes the same tokens whatever its own tools return. Knows no arm.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.cases import Case
from pixelis_fast.policy.tokenizer import Tokenizer
from pixelis_fast.prompt import Piece
from pixelis_fast.types import Trajectory


@dataclass(frozen=True)
class PinnedChain:
    """What a reference run fixed.

    Example:
        pinned.ids[slice(*pinned.turns[0])]  # the first turn's generated tokens
    """

    ids: list[int]
    """The whole conversation, the last turn's end included."""
    turns: tuple[tuple[int, int], ...]
    """[start, end) of each turn's generated tokens."""
    observations: tuple[str, ...]
    """Texts, one per call."""
    pieces: tuple[Piece, ...]
    """The same as tokens, as the loop appends them."""
    crops: tuple[tuple[int, int] | None, ...]
    """Width and height of the picture each observation shows."""
    num_image_tokens: int


def script_ids(case: Case, tokenizer: Tokenizer) -> list[int]:
    """All turns' generated tokens in a row, each closed by the end-of-turn token."""
    ids: list[int] = []
    for turn in case.turns:
        ids += [*tokenizer.encode_structure(turn.as_text()), tokenizer.special.im_end]
    return ids


def pin(case: Case, trajectory: Trajectory, pieces: list[Piece]) -> PinnedChain:
    """From a reference run; ValueError when a call of the case did not do its work there."""
    seen = [step.observation for step in trajectory.steps if step.observation is not None]
    refused = [observation.error for observation in seen if observation.error is not None]
    if refused or len(seen) != len(case.calls):
        raise ValueError(
            f"case {case.name}: expected {len(case.calls)} observations without error, "
            f"got {len(seen)}, errors {refused}"
        )
    crops = [o.media[0] if o.media else None for o in seen]
    return PinnedChain(
        ids=list(trajectory.ids),
        turns=tuple((step.start, step.end) for step in trajectory.steps),
        observations=tuple(observation.text for observation in seen),
        pieces=tuple(pieces),
        crops=tuple((crop.width, crop.height) if crop else None for crop in crops),
        num_image_tokens=sum(span.num_tokens for span in trajectory.spans),
    )
