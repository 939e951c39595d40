"""A policy with all that belongs to it, as the checkpoint folder that `--policy FOLDER` takes.

Weights, tokenizer with its chat template, and both preprocessor files; transformers reads it too.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pixelis_fast.policy.limits import ImageLimits, MediaLimits, VideoLimits
from pixelis_fast.policy.model import Policy
from pixelis_fast.policy.tokenizer import Tokenizer
from pixelis_fast.policy.weights import save_policy


def save_folder(folder: Path, policy: Policy, *, tokenizer: Tokenizer, limits: MediaLimits) -> Path:
    """Example:
    save_folder(Path("runs/sft/policy"), policy, tokenizer=tokenizer, limits=limits)
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_policy(policy, folder)
    tokenizer.hf.save_pretrained(folder)
    video: dict[str, Any] = {
        "fps": limits.video.fps,
        "min_frames": limits.video.min_frames,
        "max_frames": limits.video.max_frames,
    }
    write_json(folder / "preprocessor_config.json", pixels(limits.image))
    write_json(folder / "video_preprocessor_config.json", pixels(limits.video) | video)
    return folder


def pixels(limits: ImageLimits | VideoLimits) -> dict[str, Any]:
    patch = asdict(limits.patch)
    mean, std = patch.pop("mean"), patch.pop("std")
    size = {"shortest_edge": limits.min_pixels, "longest_edge": limits.max_pixels}
    return {"size": size, "image_mean": mean, "image_std": std} | patch


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1))
