"""The ops by name: who provides them and what is true."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from bench.card import package_version
from bench.loss_imitation import IMITATION
from bench.loss_inputs import Inputs
from bench.loss_kl import CORRIDOR, KL
from bench.loss_policy import POLICY, PolicyTruth
from bench.loss_pooled import POOLED, PooledTruth
from bench.loss_provider import Provider
from bench.loss_rows import COHERENCE, TOP_K, PairsTruth, StepsTruth
from bench.loss_truth import Errors, HeadTruth, Output


class Truth(Protocol):
    """float64 answers of one scene."""

    def summary(self) -> str: ...

    def errors(self, task: str, inputs: Inputs, output: Output) -> Errors: ...


PROVIDERS: dict[str, tuple[Provider, ...]] = {
    "masked_imitation": IMITATION,
    "token_kl": KL,
    "policy_loss": POLICY,
    "corridor": CORRIDOR,
    "coherence": COHERENCE,
    "pooled_coherence": POOLED,
    "top_k": TOP_K,
}
TRUTHS: dict[str, Callable[[dict[str, Tensor]], Truth]] = {
    "policy_loss": PolicyTruth,
    "coherence": StepsTruth,
    "pooled_coherence": PooledTruth,
    "top_k": PairsTruth,
}
ARMS = tuple(dict.fromkeys(each.name for group in PROVIDERS.values() for each in group))
BASELINE = "eager"


def make_truth(op: str, tensors: dict[str, Tensor]) -> Truth:
    return TRUTHS.get(op, HeadTruth)(tensors)


def provider(op: str, name: str) -> Provider:
    return next(each for each in PROVIDERS[op] if each.name == name)


def peer_versions() -> dict[str, str]:
    """Of every package a provider needs, "not installed" where it is missing."""
    packages = {each.package for group in PROVIDERS.values() for each in group}
    return {name: package_version(name) for name in sorted(packages)}
