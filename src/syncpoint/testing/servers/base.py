"""What private test servers share: a free port, an account that may run a server, a guarded process, and its life.

Not for: anything that knows which database it is.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import random
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

STOP_SECONDS_MAX = 120.0  # its last checkpoint forces every file of every database that tests have made
PORT_MIN, PORT_MAX = 15000, 32000  # below 32768: higher ones collide with the system's own choices

# Ends when the server ends; ends the server when its own parent is gone (then nobody else would).
GUARDIAN = """
exec 4<&0
last=$1; shift
"$@" </dev/null >/dev/null 2>&1 4<&- & server=$!
{ read -r _ <&4; kill -$last $server; } >/dev/null 2>&1 & reader=$!
echo $server
exec >&- 4<&-
wait $server
kill $reader
"""


class ServerFailed(Exception):
    """The test server did not start or stop; the message holds the end of its log."""


def free_port() -> int:
    """A free loopback port below 32768."""
    while True:
        port = random.randrange(PORT_MIN, PORT_MAX)
        with contextlib.closing(socket.socket()) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def wait_until(condition: Callable[[], bool], what: str, seconds_max: float = 20.0) -> None:
    """Poll until `condition()` holds. Raises ServerFailed, naming `what`, after `seconds_max` seconds."""
    deadline = time.monotonic() + seconds_max
    while not condition():
        if time.monotonic() > deadline:
            raise ServerFailed(f"Waited {seconds_max} s in vain: {what}.")
        time.sleep(0.01)


@dataclass(frozen=True, slots=True)
class Account:
    """Who runs the server. Root may not run PostgreSQL, so root borrows an unprivileged account."""

    uid: int
    gid: int
    borrowed: bool

    @classmethod
    def choose(cls) -> Account:
        """This process's own account, or `nobody` when this process is root."""
        if os.geteuid() != 0:
            return cls(os.geteuid(), os.getegid(), borrowed=False)
        nobody = pwd.getpwnam("nobody")
        return cls(nobody.pw_uid, nobody.pw_gid, borrowed=True)

    def own(self, path: Path) -> None:
        """Give a file or folder (not its content) to this account."""
        if self.borrowed:
            os.chown(path, self.uid, self.gid)

    def obstacle(self, path: Path) -> Path | None:
        """The first part of `path` that this account may not pass (a 0700 parent), or None."""
        if self.borrowed:
            real = path.resolve()
            for part in (*reversed(real.parents), real):
                found = part.stat()
                if found.st_uid != self.uid and not found.st_mode & stat.S_IXOTH:
                    return part
        return None

    @property
    def user(self) -> int | None:
        """`user` for `subprocess`."""
        return self.uid if self.borrowed else None

    @property
    def group(self) -> int | None:
        """`group` for `subprocess`."""
        return self.gid if self.borrowed else None

    @property
    def extra_groups(self) -> list[int] | None:
        """`extra_groups` for `subprocess`."""
        return [] if self.borrowed else None


class GuardedProcess:
    """A server process that dies with the process that started it, however that process ends."""

    def __init__(self, command: Sequence[str], account: Account, last_signal: signal.Signals) -> None:
        """Start it. `last_signal` is what it gets when its starter is gone."""
        self._guardian = subprocess.Popen(
            ["/bin/sh", "-c", GUARDIAN, "guardian", str(int(last_signal)), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
            user=account.user,
            group=account.group,
            extra_groups=account.extra_groups,
        )
        assert self._guardian.stdout is not None
        with self._guardian.stdout as pipe:
            self.pid = int(pipe.readline())

    @property
    def running(self) -> bool:
        return self._guardian.poll() is None

    def end(self, how: signal.Signals) -> None:
        """Send a signal and wait for the end; after STOP_SECONDS_MAX SIGKILL it. Raises ServerFailed in that case."""
        guardian = self._guardian
        assert guardian.stdin is not None
        try:
            self._send(how)
            guardian.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self._send(signal.SIGKILL)
            guardian.wait()
            raise ServerFailed(f"The server did not end by {how.name} and was killed.") from None
        finally:
            guardian.stdin.close()

    def _send(self, how: signal.Signals) -> None:
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, how)


class PrivateServer(ABC):
    """What the private servers have in common: a folder, a port, settings, one process, and their life as a context.

    Parameters: `folder` (made when missing; a temporary one, removed on leaving, when None), `settings` (that override
    `DEFAULT_SETTINGS`), `port` (a free one below 32768 when None).
    """

    NAME: ClassVar[str]
    DEFAULT_SETTINGS: ClassVar[Mapping[str, str]] = {}

    def __init__(
        self, folder: str | Path | None = None, settings: Mapping[str, str] | None = None, port: int | None = None
    ) -> None:
        self._own_folder = folder is None
        prefix = f"syncpoint-{self.NAME.lower()}-"
        self.folder = Path(tempfile.mkdtemp(prefix=prefix) if folder is None else folder).absolute()
        self.settings = {**self.DEFAULT_SETTINGS, **(settings or {})}
        self.port = port or free_port()
        self._process: GuardedProcess | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} port={self.port} {'running' if self.running else 'stopped'}>"

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.running

    @property
    def pid(self) -> int:
        """The server's process; 0 when it does not run."""
        return self._process.pid if self._process is not None and self._process.running else 0

    @abstractmethod
    def start(self) -> None:
        """Start the server. Raises ServerFailed."""

    def stop(self) -> None:
        """Shut down in order, where there is anything to be saved."""
        self.kill()

    @abstractmethod
    def kill(self) -> None:
        """SIGKILL."""

    def restart(self) -> None:
        """Shut down in order and start again on the same folder and port."""
        self.stop()
        self.start()

    def remove(self) -> None:
        """End the server at once and remove a folder that was its own."""
        self.kill()
        if self._own_folder:
            shutil.rmtree(self.folder, ignore_errors=True)
