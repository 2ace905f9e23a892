"""How a run's news reads in a terminal: a line for each thing that happened, and what is now."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from rich.text import Text
from rich.tree import Tree

from howdah.app.run_news import FINAL, EventRow, News, RunRow, SignalRow, StepRow, TreeRow, WaitRow

STYLES = {
    "queued": "cyan", "scheduled": "cyan", "blocked": "cyan", "running": "bold blue", "waiting": "yellow",
    "succeeded": "bold green", "failed": "bold red", "cancelled": "bold red",
}  # fmt: skip
MARKS = {"succeeded": "✓", "failed": "✗", "cancelled": "✗", "running": "●", "waiting": "◌"}
# A family up to this size has a line for each end; of a larger one only failures do, and the tree shows the rest.
SMALL_FAMILY = 20
TREE_ROWS = 16
MAX_DATA = 100  # characters of an event's data, a signal's payload, an argument
MAX_INLINE = 100  # an output that is longer has lines of its own
MAX_REASON = 200  # characters of an error, whose traceback has the rest
_WORD = 11


class Journal:
    """Remembers what was told, and tells the rest.

    Parameters
    ----------
    changes
        Whether it tells how the run and its children came to be as they are now; else only what they have done.
    """

    def __init__(self, *, changes: bool = True) -> None:
        self._tells_changes = changes
        self._state: tuple[str, int] | None = None
        self._failures = 0
        self._why: str | None = None
        self._waits: list[WaitRow] = []
        self._children: dict[int, str] = {}

    def tell(self, news: News) -> list[Text]:
        """Lines for what is new, in the order in which it happened."""
        told: list[tuple[datetime, Text]] = []
        first = self._state is None
        if first:
            self._failures = news.run.failures
            if news.earlier:
                told.append((news.run.created_at, line(None, "steps", f"… {news.earlier:,} earlier ones")))
        told += [(step.finished_at, _step(step)) for step in news.steps]
        told += [(event.created_at, text) for event in news.events if (text := _event(event)) is not None]
        told += [(signal.sent_at, _signal(signal)) for signal in news.signals]
        if self._tells_changes:
            told += self._changes(news, first=first)
            told += self._of_children(news)
        told.sort(key=lambda item: item[0])
        lines = [text for _, text in told]
        if news.over and (self._state is None or self._state[0] not in FINAL):
            lines += outcome(news.run)
        self._state = (news.run.state, news.run.attempt)
        return lines

    def _changes(self, news: News, *, first: bool) -> Iterator[tuple[datetime, Text]]:
        run = news.run
        now = datetime.now(UTC)
        if run.failures > self._failures and not news.over:
            self._failures = run.failures
            again = f"; again {when(run.run_at)}" if run.run_at else ""
            yield now, line(now, "failed", f"attempt {run.attempt}: {reason(run.error)}{again}", "red")
        changed = self._state != (run.state, run.attempt)
        if run.state == "running" and changed:
            at = run.claimed_at or now
            yield at, line(at, "running", f"attempt {run.attempt} on worker {run.worker or 'gone'}", STYLES["running"])
        elif run.state == "waiting" and (changed or news.waits != self._waits):
            for wait in news.waits:
                yield now, line(now, "waiting", f"for {waits_for(wait)}", STYLES["waiting"])
            for what in hints(run.id, news.waits):
                yield now, line(None, "", what, "dim")
        elif news.why is not None and (changed or (first and news.why)):
            at = run.created_at if first and run.attempt == 0 else now
            yield at, line(at, run.state, _why(news), STYLES[run.state])
        self._waits = news.waits

    def _of_children(self, news: News) -> Iterator[tuple[datetime, Text]]:
        now = datetime.now(UTC)
        children = [child for child in news.tree if child.depth > 0]
        new = [child for child in children if child.run_id not in self._children]
        for (step, task), count in Counter((child.step, child.task) for child in new if child.depth == 1).items():
            yield now, line(now, "children", f"{plural(count, 'run')} of {task} for step {step}")
        small = len(children) <= SMALL_FAMILY
        for child in children:
            ended = child.state in FINAL and self._children.get(child.run_id) not in FINAL
            if ended and (small or child.state != "succeeded"):
                yield now, line(now, "child", _child(child), "red" if child.state != "succeeded" else "")
            self._children[child.run_id] = child.state


def heading(run: RunRow) -> list[Text]:
    """Which run it is."""
    facts = [f"queue {run.queue}", f"tenant {run.tenant_id}"]
    if run.session_id is not None:
        facts.append(f"session {run.session_id}")
    name = Text.assemble(("run ", "dim"), (str(run.id), "bold"), ("  ", ""), (run.task, "bold cyan"))
    name.append(f"  {', '.join(facts)}", "dim")
    return [name, Text(f"{' ' * 10}args {shown(run.args)}", "dim")] if run.args else [name]


def now_lines(news: News) -> list[Text]:
    """How it stands, where that is not the end."""
    run = news.run
    asked = ", asked to stop" if run.cancel_requested else ""
    if run.state == "running":
        since = took(datetime.now(UTC) - (run.claimed_at or run.created_at))
        return [Text(f"running attempt {run.attempt} for {since}{asked}", STYLES["running"])]
    if run.state == "waiting":
        return [Text(f"waits for {waits_for(wait)}{asked}", STYLES["waiting"]) for wait in news.waits]
    return [Text(f"{run.state} {_why(news)}{asked}", STYLES[run.state])]


def family(rows: list[TreeRow]) -> Tree | None:
    """Children, theirs, and so on: those under way first, as many as fit."""
    if len(rows) < 2:
        return None
    root = rows[0]
    counts = Counter(row.state for row in rows[1:])
    told = ", ".join(f"{counts[state]} {state}" for state in STYLES if counts[state])
    tree = Tree(Text(f"{plural(len(rows) - 1, 'run')} below it: {told}", "bold"), guide_style="dim")
    order = ("failed", "cancelled", "running", "waiting", "queued", "scheduled", "blocked", "succeeded")
    kept = sorted(rows[1:], key=lambda row: (row.depth, order.index(row.state)))[:TREE_ROWS]
    nodes = {root.run_id: tree}
    for row in kept:
        parent = nodes.get(row.parent_id or 0)
        if parent is not None:
            nodes[row.run_id] = parent.add(Text(f"{MARKS.get(row.state, '·')} {_child(row)}", STYLES[row.state]))
    if len(rows) - 1 > len(nodes) - 1:
        tree.add(Text(f"… and {len(rows) - len(nodes):,} more", "dim"))
    return tree


def outcome(run: RunRow) -> list[Text]:
    """How it ended."""
    at = run.finished_at or run.created_at
    said = f"after {took(at - run.created_at)}"
    if run.failures > 1 or (run.failures and run.state != "failed"):
        said += f", {plural(run.failures, 'failed attempt')}"
    if run.state == "succeeded":
        text = json.dumps(run.output, ensure_ascii=False)
        if len(text) <= MAX_INLINE:
            return [line(at, run.state, said, STYLES[run.state]), line(None, "output", text)]
        pretty = json.dumps(run.output, ensure_ascii=False, indent=2)
        return [line(at, run.state, said, STYLES[run.state]), Text(f"{' ' * 10}output"), Text(pretty)]
    lines = [line(at, run.state, f"{said}: {reason(run.error)}", STYLES[run.state])]
    traceback = run.error.get("traceback") if isinstance(run.error, dict) else None
    return [*lines, Text(traceback.rstrip(), "dim")] if traceback else lines


def hints(run_id: int, waits: list[WaitRow]) -> list[str]:
    """What to type to send the signals that it waits for."""
    signals = [(wait.name, wait.choices[0] if wait.choices else "null") for wait in waits if wait.kind == "signal"]
    return [shlex.join(["howdah", "run", "signal", str(run_id), *words]) for words in signals]


def waits_for(wait: WaitRow) -> str:
    """What it waits for."""
    until = f", until {when(wait.until)}" if wait.until else ""
    match wait.kind:
        case "signal":
            choices = f" ({' or '.join(wait.choices)})" if wait.choices else ""
            return f"the signal {wait.name}{choices}{until}"
        case "children":
            return f"the children of step {wait.name}{until}"
        case "events":
            return f"events in session {wait.name}{until}"
        case _:
            return f"step {wait.name}, which is due at {when(wait.until)}"


def line(at: datetime | None, word: str, text: str, style: str = "") -> Text:
    """One line: when, what kind of thing, and what. Without a time it belongs to the line above."""
    return Text.assemble((clock(at) if at else " " * 8, "dim"), "  ", (f"{word:<{_WORD}}", style), text)


def _step(step: StepRow) -> Text:
    if step.failure is not None:
        failed = step.failure if isinstance(step.failure, dict) else {}
        again = datetime.fromisoformat(failed["until"]) if "until" in failed else None
        text = f"{step.step.partition('#failed-')[0]} failed: {failed.get('error')}"
        return line(step.finished_at, "step", text + (f"; again {when(again)}" if again else ""), "red")
    # What took no time was not called: a wait, say, of which this is the answer.
    span = f"{took(step.took)}, " if step.took >= timedelta(milliseconds=1) else ""
    return line(step.finished_at, "step", f"{step.step}  {span}{size(step.bytes)}", "green")


def _event(event: EventRow) -> Text | None:
    data = event.data if isinstance(event.data, dict) else {}
    if event.type.startswith("howdah.run."):
        return None  # Its end is told by the run itself.
    if event.type == "howdah.progress" and isinstance(data.get("fraction"), int | float):
        return line(event.created_at, "progress", f"{data['fraction']:4.0%}  {data.get('note') or ''}".rstrip())
    if event.type == "howdah.log":
        fields = "  ".join(f"{name}={shown(value)}" for name, value in data.items() if name != "message")
        return line(event.created_at, "log", f"{data.get('message')}  {fields}".rstrip())
    return line(event.created_at, "event", f"{event.type}  {shown(event.data)}")


def _signal(signal: SignalRow) -> Text:
    return line(signal.sent_at, "signal", f"{signal.name}  {shown(signal.payload)}", "magenta")


def _child(child: TreeRow) -> str:
    error = f": {child.error.splitlines()[0]}" if child.error else ""
    return f"{child.state} {child.run_id} {child.task}, step {child.step}{error}"


def reason(error: Any) -> str:
    """An error in a line."""
    if not isinstance(error, dict):
        return shown(error)
    message = str(error.get("message") or "no message").strip().partition("\n")[0]
    return f"{error.get('type', 'error')}: {message if len(message) <= MAX_REASON else message[:MAX_REASON] + '…'}"


def _why(news: News) -> str:
    """Why it does not run now, after the word for its state."""
    if news.run.state == "scheduled":
        return f"until {when(news.run.run_at)}"
    sentence = news.why or ""
    for known in (f"run {news.run.id} is queued, and ", f"run {news.run.id} is queued ", f"run {news.run.id} "):
        sentence = sentence.removeprefix(known)
    return sentence


def shown(value: Any) -> str:
    """JSON in a line, cut."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MAX_DATA else text[: MAX_DATA - 1] + "…"


def plural(count: int, word: str) -> str:
    """``1 run``, ``2 runs``."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def clock(at: datetime) -> str:
    """A time of day, here."""
    return f"{at.astimezone():%H:%M:%S}"


def when(at: datetime | None) -> str:
    """A time in words: the day is told where it is another one."""
    if at is None:
        return "at once"
    here = at.astimezone()
    return f"{here:%H:%M:%S}" if here.date() == datetime.now().astimezone().date() else f"{here:%Y-%m-%d %H:%M}"


def took(span: timedelta) -> str:
    """A duration, in two figures or so."""
    seconds = span.total_seconds()
    if seconds < 1:
        return f"{max(seconds, 0) * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def size(count: int) -> str:
    """Bytes, in three figures or so."""
    if count < 1000:
        return f"{count} B"
    return f"{count / 1000:.1f} kB" if count < 1_000_000 else f"{count / 1_000_000:.1f} MB"


def progress_of(events: Iterable[EventRow]) -> tuple[float, str] | None:
    """The latest (fraction, note) that it has reported."""
    last = None
    for event in events:
        if event.type == "howdah.progress" and isinstance(event.data, dict):
            last = (float(event.data.get("fraction") or 0), str(event.data.get("note") or ""))
    return last
