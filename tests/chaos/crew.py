"""The worker processes of a chaos run: started, killed or frozen without a word, and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.load import POISON_EXIT

ROOT = Path(__file__).parents[2]
SIZE = 3  # one to be killed while two go on and rescue
KILL_SECONDS = 10  # for the kernel to end a killed process


@dataclass(frozen=True, slots=True)
class _Member:
    process: subprocess.Popen[bytes]
    log: Path


class Crew:
    """Worker processes; what they write goes to a file each in `logs`.

    Attributes
    ----------
    kills
        Workers killed so far.
    false_starts
        Workers that ended by themselves before they had registered: their database was away. A supervisor starts
        another.
    poisoned
        Workers that were ended by a poisonous run.
    deserters
        Sentences about workers that ended by themselves later, which none may.
    """

    def __init__(self, url: str, logs: Path) -> None:
        self.kills = 0
        self.false_starts = 0
        self.poisoned = 0
        self.deserters: list[str] = []
        self._url = url
        self._logs = logs
        self._started = 0
        self._members: dict[int, _Member] = {}

    def fill(self) -> None:
        """Start workers until there are three; note those that ended by themselves."""
        for pid, member in list(self._members.items()):
            if member.process.poll() is not None:
                self._note_end(pid, member)
                del self._members[pid]
        while len(self._members) < SIZE:
            self._started += 1
            path = self._logs / f"worker-{self._started}.log"
            with path.open("wb") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", "tests.chaos.worker", self._url],
                    cwd=ROOT,
                    stdin=subprocess.PIPE,  # It closes with this process, and then the worker ends.
                    stdout=log,
                    stderr=log,
                )
            self._members[process.pid] = _Member(process, path)

    def names(self) -> dict[str, int]:
        """The name under which each registers with the engine, and its process id."""
        return {f"chaos-{pid}": pid for pid in self._members}

    def kill(self, pid: int) -> None:
        """SIGKILL one, and start another in its place."""
        self._end(pid)
        self.kills += 1
        self.fill()

    def freeze(self, pid: int) -> None:
        """SIGSTOP one: it lives, holds its connections, and says nothing."""
        os.kill(pid, signal.SIGSTOP)

    def thaw(self, pid: int) -> None:
        """SIGCONT: it goes on as if no time had passed."""
        os.kill(pid, signal.SIGCONT)

    def logged(self, event: str) -> int:
        """How often the workers have logged an event of this name."""
        return sum(log.read_text(errors="replace").count(event) for log in self._logs.glob("worker-*.log"))

    def dismiss(self) -> None:
        """End them all."""
        for pid in list(self._members):
            self._end(pid)

    def _note_end(self, pid: int, member: _Member) -> None:
        if "worker_started" not in member.log.read_text(errors="replace"):
            self.false_starts += 1
        elif member.process.returncode == POISON_EXIT:
            self.poisoned += 1
        else:
            self.deserters.append(f"worker {pid} ended by itself with {member.process.returncode}: {member.log}")

    def _end(self, pid: int) -> None:
        process = self._members.pop(pid).process
        process.kill()
        process.wait(KILL_SECONDS)
