"""What the workers of test_pgbouncer.py run."""

from __future__ import annotations

import asyncio

from howdah.jobs import App, Run

app = App()


@app.workflow(name="pooled.steps")
async def steps(run: Run) -> list[str]:
    """Two steps, and two events beside them."""

    async def step(name: str) -> str:
        await run.emit(f"in.{name}", {})
        return name

    return [await run.step(name, step, name) for name in ("first", "second")]


@app.workflow(name="pooled.endless")
async def endless(run: Run) -> None:
    """Ends only when it is cancelled."""
    await asyncio.Event().wait()
