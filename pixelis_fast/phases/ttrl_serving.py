"""Between the learner and the loop that serves: groups in, versions out, nothing held up.

Groups run beside everybody else's requests in the same forwards; a publish is a pointer's change
between two of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from pixelis_fast.agent import Agent
from pixelis_fast.policy.published import Published
from pixelis_fast.policy.sampling import Sampling
from pixelis_fast.rollout import MakeChooser, wait_for
from pixelis_fast.types import Sample, Trajectory


class AgentRunner:
    """Runs groups on an agent's own loop.

    Example:
        trajectories = AgentRunner(agent)([sample] * 8, seed=0, temperature=1.0)
    """

    def __init__(self, agent: Agent, *, make_chooser: MakeChooser | None = None) -> None:
        """`make_chooser` is for groups whose words are given (bench/ttrl_group.py)."""
        rollout = agent.config.rollout
        if not rollout.grammar or rollout.call_sampling is not None:
            raise ValueError("agent.rollout: expected grammar and one sampling for all tokens")
        self._agent, self._make_chooser = agent, make_chooser

    def __call__(
        self,
        samples: Sequence[Sample],
        *,
        seed: int,
        temperature: float,
        tenant: str = "",
        under: Published | None = None,
    ) -> list[Trajectory]:
        """Temperature 0 is greedy; equal samples are one group."""
        agent = self._agent
        config = replace(
            agent.config.rollout,
            embeddings=True,
            sampling=Sampling(temperature=temperature, seed=seed),
        )
        requests = agent.rollout.with_config(config).requests(samples)
        asked = [replace(request, salt=tenant, under=under) for request in requests]
        make = self._make_chooser
        choosers = None if make is None else [make(i) for i in range(len(asked))]
        with agent.loop as loop:
            return wait_for(loop.submit_all(asked, choosers=choosers))


class Publisher:
    """Changes what an agent serves: to everybody, or to one tenant.

    Example:
        pause_s = Publisher(agent).publish(Published.of(bank, "ttrl-7"))
    """

    def __init__(self, agent: Agent, *, tenant: str = "") -> None:
        """With a tenant, nobody else's forwards ever see what it publishes, nor its own what a
        learner for everybody does."""
        self._loop, self._engine, self._tenant = agent.loop, agent.engine, tenant
        self._between(partial(agent.engine.shelf.pin, tenant))

    @property
    def version(self) -> str:
        return self._engine.shelf.serving(self._tenant).version

    @property
    def serves_bank(self) -> bool:
        """False while the base alone is served."""
        return self._engine.shelf.serving(self._tenant).bank is not None

    def name(self, base: str, number: int) -> str:
        """Of update `number`; tenants' versions lie on one shelf."""
        whose = f"{self._tenant}/" if self._tenant else ""
        return f"{base}+{whose}ttrl-{number}"

    def versions(self) -> list[str]:
        """That can be gone back to."""
        return self._engine.shelf.versions()

    def prepare(self, published: Published) -> None:
        """All but the pointer's change, beside what is served."""
        self._engine.prepare(published)

    def publish(self, published: Published) -> float:
        """Seconds for which no forward could run."""
        self.prepare(published)
        return self._between(partial(self._engine.publish_bank, published, salt=self._tenant))

    def rollback(self, version: str) -> float:
        """Seconds, as above; ValueError for a version that is not kept."""
        return self._between(partial(self._engine.rollback, version, salt=self._tenant))

    def _between(self, change: Callable[[], object]) -> float:
        def timed() -> float:
            start_s = time.perf_counter()
            change()
            return time.perf_counter() - start_s

        return self._loop.between_ticks(timed)
