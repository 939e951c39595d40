"""The server that bench/serve.py loads, as a process of its own with budgets that fill soon.

    python bench/serve_process.py bench-36m 256

The number bounds the prompt tokens of one forward, 0 bounds nothing. Prints the port it listens on.
The caches are small, so that what still grows afterwards is a leak.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if __name__ == "__main__":
    import rooted  # noqa: F401

from pixelis_fast.agent import AgentConfig, build_agent
from pixelis_fast.loop import LoopConfig
from pixelis_fast.policy.engine_config import EngineConfig
from pixelis_fast.policy.sampling import Sampling
from pixelis_fast.rollout import RolloutConfig
from pixelis_fast.serve.config import ServeConfig
from pixelis_fast.serve.server import bind, serve
from pixelis_fast.tools import ToolConfig

MIB = 1 << 20
MAX_TOKENS, MAX_STEPS, MAX_THOUGHT = 24, 3, 8
STOP_S = 30.0
PREFIX_BYTES = 64 * MIB
"""The tools' description, 12 MB of bench-36m's keys and values, and a few conversations: in less,
every request computes the description again, and 64 clients wait until their time is up."""


def agent_config(policy: str, *, prefill_tokens: int | None = None) -> AgentConfig:
    """`policy` with small caches and every switch of the loop as a server has it."""
    return AgentConfig(
        policy=policy,
        engine=EngineConfig(vision_cache_bytes=1 * MIB, prefix_cache_bytes=PREFIX_BYTES),
        loop=LoopConfig(max_sessions=64, prefill_tokens=prefill_tokens),
        tools=ToolConfig(store_bytes=32 * MIB, memo_bytes=4 * MIB),
        rollout=RolloutConfig(
            max_steps=MAX_STEPS,
            max_tokens=MAX_TOKENS,
            max_thought_tokens=MAX_THOUGHT,
            sampling=Sampling(temperature=1.0),
        ),
    )


@contextmanager
def server_process(
    policy: str, *, prefill_tokens: int = 0
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server in a process of its own, and its address; stopped as a person would stop it."""
    command = [sys.executable, str(Path(__file__).resolve()), policy, str(prefill_tokens)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        if not port.isdigit():
            raise RuntimeError(f"server: expected its port, got {port!r}")
        yield process, f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(STOP_S)


def resident_mb(process_id: int) -> float:
    """Memory of a process that is in RAM, as Linux counts it."""
    pages = int(Path(f"/proc/{process_id}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


def main(policy: str, prefill_tokens: str) -> None:
    config = ServeConfig(port=0, max_requests=256, trace_bytes=8 * MIB)
    with bind(config) as listening:
        agent = build_agent(agent_config(policy, prefill_tokens=int(prefill_tokens) or None))
        print(listening.getsockname()[1], flush=True)
        serve(agent, config, listening)


if __name__ == "__main__":
    main(*sys.argv[1:])
