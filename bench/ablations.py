"""Our arm with one mechanism switched off, each as a change of a ready agent.

Most are settings of the agent. The last re-sends pictures as tool servers do: every picture a tool
sees or makes travels as a base64 PNG, and every mask as JSON, before the work is done.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from bench.naive_tools import from_data_url, mask_from_json, to_data_url
from pixelis_fast.agent import Agent, AgentConfig
from pixelis_fast.tools import PendingCall, ToolBox, Workspace
from pixelis_fast.types import Observation, ToolCall

SAM2_FEATURES, SAM2_ENGINE = "- SAM2 features", "- SAM2 engine"
"""Change nothing where no case uses SAM2."""
PACKED = "- packed weights"
"""Packed on a CPU in fp32 only."""
WIDTH, TEXT_BACKEND = "- OCR width rounding", "- OpenVINO text"
"""Lines are read in rapidocr's batches, six at a time, padded to the widest; by ONNX Runtime."""
OTHERWISE = {WIDTH: "text", TEXT_BACKEND: "text", SAM2_ENGINE: "masks"}
"""Other padding or other arithmetic can change a character or a pixel: what of these arms is held
to be like ours, not equal."""


class ResentCall(PendingCall):
    """A call whose pictures and masks travel back before the policy sees them."""

    def __init__(self, sent: PendingCall, tools: ToolBox) -> None:
        self._sent, self._tools = sent, tools
        self._observation: Observation | None = None

    def done(self) -> bool:
        return self._sent.done()

    def when_done(self, wake: Callable[[], None]) -> None:
        self._sent.when_done(wake)

    def cancel(self) -> bool:
        return self._sent.cancel()

    def _observe(self, timeout_s: float | None) -> Observation:
        observation = self._sent.result(timeout_s)
        for media in observation.media:
            resend(self._tools.image(media.id))
        for mask in observation.masks:
            mask_from_json(json.dumps({"size": mask.size, "counts": mask.counts}))
        return observation


class ResentTools:
    """A tool box behind a wire; only the time differs, PNG loses nothing."""

    def __init__(self, tools: ToolBox) -> None:
        self._tools = tools

    def submit(self, call: ToolCall, workspace: Workspace, **options: Any) -> PendingCall:
        for picture_HWC in self._sent(call, workspace):
            resend(picture_HWC)
        return ResentCall(self._tools.submit(call, workspace, **options), self._tools)

    def _sent(self, call: ToolCall, workspace: Workspace) -> list[np.ndarray]:
        """The picture, or the frame, that a server would be sent with the call."""
        if "mask" in call.arguments:
            mask = workspace.mask_at(call.arguments["mask"])
            return [self._tools.store.frame(mask.media_id, mask.time_s)]
        media = workspace.media_at(call.arguments["media"])
        time_s = call.arguments.get("time", call.arguments.get("start"))
        is_video_wide = media.duration_s > 0 and time_s is None
        return [] if is_video_wide else [self._tools.store.frame(media.id, time_s)]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tools, name)


def resend(picture_HWC: np.ndarray) -> None:
    from_data_url(to_data_url(Image.fromarray(picture_HWC)))


def resent(agent: Agent) -> Agent:
    """The agent with its tools behind a wire."""
    return agent.variant(agent.config, wrap_tools=ResentTools)  # type: ignore[arg-type]


def without_engine(**settings: Any) -> Callable[[Agent], Agent]:
    """Changes settings of its engine."""
    return lambda agent: agent.variant(
        replace(agent.config, engine=replace(agent.config.engine, **settings))
    )


def without_loop(**settings: Any) -> Callable[[Agent], Agent]:
    """Changes settings of its loop."""
    return lambda agent: agent.variant(
        replace(agent.config, loop=replace(agent.config.loop, **settings))
    )


def without_tool(**settings: Any) -> Callable[[Agent], Agent]:
    """Changes settings of its tools."""
    return lambda agent: agent.variant(
        replace(agent.config, tools=replace(agent.config.tools, **settings))
    )


def without_rollout(**settings: Any) -> Callable[[Agent], Agent]:
    """Changes settings of its trajectories."""
    return lambda agent: agent.variant(
        replace(agent.config, rollout=replace(agent.config.rollout, **settings))
    )


without_jump_ahead = without_rollout(jump_ahead=False)


ABLATIONS: dict[str, Callable[[Agent], Agent]] = {
    "- session KV": without_engine(keep_kv=False),
    "- prefix cache": without_engine(prefix_cache_bytes=0),
    "- shared prefix": without_engine(share_prefix=False),
    PACKED: without_engine(packed_weights=False),
    "- vision cache": without_engine(vision_cache_bytes=0),
    "- KV and vision": without_engine(keep_kv=False, vision_cache_bytes=0),
    "- jump-ahead": without_jump_ahead,
    "- early start": without_loop(early_start=False),
    "- prefetch": without_loop(prefetch=False),
    "- pixel cache": without_tool(store_bytes=0),
    "- result memo": without_tool(memo_bytes=0),
    "- text detections": without_tool(detection_bytes=0),
    WIDTH: without_tool(text_batch_size=6, text_width_step=None),
    TEXT_BACKEND: without_tool(text_backend="ort"),
    "- in-process media": resent,
    SAM2_FEATURES: without_tool(feature_cache_bytes=0),
    SAM2_ENGINE: without_tool(sam2_engine="eager"),
}
"""With session KV the vision cache has nothing to do in one chain, so both go off together too."""


def chosen_ablations(config: AgentConfig, asked: Sequence[str], *, uses_sam2: bool) -> list[str]:
    """All that change something here, or those asked for, named without their dash.

    ValueError for a name that is unknown, or of a mechanism that is not at work here.
    """
    at_work = {
        SAM2_FEATURES: uses_sam2,
        SAM2_ENGINE: uses_sam2,
        PACKED: config.device == "cpu" and config.dtype == "float32",
    }
    here = {name.removeprefix("- "): name for name in ABLATIONS if at_work.get(name, True)}
    if wrong := [word for word in asked if word not in here]:
        raise ValueError(f"--ablations: expected some of {', '.join(here)}, got {', '.join(wrong)}")
    return [here[word] for word in asked or here]
