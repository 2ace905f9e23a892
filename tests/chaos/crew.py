"""The worker processes of a chaos run: started, killed without a word, and started again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SIZE = 3  # one to be killed while two go on and rescue
KILL_SECONDS = 10  # for the kernel to end a killed process


class Crew:
    """Worker processes; what they write goes to a file each in `logs`.

    Attributes
    ----------
    kills
        Workers killed so far.
    deserters
        Sentences about workers that ended by themselves, which none may.
    """

    def __init__(self, url: str, logs: Path) -> None:
        self.kills = 0
        self.deserters: list[str] = []
        self._url = url
        self._logs = logs
        self._started = 0
        self._workers: dict[int, subprocess.Popen[bytes]] = {}

    def fill(self) -> None:
        """Start workers until there are three; note those that ended by themselves."""
        for pid, worker in list(self._workers.items()):
            if worker.poll() is not None:
                self.deserters.append(f"worker {pid} ended by itself with {worker.returncode}")
                del self._workers[pid]
        while len(self._workers) < SIZE:
            self._started += 1
            with (self._logs / f"worker-{self._started}.log").open("wb") as log:
                worker = subprocess.Popen(
                    [sys.executable, "-m", "tests.chaos.worker", self._url], cwd=ROOT, stdout=log, stderr=log
                )
            self._workers[worker.pid] = worker

    def names(self) -> dict[str, int]:
        """The name under which each registers with the engine, and its process id."""
        return {f"chaos-{pid}": pid for pid in self._workers}

    def kill(self, pid: int) -> None:
        """SIGKILL one, and start another in its place."""
        self._end(pid)
        self.kills += 1
        self.fill()

    def dismiss(self) -> None:
        """End them all."""
        for pid in list(self._workers):
            self._end(pid)

    def _end(self, pid: int) -> None:
        worker = self._workers.pop(pid)
        worker.kill()
        worker.wait(KILL_SECONDS)
