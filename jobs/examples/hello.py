"""The smallest workflow: two steps and an event after each."""

from __future__ import annotations

from howdah.jobs.examples.app import app
from howdah.jobs.workflow.run import Run


@app.workflow(name="examples.hello")
async def hello(run: Run, name: str) -> str:
    """Greet somebody, durably."""
    greeting = await run.step("greet", greet, name)
    await run.progress(0.5, "greet")
    loud = await run.step("shout", shout, greeting)
    await run.progress(1.0, "shout")
    return loud


async def greet(name: str) -> str:
    return f"hello, {name}"


async def shout(greeting: str) -> str:
    return greeting.upper() + "!"
