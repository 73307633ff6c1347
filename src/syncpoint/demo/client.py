"""A client of a demonstration: sends a transfer until it is known what became of it, and logs what it was told.

The log has one line an event, written with one system call each, so that a kill -9 loses none. A new process first
sends again what the log leaves open: same id, so nothing happens twice. Not for: what a transfer does.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from syncpoint.errors import OutcomePending, TransactionAborted, TransactionRunning

AGAIN_S = 0.05


class Log:
    """What the clients were told: lines of `event id`, appended whole."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, event: str, what: str) -> None:
        os.write(self._file, f"{event} {what}\n".encode())


def read_log(path: Path) -> list[tuple[str, str]]:
    """(event, what) of every whole line."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines()
    return [(event, what) for event, _, what in (line.partition(" ") for line in lines) if what]


def left_open(path: Path) -> list[str]:
    """What follows "begun" of the transfers that an earlier process began and was not told about."""
    open_: dict[str, str] = {}
    for event, what in read_log(path):
        transfer = what.split(" ", 1)[0]
        if event == "begun":
            open_[transfer] = what
        elif event in ("committed", "aborted"):
            open_.pop(transfer, None)
    return list(open_.values())


def send(transfer: str, once: Callable[[], object], log: Log, stop: threading.Event) -> None:
    """Call `once`, which runs the transfer under its id, until it is known what became of it, or `stop` is set."""
    while not stop.is_set():
        try:
            once()
        except TransactionAborted as error:
            if not error.retryable:
                log.write("aborted", transfer)
                return
            log.write("retried", transfer)
        except (OutcomePending, TransactionRunning):
            stop.wait(AGAIN_S)
        except Exception as error:
            # The user's own code or driver failed: the block was aborted. Nothing happened; try again.
            log.write("failed", f"{transfer} {type(error).__name__}: {' '.join(str(error).split())}")
            stop.wait(AGAIN_S)
        else:
            log.write("committed", transfer)
            return
