"""The docs page works where there is no other network: in a real browser that can reach this API alone."""

from __future__ import annotations

import asyncio
import re
import subprocess
from pathlib import Path

import pytest

from tests.app.api.conftest import Running

# The page loads and renders within this much of the browser's own time.
RENDER_MS = 10_000
# Root needs no-sandbox; the rest keeps the browser from looking for its maker.
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)


@pytest.mark.needs("chromium")
async def test_the_docs_page_renders_every_resource_without_another_network(running: Running, tmp_path: Path) -> None:
    command = [
        "chromium",
        *FLAGS,
        f"--user-data-dir={tmp_path}",
        f"--virtual-time-budget={RENDER_MS}",
        "--dump-dom",
        f"{running.url}/schema",
    ]
    shown = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=True)
    page = shown.stdout
    assert "OAS 3.1" in page
    assert "Unable to render" not in page
    for path in ("/v1/runs", "/v1/sessions/{session_id}/events", "/v1/collections/{name}/search", "/v1/files"):
        assert f'data-path="{path}"' in page, f"{path} is not on the page"
    assert set(re.findall(r'(?:src|href)="https?://([^/"]+)', page)) <= {running.url.split("//")[1]}
