"""How fast events reach those who watch: to a thousand sessions, at a steady rate and at the highest that holds."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import uvloop

from tests.bench.figure import DEEP, Figure, Measure, Target
from tests.bench.stage import Stage, stage
from tests.bench.system import System

SESSIONS = 1_000
RATE = 2_780.0  # ten million an hour, and a little
SECONDS = 600 if DEEP else 60
RUNS = round(RATE) * SECONDS

PEAK_RATE = 8_000.0
PEAK_RUNS = 64_000  # events of a step at that rate: 8 s
STEP = 1.15  # times the rate before
FIRST_RATE = PEAK_RATE / STEP**7  # so that the target is one of the steps
TRIES = 2  # of a step: the first may have met something else on the machine
MAX_RATE = 100_000.0
MAX_P99 = 100.0  # ms
MAX_LATE = 0.25  # seconds by which the last event is on disk late: a producer that is later has not kept the pace


def take_sustained(server_url: str, _: Figure, system: System, runs: int) -> Mapping[str, float]:
    """So many events by the clock."""
    return uvloop.run(_sustained(server_url, system, runs))


async def _sustained(server_url: str, system: System, runs: int) -> dict[str, float]:
    async with stage(server_url, system, SESSIONS) as played:
        await _warm(played)
        before = played.api_cpu(), await played.clients.cpu_seconds()
        late = await played.producer.keep_pace(RATE, runs)
        await played.delivered(runs)
        api, clients = played.api_cpu() - before[0], await played.clients.cpu_seconds() - before[1]
        delays = await played.delays()
        played.check_table()
    seconds = runs / RATE + late
    return {
        "stream_sustained": runs / seconds,
        "stream_p50": delays.within(50),
        "stream_p99": delays.within(99),
        "stream_append_p99": float(np.percentile(delays.from_append, 99)),
        "stream_api_cpu": api / runs * 1e6,
        "stream_clients_cpu": clients / seconds * 100,
    }


async def _warm(played: Stage) -> None:
    """Connect, and show one event to each: connections and plans are then as in a process that has been running."""
    await played.connect()
    await played.producer.append_to_all()
    await played.delivered(SESSIONS)
    await played.delays()


def take_peak(server_url: str, _: Figure, system: System, runs: int) -> Mapping[str, float]:
    """Steps of rate until one does not hold, each as long as `runs` events at 8,000 a second take."""
    return uvloop.run(_peak(server_url, system, runs / PEAK_RATE))


async def _peak(server_url: str, system: System, seconds: float) -> dict[str, float]:
    rate, values = FIRST_RATE, dict[str, float]()
    async with stage(server_url, system, SESSIONS) as played:
        await _warm(played)
        while rate <= MAX_RATE:
            for _ in range(TRIES):
                found = await _step(played, rate, seconds)
                if found is not None:
                    break
            if found is None:
                break
            values = found
            rate *= STEP
        played.check_table()
    if not values:
        raise RuntimeError(f"not even {FIRST_RATE:,.0f} events a second came with a p99 of {MAX_P99:g} ms")
    return values


async def _step(played: Stage, rate: float, seconds: float) -> dict[str, float] | None:
    """The figures of one rate; None if it does not hold."""
    events = round(rate * seconds)
    api, clients = played.api_cpu(), await played.clients.cpu_seconds()
    late = await played.producer.keep_pace(rate, events)
    await played.delivered(events)
    delays = await played.delays()
    if late > MAX_LATE or delays.within(99) > MAX_P99:
        return None
    return {
        "stream_peak": round(rate),
        "stream_peak_p99": delays.within(99),
        "stream_peak_api_cpu": (played.api_cpu() - api) / events * 1e6,
        "stream_peak_clients_cpu": (await played.clients.cpu_seconds() - clients) / seconds * 100,
    }


FIGURES = (
    Figure(
        "stream_sustained",
        f"events on disk that 1,000 clients of as many sessions read, ten million an hour for {SECONDS} s",
        (
            Measure("stream_sustained", "events/s"),
            Measure("stream_p50", "ms", higher_is_better=False),
            Measure("stream_p99", "ms", higher_is_better=False),
            Measure("stream_append_p99", "ms", higher_is_better=False),
            Measure("stream_api_cpu", "µs/event", higher_is_better=False),
            Measure("stream_clients_cpu", "% of a core", higher_is_better=False),
        ),
        take_sustained,
        (Target("stream_sustained", 2_778), Target("stream_p50", 15), Target("stream_p99", 100)),
        rounds=1,
    ),
    Figure(
        "stream_peak",
        "the highest rate, of steps 15 % apart, at which 99 % are read within 100 ms of their commit",
        (
            Measure("stream_peak", "events/s"),
            Measure("stream_peak_p99", "ms", higher_is_better=False),
            Measure("stream_peak_api_cpu", "µs/event", higher_is_better=False),
            Measure("stream_peak_clients_cpu", "% of a core", higher_is_better=False),
        ),
        take_peak,
        (Target("stream_peak", PEAK_RATE),),
        rounds=1,
    ),
)
