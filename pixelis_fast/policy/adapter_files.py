"""A bank as PEFT's folder: adapter_model.safetensors and adapter_config.json.

Both files are staged, flushed and renamed, the config last: a crash leaves the old folder whole.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from pixelis_fast.policy.adapter_sites import TARGET_MODULES
from pixelis_fast.policy.adapters import AdapterBank
from pixelis_fast.policy.checkpoint import CheckpointError
from pixelis_fast.policy.config import PolicyConfig

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
STAGED = ".tmp"


def save_bank(bank: AdapterBank, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    plain = {name: tensor.cpu().clone() for name, tensor in bank.tensors().items()}
    staged = [folder / (WEIGHTS + STAGED), folder / (CONFIG + STAGED)]
    save_file(plain, staged[0], metadata={"format": "pt"})
    staged[1].write_text(json.dumps(peft_config(bank), indent=2) + "\n")
    for path in staged:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    for path in staged:
        path.replace(path.with_name(path.name.removesuffix(STAGED)))


def load_bank(config: PolicyConfig, folder: Path, *, device: torch.device | str) -> AdapterBank:
    settings = read_settings(folder)
    bank = AdapterBank(
        config, rank=settings["r"], alpha=float(settings["lora_alpha"]), device=device
    )
    try:
        found = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder / WEIGHTS}: expected a safetensors file, got {error}"
        ) from (error)
    targets = bank.tensors()
    if found.keys() != targets.keys():
        odd = sorted(found.keys() ^ targets.keys())
        raise CheckpointError(f"{folder}: expected this decoder's adapters, got others: {odd[:3]}")
    for name, target in targets.items():
        if found[name].shape != target.shape:
            got = tuple(found[name].shape)
            raise CheckpointError(f"{name}: expected the shape {tuple(target.shape)}, got {got}")
        target.copy_(found[name])
    return bank


def read_settings(folder: Path) -> dict[str, Any]:
    """Of adapter_config.json; CheckpointError for an adapter of another kind."""
    try:
        settings = json.loads((folder / CONFIG).read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{folder / CONFIG}: expected PEFT's config, got {error}") from error
    asked = {"peft_type": "LORA", "bias": "none", "use_rslora": False, "use_dora": False}
    got = {name: settings.get(name, plain) for name, plain in asked.items()}
    if got != asked:
        raise CheckpointError(f"{folder / CONFIG}: expected plain LoRA {asked}, got {got}")
    return settings


def peft_config(bank: AdapterBank) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "r": bank.rank,
        # PEFT declares an integer.
        "lora_alpha": int(bank.alpha) if bank.alpha.is_integer() else bank.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "modules_to_save": None,
        "target_modules": list(TARGET_MODULES),
        "use_dora": False,
        "use_rslora": False,
    }
