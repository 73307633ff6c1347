"""A file system of its own on a loop device, whose power can be cut: `LoopDisk`. Needs root, loop devices and mkfs.

The cut is the shutdown ioctl (`EXT4_IOC_SHUTDOWN`, `XFS_IOC_GOINGDOWN`) without flushing the log: from that instant on
nothing reaches the disk, and what was only in memory, unforced renames too, is gone at the next mount. Everything is
given back by `close`, also after a failure in the middle.

The processes live on for a moment, unlike in a real power cut, and *ext4's fsync may answer "done" once more for a file
whose transaction was aborted under it*. Our journal does not fall for that (folder.py, `_write`); SQLite does, so a cut
says when it began, and of SQLite only what was acknowledged before counts.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from syncpoint.testing.servers.base import wait_until

SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2
SIZE_BYTES = {"ext4": 64 << 20, "xfs": 320 << 20}  # XFS refuses less than 300 MB; the file has holes
SBIN = "/usr/sbin:/sbin:/usr/local/sbin"


def why_not(kind: str) -> str:
    """Why power cannot be cut on this machine under such a file system; empty when it can."""
    if os.geteuid() != 0:
        return "mounting a file system of its own needs root"
    missing = [
        tool for tool in (f"mkfs.{kind}", "losetup", "mount", "umount") if shutil.which(tool, path=_path()) is None
    ]
    if missing:
        return f"{', '.join(missing)} is not installed ({'xfsprogs' if kind == 'xfs' else 'e2fsprogs, util-linux'})"
    known = Path("/proc/filesystems").read_text(encoding="ascii").split()
    if kind not in known:
        return f"this kernel has no {kind}"
    try:
        with LoopDisk(kind) as disk:
            disk.cut()
            disk.power_on()
    except (OSError, subprocess.CalledProcessError) as error:
        detail = getattr(error, "stderr", "") or error
        return f"a loop device cannot be mounted, or its power not be cut: {detail}"
    return ""


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:{SBIN}"


def _run(*command: str) -> str:
    environment = {**os.environ, "PATH": _path(), "LC_ALL": "C"}
    return subprocess.run(
        command, check=True, capture_output=True, text=True, env=environment, timeout=60
    ).stdout.strip()


CLEAN_UP = 'read -r line; umount --lazy "$1"; losetup --detach "$2"; rm -rf -- "$3"'


@contextlib.contextmanager
def _cleaned_up_even_if_killed(mounted: Path, device: str, folder: Path) -> Iterator[None]:
    """While inside: should this process be killed, a shell that reads from it gives everything back."""
    command = ["sh", "-c", CLEAN_UP, "sh", str(mounted), device, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True) as shell:
        try:
            yield
        finally:
            shell.kill()


class LoopDisk:
    """Mounted at `path` while it lives."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._held = ExitStack()
        try:
            self._make()
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"<LoopDisk {self.kind} at {self.path}>"

    def _make(self) -> None:
        folder = Path(self._held.enter_context(tempfile.TemporaryDirectory(prefix="syncpoint-disk-")))
        image, self.path = folder / "image", folder / "mounted"
        self.path.mkdir()
        with image.open("wb") as file:
            file.truncate(SIZE_BYTES[self.kind])
        _run(f"mkfs.{self.kind}", "-q", str(image))
        self._device = _run("losetup", "--find", "--show", str(image))
        self._held.callback(_run, "losetup", "--detach", self._device)
        self._held.callback(self._unmount_somehow)
        self._held.enter_context(_cleaned_up_even_if_killed(self.path, self._device, folder))
        self._mount()

    def _mount(self) -> None:
        _run("mount", "-t", self.kind, self._device, str(self.path))

    def cut(self) -> float:
        """Take the power away; returns when that began (monotonic seconds)."""
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        began = time.monotonic()
        try:
            fcntl.ioctl(descriptor, SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(descriptor)
        return began

    def power_on(self) -> None:
        """Mount it again, which replays its log. No process may have anything open there any more."""
        self._unmount()
        self._mount()

    def _unmount(self) -> None:
        wait_until(self._try_unmount, f"nothing has a file open on {self.path}")

    def _try_unmount(self) -> bool:
        try:
            _run("umount", str(self.path))
        except subprocess.CalledProcessError as error:
            if "busy" in error.stderr:
                return False
            raise
        return True

    def _unmount_somehow(self) -> None:
        if os.path.ismount(self.path):
            with contextlib.suppress(Exception):
                self._unmount()
        if os.path.ismount(self.path):
            _run("umount", "--lazy", str(self.path))

    def close(self) -> None:
        self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
