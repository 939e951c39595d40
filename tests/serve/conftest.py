"""One agent for all tests of the server, and one server on it for each file."""

import pytest

from tests.media import picture
from tests.serve.running import make_agent, running


@pytest.fixture(scope="session")
def agent():
    return make_agent()


@pytest.fixture(scope="module")
def server(agent):
    from pixelis_fast.serve.config import MediaRules

    with running(agent, media=MediaRules(root=picture("coins.png").parent)) as server:
        yield server
