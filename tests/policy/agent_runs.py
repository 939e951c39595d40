"""Random runs of an agent on the engine: turns, pictures, forks, evictions; and what they said.

A script keeps, for each session, its history and where the policy chose a token. The oracle is
one transformers forward over each history: if every chosen token is its argmax there, greedy
decoding by transformers chooses the same ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from hypothesis import strategies as st

from pixelis_fast.policy.engine import Chunk, Engine, KVBudgetError, Session, VisionSlot
from pixelis_fast.policy.image import Patches
from pixelis_fast.spans import Spans
from tests.tiny_policy import TinySample, hf_inputs, make_sample

PIECES = (
    ("image", 4, 4),
    ("image", 4, 6),
    ("image", 8, 4),
    ("video", 2, 4, 4),
    ("video", 3, 4, 6),
)
TEXTS = (1, 3, 20, 80)
"""80 tokens are more than a fork copies, 20 more than a prefix hit needs."""


@dataclass(frozen=True)
class Turn:
    """What is appended at once: text lengths and pictures, each with the seed of its content."""

    pieces: tuple[tuple[int | tuple, int], ...]

    def samples(self, config) -> list[TinySample]:
        return [make_sample(config, [piece], seed=seed) for piece, seed in self.pieces]


@dataclass
class Actor:
    """One session and all that was told to it and said by it."""

    session: Session
    samples: list[TinySample | int]
    """Parts in order; an int is a token that the policy chose."""
    parts: list[Chunk]
    """What it is still to be told, each at once."""
    logits_V: torch.Tensor | None = None
    alive: bool = True


@dataclass
class Runner:
    """Performs actions on an engine."""

    policy: object
    media: dict[str, Patches] = field(default_factory=dict)
    engine: Engine = None
    actors: list[Actor] = field(default_factory=list)

    def start(self, config) -> Runner:
        self.engine = Engine(self.policy, self.media.__getitem__, config=config)
        return self

    def chunk(self, turn: Turn) -> tuple[Chunk, list[TinySample]]:
        whole = Chunk([], opens_turn=True)
        samples = turn.samples(self.policy.config)
        for sample, (piece, seed) in zip(samples, turn.pieces, strict=True):
            whole = whole + self._part(sample, f"{piece} {seed}")
        return whole, samples

    def _part(self, sample: TinySample, media_id: str) -> Chunk:
        if not sample.grids:
            return Chunk(sample.ids, opens_turn=True)
        [grid], [patches] = sample.grids, sample.patches
        self.media[media_id] = Patches(patches, grid, 2)
        size = len(sample.visual_index) // grid[0]
        starts = sample.visual_index[::size]
        slots = tuple(VisionSlot(s, size, media_id, t, grid) for t, s in enumerate(starts))
        return Chunk(sample.ids, slots, opens_turn=True)

    def live(self) -> list[Actor]:
        return [actor for actor in self.actors if actor.alive]

    def open(self, turn: Turn, salt: str, ends_in_picture: bool = False) -> None:
        """With ends_in_picture the last span ends what is told first."""
        chunk, samples = self.chunk(turn)
        end = chunk.slots[-1].end if ends_in_picture and chunk.slots else len(chunk.ids)
        parts = [part for part in (chunk.before(end), chunk.after(end)) if part.ids]
        self.actors.append(Actor(self.engine.open(salt=salt), samples, parts))

    def observe(self, actor: Actor, turn: Turn) -> None:
        chunk, samples = self.chunk(turn)
        actor.samples += samples
        *before, last = actor.parts or [Chunk([])]
        actor.parts = [*before, last + chunk]

    def fork(self, actor: Actor) -> None:
        self._with_room([actor], lambda: self._fork(actor))

    def _fork(self, actor: Actor) -> None:
        twin = self.engine.fork(actor.session)
        self.actors.append(Actor(twin, list(actor.samples), list(actor.parts), actor.logits_V))

    def step(self, actors: list[Actor]) -> None:
        """Tells each its next part, or chooses a token and tells that."""
        for actor in actors:
            if not actor.parts:
                token = int(actor.logits_V.argmax())
                actor.samples.append(token)
                actor.parts = [Chunk([token])]
        self._with_room(actors, lambda: self._extend(actors))

    def _extend(self, actors: list[Actor]) -> None:
        logits_BV = self.engine.extend(
            [actor.session for actor in actors],
            [actor.parts[0] for actor in actors],
            spans=Spans(),
        )
        for actor, logits_V in zip(actors, logits_BV, strict=True):
            actor.logits_V, actor.parts = logits_V, actor.parts[1:]

    def _with_room(self, actors: list[Actor], action) -> None:
        """Evicts the others, then takes fewer at a time."""
        try:
            action()
        except KVBudgetError:
            for actor in self.live():
                if actor not in actors or len(actors) > 1:
                    self.engine.evict(actor.session)
            if len(actors) == 1:
                action()
            for actor in actors if len(actors) > 1 else []:
                self._with_room([actor], lambda actor=actor: self._extend([actor]))


def expected_tokens(model, actor: Actor) -> list[int]:
    """The argmax of transformers where the actor chose a token."""
    whole, places = history(actor)
    with torch.inference_mode():
        logits_NV = model(**hf_inputs([whole])).logits[0]
    return [int(logits_NV[place - 1].argmax()) for place in places]


def history(actor: Actor) -> tuple[TinySample, list[int]]:
    """Everything so far as one sample, and where the chosen tokens stand."""
    whole, places = TinySample([], [], [], [], [], [], []), []
    for part in actor.samples:
        if isinstance(part, int):
            places.append(len(whole.ids))
            part = TinySample([part], [0], [1], [], [], [], [])
        whole.ids += part.ids
        whole.types += part.types
        whole.grids += part.grids
        whole.patches += part.patches
        whole.kinds += part.kinds
    return whole, places


def chosen(actor: Actor) -> list[int]:
    return [part for part in actor.samples if isinstance(part, int)]


SEEDS = st.integers(0, 1)
TURNS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(TEXTS), SEEDS),
        st.tuples(st.sampled_from(PIECES), SEEDS),
    ),
    min_size=1,
    max_size=3,
).map(lambda pieces: Turn(tuple(pieces)))
OPENINGS = st.sampled_from(
    [
        Turn(((20, 0), (PIECES[1], seed), *behind))
        for seed in (0, 1)
        for behind in ((), ((3, 0),), ((80, 0),), ((PIECES[3], 1),))
    ]
)
"""Few and alike, so that later ones hit; the first ends with a picture."""
ACTORS = st.integers(0, 9)
OPEN = st.tuples(
    st.just("open"),
    st.one_of(OPENINGS, OPENINGS, TURNS),
    st.sampled_from(["", "", "", "tenant"]),
    st.booleans(),
)
OTHERS = st.one_of(
    st.tuples(st.just("step all"), st.integers(1, 3)),
    st.tuples(st.just("fork"), ACTORS),
    st.tuples(st.just("step"), st.sets(ACTORS, min_size=1, max_size=4)),
    st.tuples(st.just("observe"), ACTORS, TURNS),
    st.tuples(st.just("evict"), ACTORS),
    st.tuples(st.just("close"), ACTORS),
)
ACTIONS = st.lists(
    st.tuples(OPEN, st.lists(OTHERS, min_size=1, max_size=4)), min_size=1, max_size=4
).map(lambda acts: [action for opened, others in acts for action in (opened, *others)])


def perform(runner: Runner, actions: list[tuple]) -> None:
    """Every action that makes sense, then two tokens from everyone who is left."""
    for name, *how in actions:
        live = runner.live()
        if name == "open":
            runner.open(*how)
        elif name == "step all":
            for _ in range(how[0] if live else 0):
                runner.step(live)
        elif name == "step":
            rows = sorted({index % len(live) for index in how[0]}) if live else []
            runner.step([live[row] for row in rows]) if rows else None
        elif live:
            perform_on(runner, live[how[0] % len(live)], name, how[1:])
    for _ in range(3):
        if runner.live():
            runner.step(runner.live())


def perform_on(runner: Runner, actor: Actor, name: str, how: list) -> None:
    if name == "observe":
        runner.observe(actor, *how)
    elif name == "fork":
        runner.fork(actor)
    elif name == "evict":
        runner.engine.evict(actor.session)
    elif name == "close" and actor.logits_V is not None:
        runner.engine.close(actor.session)
        actor.alive = False
