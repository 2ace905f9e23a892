"""Whatever falls, and wherever a client goes, it reads each event once and in order."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.server import tormented_server
from tests.chaos.streams.storm import STRIKES, storm

SECONDS = 10.0  # and as long as the strikes that are under way then take


@pytest.mark.long
async def test_clients_that_hop_between_falling_processes_read_exactly_what_is_in_the_table(
    tmp_path: Path,
) -> None:
    with tormented_server() as server, (tmp_path / "log").open("wb") as log:
        done = await storm(server, SECONDS, log)
        assert done.broken == []
        assert set(done.strikes) == set(STRIKES) - (set() if server.ours else {"crash"})
    assert done.streams > 50
    assert done.read > 1_000
