"""What a run of reinforcement fine-tuning is put together from, and its small decisions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from pixelis_fast.agent import Agent, build_agent
from pixelis_fast.grammar import ToolGrammar
from pixelis_fast.phases.rft_config import RftConfig
from pixelis_fast.phases.rft_loss import Learnable
from pixelis_fast.policy.adapters import AdapterBank
from pixelis_fast.policy.sampling import seed_of
from pixelis_fast.schemas import TOOL_SCHEMAS
from pixelis_fast.types import RewardParts

SOLVED = 0.999
"""Task reward from which a trajectory may be imitated."""


def open_agent(config: RftConfig) -> Agent:
    """With step embeddings, which the rewards stand on, and the run's own limit of time."""
    rollout = replace(config.agent.rollout, embeddings=True, max_time_s=config.max_time_s)
    return build_agent(replace(config.agent, rollout=rollout))


def new_bank(config: RftConfig, agent: Agent) -> AdapterBank | None:
    if not config.lora_rank:
        return None
    return AdapterBank(
        agent.policy.config,
        rank=config.lora_rank,
        alpha=2.0 * config.lora_rank,
        seed=config.seed,
        device=agent.policy.device,
    )


def grammar_of(agent: Agent) -> ToolGrammar:
    """The one that its rollouts follow."""
    return ToolGrammar(
        agent.tokenizer,
        TOOL_SCHEMAS,
        vocab_size=agent.policy.config.text.vocab_size,
        max_thought_tokens=agent.config.rollout.max_thought_tokens,
    )


def first_seed(config: RftConfig, step: int) -> int:
    """Of the step's trajectories; those behind it have the next ones."""
    return seed_of(config.seed, step * config.prompts * config.group)


def best_of_groups(parts: list[RewardParts], group: int) -> set[int]:
    """Index of each group's best trajectory, where that solved the task."""
    starts = range(0, len(parts), group)
    best = [max(range(s, s + group), key=lambda i: parts[i].total) for s in starts]
    return {index for index in best if parts[index].task >= SOLVED}


def split(learnables: list[Learnable], count: int) -> Iterator[list[Learnable]]:
    """In order, into at most `count` parts of nearly one size."""
    size = -(-len(learnables) // count)
    return (learnables[start : start + size] for start in range(0, len(learnables), size))
