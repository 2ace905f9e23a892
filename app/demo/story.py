"""What `howdah demo` and `howdah review` do, in order; the demo also kills a worker and an API process on the way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from howdah.app.client import ApiProblem, HowdahClient, StreamedEvent
from howdah.app.database import Database
from howdah.app.demo import screen, verdicts
from howdah.app.demo.receiver import Receiver
from howdah.app.keys import issue_key
from howdah.app.processes import Process, Processes, free_port, wait_until_ready
from howdah.app.settings import Settings
from howdah.jobs.examples.review.document import PROGRESS
from howdah.jobs.examples.review.types import FullReport, Report
from howdah.sql.pool import Connection, cell_conninfo
from howdah.sql.tenancy.calls import create_tenant

TENANT = "review"
COLLECTION = "reviewed"
QUESTION = "Which of these oblige me to disclose source code?"
UPLOADS = 16  # at a time: enough to keep one API process busy
# Killed at this part of all checkpoints (of the first third, so that much is left to recover), and of all events.
WORKER_DIES_AT = 0.25
API_DIES_AT = 0.6
# A dead worker's runs are back within 3 s, the start of another worker included.
QUICK_RESCUE = {"HOWDAH_HEARTBEAT_SECONDS": "0.4", "HOWDAH_RESCUE_SECONDS": "1.6"}
# Few at a time: the kills then meet some documents done, some half done and some untouched.
FEW = {"HOWDAH_WORKER_CONCURRENCY": "32"}
LOOPBACK = {"HOWDAH_API_ALLOW_PRIVATE": "127.0.0.0/8"}
ENDED = {"howdah.run.succeeded", "howdah.run.failed", "howdah.run.cancelled"}
REPORT_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Material:
    """A document to review; `declared` is the licence that its distribution declares, empty where nobody does."""

    name: str
    data: bytes
    declared: str = ""


@dataclass(slots=True)
class Cast:
    """The processes on stage."""

    processes: Processes
    apis: dict[str, Process]
    worker: Process


@dataclass(slots=True)
class Watched:
    """What the progress bars saw: every event in the order in which it came, and how each run ended."""

    events: list[StreamedEvent] = field(default_factory=list)
    ended: dict[str, StreamedEvent] = field(default_factory=dict)
    worker_kill: verdicts.Kill | None = None
    api_kill: str | None = None


async def review(
    console: Console,
    settings: Settings,
    database: Database,
    materials: Sequence[Material],
    question: str,
    out: Path,
    *,
    torment: bool,
) -> bool:
    """Review `materials`, answer `question`, write the report to `out`. True if all that was promised held."""
    started = time.monotonic()
    conninfo = cell_conninfo(database.url, settings.cell, "howdah-review")
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(await Connection.connect(conninfo, autocommit=True))
        await create_tenant(connection, TENANT, "Reviews")
        key = await issue_key(connection, TENANT, "review")
        environment = {"DATABASE_URL": database.url, **QUICK_RESCUE, **FEW, **LOOPBACK}
        processes = stack.enter_context(Processes(Path(settings.home) / "logs", environment))
        cast = await _raise_curtain(processes)
        client = await stack.enter_async_context(HowdahClient(list(cast.apis), key))
        console.print(f"two API processes ({', '.join(cast.apis)}) and a worker, on nothing but PostgreSQL\n")

        session = f"review-{int(time.time() * 1000)}"
        names, refused = await _enqueue(client, materials, session)
        if not names:
            screen.refusals(console, refused)
            return False
        watched = await _watch(console, client, cast, connection, session, names, torment)
        console.print()

        receiver = await stack.enter_async_context(Receiver())
        report_run, report = await _report(client, question, list(names), receiver.url)
        files = await _fetch(client, report, out)
        reviews = msgspec.json.decode(files["report.json"].read_bytes(), type=FullReport).documents
        refused |= {names[run]: _reason(event) for run, event in watched.ended.items() if event.type != _OK}

        timings = await verdicts.seconds_of_runs(connection, [int(run) for run in names])
        screen.documents(console, reviews, timings)
        screen.refusals(console, refused)
        agreement = screen.agreement(console, reviews, {m.name: m.declared for m in materials})
        screen.answer(console, report)
        shown = await verdicts.joined_sql(connection, int(report.answer.passages[0].document_id)) if reviews else None
        if shown is not None:
            screen.joined(console, shown)
        promises = await verdicts.check(
            connection, TENANT, session, [int(run) for run in names], watched.events, watched.worker_kill
        )
        if watched.api_kill is not None:
            promises.append(verdicts.stream_moved(watched.events, watched.api_kill, client.moved))
        promises.append(verdicts.delivered(report, receiver.answers, receiver.keys, report_run))
        screen.promises(console, promises)
        screen.last_line(console, reviews, refused, watched.events, agreement, files, time.monotonic() - started)
        return all(promise.kept for promise in promises)


_OK = "howdah.run.succeeded"


async def _raise_curtain(processes: Processes) -> Cast:
    ports = [free_port(), free_port()]
    apis = {
        f"http://127.0.0.1:{port}": processes.start(f"api-{number}", "api", "--port", str(port))
        for number, port in enumerate(ports, 1)
    }
    worker = processes.start("worker-1", "worker")
    await asyncio.gather(*(wait_until_ready(process, url) for url, process in apis.items()))
    await _tasks_known(processes, worker)
    return Cast(processes, apis, worker)


async def _tasks_known(processes: Processes, worker: Process) -> None:
    # The worker writes its tasks to the registry as soon as it is up; the log says so.
    for _ in range(200):
        if b"worker_started" in worker.log.read_bytes() or processes.dead():
            return
        await asyncio.sleep(0.05)


async def _enqueue(
    client: HowdahClient, materials: Sequence[Material], session: str
) -> tuple[dict[str, str], dict[str, str]]:
    """Hand in every document and enqueue a run of each: names by run id, and why the others were refused, by name."""
    await client.request("POST", "/v1/sessions", json={"id": session})
    await client.request("POST", "/v1/collections", json={"name": COLLECTION})
    gate = asyncio.Semaphore(UPLOADS)

    async def upload(material: Material) -> str:
        async with gate:
            params = {"filename": Path(material.name).name}
            file = await client.request("POST", "/v1/files", params=params, content=material.data)
        return str(file["id"])

    uploaded = await asyncio.gather(*(upload(m) for m in materials), return_exceptions=True)
    runs: list[dict[str, Any]] = []
    refused: dict[str, str] = {}
    for material, file in zip(materials, uploaded, strict=True):
        if isinstance(file, ApiProblem):
            refused[material.name] = str(file)
            continue
        if isinstance(file, BaseException):
            raise file
        arguments = {"file": file, "name": material.name, "collection": COLLECTION}
        runs.append({"task": "review.document", "args": arguments, "session": session})
    if not runs:
        return {}, refused
    batch = await client.request("POST", "/v1/runs/batch", json={"runs": runs})
    names = {item["run"]["id"]: run["args"]["name"] for item, run in zip(batch["items"], runs, strict=True)}
    return names, refused


async def _watch(
    console: Console,
    client: HowdahClient,
    cast: Cast,
    connection: Connection,
    session: str,
    names: dict[str, str],
    torment: bool,
) -> Watched:
    """Follow the session's stream until every run has ended, killing what is to be killed on the way."""
    watched = Watched()
    checkpoints = 0
    total = len(names) * len(PROGRESS)
    with screen.bars(console, len(names)) as bars:
        async for event in client.events(session):
            watched.events.append(event)
            if event.type == "howdah.progress":
                checkpoints += 1
                bars.step(event.data["note"])
            elif event.type in ENDED and event.run_id is not None:
                watched.ended[event.run_id] = event
                bars.ended(event.type == _OK)
            if torment and watched.worker_kill is None and checkpoints >= total * WORKER_DIES_AT:
                watched.worker_kill = await _kill_worker(cast, connection, names)
                bars.say(f"SIGKILL to the worker at checkpoint {watched.worker_kill.checkpoints}; another one starts")
            if torment and watched.api_kill is None and checkpoints >= total * API_DIES_AT:
                watched.api_kill = event.base_url
                cast.apis[event.base_url].kill()
                bars.say(
                    f"SIGKILL to the API process {event.base_url} that feeds these bars; they go on from the other"
                )
            if len(watched.ended) == len(names):
                await client.request("POST", f"/v1/sessions/{session}/close")
    return watched


async def _kill_worker(cast: Cast, connection: Connection, names: dict[str, str]) -> verdicts.Kill:
    cast.worker.kill()
    kill = await verdicts.witness(connection, [int(run) for run in names])
    cast.worker = cast.processes.start("worker-2", "worker")
    return kill


async def _report(client: HowdahClient, question: str, runs: list[str], deliver_to: str) -> tuple[str, Report]:
    arguments = {"question": question, "collection": COLLECTION, "runs": runs, "deliver_to": deliver_to}
    run = await client.request("POST", "/v1/runs", json={"task": "review.report", "args": arguments})
    run = await client.request("GET", f"/v1/runs/{run['id']}", params={"wait": REPORT_SECONDS})
    if run["state"] != "succeeded":
        raise RuntimeError(f"the report did not succeed: it is {run['state']}, {run.get('error')}")
    return run["id"], msgspec.convert(run["output"], Report, strict=False)


async def _fetch(client: HowdahClient, report: Report, out: Path) -> dict[str, Path]:
    await asyncio.to_thread(out.mkdir, parents=True, exist_ok=True)
    files = {}
    for name, file in (("report.md", report.markdown_file), ("report.json", report.json_file)):
        files[name] = out / name
        files[name].write_bytes(await client.content(f"/v1/files/{file}/content"))
    return files


def _reason(event: StreamedEvent) -> str:
    data: dict[str, Any] = event.data if isinstance(event.data, dict) else {}
    return str(data.get("message") or event.type)
