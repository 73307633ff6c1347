"""One place for a process of a demonstration: started, killed, frozen, and started again under the next generation.

Not for: what the processes do (worker.py, takeover_services.py), or when they are killed (chaos.py, takeover_chaos.py).
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path


class ProcessSlot(ABC):
    """A place for a process. Its standard error goes to one file, over all generations.

    Its methods may be called from several threads.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.generation = 0
        self._errors = folder / f"{name}.err"
        self._process: subprocess.Popen[bytes] | None = None
        self._gate = threading.RLock()

    def __repr__(self) -> str:
        state = f"pid {self.pid}" if self.is_running else "not running"
        return f"<{type(self).__name__} {self.name} generation {self.generation}, {state}>"

    @abstractmethod
    def arguments(self) -> list[str]:
        """What follows `python` in the command of this generation."""

    def start(self) -> None:
        """Start the next generation."""
        with self._gate:
            self.generation += 1
            with self._errors.open("ab") as errors:
                self._process = subprocess.Popen(
                    [sys.executable, *self.arguments()],
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    stdin=subprocess.DEVNULL,
                )

    def start_if_ended(self) -> bool:
        """Start it if it has ended, as a supervisor such as systemd would; returns whether it had."""
        with self._gate:
            if self._process is None or self.is_running:
                return False
            self.start()
            return True

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """Of the process that ended last; None while one runs."""
        return None if self._process is None else self._process.poll()

    def kill(self) -> None:
        """kill -9, and wait until the process is gone."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def freeze(self) -> None:
        """SIGSTOP: it stands still, wherever it is."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self, seconds: float) -> bool:
        """Ask it to finish; whether it did so in order."""
        with self._gate:
            process, self._process = self._process, None
        if process is None:
            return True
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            return process.wait(seconds) == 0
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return False

    def complaints(self) -> str:
        """What it wrote to its standard error."""
        return self._errors.read_text(errors="replace") if self._errors.exists() else ""
