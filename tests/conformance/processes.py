"""Processes that work through Syncpoint beside the test, and are stopped, woken and killed by it (worker.py)."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from syncpoint.testing.servers.base import wait_until
from tests.crash.world import BANK, LEDGER, World

END_S_MAX = 60.0


class Worker:
    """One process; everything it says is kept."""

    def __init__(self, world: World, **plan: Any) -> None:
        plan = {"stop": "", "id": None, "forever": False, "background": False, **plan}
        plan.setdefault("journal", world.journal)
        plan.setdefault("resources", world.resources((BANK, LEDGER)))
        self.said: list[dict[str, Any]] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.conformance.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.tell(json.dumps(plan))

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_stopped(self) -> bool:
        """The system has stopped all its threads."""
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def heard(self, word: str) -> list[Any]:
        """What it has said under this word, in order."""
        return [line[word] for line in list(self.said) if word in line]

    def wait_until_ready(self) -> None:
        wait_until(lambda: bool(self.heard("ready")), "the worker is ready", END_S_MAX)

    def wait_until_stopped(self) -> None:
        wait_until(lambda: self.is_stopped, "the worker has stopped in the middle", END_S_MAX)

    def wake(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def end(self) -> dict[str, Any]:
        """Let it come to its end; returns the last thing it said."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(END_S_MAX) == 0
        self._reader.join()
        return self.said[-1]

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.said.append(json.loads(line))


@contextlib.contextmanager
def working(world: World, **plan: Any) -> Iterator[Worker]:
    """A worker that is gone afterwards, whatever happens."""
    worker = Worker(world, **plan)
    try:
        yield worker
    finally:
        worker.kill()
