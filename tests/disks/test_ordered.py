"""The real disk does in system calls, in this order, what a recording says: else the crash states were not real."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncpoint.testing.disks import MemoryDisk
from syncpoint.testing.recording_disk import Recording
from tests.disks import faults
from tests.disks.ordered import live
from tests.disks.zygote import ROOT

CALLS = "mkdir,openat,write,fdatasync,fsync,rename,unlink"
ON_DESCRIPTOR = re.compile(r"^\d+ +(write|fdatasync|fsync)\(\d+<([^>]*)>")
ON_PATH = re.compile(r'^\d+ +(mkdir|rename|unlink)\("([^"]*)"')
MAKING = re.compile(r'^\d+ +openat\([^,]*, "([^"]*)", \S*O_CREAT\S*, \d+\) += \d+')


def test_the_system_calls_come_in_the_order_that_is_recorded(tmp_path: Path) -> None:
    if faults.why_not():
        pytest.skip(faults.why_not())
    recording = Recording()
    live(recording.process(MemoryDisk()), "/journal")
    expected = [(one.kind, _plain(one.path)) for one in recording.operations]

    log = tmp_path / "calls"
    command = ["strace", "-f", "-y", "-o", str(log), "-e", f"trace={CALLS}"]
    subprocess.run(
        [*command, sys.executable, "-m", "tests.disks.ordered", str(tmp_path / "journal")], check=True, cwd=ROOT
    )
    assert len(expected) > 60
    assert list(_told(log, str(tmp_path))) == expected


def _told(log: Path, root: str) -> Iterator[tuple[str, str]]:
    """The calls below `root`, as a recording would have them."""
    there: set[str] = set()
    for line in log.read_text().splitlines():
        made, on_descriptor, on_path = MAKING.match(line), ON_DESCRIPTOR.match(line), ON_PATH.match(line)
        if made:
            call, path = "create", made[1]
        elif on_descriptor or on_path:
            call, path = (on_descriptor or on_path).groups()  # type: ignore[union-attr]
        else:
            continue
        if not path.startswith(root) or (call == "create" and path in there):
            continue
        there.add(path)
        yield _kind(call, path, root), _plain(path.removeprefix(root) or "/")


def _kind(call: str, path: str, root: str) -> str:
    if call in ("fdatasync", "fsync"):
        return (
            "force_folder" if path in (root, f"{root}/journal") or path.endswith(("members", "segments")) else "force"
        )
    return {"mkdir": "make_folder", "write": "append", "unlink": "remove"}.get(call, call)


def _plain(path: str) -> str:
    """Without what is random in the name of a file that is to replace another."""
    return re.sub(r"\.[0-9a-f]+\.new$", ".new", path)
