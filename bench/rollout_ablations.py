"""Our arm of bench/rollout.py with one mechanism off, or with other numbers, one at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from bench.ablations import without_engine, without_jump_ahead, without_loop, without_rollout
from bench.pinned import script_ids
from bench.rollout_cases import STEPS, group_case
from pixelis_fast.agent import Agent, assemble
from pixelis_fast.policy.agreement import Gate
from pixelis_fast.policy.batch import PackedBatch
from pixelis_fast.policy.engine import Chunk
from pixelis_fast.policy.model import Policy
from pixelis_fast.policy.quantize import cast_policy, quantize_policy

RANDOM_GATE = Gate(min_cosine=0.99, min_argmax=0.5)
"""Random weights' logits are flat: their argmax flips where a trained model's would not."""


@dataclass(frozen=True)
class Ablation:
    """One changed arm."""

    change: Callable[[Agent], Agent]
    dtype: str | None = None
    """Of the arm's weights when it is not the agent's own."""
    one_by_one: bool = False
    """Members run one after the other instead of together."""


def unchanged(agent: Agent) -> Agent:
    """The same settings with caches and tools of its own."""
    return agent.variant(agent.config)


def without_group_prefix(agent: Agent) -> Agent:
    """Each member prefills the prompt, picture and all."""
    config = agent.config
    return agent.variant(
        replace(
            config,
            engine=replace(config.engine, prefix_cache_bytes=0),
            loop=replace(config.loop, share_prompts=False),
        )
    )


def in_bfloat16(agent: Agent) -> Agent:
    """The same numbers, rounded."""
    return _with_policy(agent, _rounded(agent))


def in_int8(agent: Agent) -> Agent:
    """Matrices of the decoder in int8 behind bfloat16 arithmetic."""
    original = agent.policy
    quantized = quantize_policy(
        _rounded(agent), _probes(agent), original=original, gate=_gate(agent)
    )
    return _with_policy(agent, quantized)


def _rounded(agent: Agent) -> Policy:
    if agent.policy.dtype == torch.bfloat16:
        return agent.policy
    return cast_policy(agent.policy, _probes(agent), gate=_gate(agent))


def _with_policy(agent: Agent, policy: Policy) -> Agent:
    config = replace(agent.config, dtype="bfloat16")
    return assemble(config, replace(agent.opened, policy=policy))


def _probes(agent: Agent) -> list[PackedBatch]:
    """The turns of the longest chain, as text."""
    [member] = group_case(f"G1-T{len(STEPS)}").members
    ids = script_ids(member, agent.tokenizer)
    return [agent.engine.training_batch(Chunk(ids, opens_turn=True))]


def _gate(agent: Agent) -> Gate:
    return RANDOM_GATE if agent.config.has_random_weights else Gate()


BFLOAT16, PACKED = "bfloat16", "- packed weights"
EVERY_TOKEN = "- jump-ahead"
"""Runs beside ours always: without forced runs every generated token has logits to compare."""
ABLATIONS: dict[str, Ablation] = {
    EVERY_TOKEN: Ablation(without_jump_ahead),
    "- session KV": Ablation(without_engine(keep_kv=False)),
    "- group prefix": Ablation(without_group_prefix),
    "- shared attention": Ablation(without_engine(share_prefix=False)),
    "- vision cache": Ablation(without_engine(vision_cache_bytes=0)),
    "- KV and vision": Ablation(without_engine(keep_kv=False, vision_cache_bytes=0)),
    "- batch": Ablation(unchanged, one_by_one=True),
    "- overlap": Ablation(without_rollout(overlap=False)),
    "- early start": Ablation(without_loop(early_start=False)),
    "- prefetch": Ablation(without_loop(prefetch=False)),
    "prefetch at arrival": Ablation(without_loop(prefetch_arrivals=True)),
    PACKED: Ablation(without_engine(packed_weights=False)),
    BFLOAT16: Ablation(in_bfloat16, dtype="bfloat16"),
    "int8": Ablation(in_int8, dtype="bfloat16"),
}
"""With session KV the vision cache serves the group's first picture alone, so both go off too."""


def ablations_of(agent: Agent) -> list[str]:
    """Names of those that change something in this agent."""
    config = agent.config
    changes = {BFLOAT16: config.dtype != "bfloat16", PACKED: config.device == "cpu"}
    return [name for name in ABLATIONS if changes.get(name, True)]
