"""A learner with work to do under any weights: groups whose turns are scripted, six answers of
eight alike. Every token is still computed by a real forward, every call run by a real tool.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from bench.scenes import Scene
from pixelis_fast.agent import Agent, AgentConfig, assemble, open_policy
from pixelis_fast.phases.ttrl import parts_of
from pixelis_fast.phases.ttrl_learner import TtrlLearner
from pixelis_fast.phases.ttrl_serving import AgentRunner
from pixelis_fast.phases.ttrl_types import Remembers, TtrlConfig
from pixelis_fast.policy.sampling import mask_logits
from pixelis_fast.policy.tokenizer import Tokenizer
from pixelis_fast.rollout import RolloutConfig
from pixelis_fast.script import Script
from pixelis_fast.types import Sample

ZOOMS = ("[0,0,500,500]", "[200,200,700,600]")
ANSWERS = ("24",) * 3 + ("7",)


class SampledScript(Script):
    """Records what a sampler would: log-probabilities over what grammar and vocabulary allow."""

    def __init__(self, ids: Sequence[int], banned_ids: Tensor) -> None:
        super().__init__(ids)
        self._banned_ids = banned_ids

    def choose(self, logits_V: Tensor, allowed_V: Tensor | None) -> tuple[int, float]:
        token, _ = super().choose(logits_V, allowed_V)
        open_V = mask_logits(logits_V, allowed=allowed_V, banned_ids=self._banned_ids)
        return token, float(torch.log_softmax(open_V, dim=-1)[token])


def unit_agent(threads: int) -> Agent:
    """The smallest policy, random, with the tokenizer that has no list of tools in its prompt."""
    torch.set_num_threads(threads)
    config = AgentConfig(policy="unit", rollout=RolloutConfig(max_thought_tokens=6))
    return assemble(config, replace(open_policy(config), tokenizer=Tokenizer.pixelworld()))


def turns(agent: Agent, member: int) -> list[int]:
    """Generated tokens of one member: a zoom and an answer."""
    arguments = f'{{"media":0,"box":{ZOOMS[member % len(ZOOMS)]}}}'
    call = f'<tool_call>\n{{"name":"zoom","arguments":{arguments}}}\n</tool_call><|im_end|>'
    answer = f"<answer>{ANSWERS[member % len(ANSWERS)]}</answer><|im_end|>"
    return agent.tokenizer.encode_structure(call) + agent.tokenizer.encode_structure(answer)


def question(agent: Agent, source: Scene, number: int) -> Sample:
    media = agent.tools.media(agent.tools.store.add_image(source.encoded).id)
    return Sample(f"{source.name}-{number}", (media,), f"What is number {number}?")


def make_learner(agent: Agent, config: TtrlConfig, memory: Remembers) -> TtrlLearner:
    def script(member: int) -> SampledScript:
        return SampledScript(turns(agent, member), agent.loop.banned_ids)

    run = AgentRunner(agent, make_chooser=script)
    return TtrlLearner(config, replace(parts_of(agent, config, memory), run=run))


def learner_config(folder: Path, *, group: int) -> TtrlConfig:
    return TtrlConfig(out=str(folder), group=group, learning_rate=1e-3)
