"""One agent from one set of settings: policy, tools, prompt, grammar and the loop over them.

The command line, the benchmark and replay build agents here and nowhere else.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from pixelis_fast.grammar import ToolGrammar
from pixelis_fast.policy.config import PRESETS
from pixelis_fast.policy.embed import VisionEmbedder
from pixelis_fast.policy.engine import Engine
from pixelis_fast.policy.limits import PRESET_LIMITS, MediaLimits, limits_from_folder
from pixelis_fast.policy.model import Policy
from pixelis_fast.policy.sampling import Sampling
from pixelis_fast.policy.tokenizer import Tokenizer
from pixelis_fast.policy.weights import load_policy, random_policy
from pixelis_fast.prompt import PromptBuilder
from pixelis_fast.rollout import Rollout, RolloutConfig
from pixelis_fast.schemas import TOOL_SCHEMAS
from pixelis_fast.tools import ToolBox, ToolConfig, open_tools
from pixelis_fast.views import Views

MEASURING_PRESETS = frozenset({"unit", "bench-36m"})
"""Presets that nobody trained: they exist to be measured."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class AgentConfig:
    """All that is needed to build the same agent again; written into every trace."""

    policy: str = "bench-36m"
    """A preset's name, or a checkpoint folder."""
    random_weights: bool = False
    """Give a preset random weights; unit and bench-36m, made for measuring, always have them."""
    weights_seed: int = 0
    device: str = "cpu"
    dtype: str = "float32"
    threads: int = 1
    keep_kv: bool = True
    vision_cache_bytes: int = 1 << 30
    prefix_cache_bytes: int = 1 << 28
    tools: ToolConfig = field(default_factory=ToolConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype: expected one of {sorted(DTYPES)}, got {self.dtype!r}")
        if self.threads < 1:
            raise ValueError(f"threads: expected >= 1, got {self.threads}")

    @property
    def has_random_weights(self) -> bool:
        return self.random_weights or self.policy in MEASURING_PRESETS

    @property
    def policy_settings(self) -> tuple[Any, ...]:
        """What decides which weights lie where."""
        return self.policy, self.has_random_weights, self.weights_seed, self.device, self.dtype

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> AgentConfig:
        known = {f.name for f in fields(cls)}
        if unknown := set(row) - known:
            raise ValueError(f"agent: expected keys of {sorted(known)}, got {sorted(unknown)}")
        rollout = dict(row["rollout"])
        rollout["sampling"] = Sampling(**rollout["sampling"])
        nested = {"tools": ToolConfig(**row["tools"]), "rollout": RolloutConfig(**rollout)}
        return cls(**row | nested)


@dataclass(frozen=True)
class OpenPolicy:
    """A policy with the tokenizer and pixel limits that belong to it."""

    policy: Policy
    tokenizer: Tokenizer
    limits: MediaLimits


@dataclass(frozen=True)
class Agent:
    """A ready agent.

    Example:
        agent = build_agent(AgentConfig(policy="bench-36m"))
        media = agent.tools.add_media(Path("coins.png"))
        [trajectory] = agent.rollout.run([Sample("1", (media,), "How many coins?")])
    """

    config: AgentConfig
    opened: OpenPolicy
    tools: ToolBox
    views: Views
    engine: Engine
    rollout: Rollout
    degraded: tuple[str, ...]
    """What is second best in this agent, one sentence each."""

    @property
    def policy(self) -> Policy:
        return self.opened.policy

    @property
    def tokenizer(self) -> Tokenizer:
        return self.opened.tokenizer

    def variant(self, config: AgentConfig) -> Agent:
        """The same policy, in memory once, under other settings of engine, tools and loop."""
        if config.policy_settings != self.config.policy_settings:
            raise ValueError(
                f"variant: expected the policy {self.config.policy_settings}, "
                f"got {config.policy_settings}"
            )
        return assemble(config, self.opened)


def build_agent(config: AgentConfig) -> Agent:
    """Loads or makes the policy, opens the tools, and wires the loop."""
    torch.set_num_threads(config.threads)
    return assemble(config, open_policy(config))


def assemble(config: AgentConfig, opened: OpenPolicy) -> Agent:
    policy, tokenizer, limits = opened.policy, opened.tokenizer, opened.limits
    tools = open_tools(
        config.tools,
        # A tower nobody trained tells pictures apart worse than their pixels do.
        embed_frames=None if config.has_random_weights else VisionEmbedder(policy, limits.image),
        device=config.device,
        threads=config.threads,
    )
    views = Views(tools, limits, threads=config.threads)
    engine = Engine(
        policy,
        views.patches,
        keep_kv=config.keep_kv,
        vision_cache_bytes=config.vision_cache_bytes,
        prefix_cache_bytes=config.prefix_cache_bytes,
    )
    rollout = Rollout(
        engine,
        tools,
        tokenizer=tokenizer,
        prompt=PromptBuilder(tokenizer, TOOL_SCHEMAS),
        grammar=ToolGrammar(
            tokenizer,
            TOOL_SCHEMAS,
            vocab_size=policy.config.text.vocab_size,
            max_thought_tokens=config.rollout.max_thought_tokens,
        ),
        views=views,
        config=config.rollout,
        policy_version=policy_version(config),
    )
    degraded = tuple(random_note(config)) + tools.degraded
    return Agent(config, opened, tools, views, engine, rollout, degraded)


def open_policy(config: AgentConfig) -> OpenPolicy:
    """A checkpoint folder with its own tokenizer, or a preset with the embedded one."""
    device, dtype = torch.device(config.device), DTYPES[config.dtype]
    if config.policy in PRESETS:
        return random_preset(config, device=device, dtype=dtype)
    folder = Path(config.policy)
    if not folder.is_dir():
        raise ValueError(
            f"policy: expected a checkpoint folder or one of {sorted(PRESETS)}, got {config.policy}"
        )
    if config.random_weights:
        raise ValueError(f"random_weights: expected a preset, got the folder {config.policy}")
    policy = load_policy(folder, device=device, dtype=dtype)
    return OpenPolicy(policy, Tokenizer.from_folder(folder), limits_from_folder(folder))


def random_preset(config: AgentConfig, *, device: torch.device, dtype: torch.dtype) -> OpenPolicy:
    if not config.has_random_weights:
        raise ValueError(
            f"policy: {config.policy} ships no weights; give a checkpoint folder, "
            "or ask for random weights (--random-weights)"
        )
    tokenizer = Tokenizer.embedded()
    special = tokenizer.special
    preset = PRESETS[config.policy].with_special_ids(
        image_pad=special.image_pad,
        video_pad=special.video_pad,
        vision_start=special.vision_start,
        vision_end=special.vision_end,
    )
    policy = random_policy(preset, device=device, dtype=dtype, seed=config.weights_seed)
    return OpenPolicy(policy, tokenizer, PRESET_LIMITS[config.policy])


def policy_version(config: AgentConfig) -> str:
    name = config.policy
    return f"{name}#random-{config.weights_seed}" if config.has_random_weights else name


def random_note(config: AgentConfig) -> list[str]:
    if not config.has_random_weights:
        return []
    return [f"policy: {config.policy} has random weights; its text and choices mean nothing"]
