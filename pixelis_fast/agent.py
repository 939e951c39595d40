"""One agent from one set of settings: policy, tools, prompt, grammar and the loop over them.

The command line, the benchmark and replay build agents here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

from pixelis_fast.grammar import ToolGrammar
from pixelis_fast.loop import Loop, LoopConfig
from pixelis_fast.loop_patches import PatchDesk
from pixelis_fast.policy.batch import PackedBatch
from pixelis_fast.policy.config import PRESETS
from pixelis_fast.policy.embed import VisionEmbedder
from pixelis_fast.policy.engine import Engine, EngineConfig
from pixelis_fast.policy.limits import PRESET_LIMITS, MediaLimits, limits_from_folder
from pixelis_fast.policy.model import Policy
from pixelis_fast.policy.positions import mrope_positions
from pixelis_fast.policy.quantize import quantize_policy
from pixelis_fast.policy.sampling import Sampling
from pixelis_fast.policy.tokenizer import Tokenizer
from pixelis_fast.policy.weights import load_policy, random_policy
from pixelis_fast.prompt import PromptBuilder
from pixelis_fast.rollout import Rollout, RolloutConfig
from pixelis_fast.schemas import TOOL_SCHEMAS
from pixelis_fast.tools import ToolBox, ToolConfig, open_tools
from pixelis_fast.types import Sample
from pixelis_fast.views import Views

TRAINED_PRESETS = {"pixelworld-5m": Path(__file__).parent / "policy" / "pixelworld_5m"}
"""Presets whose weights ship, and where they lie; HOW.md beside them says how they were made."""
SHORT_PROMPT_PRESETS = frozenset({"pixelworld-5m"})
MEASURING_PRESETS = frozenset({"unit", "bench-36m"})
"""Presets that nobody trained: they exist to be measured."""
PROBE_TOKENS = 256
WrapTools = Callable[[ToolBox], ToolBox]
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
    int8: bool = False
    """The decoder's matrices in int8, once they agree with bfloat16 on the tools' own prompt; for
    few sessions at a time, and not to train."""
    threads: int = 1
    engine: EngineConfig = field(default_factory=EngineConfig)
    tools: ToolConfig = field(default_factory=ToolConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype: expected one of {sorted(DTYPES)}, got {self.dtype!r}")
        if self.int8 and self.dtype != "bfloat16":
            raise ValueError(f"int8: expected dtype bfloat16 with it, got {self.dtype}")
        if self.threads < 1:
            raise ValueError(f"threads: expected >= 1, got {self.threads}")

    @property
    def has_random_weights(self) -> bool:
        return self.random_weights or self.policy in MEASURING_PRESETS

    @property
    def policy_settings(self) -> tuple[Any, ...]:
        """What decides which weights lie where."""
        source = self.policy, self.has_random_weights, self.weights_seed
        return *source, self.device, self.dtype, self.int8

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> AgentConfig:
        row = with_engine(row)
        known = {f.name for f in fields(cls)}
        if unknown := set(row) - known:
            raise ValueError(f"agent: expected keys of {sorted(known)}, got {sorted(unknown)}")
        rollout = dict(row["rollout"])
        rollout["sampling"] = Sampling(**rollout["sampling"])
        rollout["call_sampling"] = optional_sampling(rollout.get("call_sampling"))
        nested = {
            "engine": EngineConfig(**row["engine"]),
            "tools": ToolConfig(**row["tools"]),
            "rollout": RolloutConfig(**rollout),
            "loop": LoopConfig(**row.get("loop", {})),
        }
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
    loop: Loop
    """Not started: `with agent.loop:` runs its thread. `rollout` is a front over it."""
    rollout: Rollout
    degraded: tuple[str, ...]
    """What is second best in this agent, one sentence each."""

    @property
    def policy(self) -> Policy:
        return self.opened.policy

    @property
    def tokenizer(self) -> Tokenizer:
        return self.opened.tokenizer

    def variant(self, config: AgentConfig, *, wrap_tools: WrapTools | None = None) -> Agent:
        """The same policy, in memory once, under other settings of engine, tools and loop."""
        if config.policy_settings != self.config.policy_settings:
            raise ValueError(
                f"variant: expected the policy {self.config.policy_settings}, "
                f"got {config.policy_settings}"
            )
        return assemble(config, self.opened, wrap_tools=wrap_tools)


def build_agent(config: AgentConfig) -> Agent:
    """Loads or makes the policy, opens the tools, and wires the loop.

    AgreementError (a ValueError) when int8 weights say something else than those they replace.
    """
    torch.set_num_threads(config.threads)
    opened = open_policy(config)
    return assemble(config, in_int8(opened) if config.int8 else opened)


def assemble(
    config: AgentConfig, opened: OpenPolicy, *, wrap_tools: WrapTools | None = None
) -> Agent:
    """`wrap_tools` may stand something before the tools; a benchmark puts a wire there."""
    policy, tokenizer, limits = opened.policy, opened.tokenizer, opened.limits
    tools = open_tools(
        config.tools,
        # A tower nobody trained tells pictures apart worse than their pixels do.
        embed_frames=None if config.has_random_weights else VisionEmbedder(policy, limits.image),
        device=config.device,
        threads=config.threads,
    )
    if wrap_tools is not None:
        tools = wrap_tools(tools)
    views = Views(tools, limits, threads=config.threads)
    patches = PatchDesk(views.patches)
    engine = Engine(
        policy,
        patches.take,
        config=config.engine,
        version=policy_version(config),
    )
    loop = Loop(
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
        patches=patches,
        config=config.loop,
    )
    rollout = Rollout(loop, config=config.rollout)
    degraded = tuple(random_note(config)) + tools.degraded
    return Agent(config, opened, tools, views, engine, loop, rollout, degraded)


def open_policy(config: AgentConfig) -> OpenPolicy:
    """A checkpoint folder with its own tokenizer, or a preset with the embedded one."""
    device, dtype = torch.device(config.device), DTYPES[config.dtype]
    is_shipped = config.policy in TRAINED_PRESETS and not config.has_random_weights
    if config.policy in PRESETS and not is_shipped:
        return random_preset(config, device=device, dtype=dtype)
    folder = TRAINED_PRESETS[config.policy] if is_shipped else Path(config.policy)
    if not folder.is_dir():
        raise ValueError(
            f"policy: expected a checkpoint folder or one of {sorted(PRESETS)}, got {config.policy}"
        )
    if config.random_weights:
        raise ValueError(f"random_weights: expected a preset, got the folder {config.policy}")
    policy = load_policy(folder, device=device, dtype=dtype)
    return OpenPolicy(policy, Tokenizer.from_folder(folder), limits_from_folder(folder))


def in_int8(opened: OpenPolicy) -> OpenPolicy:
    """Held against the weights as they are, on the beginning of the tools' prompt."""
    prompt = PromptBuilder(opened.tokenizer, TOOL_SCHEMAS)
    ids = prompt.opening(Sample("", (), ""), []).ids[:PROBE_TOKENS]
    positions_3N, _ = mrope_positions([len(ids)], 0)
    probe = PackedBatch(torch.tensor(ids), positions_3N, [len(ids)])
    return replace(opened, policy=quantize_policy(opened.policy, [probe]))


def random_preset(config: AgentConfig, *, device: torch.device, dtype: torch.dtype) -> OpenPolicy:
    if not config.has_random_weights:
        raise ValueError(
            f"policy: {config.policy} ships no weights; give a checkpoint folder, "
            "or ask for random weights (--random-weights)"
        )
    short = config.policy in SHORT_PROMPT_PRESETS
    tokenizer = Tokenizer.pixelworld() if short else Tokenizer.embedded()
    special = tokenizer.special
    preset = PRESETS[config.policy].with_special_ids(
        image_pad=special.image_pad,
        video_pad=special.video_pad,
        vision_start=special.vision_start,
        vision_end=special.vision_end,
    )
    policy = random_policy(preset, device=device, dtype=dtype, seed=config.weights_seed)
    return OpenPolicy(policy, tokenizer, PRESET_LIMITS[config.policy])


def with_engine(row: dict[str, Any]) -> dict[str, Any]:
    """The engine's settings in one place; older traces have three of them among the agent's."""
    if "engine" in row:
        return row
    older = ("keep_kv", "vision_cache_bytes", "prefix_cache_bytes")
    rest = {key: value for key, value in row.items() if key not in older}
    return rest | {"engine": {key: row[key] for key in older if key in row}}


def optional_sampling(row: dict[str, Any] | None) -> Sampling | None:
    return None if row is None else Sampling(**row)


def policy_version(config: AgentConfig) -> str:
    name = config.policy
    return f"{name}#random-{config.weights_seed}" if config.has_random_weights else name


def random_note(config: AgentConfig) -> list[str]:
    if not config.has_random_weights:
        return []
    return [f"policy: {config.policy} has random weights; its text and choices mean nothing"]
