"""Our end of `worker.py`: give an order, hear what its children say while they work, kill them, hear the end."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from syncpoint.testing.servers.base import wait_until

ROOT = Path(__file__).parents[2]
SAID_S_MAX = 60.0


class Zygote:
    """A worker process with everything imported, that forks the children of each order."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.disks.worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
        )
        self._raw = b""
        self.pids: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._process.kill()
        self._process.communicate()

    def start(self, **order: Any) -> None:
        """Give an order; its children work from now on."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        self._said: list[dict[str, Any]] = []
        while not self.pids:
            self._hear(SAID_S_MAX)

    def listen(self, seconds: float, until: int = 0) -> int:
        """Hear them for a while, or until they have said `until` things. Returns how many things they have said."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and (not until or len(self._said) < until) and self.pids:
            self._hear(left)
        return len(self._said)

    def kill(self, which: int | None = None) -> None:
        """SIGKILL one child, or all."""
        for pid in self.pids if which is None else self.pids[which : which + 1]:
            os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        """SIGSTOP all, and wait until none of their threads can do or say anything more."""
        for pid in self.pids:
            os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: not any(map(_acts, self.pids)), "the children have stopped")

    def end(self, seconds: float = SAID_S_MAX) -> list[dict[str, Any]]:
        """Wait until all children have ended; returns everything they said."""
        deadline = time.monotonic() + seconds
        while self.pids:
            assert time.monotonic() < deadline, f"the children {self.pids} do not end; they said: {self._said[-5:]}"
            self._hear(1.0)
        return self._said

    def run(self, **order: Any) -> list[dict[str, Any]]:
        self.start(**order)
        return self.end()

    def _hear(self, seconds: float) -> None:
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], seconds)
        if readable:
            data = os.read(self._process.stdout.fileno(), 1 << 16)
            assert data, "the worker process has ended"
            *lines, self._raw = (self._raw + data).split(b"\n")
            for line in lines:
                self._take(json.loads(line))

    def _take(self, said: dict[str, Any]) -> None:
        if "pids" in said:
            self.pids = said["pids"]
        elif "over" in said:
            self.pids = []
        else:
            self._said.append(said)


def _acts(pid: int) -> bool:
    """Whether a thread still runs. One that waits for the disk stops on its return from there."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        states = [(task / "stat").read_text().rpartition(")")[2].split()[0] for task in tasks]
    except (FileNotFoundError, ProcessLookupError):
        return _acts(pid) if Path(f"/proc/{pid}").exists() else False
    return any(state in "RS" for state in states)
