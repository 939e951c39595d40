"""A supervised step on PixelWorld's chains: ours, and TRL's SFTTrainer on transformers' model.

Both load the same checkpoint folder and compute the mean loss of the same tokens, in fp32, with a
learning rate that changes nothing. TRL gets the padded batch that its own collator would build;
ours packs, and computes a picture that several chains show once. A process of its own per arm tells
the peak of its memory:

    python -m bench.training_sft trl FOLDER DATA 1

Shapes: B = chains, T = tokens of the longest.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from bench.process import peak_mb, reset_peak, resident_mb
from bench.training_cases import NO_CHANGE, TRL_SETTINGS
from pixelis_fast.agent import AgentConfig, open_policy
from pixelis_fast.data.pixelworld.config import PixelWorldConfig
from pixelis_fast.data.prepare import PrepareConfig, prepare
from pixelis_fast.data.prepared import Example, Prepared
from pixelis_fast.imitation import RoleWeights, token_weights
from pixelis_fast.optimizer import MasterAdamW, OptimizerConfig
from pixelis_fast.phases.sft_loss import LossConfig, SftModel

SFT = "sft"
"""Name of the case."""
ROOT = Path(__file__).resolve().parents[1]
FAMILIES = dict.fromkeys(("read", "compare", "count", "spatial"), 1.0)
"""Of pictures: what TRL's collator takes."""
CHAINS, QUICK_CHAINS = 12, 4
UNIFORM = RoleWeights(thought=1, operation=1, argument=1, answer=1)
PLAIN = LossConfig(roles=UNIFORM, aux_weight=0, dense_weight=0, guide_weight=0, z_loss=0)
IGNORED = -100


@dataclass(frozen=True)
class SftStep:
    """What one step leaves."""

    loss: float
    tokens: int
    """Of the chains, padding and sharing aside."""
    rows: int
    """Rows that the decoder computed."""


class Trainer(Protocol):
    def step(self) -> SftStep: ...


def make_chains(folder: Path, policy: str, count: int) -> Path:
    """So many tasks' chains, run with the real tools; those that did not show the answer lack."""
    config = PrepareConfig(whole=count, grounding=0, policy=policy)
    return prepare(folder, config, PixelWorldConfig(backgrounds="procedural", families=FAMILIES))


def open_trainer(arm: str, folder: Path, data: Path) -> Trainer:
    return OursSft(folder, data) if arm == "ours" else TrlSft(folder, data)


class OursSft:
    def __init__(self, folder: Path, data: Path) -> None:
        opened = open_policy(AgentConfig(policy=str(folder)))
        opened.policy.requires_grad_(True)
        self.data = Prepared([data], opened.limits.image.patch)
        self.model = SftModel(opened.policy, PLAIN, words=())
        still = OptimizerConfig(learning_rate=NO_CHANGE, warmup_steps=0, weight_decay=0.0)
        self.optimizer = MasterAdamW(self.model.trained(), still)

    def step(self) -> SftStep:
        loss = self.model.loss(self.data.examples, self.data)
        loss.total.backward()
        self.optimizer.step()
        tokens = int(loss.metrics["tokens"])
        return SftStep(loss.metrics["loss/imitation"], tokens, tokens)


class TrlSft:
    def __init__(self, folder: Path, data: Path) -> None:
        from datasets import Dataset
        from transformers import Qwen3VLForConditionalGeneration
        from trl import SFTTrainer

        from bench.naive import hf_processor

        opened = open_policy(AgentConfig(policy=str(folder)))
        self.data = Prepared([data], opened.limits.image.patch)
        image_pad = opened.tokenizer.special.image_pad
        self.batch = padded(self.data, image_pad=image_pad)
        self.trainer = SFTTrainer(
            model=Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32),
            args=settings(folder.parent / "trl-sft", len(self.data.examples)),
            train_dataset=Dataset.from_list([{"input_ids": [0], "labels": [0]}]),
            processing_class=hf_processor(opened.tokenizer, opened.limits),
            data_collator=lambda rows: self.batch,
        )
        self.trainer.create_optimizer()
        self.trainer.current_gradient_accumulation_steps = 1

    def step(self) -> SftStep:
        trainer = self.trainer
        trainer.model.train()
        loss = trainer.training_step(trainer.model, dict(self.batch), None)
        trainer.accelerator.clip_grad_norm_(trainer.model.parameters(), 1.0)
        trainer.optimizer.step()
        trainer.model.zero_grad()
        mask_BT = self.batch["attention_mask"]
        return SftStep(float(loss), int(mask_BT.sum()), mask_BT.numel())


def settings(folder: Path, size: int) -> Any:
    """As ours: fp32, AdamW, gradients clipped to 1, the mean over the tokens."""
    from trl import SFTConfig

    return SFTConfig(
        output_dir=str(folder),
        per_device_train_batch_size=size,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        **TRL_SETTINGS,
    )


def padded(data: Prepared, *, image_pad: int) -> dict[str, Tensor]:
    """The batch as transformers takes it."""
    longest = max(len(example.trajectory.ids) for example in data.examples)
    rows = [padded_row(example, longest, image_pad=image_pad) for example in data.examples]
    spans = [span for example in data.examples for span in example.trajectory.spans]
    pictures = [data.patches(span.media_id) for span in spans]
    return {name: torch.tensor([row[name] for row in rows]) for name in rows[0]} | {
        "pixel_values": torch.cat([picture.patches_PK for picture in pictures]).float(),
        "image_grid_thw": torch.tensor([picture.grid_thw for picture in pictures]),
    }


def padded_row(example: Example, longest: int, *, image_pad: int) -> dict[str, list[int]]:
    ids = example.trajectory.ids
    weights = token_weights(example.trajectory, example.imitated, UNIFORM)
    missing = [0] * (longest - len(ids))
    return {
        "input_ids": ids + missing,
        "attention_mask": [1] * len(ids) + missing,
        "mm_token_type_ids": [int(token == image_pad) for token in ids] + missing,
        "labels": [token if weight else IGNORED for token, weight in zip(ids, weights, strict=True)]
        + [IGNORED] * len(missing),
    }


@dataclass(frozen=True)
class StepMemory:
    """Megabytes of an arm's own process."""

    before: float
    """Model, optimizer state and batch, after a first step."""
    peak: float
    """In a second step."""


def memory_of(arm: str, folder: Path, data: Path, *, threads: int) -> StepMemory:
    words = [arm, str(folder), str(data), str(threads)]
    command = [sys.executable, "-m", "bench.training_sft", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"memory of {arm}: {done.stderr.strip().splitlines()[-1]}")
    return StepMemory(**json.loads(done.stdout.splitlines()[-1]))


def main(words: Sequence[str]) -> int:
    arm, folder, data, threads = words
    torch.set_num_threads(int(threads))
    trainer = open_trainer(arm, Path(folder), Path(data))
    trainer.step()
    before = resident_mb()
    reset_peak()
    trainer.step()
    print(json.dumps(asdict(StepMemory(before, peak_mb()))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
