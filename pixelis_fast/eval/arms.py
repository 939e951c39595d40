"""The agents of a comparison, and how each answers: with the tools, or from one look without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from pixelis_fast.agent import Agent, AgentConfig, build_agent
from pixelis_fast.conversation import Conversation, Message, Speaker
from pixelis_fast.eval.embeddings import in_own_span
from pixelis_fast.grammar import ToolGrammar
from pixelis_fast.loop_types import Request
from pixelis_fast.policy.sampling import seed_of
from pixelis_fast.rollout import reseeded, wait_for
from pixelis_fast.types import Sample, Trajectory


@dataclass(frozen=True)
class Arm:
    """One side of a comparison.

    Example:
        Arm("no tools", AgentConfig(policy="runs/sft"), tools=False)
    """

    name: str
    agent: AgentConfig
    tools: bool = True
    """Without, the prompt offers none and the grammar leaves only an answer."""

    @property
    def is_greedy(self) -> bool:
        """It says the same every time."""
        rollout = self.agent.rollout
        drawn = (rollout.sampling, rollout.call_sampling or rollout.sampling)
        return all(each.temperature == 0 for each in drawn)

    def __post_init__(self) -> None:
        if not self.name.strip() or set(self.name) & set("/\\"):
            raise ValueError(f"arm: expected a name without slashes, got {self.name!r}")


def open_agents(arms: Sequence[Arm]) -> list[Agent]:
    """Equal policies are in memory once."""
    opened: dict[tuple, Agent] = {}
    agents = []
    for arm in arms:
        key = arm.agent.policy_settings
        if key in opened:
            agents.append(opened[key].variant(arm.agent))
        else:
            agents.append(opened.setdefault(key, build_agent(arm.agent)))
    return agents


class Answerer:
    """An arm at work.

    Example:
        Answerer(arm, agent).run(samples, numbers=[0, 1], seed=0)
    """

    def __init__(self, arm: Arm, agent: Agent) -> None:
        self.arm, self.agent = arm, agent
        self._grammar = None if arm.tools else answer_grammar(agent)

    def run(
        self, samples: Sequence[Sample], *, numbers: Sequence[int], seed: int
    ) -> list[Trajectory]:
        """`numbers` are the samples' places in the run: a question draws the same in any batch.

        Steps have embeddings, which coherence is measured by, in their own span.
        """
        requests = [
            self._request(sample, seed_of(seed, number))
            for sample, number in zip(samples, numbers, strict=True)
        ]
        with self.agent.loop as loop:
            return [in_own_span(each) for each in wait_for(loop.submit_all(requests))]

    def _request(self, sample: Sample, seed: int) -> Request:
        asked = sample if self.arm.tools else toolless(sample)
        [request] = self.agent.rollout.requests([asked])
        return replace(
            request,
            sampling=reseeded(request.sampling, seed),
            call_sampling=request.call_sampling and reseeded(request.call_sampling, seed),
            grammar=self._grammar,
            embeddings=True,
        )


def answer_grammar(agent: Agent) -> ToolGrammar:
    """Thought and an answer, and no call."""
    return ToolGrammar(
        agent.tokenizer,
        {},
        vocab_size=agent.policy.config.text.vocab_size,
        max_thought_tokens=agent.config.rollout.max_thought_tokens,
    )


def toolless(sample: Sample) -> Conversation:
    """The same question in a prompt that offers no tools."""
    shown: tuple[str | int, ...] = (*range(len(sample.media)), sample.question)
    known = {f.name: getattr(sample, f.name) for f in fields(Sample)}
    return Conversation(**known, messages=(Message(Speaker.USER, shown),), tools={})
