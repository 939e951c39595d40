"""How much of everything a reproduction spends. The arms are the same under every budget."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pixelis_fast.data.shift import SHIFTS


@dataclass(frozen=True)
class Budget:
    """Sizes of data, training and measurement.

    Example:
        BUDGETS["quick"].seeds   # (0,)
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    start: str = ""
    """A preset that ships weights, or a checkpoint's folder: the supervised policy of all seeds;
    without, each seed trains its own from random weights."""
    whole: int = 5000
    """Tasks with a whole chain to imitate."""
    grounding: int = 5000
    """Tasks with single calls."""
    close: int = 9000
    """Tasks looked at and answered from crops too; two families of seven have such answers."""
    tower_steps: int = 5000
    tower_tokens: int = 864
    """Visual tokens per step: 24 pictures of 192 x 192."""
    grounding_steps: int = 2000
    chain_steps: int = 4000
    drill_steps: int = 900
    further_steps: int = 3300
    """Of chains behind the drills."""
    sft_tokens: int = 3072
    """Per step."""
    rft_steps: int = 150
    prompts: int = 8
    group: int = 8
    ttrl_queries: int = 1000
    shifts: tuple[str, ...] = tuple(SHIFTS)
    severity: int = 3
    test: int = 210
    """Questions of the test split: thirty of each family."""
    threads: int = 2
    processes: int = 2
    """Of supervised training; each computes with one thread."""
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not self.seeds or min(self.test, self.whole, self.ttrl_queries) < 1:
            raise ValueError(f"budget: expected seeds and sizes above 0, got {self}")


CPU = Budget()
BUDGETS = {
    "quick": replace(
        CPU,
        seeds=(0,),
        whole=12,
        grounding=12,
        close=12,
        tower_steps=2,
        tower_tokens=72,
        grounding_steps=3,
        chain_steps=2,
        drill_steps=2,
        further_steps=2,
        sft_tokens=600,
        rft_steps=1,
        prompts=1,
        group=2,
        ttrl_queries=2,
        shifts=("noise",),
        test=7,
        threads=1,
        processes=1,
    ),
    "short": replace(
        CPU,
        start="pixelworld-5m",
        whole=2000,
        chain_steps=300,
        further_steps=300,
        rft_steps=40,
        ttrl_queries=100,
        shifts=("lighting", "motion_blur"),
        severity=2,
    ),
    "cpu": CPU,
    "gpu": replace(
        CPU,
        whole=20000,
        grounding=20000,
        close=20000,
        chain_steps=6000,
        further_steps=4000,
        rft_steps=400,
        test=700,
        processes=1,
        device="cuda",
    ),
}
"""quick proves that every arm runs; its numbers mean nothing. short has the policy that ships as
its sft, so only the arm without tools trains on data, and seeds are of draws. Its shifts are
milder: under lighting of severity 3 that policy answered 41 % of 140 questions of val, one of 24
that count."""
