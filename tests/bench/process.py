"""The benchmark's own processes: a worker, an enqueuer, a client; each a module whose last line is its result."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

ROOT = Path(__file__).parents[2]
START_AND_STOP_SECONDS = 60.0


def run_module(module: str, *arguments: object, seconds: float) -> str:
    """The last line that the module writes; it has `seconds`, and a minute to start and stop.

    Raises
    ------
    RuntimeError
        If it fails; with what it wrote.
    """
    with started_module(module, *arguments) as process:
        return process.result(seconds)


class Module:
    """A module that runs in a process of its own."""

    def __init__(self, name: str, process: subprocess.Popen[str], errors: IO[bytes]) -> None:
        self._name = name
        self._process = process
        self._errors = errors

    @property
    def pid(self) -> int:
        return self._process.pid

    def line(self) -> str:
        """The next line that it writes."""
        assert self._process.stdout is not None
        if line := self._process.stdout.readline():
            return line.rstrip()
        self._process.wait()
        raise self._failure()

    def result(self, seconds: float) -> str:
        """The last line that it writes."""
        output, _ = self._process.communicate(timeout=seconds + START_AND_STOP_SECONDS)
        if self._process.returncode != 0:
            raise self._failure()
        return output.splitlines()[-1]

    def _failure(self) -> RuntimeError:
        self._errors.seek(0)
        written = self._errors.read().decode(errors="replace")[-2000:]
        return RuntimeError(f"{self._name} failed:\n{written}")


@contextmanager
def started_module(module: str, *arguments: object, pass_fds: Collection[int] = ()) -> Iterator[Module]:
    """The module, started, with those files of this process; killed at the end if it still runs."""
    # Errors go to a file: a pipe that nobody reads fills up and stops its writer.
    with TemporaryFile() as errors:
        command = [sys.executable, "-m", f"tests.bench.{module}", *map(str, arguments)]
        with subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True, pass_fds=pass_fds
        ) as process:
            try:
                yield Module(" ".join(map(str, (module, *arguments[:2]))), process, errors)
            finally:
                if process.poll() is None:
                    process.kill()


def cpu_seconds(pid: int) -> float:
    """Seconds of CPU, its own and the kernel's, that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_megabytes(pid: int) -> float:
    """Memory that a process has in use, in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
