"""transformers' generate once per turn over the whole history, as pixel-agent repositories call it.

Serial: one member after another, one chain at a time. Lockstep: all members in one left-padded
batch with a barrier per turn. Each turn the conversation is rendered, tokenised and prefilled from
its first token, and every picture goes through the image processor and the vision tower again.

What the baseline is often slow at beside that is taken from it, so that a ratio speaks of the loop:
pictures stay decoded in memory, and the tools are ours, called one after the other in process.
Knows nothing of our engine and our loop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from bench.harness import synchronize
from bench.naive import hf_policy, hf_processor, opening, parse
from bench.pinned import PinnedChain
from bench.rollout_cases import GroupCase
from bench.rollout_runs import GroupRun, MemberRun, own_ms
from bench.scenes import Scene
from pixelis_fast.agent import Agent
from pixelis_fast.schemas import TOOL_SCHEMAS
from pixelis_fast.spans import Spans
from pixelis_fast.tools import ToolBox, Workspace
from pixelis_fast.types import Observation


class ForcedRows(LogitsProcessor):
    """Leaves one token per row and step; keeps what the row would have chosen, and log-probs.

    Legend: B rows, V vocabulary. A row that has ended gets `pad`, and nothing of it is kept.
    """

    def __init__(self, rows: Sequence[Sequence[int]], *, pad: int) -> None:
        self._rows, self._pad = [list(row) for row in rows], pad
        self._step = -1
        self.argmax: list[list[int]] = [[] for _ in rows]
        self.logprobs: list[list[float]] = [[] for _ in rows]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self._step += 1
        live = [self._step < len(row) for row in self._rows]
        tokens = [
            row[self._step] if alive else self._pad
            for row, alive in zip(self._rows, live, strict=True)
        ]
        tokens_B1 = torch.tensor(tokens, device=scores.device)[:, None]
        logprobs_BV = torch.log_softmax(scores.float(), dim=-1)
        logprobs_B = logprobs_BV.gather(1, tokens_B1)[:, 0].tolist()
        argmax_B = scores.argmax(dim=-1).tolist()
        for row, alive in enumerate(live):
            if alive:
                self.argmax[row].append(argmax_B[row])
                self.logprobs[row].append(logprobs_B[row])
        return torch.full_like(scores, -math.inf).scatter_(1, tokens_B1, 0.0)


@dataclass(frozen=True)
class HfTwin:
    """transformers' model over our very weights, and its processor of the same pixel limits."""

    model: Any
    processor: Any

    @classmethod
    def of(cls, agent: Agent) -> HfTwin:
        processor = hf_processor(agent.tokenizer, agent.opened.limits)
        processor.tokenizer.padding_side = "left"
        return cls(hf_policy(agent.policy), processor)


@dataclass
class Talk:
    """One member's conversation as a client keeps it."""

    pinned: PinnedChain
    workspace: Workspace
    messages: list[dict[str, Any]]
    pictures: list[Image.Image]
    ids: list[int] = field(default_factory=list)
    argmax: dict[int, int] = field(default_factory=dict)
    logprobs: dict[int, float] = field(default_factory=dict)
    observations: list[str] = field(default_factory=list)

    def extend(self, turn: str, observation: str, crop: Image.Image | None) -> None:
        """The turn and the tool's message, with its picture."""
        content: Any = observation
        if crop is not None:
            self.pictures.append(crop)
            content = [{"type": "text", "text": observation}, {"type": "image"}]
        self.messages.append({"role": "assistant", "content": turn})
        self.messages.append({"role": "tool", "content": content})

    def as_run(self) -> MemberRun:
        return MemberRun(self.ids, self.argmax, self.logprobs, tuple(self.observations))


class ResentArm:
    """Runs a group over re-sent histories.

    Example:
        ResentArm("hf lockstep", twin, tools, agent=agent, pinned=pinned, lockstep=True)
    """

    def __init__(
        self,
        name: str,
        twin: HfTwin,
        tools: ToolBox,
        *,
        agent: Agent,
        pinned: dict[str, tuple[PinnedChain, ...]],
        lockstep: bool,
    ) -> None:
        self.name = name
        self._twin, self._tools, self._tokenizer = twin, tools, agent.tokenizer
        self._pinned, self._device, self._lockstep = pinned, agent.config.device, lockstep

    @torch.inference_mode()
    def warm_up(self, case: GroupCase, source: Scene) -> None:
        """Two tokens of the first turn, so that no timed run pays for first calls."""
        talks = self._open(case, source)
        for batch in self._batches(talks):
            self._generate(batch, [talk.pinned.ids[:2] for talk in batch], Spans())

    @torch.inference_mode()
    def run(self, case: GroupCase, source: Scene) -> GroupRun:
        spans = Spans(sync=lambda: synchronize(self._device))
        talks = self._open(case, source)
        for batch in self._batches(talks):
            for number in range(case.num_steps + 1):
                self._turn(batch, number, spans)
        return GroupRun(tuple(talk.as_run() for talk in talks), dict(spans.ms))

    def _open(self, case: GroupCase, source: Scene) -> list[Talk]:
        media = self._tools.media(self._tools.store.add_image(source.encoded).id)
        picture = Image.fromarray(self._tools.image(media.id))
        return [
            Talk(
                pinned,
                Workspace((media,)),
                opening(member, [source], []).messages,
                [picture],
            )
            for member, pinned in zip(case.members, self._pinned[case.name], strict=True)
        ]

    def _batches(self, talks: list[Talk]) -> list[list[Talk]]:
        return [talks] if self._lockstep else [[talk] for talk in talks]

    def _turn(self, batch: Sequence[Talk], number: int, spans: Spans) -> None:
        """One generate for the batch, then each member's call, one after the other."""
        rows = [talk.pinned.ids[slice(*talk.pinned.turns[number])] for talk in batch]
        self._generate(batch, rows, spans)
        for talk, row in zip(batch, rows, strict=True):
            with spans("prepare"):
                text = self._tokenizer.decode(row[:-1])
                call = parse(text)
            if call is None:
                continue
            observation = self._tools.run(call, talk.workspace)
            spans.add("tools", own_ms(observation))
            talk.observations.append(observation.text)
            talk.extend(text, talk.pinned.observations[number], self._crop(observation))

    def _crop(self, observation: Observation) -> Image.Image | None:
        if not observation.media:
            return None
        return Image.fromarray(self._tools.image(observation.media[0].id))

    def _generate(self, batch: Sequence[Talk], rows: Sequence[Sequence[int]], spans: Spans) -> None:
        with spans("prepare"):
            inputs = self._inputs(batch)
        end = self._tokenizer.special.im_end
        forced = ForcedRows(rows, pad=end)
        config = GenerationConfig(
            max_new_tokens=max(len(row) for row in rows),
            do_sample=False,
            eos_token_id=end,
            pad_token_id=end,
        )
        with spans("policy"):
            output_BN = self._twin.model.generate(
                **inputs, generation_config=config, logits_processor=LogitsProcessorList([forced])
            )
        self._keep(batch, rows, output_BN, inputs["attention_mask"], forced)

    def _inputs(self, batch: Sequence[Talk]) -> Any:
        texts = [
            self._twin.processor.apply_chat_template(
                talk.messages,
                tools=list(TOOL_SCHEMAS.values()),
                tokenize=False,
                add_generation_prompt=True,
            )
            for talk in batch
        ]
        pictures = [talk.pictures for talk in batch]
        inputs = self._twin.processor(
            text=texts, images=pictures, padding=True, return_tensors="pt"
        )
        return inputs.to(self._device)

    def _keep(
        self,
        batch: Sequence[Talk],
        rows: Sequence[Sequence[int]],
        output_BN: Tensor,
        mask_BN: Tensor,
        forced: ForcedRows,
    ) -> None:
        """Each member's ids without padding, and its choices by their place in them."""
        prompt_end = mask_BN.shape[1]
        for number, (talk, row) in enumerate(zip(batch, rows, strict=True)):
            padding = prompt_end - int(mask_BN[number].sum())
            talk.ids = output_BN[number, padding : prompt_end + len(row)].tolist()
            start = prompt_end - padding
            talk.argmax |= dict(enumerate(forced.argmax[number], start=start))
            talk.logprobs |= dict(enumerate(forced.logprobs[number], start=start))
