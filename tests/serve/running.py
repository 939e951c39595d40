"""Servers on ephemeral ports of this machine, clients for them, and a loop that follows scripts."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import httpx
import openai

from pixelis_fast.agent import Agent, AgentConfig, build_agent
from pixelis_fast.policy.sampling import Sampling
from pixelis_fast.rollout import RolloutConfig
from pixelis_fast.script import Script
from pixelis_fast.serve.config import ServeConfig
from pixelis_fast.serve.server import bind, make_server
from tests.media import picture

MODEL = "unit"
ROLLOUT = RolloutConfig(
    max_steps=6, max_tokens=400, max_thought_tokens=20, sampling=Sampling(temperature=1.0)
)
PATIENCE_S = 60.0


class ScriptedLoop:
    """The agent's loop, for requests that must go a certain way: each takes the next script."""

    def __init__(self, loop) -> None:
        self._loop = loop
        self.scripts: list[list[int]] = []

    def __getattr__(self, name):
        return getattr(self._loop, name)

    def submit(self, request, *, chooser=None, on_event=None):
        if chooser is None and self.scripts:
            chooser = Script(self.scripts.pop(0))
        return self._loop.submit(request, chooser=chooser, on_event=on_event)


def make_agent() -> Agent:
    """The unit policy with a loop that tests can script."""
    agent = build_agent(AgentConfig(policy="unit", rollout=ROLLOUT))
    return replace(agent, loop=ScriptedLoop(agent.loop))


class Running:
    """A server that listens, and its clients."""

    def __init__(self, server, port: int, agent: Agent) -> None:
        self.server, self.port, self.agent = server, port, agent
        self.url = f"http://127.0.0.1:{port}"
        self.service = server.config.app.state.service
        self.http = httpx.Client(base_url=self.url, timeout=PATIENCE_S)
        self.client = openai.OpenAI(
            base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=PATIENCE_S
        )

    def script(self, *turns: str) -> None:
        """The next request's generated tokens."""
        text = "".join(f"{turn}<|im_end|>" for turn in turns)
        self.agent.loop.scripts.append(self.agent.tokenizer.encode_structure(text))

    def ask(self, *content, **options):
        """A chat completion of one user's message."""
        messages = [{"role": "user", "content": list(content)}]
        return self.client.chat.completions.create(model=MODEL, messages=messages, **options)

    def wait_until_idle(self) -> None:
        """Every request has let go of its places and media."""
        wait_for(lambda: self.service.admission.num_inside == 0)


@contextmanager
def running(agent: Agent, *, beside=None, **settings) -> Iterator[Running]:
    config = ServeConfig(**{"port": 0, "shutdown_s": 5.0, **settings})
    listening = bind(config)
    server = make_server(agent, config, beside=beside)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    wait_for(lambda: server.started or not thread.is_alive())
    assert server.started
    try:
        yield Running(server, listening.getsockname()[1], agent)
    finally:
        server.should_exit = True
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def wait_for(condition) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, "expected it to become true in time"
        time.sleep(0.01)


def text(words: str) -> dict:
    return {"type": "text", "text": words}


def image(name: str = "coins.png") -> dict:
    url = f"data:image/png;base64,{base64.b64encode(picture(name).read_bytes()).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def video(path) -> dict:
    url = f"data:video/mp4;base64,{base64.b64encode(path.read_bytes()).decode()}"
    return {"type": "video_url", "video_url": {"url": url}}
