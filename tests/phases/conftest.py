"""A learner's bench for every test of test-time RL, on one agent."""

from pathlib import Path

import pytest
import torch

from tests.phases.ttrl_fixtures import RATE, Bench, fresh, unit_agent


@pytest.fixture(scope="session")
def agent():
    torch.set_num_threads(1)
    return unit_agent()


@pytest.fixture
def bench(agent, tmp_path):
    made = []

    def make(*, folder: Path = tmp_path / "run", beside: bool = False, **config) -> Bench:
        served = agent if beside else fresh(agent)
        made.append(Bench(served, folder, **{"learning_rate": RATE} | config))
        return made[-1]

    yield make
    for each in made:
        each.close()
