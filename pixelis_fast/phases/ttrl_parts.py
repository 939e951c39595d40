"""What a learner of test-time RL is made of."""

from __future__ import annotations

from dataclasses import dataclass

from pixelis_fast.phases.ttrl_canary import Canary
from pixelis_fast.phases.ttrl_serving import Publisher
from pixelis_fast.phases.ttrl_types import Judges, MakesKeys, Remembers, RunGroup
from pixelis_fast.phases.ttrl_update import Updater


@dataclass(frozen=True)
class Parts:
    """What a learner works with; `ttrl.parts_of(agent, …)` makes them.

    Example:
        TtrlLearner(config, Parts(updater, run, judge, keys, memory, publisher))
    """

    updater: Updater
    run: RunGroup
    judge: Judges
    keys: MakesKeys
    memory: Remembers
    publisher: Publisher
    canary: Canary | None = None
