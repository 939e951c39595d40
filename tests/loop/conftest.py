"""What every test of the loop asks: one agent, one picture, and what a request gives alone."""

import pytest

from pixelis_fast.agent import Agent
from pixelis_fast.types import Sample
from tests.loop_fixtures import Alone, coins_of, thoughtless_agent


@pytest.fixture(scope="module")
def agent() -> Agent:
    return thoughtless_agent()


@pytest.fixture(scope="module")
def coins(agent) -> Sample:
    return coins_of(agent)


@pytest.fixture(scope="module")
def expected(agent) -> Alone:
    return Alone(agent)
