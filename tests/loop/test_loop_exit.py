"""A process ends quietly whatever its threads are at: a tool nobody waits for, an open loop."""

import subprocess
import sys

import pytest

from tests.media import picture

GUESSING = """
import sys, time
from pathlib import Path
from pixelis_fast.tools import ToolConfig, open_tools

tools = open_tools(ToolConfig())
media = tools.add_media(Path(sys.argv[1]))
boxes = [(0, 0, 1000, 900 + n) for n in range(20)]
guesses = [tools.toolset.submit("read_text", media.id, b, speculative=True) for b in boxes]
while not (guesses[0].running() or guesses[0].done()):
    time.sleep(0.001)
assert not guesses[-1].done()
"""
"""Some run or wait at the end: the tool's thread is in native code."""

OPEN = """
import sys, time
from pathlib import Path
from pixelis_fast.agent import AgentConfig, build_agent
from pixelis_fast.types import Sample

agent = build_agent(AgentConfig(policy="unit"))
media = agent.tools.add_media(Path(sys.argv[1]))
agent.loop.start()
asked = agent.rollout.requests([Sample(str(n), (media,), "How many coins?") for n in range(8)])
tickets = agent.loop.submit_all(asked)
while not agent.loop.stats().tokens:
    time.sleep(0.001)
assert not tickets[-1].done()
"""
"""Forwards of many short operations, each of which comes back to the interpreter."""


@pytest.mark.parametrize("script", [GUESSING, OPEN], ids=["a tool works", "the loop is open"])
def test_the_interpreter_ends_while_threads_compute(script):
    command = [sys.executable, "-c", script, str(picture("page.png"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert (done.returncode, done.stderr) == (0, "")
