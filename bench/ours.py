"""Our arm: pixelis_fast's own rollout following the script, and the same with a mechanism off.

Every run brings new media, so caches help within a chain and never across runs; models and OCR
sessions stay loaded, as they do in the other arm.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco

from bench.cases import Case
from bench.harness import synchronize
from bench.outputs import ChainRun, ToolOutput, words
from bench.pinned import PinnedChain, pin, script_ids
from bench.scenes import Scene
from pixelis_fast.agent import Agent
from pixelis_fast.prompt import Piece
from pixelis_fast.script import Script
from pixelis_fast.tools import ToolBox
from pixelis_fast.types import Mask, Media, Observation, Sample, Step, Trajectory

Agents = Mapping[str, Agent]
"""By segmenter: classical, sam2."""


class Recorder(Script):
    """A script that keeps the observation tokens it sees."""

    def __init__(self, ids: Sequence[int]) -> None:
        super().__init__(ids)
        self.pieces: list[Piece] = []

    def observe(self, observation: Observation, piece: Piece) -> Piece:
        self.pieces.append(piece)
        return piece


class OursArm:
    """Runs a case through an agent's rollout."""

    def __init__(self, agents: Agents, pinned: Mapping[str, PinnedChain], *, name: str = "ours"):
        self.name = name
        self._agents = agents
        self._pinned = pinned

    def run(self, case: Case, scenes: Sequence[Scene]) -> ChainRun:
        agent, pinned = self._agents[case.segmenter], self._pinned[case.name]
        script = Script(script_ids(case, agent.tokenizer), observations=pinned.pieces)
        cpu_start = time.process_time()
        trajectory, total_ms = run_script(agent, case, scenes, script)
        return ChainRun(
            stage_ms=trajectory.stage_ms,
            total_ms=total_ms,
            cpu_ms=1e3 * (time.process_time() - cpu_start),
            ids=trajectory.ids,
            logprobs=chosen_logprobs(trajectory),
            num_image_tokens=sum(span.num_tokens for span in trajectory.spans),
            outputs=tuple(
                output_of(step, agent.tools) for step in trajectory.steps if step.observation
            ),
        )


def reference(agents: Agents, case: Case, scenes: Sequence[Scene]) -> PinnedChain:
    """One run that fixes the tokens of the chain for every arm."""
    agent = agents[case.segmenter]
    recorder = Recorder(script_ids(case, agent.tokenizer))
    trajectory, _ = run_script(agent, case, scenes, recorder)
    return pin(case, trajectory, recorder.pieces)


def run_script(
    agent: Agent, case: Case, scenes: Sequence[Scene], script: Script
) -> tuple[Trajectory, float]:
    """From encoded media to the answer, with wall milliseconds."""
    device = agent.config.device
    synchronize(device)
    start = time.perf_counter()
    media = tuple(add(agent, each) for each in scenes)
    added_ms = 1e3 * (time.perf_counter() - start)
    sample = Sample(case.name, media, case.question)
    [trajectory] = agent.rollout.run([sample], make_chooser=lambda index: script)
    synchronize(device)
    trajectory.stage_ms["transport"] = added_ms
    return trajectory, 1e3 * (time.perf_counter() - start)


def add(agent: Agent, source: Scene) -> Media:
    store = agent.tools.store
    is_video = source.kind == "video"
    info = store.add_video(source.encoded) if is_video else store.add_image(source.encoded)
    return agent.tools.media(info.id)


def chosen_logprobs(trajectory: Trajectory) -> dict[int, float]:
    """Of generated tokens that were chosen from logits; a forced token had no alternative."""
    generated = [i for step in trajectory.steps for i in range(step.start, step.end)]
    return {i: trajectory.logprobs[i] for i in generated if not trajectory.forced[i]}


def output_of(step: Step, tools: ToolBox) -> ToolOutput:
    """What the policy was told and shown, in the form both arms share."""
    observation = step.observation
    assert step.call is not None
    assert observation is not None
    operation = step.call.operation
    if observation.error is not None:
        return ToolOutput(operation, error=observation.error)
    if operation == "zoom":
        return ToolOutput("zoom", picture=tools.image(observation.media[0].id))
    return OUTPUTS[operation](observation, json.loads(observation.text))


def _read_text(observation: Observation, content: dict[str, Any]) -> ToolOutput:
    lines = [line["text"] for line in content["lines"]]
    return ToolOutput("read_text", text=words(" ".join(lines)))


def _segment(observation: Observation, content: dict[str, Any]) -> ToolOutput:
    return ToolOutput("segment", masks=tuple(decode(mask) for mask in observation.masks))


def _track(observation: Observation, content: dict[str, Any]) -> ToolOutput:
    """Masks of the frames in which the object was seen, None for the others."""
    seen = iter(observation.masks)
    rows = content["track"]
    masks = tuple(None if row[1] == "lost" else decode(next(seen)) for row in rows)
    return ToolOutput("track", masks=masks)


def _localize(observation: Observation, content: dict[str, Any]) -> ToolOutput:
    return ToolOutput("localize", spans=tuple((start, end) for start, end, _ in content["spans"]))


def _properties(observation: Observation, content: dict[str, Any]) -> ToolOutput:
    return ToolOutput("properties", values=content)


OUTPUTS: dict[str, Callable[[Observation, dict[str, Any]], ToolOutput]] = {
    "read_text": _read_text,
    "segment": _segment,
    "track": _track,
    "localize": _localize,
    "properties": _properties,
}


def decode(mask: Mask) -> np.ndarray:
    return coco.decode({"size": list(mask.size), "counts": mask.counts}).astype(bool)
