"""Faults put into the system calls of a real process by strace: errors, lies, full disks, and kills.

    Fault("fdatasync", "error=EIO", nth=3, on=SEGMENT)      the third fdatasync of the journal's segment fails

`nth` counts the calls of one thread; `on` limits them to one file. Not for: judging (bank.py), or what loses power
(loop.py).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests.disks.bank import Bank
from tests.disks.zygote import ROOT, Zygote

RUN_S_MAX = 120.0
SEGMENT, COUNTER, SEGMENTS, WAL, FOLDER_OF_B = "segment", "counter", "segments", "wal", "folder of b"


@dataclass(frozen=True)
class Fault:
    call: str
    """The system call."""
    what: str
    """What happens instead of it or on entering it, in strace's words."""
    nth: int = 1
    lasts: bool = False
    """Whether all later calls fare the same."""
    on: str = ""
    """The file: one of the words above; empty for any file."""

    def __str__(self) -> str:
        return f"{self.call}:{self.what}:when={self.nth}{'+' if self.lasts else ''} {self.on}".strip()

    @property
    def kills(self) -> bool:
        return "KILL" in self.what

    def strace(self, bank: Bank, log: Path) -> list[str]:
        when = f"when={self.nth}{'+' if self.lasts else ''}"
        command = ["strace", "-f", "-y", "-o", str(log), "-e", "trace=write,fdatasync,fsync," + self.call]
        command += ["-e", f"inject={self.call}:{self.what}:{when}"]
        return command + (["-P", str(path_of(self.on, bank))] if self.on else [])


def path_of(which: str, bank: Bank) -> Path:
    """The file, as the next process of the bank's journal names it."""
    return {
        SEGMENT: bank.journal / "segments" / f"{_counter(bank) + 1:010d}-000001.log",
        COUNTER: bank.journal / "counter",
        SEGMENTS: bank.journal / "segments",
        WAL: Path(f"{bank.a}-wal"),
        FOLDER_OF_B: bank.b.parent,
    }[which]


def _counter(bank: Bank) -> int:
    return int.from_bytes((bank.journal / "counter").read_bytes()[:8], "little")


@dataclass(frozen=True)
class Ran:
    """How a process fared with a fault."""

    fault: Fault
    said: list[dict[str, Any]]
    calls: list[str]
    """The calls that were traced, as strace writes them."""
    status: int
    noise: str

    @property
    def was_hit(self) -> bool:
        if self.fault.kills:
            return self.status in (-signal.SIGKILL, 128 + signal.SIGKILL)
        return any("(INJECTED)" in call for call in self.calls)

    def check_stopped(self) -> None:
        """R5: once the journal's disk has failed, nothing more is answered, and nothing more is written to it."""
        stops = [index for index, one in enumerate(self.said) if one.keys() & {"pending", "stopped"}]
        if not stops:  # it failed while opening, or while closing, when only what is lazy is lost
            was_refused = "JournalRefused" in self.noise or "JournalFailed" in self.noise
            assert was_refused or "closed" in self.said[-1], f"{self.fault}: it went on: {self}"
            stops = [len(self.said)]
        later = self.said[stops[0] + 1 :]
        assert not [one for one in later if "committed" in one], f"{self.fault}: answered after it had stopped: {later}"
        for one in later:
            if "stopped" in one:
                assert "ournal failed" in one["error"] or "JournalFailed" in one["error"], one
        hit = next(index for index, call in enumerate(self.calls) if "(INJECTED)" in call)
        again = [call for call in self.calls[hit + 1 :] if "write(" in call or "sync(" in call]
        assert not again or not self.fault.on, f"{self.fault}: tried again: {again}"


@cache
def why_not() -> str:
    """Why no faults can be put in on this machine; empty when they can."""
    if shutil.which("strace") is None:
        return "strace is not installed (scripts/strace.sh)"
    tried = subprocess.run(
        ["strace", "-f", "-o", os.devnull, "-e", "trace=none", "true"], capture_output=True, text=True, check=False
    )
    return "" if tried.returncode == 0 else f"{IMPOSSIBLE}{tried.stderr.strip()}"


@contextmanager
def attached(fault: Fault, bank: Bank, pid: int) -> Iterator[None]:
    """A fault in the system calls that a running process makes from now on; each of its threads counts anew."""
    command = fault.strace(bank, Path(os.devnull))
    tracer = subprocess.Popen([*command, "-p", str(pid)], stderr=subprocess.PIPE, text=True)
    try:
        assert tracer.stderr is not None
        assert "attached" in tracer.stderr.readline()
        yield
    finally:
        tracer.terminate()
        tracer.communicate()


IMPOSSIBLE = "processes may not be traced here: "


def run(bank: Bank, fault: Fault, **order: Any) -> Ran:
    """Run a worker to its end with a fault in its system calls."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "calls"
        given = json.dumps(bank.order("bank", **{"threads": 1, "insist": True, "background": False, **order}))
        command = [*fault.strace(bank, log), sys.executable, "-m", "tests.disks.worker", given]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=RUN_S_MAX)
        said = [json.loads(line) for line in done.stdout.splitlines()]
        calls = log.read_text(errors="replace").splitlines() if log.exists() else []
    return Ran(fault, said, calls, done.returncode, done.stderr)


class FaultyBank:
    """One bank that lives through many faults, each in a new process, and is recovered and judged after each."""

    def __init__(self, folder: Path, zygote: Zygote) -> None:
        self.bank = Bank.in_folder(folder)
        self.bank.make(zygote)
        self._zygote = zygote
        self._number = 0
        self._rows: set[int] = set()

    def suffer(self, fault: Fault, *, count: int = 3) -> Ran:
        """Raises AssertionError when anything was lost or invented."""
        self._number += 1
        ran = run(self.bank, fault, first=self._number * 1000, count=count)
        self.bank.recover(self._zygote)
        self._rows = self.bank.judge(ran.said, self._rows).rows
        if not ran.was_hit:
            assert ran.said[-1].get("closed"), f"{fault}: {ran.said[-1:]} {ran.noise}"
        return ran
