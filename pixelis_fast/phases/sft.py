"""Phase 1: supervised training on Chain-of-Thought-Action traces (METHOD.md).

    python -m pixelis_fast.phases.sft --data runs/pixelworld/train --val runs/pixelworld/val \
        --out runs/sft

L = Σ m w CE / Σ m w + λ_aux L_aux: masked imitation with role weights, and the heads that say where
calls point. Trains a preset from scratch or a checkpoint folder. What a step sees follows from the
seed and its number: a run that is killed and started again ends with the same bits, on a CPU and
with as many threads.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from pixelis_fast.agent import DTYPES, AgentConfig, OpenPolicy, open_policy
from pixelis_fast.checkpoint_folder import save_folder
from pixelis_fast.copies import words_of
from pixelis_fast.data.prepared import Example, Prepared
from pixelis_fast.optimizer import MasterAdamW, OptimizerConfig
from pixelis_fast.phases.sft_crew import Crew, run_crew
from pixelis_fast.phases.sft_data import Curriculum, StepExamples, StepPictures
from pixelis_fast.phases.sft_loss import LossConfig, SftLoss, SftModel, mean_metrics
from pixelis_fast.policy.adapters import AdapterBank
from pixelis_fast.policy.config import PRESETS
from pixelis_fast.progress import step_bar
from pixelis_fast.snapshots import check_settings, cut_log, latest_snapshot, save_snapshot

LOG, POLICY, ADAPTER, CONFIG = "log.jsonl", "policy", "adapter", "config.json"
SNAPSHOTS = "snapshots"


@dataclass(frozen=True)
class SftConfig:
    """All that decides a run; written beside its log.

    Example:
        main(SftConfig(data=("runs/pixelworld/train",), out="runs/sft"))
    """

    data: tuple[str, ...]
    """Folders of prepared examples."""
    out: str
    policy: str = "pixelworld-5m"
    """A preset, trained from scratch, or a checkpoint folder."""
    validation: str | None = None
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    curriculum: Curriculum = field(default_factory=Curriculum)
    batch_tokens: int = 4096
    tower_only: bool = False
    """Only the vision tower, on what its tokens show; tokens of a batch are then visual ones. Alone
    it learns places sooner than behind a decoder: `loss/dense box` of both logs."""
    tower_rate: float = 1.0
    """The tower's learning rate as a share of the rest's: a tower that has learned already forgets
    places while a new decoder's gradients are large."""
    lora_rank: int | None = None
    """Train an adapter bank of this rank and leave the policy; None: train all of it."""
    recompute: bool = False
    """Gradient checkpointing in the decoder."""
    dtype: str = "bfloat16"
    """Of the forward; the optimizer's copies are fp32."""
    device: str = "cpu"
    threads: int = 2
    """Per process."""
    processes: int = 1
    """Each takes a share of `batch_tokens`; on a CPU only. What is logged is of the first."""
    seed: int = 0
    log_every: int = 10
    validate_every: int = 200
    save_every: int = 100

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype: expected one of {sorted(DTYPES)}, got {self.dtype!r}")
        if self.tower_only and (self.validation or self.lora_rank or not self.loss.dense_weight):
            raise ValueError(
                "tower_only: expected a dense weight, no validation and no adapter with it, "
                f"got {self.loss.dense_weight}, {self.validation} and {self.lora_rank}"
            )
        if not 0 < self.tower_rate <= 1:
            raise ValueError(f"tower_rate: expected a share in (0, 1], got {self.tower_rate}")
        if self.tower_rate != 1 and self.lora_rank:
            raise ValueError(
                "tower_rate: expected 1 beside an adapter, which leaves the tower as it is, "
                f"got {self.tower_rate}"
            )
        if min(self.log_every, self.validate_every, self.save_every) < 1:
            raise ValueError(
                "log_every, validate_every, save_every: expected >= 1, got "
                f"{self.log_every}, {self.validate_every} and {self.save_every}"
            )
        if self.batch_tokens < 1:
            raise ValueError(f"batch_tokens: expected >= 1, got {self.batch_tokens}")
        if not 1 <= self.processes <= self.batch_tokens or (
            self.processes > 1 and self.device != "cpu"
        ):
            raise ValueError(
                f"processes: expected 1, or up to batch_tokens on a cpu, got {self.processes} "
                f"on {self.device}"
            )
        if self.lora_rank is not None and self.policy in PRESETS:
            raise ValueError(f"lora_rank: expected a checkpoint folder, got preset {self.policy}")

    def run_settings(self) -> dict[str, Any]:
        """What decides a step, as JSON reads it."""
        row = asdict(self)
        for name in ("out", "threads", "log_every", "validate_every", "save_every"):
            row.pop(name)
        return json.loads(json.dumps(row))


class SftRun:
    """One run's parts.

    Example:
        SftRun(config).train()
    """

    def __init__(self, config: SftConfig, crew: Crew | None = None) -> None:
        torch.set_num_threads(config.threads)
        self.config, self.out = config, Path(config.out)
        self.crew = crew or Crew()
        self.opened = trainable(config)
        patch = self.opened.limits.image.patch
        merge = self.opened.policy.config.vision.merge_size
        self.data = Prepared([Path(folder) for folder in config.data], patch)
        val = config.validation
        self.validation = None if val is None else Prepared([Path(val)], patch)
        torch.manual_seed(config.seed)
        num_labels = self.data.header.get("num_labels", [])
        self.bank = adapter_bank(config, self.opened)
        self.model = SftModel(
            self.opened.policy,
            config.loss,
            words_of(self.opened.tokenizer),
            num_labels=num_labels,
            bank=self.bank,
        )
        self.parameters = list(self.model.trained())
        self.optimizer = MasterAdamW(
            self.parameters,
            config.optimizer,
            slow=self.opened.policy.vision.parameters(),
            slow_share=config.tower_rate,
        )
        room = config.batch_tokens // self.crew.size
        self.examples = StepExamples(
            self.data.examples, config.curriculum, batch_tokens=room, seed=config.seed
        )
        self.pictures = StepPictures(
            self.data.pictures, batch_tokens=room, seed=config.seed, merge=merge
        )

    def train(self) -> Path:
        """The folder of the trained checkpoint, or of the adapter."""
        self.resume()
        total, start = self.config.optimizer.total_steps, self.optimizer.num_steps
        rows: list[dict[str, float]] = []
        with step_bar("sft", total, start=start, shown=self.crew.leads) as advance:
            while self.optimizer.num_steps < total:
                rows.append(self.step())
                advance(f"loss {rows[-1]['loss/total']:.3f}")
                self._keep(rows)
        return trained_folder(self.config)

    def _keep(self, rows: list[dict[str, float]]) -> None:
        """Logs, validates and saves what is due after a step; one process does it for all."""
        if not self.crew.leads:
            rows.clear()
            return
        number, config = self.optimizer.num_steps, self.config
        is_last = number == config.optimizer.total_steps
        if number % config.log_every == 0:
            self.log("train", mean_metrics(rows))
            rows.clear()
        if number % config.validate_every == 0 or is_last:
            self.validate()
        if number % config.save_every == 0 or is_last:
            self.save()

    def step(self) -> dict[str, float]:
        """One batch: forward, backward, one step of the masters."""
        start_s = time.perf_counter()
        number = self.optimizer.num_steps
        progress = number / self.config.optimizer.total_steps
        loss = self._loss(number, progress)
        loss.total.backward()
        self.crew.average(self.parameters)
        report = self.optimizer.step()
        seconds = time.perf_counter() - start_s
        return loss.metrics | {
            "gradient_norm": report.gradient_norm,
            "rate": report.rate,
            "skipped": float(report.skipped),
            "seconds": seconds,
        }

    def _loss(self, number: int, progress: float) -> SftLoss:
        if not self.config.tower_only:
            drawn = self.examples.draw(self.crew.share(number), progress)
            return self.model.loss(drawn, self.data, mean=self.crew.mean)
        media_ids = self.pictures.draw(self.crew.share(number))
        return self.model.tower_loss(media_ids, self.data)

    @torch.no_grad()
    def validate(self, *, num_batches: int = 8) -> None:
        """Mean losses over the same batches every time, whole chains and grounding in halves."""
        if self.validation is None:
            return
        examples = validation_batches(self.validation, self.config, num_batches)
        rows = [self.model.loss(batch, self.validation).metrics for batch in examples]
        self.log("validation", mean_metrics(rows))

    def log(self, kind: str, metrics: dict[str, float]) -> None:
        row = {"step": self.optimizer.num_steps, "kind": kind} | metrics
        with (self.out / LOG).open("a") as file:
            file.write(json.dumps(row) + "\n")

    def save(self) -> None:
        """What was trained, then a snapshot to go on from.

        In this order: a run whose last snapshot is there has nothing left to write.
        """
        self._save_trained()
        state = {
            "settings": json.dumps(self.settings()),
            "optimizer": self.optimizer.state(),
        }
        save_snapshot(self.out / SNAPSHOTS, self.optimizer.num_steps, state)

    def _save_trained(self) -> None:
        """The policy as a checkpoint folder, or the adapter's."""
        if self.bank is not None:
            self.bank.save(self.out / ADAPTER)
            return
        opened = self.opened
        save_folder(
            self.out / POLICY, opened.policy, tokenizer=opened.tokenizer, limits=opened.limits
        )

    def settings(self) -> dict[str, Any]:
        """What a run that is resumed must share with the one it resumes.

        Which examples a step draws follows from how many there are: a folder that grew is another.
        """
        sizes = {"examples": len(self.data.examples), "pictures": len(self.data.pictures)}
        return self.config.run_settings() | sizes

    def resume(self) -> None:
        """From the newest snapshot; ValueError where that run had other settings."""
        self.out.mkdir(parents=True, exist_ok=True)
        state = latest_snapshot(self.out / SNAPSHOTS)
        # Nobody saves a newer one before all have read this one.
        self.crew.wait()
        if state is None and self.crew.leads:
            (self.out / CONFIG).write_text(json.dumps(asdict(self.config), indent=1))
        elif state is not None:
            check_settings(json.loads(state["settings"]), self.settings(), self.out)
            self.optimizer.load(state["optimizer"])
        if self.crew.leads:
            cut_log(self.out / LOG, self.optimizer.num_steps)


def trainable(config: SftConfig) -> OpenPolicy:
    """The policy to train, with gradients on."""
    from_scratch = config.policy in PRESETS
    agent = AgentConfig(
        policy=config.policy,
        random_weights=from_scratch,
        weights_seed=config.seed,
        device=config.device,
        dtype=config.dtype,
    )
    opened = open_policy(agent)
    opened.policy.requires_grad_(config.lora_rank is None)
    opened.policy.recompute = config.recompute
    return opened


def adapter_bank(config: SftConfig, opened: OpenPolicy) -> AdapterBank | None:
    if config.lora_rank is None:
        return None
    return AdapterBank(
        opened.policy.config,
        rank=config.lora_rank,
        alpha=2.0 * config.lora_rank,
        seed=config.seed,
        device=config.device,
    )


def validation_batches(
    data: Prepared, config: SftConfig, num_batches: int
) -> Iterator[list[Example]]:
    halves = Curriculum(grounding_kept=0.5, hardest_from=0.0)
    draw = StepExamples(data.examples, halves, batch_tokens=config.batch_tokens, seed=1).draw
    return (draw(number, 1.0) for number in range(num_batches))


def main(config: SftConfig) -> Path:
    """Trains, or goes on training; the folder of the checkpoint, or of the adapter."""
    if config.processes == 1:
        return SftRun(config).train()
    run_crew(config.processes, partial(train_in, config))
    return trained_folder(config)


def train_in(config: SftConfig, crew: Crew) -> None:
    SftRun(config, crew).train()


def trained_folder(config: SftConfig) -> Path:
    return Path(config.out) / (POLICY if config.lora_rank is None else ADAPTER)


class Preset(Enum):
    """Settings that belong to a size of policy; options of their own go before them."""

    TINY = "tiny"
    """A small policy, all of it, on a CPU."""
    LARGE = "8b"
    """A Qwen3-VL checkpoint on a GPU: an adapter, recomputed activations."""


PRESET_SETTINGS: dict[Preset, dict[str, Any]] = {
    Preset.TINY: {"policy": "pixelworld-5m", "rate": 1.2e-3, "batch_tokens": 2560},
    Preset.LARGE: {
        "rate": 1e-4,
        "batch_tokens": 32768,
        "lora_rank": 32,
        "recompute": True,
        "device": "cuda",
    },
}


def command(
    data: Annotated[list[Path], typer.Option(help="Prepared examples; may be repeated.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; started again, it goes on.")],
    preset: Annotated[Preset, typer.Option(help="Settings by size of policy.")] = Preset.TINY,
    policy: Annotated[str | None, typer.Option(help="Preset (from scratch) or folder.")] = None,
    val: Annotated[Path | None, typer.Option(help="Prepared examples to validate on.")] = None,
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 2500,
    rate: Annotated[float | None, typer.Option(help="Highest learning rate.")] = None,
    batch_tokens: Annotated[int | None, typer.Option(help="Tokens per step.")] = None,
    grounding: Annotated[float, typer.Option(help="Share of the run on single calls only.")] = 0.0,
    tower: Annotated[
        bool, typer.Option("--tower", help="Only the vision tower, on labelled pictures.")
    ] = False,
    tower_rate: Annotated[float, typer.Option(help="The tower's share of the rate.")] = 1.0,
    guide: Annotated[
        float | None, typer.Option(help="Weight of guided attention; 1 without an adapter.")
    ] = None,
    lora_rank: Annotated[int | None, typer.Option(help="Of an adapter; 0: train it all.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda.")] = None,
    dtype: Annotated[str, typer.Option(help="bfloat16 or float32.")] = "bfloat16",
    threads: Annotated[int, typer.Option(help="Compute threads of each process.")] = 2,
    processes: Annotated[int, typer.Option(help="That share each batch; on a cpu.")] = 1,
    seed: Annotated[int, typer.Option(help="Of weights and order.")] = 0,
) -> None:
    """Supervised training on traces."""
    given = {
        "policy": policy,
        "rate": rate,
        "batch_tokens": batch_tokens,
        "lora_rank": lora_rank,
        "device": device,
    }
    chosen = PRESET_SETTINGS[preset] | {k: v for k, v in given.items() if v is not None}
    if "policy" not in chosen:
        raise ValueError(f"--policy: expected a checkpoint folder with --preset {preset.value}")
    highest, weight = chosen.pop("rate"), guide_weight(guide, chosen.get("lora_rank"))
    if tower:
        check_tower_alone(guide, grounding)
    config = SftConfig(
        data=tuple(map(str, data)),
        out=str(out),
        validation=None if val is None else str(val),
        optimizer=OptimizerConfig(
            learning_rate=highest, total_steps=steps, warmup_steps=min(100, steps // 10)
        ),
        loss=LossConfig(guide_weight=weight),
        curriculum=Curriculum(grounding, min(grounding + 0.2, 1.0) if grounding else 0.0),
        tower_only=tower,
        tower_rate=tower_rate,
        dtype=dtype,
        threads=threads,
        processes=processes,
        seed=seed,
        **chosen | {"lora_rank": chosen.get("lora_rank") or None},
    )
    typer.echo(f"trained: {main(config)}")


def guide_weight(given: float | None, lora_rank: int | None) -> float:
    """An adapter leaves the policy's own heads as they are: there is nothing to guide."""
    if lora_rank and given:
        raise ValueError(f"--guide: expected none beside an adapter, got {given}")
    return (0.0 if lora_rank else 1.0) if given is None else given


def check_tower_alone(guide: float | None, grounding: float) -> None:
    """A tower alone has no decoder to guide, and takes pictures instead of examples."""
    if guide or grounding:
        raise ValueError(
            "--tower: expected neither --guide nor --grounding with it, "
            f"got {guide} and {grounding}"
        )


if __name__ == "__main__":
    typer.run(command)
