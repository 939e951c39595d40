"""The command line's options that describe an agent, declared once for every command."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from pixelis_fast.agent import AgentConfig
from pixelis_fast.policy.engine import EngineConfig
from pixelis_fast.policy.sampling import Sampling
from pixelis_fast.rollout import RolloutConfig
from pixelis_fast.tools import ToolConfig, has_bf16_units

LARGE_BYTES = 1 << 30
"""Of stored weights."""


def agent_config(
    *,
    policy: Annotated[
        str,
        typer.Option(
            help="A checkpoint folder, or a preset: pixelworld-5m is trained, on PixelWorld; "
            "bench-36m and others have random weights."
        ),
    ] = "pixelworld-5m",
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Give a preset random weights.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, …")] = "cpu",
    dtype: Annotated[
        str,
        typer.Option(
            help="float32 or bfloat16. auto: bfloat16 on a GPU, and for checkpoints of a gigabyte "
            "and more on a CPU with units for it; float32 otherwise."
        ),
    ] = "auto",
    int8: Annotated[
        bool, typer.Option("--int8", help="int8 weights in the decoder; it computes in bfloat16.")
    ] = False,
    threads: Annotated[int, typer.Option(help="Compute threads on the CPU.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of sampling and of random weights.")] = 0,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    top_k: Annotated[int, typer.Option(help="0 keeps all.")] = 0,
    top_p: Annotated[float, typer.Option(help="1 keeps all.")] = 1.0,
    max_steps: Annotated[int, typer.Option(help="Tool calls per question.")] = 6,
    max_tokens: Annotated[int, typer.Option(help="Generated tokens per question.")] = 512,
    max_thought: Annotated[int, typer.Option(help="Tokens of thought per turn.")] = 128,
    max_time: Annotated[float, typer.Option(help="Seconds per question.")] = 120.0,
    kv_bytes: Annotated[
        int | None,
        typer.Option(help="Bytes for keys and values on the device; without, no limit."),
    ] = None,
    overlap: Annotated[
        bool,
        typer.Option(
            "--overlap",
            help="Let a batch's questions go on while others wait for tools: faster, "
            "but a replay may then differ in the last bits.",
        ),
    ] = False,
    sam2: Annotated[
        str | None,
        typer.Option(help="SAM2 weights: a folder, a .pt file, or 'random'; without, classical."),
    ] = None,
    sam2_model: Annotated[str, typer.Option(help="Size of a .pt or random SAM2.")] = "tiny",
) -> AgentConfig:
    """Settings from options; ValueError names the option at fault."""
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    return AgentConfig(
        policy=policy,
        random_weights=random_weights,
        weights_seed=seed,
        device=device,
        dtype=chosen_dtype(dtype, policy, device=device, int8=int8),
        int8=int8,
        threads=threads,
        engine=EngineConfig(kv_bytes=kv_bytes),
        tools=ToolConfig(sam2=sam2, sam2_model=sam2_model),
        rollout=RolloutConfig(
            max_steps=max_steps,
            max_tokens=max_tokens,
            max_time_s=max_time,
            max_thought_tokens=max_thought,
            sampling=sampling,
            overlap=overlap,
        ),
    )


def chosen_dtype(dtype: str, policy: str, *, device: str, int8: bool = False) -> str:
    """What "auto" stands for. A small policy's decode step is not bound by reading its weights, so
    it keeps float32, in which a trace is replayed bit for bit."""
    if dtype != "auto":
        return dtype
    stored = sum(file.stat().st_size for file in Path(policy).glob("*.safetensors"))
    on_gpu, is_large = device.startswith("cuda"), stored >= LARGE_BYTES
    return "bfloat16" if on_gpu or int8 or (is_large and has_bf16_units()) else "float32"


def takes_agent_options(command: Callable[..., None]) -> Callable[..., None]:
    """Replaces a command's `options` parameter by the options above.

    The command calls `options()` for its AgentConfig, inside its own error handling.
    """
    shared = inspect.signature(agent_config).parameters
    own = [p for p in inspect.signature(command).parameters.values() if p.name != "options"]

    @functools.wraps(command)
    def with_options(**given: Any) -> None:
        chosen = {name: given.pop(name) for name in shared}
        command(**given, options=functools.partial(agent_config, **chosen))

    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*own, *shared.values())]
    with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = {p.name: p.annotation for p in parameters}
    return with_options
