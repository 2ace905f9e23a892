"""A scripted server, clean for each test, and a provider that talks to it."""

from collections.abc import AsyncIterator, Iterator

import pytest

from howdah.router.openai_provider import OpenAIProvider
from tests.openai_server import OpenAIServer, openai_server


@pytest.fixture(scope="module")
def running() -> Iterator[OpenAIServer]:
    with openai_server() as scripted:
        yield scripted


@pytest.fixture
def server(running: OpenAIServer) -> OpenAIServer:
    running.reset()
    return running


@pytest.fixture
async def provider(server: OpenAIServer) -> AsyncIterator[OpenAIProvider]:
    made = OpenAIProvider("a key", server.base_url)
    yield made
    await made.aclose()
