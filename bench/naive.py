"""The arm people assemble today: transformers' generate per turn, all history and images re-sent.

Each turn renders the chat template, decodes every image and video again, runs the Hugging Face
processor and calls `generate`; a LogitsProcessor forces the scripted ids, so every token is a real
decode step. The policy has our weights. Knows nothing of our rollout or our tools.
"""

from __future__ import annotations

import io
import json
import math
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)
from transformers.video_utils import load_video

from bench.cases import Case
from bench.harness import synchronize
from bench.naive_tools import NaiveTools, from_data_url
from bench.outputs import ChainRun, ToolOutput
from bench.pinned import PinnedChain
from bench.scenes import Scene
from pixelis_fast.policy.limits import MediaLimits, PatchShape
from pixelis_fast.policy.model import Policy
from pixelis_fast.policy.tokenizer import Tokenizer
from pixelis_fast.policy.weights import to_hf_state_dict
from pixelis_fast.prompt import SYSTEM_PROMPT
from pixelis_fast.schemas import TOOL_SCHEMAS
from pixelis_fast.spans import Spans
from pixelis_fast.types import ToolCall

TOOL_CALL = re.compile(r"<tool_call>\s*(\{.*\})\s*</tool_call>", re.DOTALL)


def hf_policy(policy: Policy) -> Any:
    """transformers' model over the very tensors of ours."""
    parameter = next(policy.parameters())
    config = Qwen3VLConfig(**policy.config.to_hf())
    with torch.device(parameter.device):
        model = Qwen3VLForConditionalGeneration._from_config(config, dtype=parameter.dtype)
    model.load_state_dict(to_hf_state_dict(policy), strict=True, assign=True)
    return model.eval()


def hf_processor(tokenizer: Tokenizer, limits: MediaLimits) -> Qwen3VLProcessor:
    """The processor of the same limits."""
    image, video = limits.image, limits.video
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(
            size=edges(image.min_pixels, image.max_pixels), **patch_options(image.patch)
        ),
        tokenizer=tokenizer.hf,
        video_processor=Qwen3VLVideoProcessor(
            size=edges(video.min_pixels, video.max_pixels),
            fps=video.fps,
            min_frames=video.min_frames,
            max_frames=video.max_frames,
            cap_pixels_per_frame=False,
            **patch_options(video.patch),
        ),
        chat_template=tokenizer.hf.chat_template,
    )


def edges(min_pixels: int, max_pixels: int) -> dict[str, int]:
    return {"shortest_edge": min_pixels, "longest_edge": max_pixels}


def patch_options(patch: PatchShape) -> dict[str, Any]:
    return {
        "patch_size": patch.patch_size,
        "temporal_patch_size": patch.temporal_patch_size,
        "merge_size": patch.merge_size,
        "image_mean": list(patch.mean),
        "image_std": list(patch.std),
    }


class ForcedTokens(LogitsProcessor):
    """Leaves one token per step; keeps its log-probability and when the first step came."""

    def __init__(self, ids: Sequence[int], device: str) -> None:
        self._ids = list(ids)
        self._device = device
        self.logprobs: list[float] = []
        self.first_s = math.nan

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if not self.logprobs:
            synchronize(self._device)
            self.first_s = time.perf_counter()
        token = self._ids[len(self.logprobs)]
        self.logprobs.append(float(torch.log_softmax(scores[0].float(), dim=-1)[token]))
        forced = torch.full_like(scores, -math.inf)
        forced[:, token] = 0
        return forced


class VisionClock:
    """Adds up the time of the vision tower's forwards, by hooks."""

    def __init__(self, visual: torch.nn.Module, device: str) -> None:
        self._device = device
        self.total_s = 0.0
        visual.register_forward_pre_hook(self._start)
        visual.register_forward_hook(self._stop)

    def _start(self, *_: Any) -> None:
        synchronize(self._device)
        self._started_s = time.perf_counter()

    def _stop(self, *_: Any) -> None:
        synchronize(self._device)
        self.total_s += time.perf_counter() - self._started_s


@dataclass
class Conversation:
    """Messages as a client keeps them, and the pictures they carry, as data URLs or files."""

    messages: list[dict[str, Any]]
    images: list[str | bytes] = field(default_factory=list)
    videos: list[str] = field(default_factory=list)


class NaiveArm:
    """Runs a case turn by turn."""

    name = "naive"

    def __init__(
        self,
        policy: Policy,
        tokenizer: Tokenizer,
        *,
        limits: MediaLimits,
        tools: NaiveTools,
        pinned: Mapping[str, PinnedChain],
        device: str,
    ) -> None:
        self._model = hf_policy(policy)
        self._processor = hf_processor(tokenizer, limits)
        self._tokenizer = tokenizer
        self._tools = tools
        self._pinned = pinned
        self._device = device
        self._vision = VisionClock(self._model.model.visual, device)

    @torch.inference_mode()
    def warm_up(self, case: Case, scenes: Sequence[Scene]) -> None:
        """One short turn, so that no timed run pays for first calls."""
        with tempfile.TemporaryDirectory(prefix="pixelis-bench-") as folder:
            talk = opening(case, scenes, save_videos(scenes, Path(folder)))
            start, _ = self._pinned[case.name].turns[0]
            first = self._pinned[case.name].ids[start : start + 2]
            self._generate(self._inputs(talk, Spans()), first, Spans())

    @torch.inference_mode()
    def run(self, case: Case, scenes: Sequence[Scene]) -> ChainRun:
        with tempfile.TemporaryDirectory(prefix="pixelis-bench-") as folder:
            files = save_videos(scenes, Path(folder))
            synchronize(self._device)
            start, cpu_start = time.perf_counter(), time.process_time()
            run = self._run(case, scenes, files)
            synchronize(self._device)
            cpu_ms = 1e3 * (time.process_time() - cpu_start)
            total_ms = 1e3 * (time.perf_counter() - start)
        return ChainRun(total_ms=total_ms, cpu_ms=cpu_ms, **run)

    def _run(self, case: Case, scenes: Sequence[Scene], files: list[str]) -> dict[str, Any]:
        pinned = self._pinned[case.name]
        spans = Spans(sync=lambda: synchronize(self._device))
        talk = opening(case, scenes, files)
        self._tools.open(list(scenes), use_sam2=case.segmenter == "sam2")
        outputs: list[ToolOutput] = []
        logprobs: dict[int, float] = {}
        ids: list[int] = []
        for number, (start, end) in enumerate(pinned.turns):
            inputs = self._inputs(talk, spans)
            turn_ids, turn_logprobs = self._generate(inputs, pinned.ids[start:end], spans)
            ids = inputs["input_ids"][0].tolist() + turn_ids
            logprobs |= dict(enumerate(turn_logprobs, start=start))
            with spans("parse"):
                text = self._tokenizer.decode(turn_ids[:-1])
                call = parse(text)
            if call is None:
                break
            output, url = self._tools.run(call, spans, crop_size=pinned.crops[number])
            outputs.append(output)
            extend(talk, text, pinned.observations[number], url)
        special = self._tokenizer.special
        pads = (special.image_pad, special.video_pad)
        return {
            "stage_ms": dict(spans.ms),
            "ids": ids,
            "logprobs": logprobs,
            "num_image_tokens": sum(each in pads for each in ids),
            "outputs": tuple(outputs),
        }

    def _inputs(self, talk: Conversation, spans: Spans) -> Any:
        with spans("prompt"):
            text = self._processor.apply_chat_template(
                talk.messages,
                tools=list(TOOL_SCHEMAS.values()),
                tokenize=False,
                add_generation_prompt=True,
            )
        with spans("transport"):
            images = [open_picture(source) for source in talk.images]
        with spans("vision"):
            videos = [self._load_video(path) for path in talk.videos]
            inputs = self._processor(
                text=[text],
                images=images or None,
                videos=[frames for frames, _ in videos] or None,
                video_metadata=[metadata for _, metadata in videos] or None,
                do_sample_frames=False,
                return_tensors="pt",
            )
            return inputs.to(self._device)

    def _load_video(self, path: Any) -> Any:
        sample = self._processor.video_processor.sample_frames
        return load_video(path, backend="pyav", sample_indices_fn=sample)

    def _generate(
        self, inputs: Any, ids: Sequence[int], spans: Spans
    ) -> tuple[list[int], list[float]]:
        forced = ForcedTokens(ids, self._device)
        config = GenerationConfig(
            max_new_tokens=len(ids),
            do_sample=False,
            eos_token_id=self._tokenizer.special.im_end,
            pad_token_id=self._tokenizer.special.im_end,
        )
        vision_s = self._vision.total_s
        synchronize(self._device)
        start = time.perf_counter()
        output = self._model.generate(
            **inputs, generation_config=config, logits_processor=LogitsProcessorList([forced])
        )
        synchronize(self._device)
        end = time.perf_counter()
        vision_s = self._vision.total_s - vision_s
        spans.add("vision", 1e3 * vision_s)
        spans.add("prefill", 1e3 * (forced.first_s - start - vision_s))
        spans.add("decode", 1e3 * (end - forced.first_s))
        return output[0, inputs["input_ids"].shape[1] :].tolist(), forced.logprobs


def save_videos(scenes: Sequence[Scene], folder: Path) -> list[str]:
    """Videos as files, because transformers' loader takes paths; in order of the scenes."""
    paths = []
    for number, each in enumerate(scenes):
        if each.kind == "video":
            path = folder / f"{number}{each.suffix}"
            path.write_bytes(each.encoded)
            paths.append(str(path))
    return paths


def opening(case: Case, scenes: Sequence[Scene], files: list[str]) -> Conversation:
    parts: list[dict[str, Any]] = []
    for index, each in enumerate(scenes):
        named = [{"type": "text", "text": f"media {index}: "}, {"type": "text", "text": "\n"}]
        before, after = (named[:1], named[1:]) if len(scenes) > 1 else ([], [])
        parts += [*before, {"type": each.kind}, *after]
    parts.append({"type": "text", "text": case.question})
    system = {"role": "system", "content": SYSTEM_PROMPT}
    images: list[str | bytes] = [each.encoded for each in scenes if each.kind == "image"]
    return Conversation([system, {"role": "user", "content": parts}], images, files)


def extend(talk: Conversation, turn: str, observation: str, url: str | None) -> None:
    """The turn and the tool's message, with its picture."""
    content: Any = observation
    if url is not None:
        talk.images.append(url)
        content = [{"type": "text", "text": observation}, {"type": "image"}]
    talk.messages.append({"role": "assistant", "content": turn})
    talk.messages.append({"role": "tool", "content": content})


def open_picture(source: str | bytes) -> Image.Image:
    if isinstance(source, str):
        return from_data_url(source)
    return Image.open(io.BytesIO(source)).convert("RGB")


def parse(text: str) -> ToolCall | None:
    """A regular expression and json.loads, as most agent loops have it."""
    found = TOOL_CALL.search(text)
    if found is None:
        return None
    payload = json.loads(found.group(1))
    return ToolCall(payload["name"], payload["arguments"])
