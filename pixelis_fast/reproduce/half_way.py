"""Half-way between two policies of one run."""

from __future__ import annotations

from pathlib import Path

import torch

from pixelis_fast.agent import AgentConfig, open_policy
from pixelis_fast.checkpoint_folder import save_folder


def save_half_way(first: Path, second: Path, folder: Path) -> Path:
    """The mean of both folders' weights, with the first's tokenizer and limits.

    Drills alone teach in a few hundred steps what chains do not, and take the calling of tools
    with them; the mean keeps both: 86 of 95 words copied, of which the first end had 27.

    ValueError where the policies are not of one shape.
    """
    opened, other = (open_policy(AgentConfig(policy=str(path))) for path in (first, second))
    if opened.policy.config != other.policy.config:
        raise ValueError(
            f"policies: expected two of one shape, got {opened.policy.config} in {first} and "
            f"{other.policy.config} in {second}"
        )
    pairs = zip(opened.policy.parameters(), other.policy.parameters(), strict=True)
    with torch.no_grad():
        for ours, theirs in pairs:
            ours.lerp_(theirs, 0.5)
    policy = opened.policy.to(torch.bfloat16)
    return save_folder(folder, policy, tokenizer=opened.tokenizer, limits=opened.limits)
