"""A unit policy as a checkpoint folder with the short prompt, and questions with a toy reward."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pixelis_fast.agent import AgentConfig
from pixelis_fast.checkpoint_folder import save_folder
from pixelis_fast.optimizer import OptimizerConfig
from pixelis_fast.phases.rft_config import RftConfig
from pixelis_fast.policy.config import PRESETS
from pixelis_fast.policy.limits import PRESET_LIMITS
from pixelis_fast.policy.tokenizer import Tokenizer
from pixelis_fast.policy.weights import random_policy
from pixelis_fast.rollout import RolloutConfig
from pixelis_fast.tools import ToolBox
from pixelis_fast.types import Sample, TokenRole, Trajectory
from tests.media import picture

PICTURES = ("coins.png", "coffee.png")
TOKENIZER = Tokenizer.pixelworld()


def unit_folder(folder: Path) -> Path:
    special = TOKENIZER.special
    config = PRESETS["unit"].with_special_ids(
        image_pad=special.image_pad,
        video_pad=special.video_pad,
        vision_start=special.vision_start,
        vision_end=special.vision_end,
    )
    policy = random_policy(config, seed=0)
    return save_folder(folder, policy, tokenizer=TOKENIZER, limits=PRESET_LIMITS["unit"])


class Pictures:
    """Two pictures in turn."""

    def __call__(self, index: int, tools: ToolBox) -> Sample:
        name = PICTURES[index % len(PICTURES)]
        return Sample(name, (tools.add_media(picture(name)),), "count", "3")

    def release(self, samples: Sequence[Sample], tools: ToolBox) -> None:
        """Both stay."""

    def settings(self) -> dict[str, Any]:
        return {"pictures": PICTURES}


def calls_segment(trajectory: Trajectory) -> float:
    """1 where the policy names that tool: by chance about one time in ten."""
    given = (TokenRole.PROMPT, TokenRole.OBSERVATION)
    roles = zip(trajectory.ids, trajectory.roles, strict=True)
    said = [token for token, role in roles if role not in given]
    return float('"segment"' in TOKENIZER.decode(said))


def rft_config(policy: Path, out: Path, *, max_tokens: int = 12, **changes: Any) -> RftConfig:
    rollout = RolloutConfig(max_steps=2, max_tokens=max_tokens, max_thought_tokens=1, overlap=False)
    settings: dict[str, Any] = {
        "task_reward": calls_segment,
        "prompts": 2,
        "group": 8,
        "optimizer": OptimizerConfig(
            learning_rate=1e-3, warmup_steps=0, final_share=1.0, weight_decay=0.0
        ),
    }
    agent = AgentConfig(policy=str(policy), rollout=rollout)
    return RftConfig(agent, Pictures(), out=str(out), **settings | changes)
