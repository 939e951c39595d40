"""Phase 3: pixel test-time RL over a stream of samples (METHOD.md).

    python -m pixelis_fast.phases.ttrl --policy runs/rft/policy --samples stream.jsonl \
        --out runs/ttrl

Answers each sample by the vote of a group and learns from the vote, without labels. Killed and
started again, it goes on behind the last sample whose outcome was kept. `learning`
(serve/learning.py) does the same beside a server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from pixelis_fast.agent import Agent, AgentConfig, build_agent
from pixelis_fast.fidelity import label_free_fidelity
from pixelis_fast.grammar import ToolGrammar
from pixelis_fast.memory import (
    Experience,
    ExperienceMemory,
    MemoryConfig,
    MemoryKey,
    Neighbour,
)
from pixelis_fast.phases.ttrl_batch import Rules
from pixelis_fast.phases.ttrl_canary import Canary
from pixelis_fast.phases.ttrl_journal import events_of
from pixelis_fast.phases.ttrl_learner import TENANT, TtrlLearner
from pixelis_fast.phases.ttrl_parts import Parts
from pixelis_fast.phases.ttrl_serving import AgentRunner, Publisher
from pixelis_fast.phases.ttrl_types import Remembers, TtrlConfig, TtrlEvent
from pixelis_fast.phases.ttrl_update import Updater
from pixelis_fast.retrieval import KeyMaker
from pixelis_fast.rollout import RolloutConfig
from pixelis_fast.samples import forget_media, iter_samples, read_samples
from pixelis_fast.schemas import TOOL_SCHEMAS
from pixelis_fast.tools import ToolBox
from pixelis_fast.types import Sample

MEMORY = "memory"


@dataclass(frozen=True)
class TtrlRun:
    """A run over a file of samples.

    Example:
        main(TtrlRun(TtrlConfig(out="runs/ttrl"), samples="stream.jsonl"))
    """

    learner: TtrlConfig
    samples: str
    """JSON lines, as `pixelis rollout` takes them."""
    canary: str | None = None
    """The same with answers, held back from the stream."""
    agent: AgentConfig = field(default_factory=AgentConfig)
    limit: int | None = None
    """Queries of the stream, those of earlier runs included; None: all."""


def parts_of(
    agent: Agent,
    config: TtrlConfig,
    memory: Remembers,
    *,
    canary: Sequence[Sample] = (),
    only_for: str = "",
) -> Parts:
    """What a learner needs of an agent that runs beside it.

    `only_for` names the one tenant that is served what is learned; "" is everybody.
    """
    run = AgentRunner(agent)
    updater = Updater(agent.policy, config, load_patches=agent.views.patches, rules=rules_of(agent))
    return Parts(
        updater=updater,
        run=run,
        judge=partial(label_free_fidelity, tools=agent.tools),
        keys=KeyMaker(agent.policy, agent.opened.limits.image, agent.tools),
        memory=memory,
        publisher=Publisher(agent, tenant=only_for),
        canary=Canary(canary, run) if canary else None,
    )


def rules_of(agent: Agent) -> Rules:
    """The grammar that its rollouts follow, compiled for a thread of its own."""
    grammar = ToolGrammar(
        agent.tokenizer,
        TOOL_SCHEMAS,
        vocab_size=agent.policy.config.text.vocab_size,
        max_thought_tokens=agent.config.rollout.max_thought_tokens,
    )
    return Rules(grammar, agent.loop.banned_ids)


class NothingKnown:
    """The memory of a read-only learner in a folder that has none."""

    def add(self, experience: Experience) -> None:
        raise ValueError("memory: expected a writer, got a read-only learner without a memory")

    def nearest(self, key: MemoryKey, k: int, tenant: str) -> list[Neighbour]:
        return []

    def __contains__(self, tenant_and_id: tuple[str, str]) -> bool:
        return False


@contextmanager
def open_memory(agent: Agent, config: TtrlConfig) -> Iterator[Remembers]:
    """The one in `config.out`, begun where there is none yet."""
    folder = Path(config.out) / MEMORY
    if config.read_only and not folder.is_dir():
        yield NothingKnown()
        return
    settings = MemoryConfig(pixel_dimension=agent.policy.config.text.hidden_size)
    with ExperienceMemory(folder, settings, read_only=config.read_only) as memory:
        yield memory


def learn_from(
    agent: Agent,
    config: TtrlConfig,
    samples: Iterable[Sample],
    *,
    canary: Sequence[Sample] = (),
    tenant_of: Callable[[Sample], str] = lambda sample: TENANT,
) -> Iterator[TtrlEvent]:
    """One event per sample; those that an earlier run in `config.out` has done are passed over.

    ValueError where those were others: one folder is one stream. A read-only learner asks all.
    """
    with open_memory(agent, config) as memory, agent.loop:
        parts = parts_of(agent, config, memory, canary=canary)
        with TtrlLearner(config, parts) as learner:
            for sample in behind(samples, config):
                yield learner.step(sample, tenant=tenant_of(sample))


def behind(samples: Iterable[Sample], config: TtrlConfig) -> Iterator[Sample]:
    """Those that the run in `config.out` has not done."""
    out = Path(config.out)
    done = [] if config.read_only else [event.sample_id for event in events_of(out)]
    for number, sample in enumerate(samples):
        if number >= len(done):
            yield sample
        elif sample.id != done[number]:
            raise ValueError(
                f"samples: expected {done[number]!r} as number {number + 1}, as in the run in "
                f"{out}, got {sample.id!r}; choose another folder for another stream"
            )


def passing(samples: Iterable[Sample], tools: ToolBox) -> Iterator[Sample]:
    """Whose media leave the store behind them: what learning still needs of them, it holds."""
    for sample in samples:
        yield sample
        forget_media([sample], tools)


def main(config: TtrlRun, *, on_event: Callable[[TtrlEvent], None] = lambda event: None) -> Path:
    """Learns from the stream; the folder of log, memory and snapshots."""
    agent = build_agent(config.agent)
    stream = islice(iter_samples(Path(config.samples), agent.tools), config.limit)
    samples = passing(stream, agent.tools)
    canary = read_samples(Path(config.canary), agent.tools) if config.canary else ()
    for event in learn_from(agent, config.learner, samples, canary=canary):
        on_event(event)
    return Path(config.learner.out)


def command(
    policy: Annotated[str, typer.Option(help="Checkpoint folder.")],
    samples: Annotated[Path, typer.Option(help="JSON lines of samples.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; started again, it goes on.")],
    canary: Annotated[Path | None, typer.Option(help="Samples with answers.")] = None,
    group: Annotated[int, typer.Option(help="Trajectories per query.")] = 8,
    rate: Annotated[float, typer.Option(help="Learning rate.")] = 1e-3,
    rank: Annotated[int, typer.Option(help="Of the adapters.")] = 8,
    read_only: Annotated[bool, typer.Option(help="Answer and learn nothing.")] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(help="Compute threads.")] = 1,
    seed: Annotated[int, typer.Option(help="Of adapters and draws.")] = 0,
) -> None:
    """Learns from a stream of queries while it answers them."""
    run = TtrlRun(
        TtrlConfig(
            out=str(out), group=group, learning_rate=rate, rank=rank, read_only=read_only, seed=seed
        ),
        samples=str(samples),
        canary=None if canary is None else str(canary),
        agent=AgentConfig(
            policy=policy,
            device=device,
            threads=threads,
            rollout=RolloutConfig(embeddings=True, overlap=True),
        ),
    )
    typer.echo(f"log: {main(run, on_event=show)}")


def show(event: TtrlEvent) -> None:
    kl = "" if event.kl is None else f" KL {event.kl:.3f}"
    typer.echo(
        f"{event.query} {event.sample_id}: {event.answer} ({event.confidence:.2f}) "
        f"{event.status.value}{kl} {event.reason}"
    )


if __name__ == "__main__":
    typer.run(command)
