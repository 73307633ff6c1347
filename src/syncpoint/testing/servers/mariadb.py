"""A private MariaDB server for tests: a temporary folder, a free loopback port, and no trace afterwards.

    with MariadbServer() as server:
        server.create_database("bank")
        url = server.url("bank")             # mariadb://app:app@127.0.0.1:20123/bank
        server.kill()                        # SIGKILL, as a power cut would
        server.start()                       # same folder, same port
        assert server.prepared() == [...]    # what XA RECOVER lists

The server dies with the process that started it, however that process ends. Not for: production, or servers it did
not start.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from typing import Any, ClassVar

from syncpoint.testing.servers.base import Account, GuardedProcess, PrivateServer, ServerFailed

USER = "app"  # its password is its name
START_SECONDS_MAX = 60.0
PROGRAMS = ("mariadbd", "mariadb-install-db", "my_print_defaults")
"""The last is called by the one before; packages of a system may bring it apart from the server."""

DEFAULT_SETTINGS: Mapping[str, str] = {
    "innodb_flush_log_at_trx_commit": "1",
    "innodb_buffer_pool_size": "32M",
    "innodb_log_file_size": "8M",
    "innodb_buffer_pool_dump_at_shutdown": "OFF",
    "innodb_buffer_pool_load_at_startup": "OFF",
    "key_buffer_size": "1M",
    "aria_pagecache_buffer_size": "1M",
    "performance_schema": "OFF",
    "max_connections": "300",
    "character_set_server": "utf8mb4",
}


class MariadbServer(PrivateServer):
    """One private mariadbd.

    Parameters: `folder` (made when missing; a temporary one, removed on leaving, when None), `settings` (server
    variables that override `DEFAULT_SETTINGS`), `port` (a free one below 32768 when None).
    """

    NAME: ClassVar[str] = "mariadb"
    DEFAULT_SETTINGS: ClassVar[Mapping[str, str]] = DEFAULT_SETTINGS

    @staticmethod
    def available() -> bool:
        """Whether this machine has the server's programs and the Python driver."""
        try:
            import pymysql  # noqa: F401
        except ImportError:
            return False
        return all(_program(name) is not None for name in PROGRAMS)

    # --- life ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the server, installing its data folder the first time. Raises ServerFailed."""
        assert not self.running, "the server runs already"
        fresh = not (self.folder / "data" / "mysql").exists()
        if fresh:
            self._install()
        accounts = [f"--init-file={self.folder / 'accounts.sql'}"] if fresh else []
        # As root it runs as root: unlike PostgreSQL it may, and reaches whatever folder it is given.
        account = Account(os.geteuid(), os.getegid(), borrowed=False)
        self._process = GuardedProcess([*self._command(), *accounts], account, signal.SIGKILL)
        self._wait_until_ready()

    def stop(self) -> None:
        """Shut down in order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL: what was not forced is gone, as after a power cut of this server's process."""
        self._end(signal.SIGKILL)

    # --- use -----------------------------------------------------------------------------------------

    def create_database(self, name: str) -> str:
        """Make a database that the application's user owns; returns its URL. An old one of that name goes."""
        self.execute(f"DROP DATABASE IF EXISTS `{name}`")
        self.execute(f"CREATE DATABASE `{name}`")
        self.execute(f"GRANT ALL ON `{name}`.* TO '{USER}'@'%'")
        return self.url(name)

    def url(self, database: str) -> str:
        """The URL of one database, for the application's user: not root, and with the least rights."""
        return f"mariadb://{USER}:{USER}@127.0.0.1:{self.port}/{database}"

    def connect(self, database: str | None = None) -> Any:
        """A plain PyMySQL connection as root, autocommit on: the independent observer."""
        import pymysql

        return pymysql.connect(
            host="127.0.0.1", port=self.port, user="root", password="", database=database, autocommit=True
        )

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        """Run one statement as root; returns its rows."""
        with contextlib.closing(self.connect()) as root, root.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall())

    def prepared(self) -> list[str]:
        """What XA RECOVER FORMAT='SQL' lists: one literal `X'gtrid',X'bqual',format` for each prepared branch."""
        return [row[3] for row in self.execute("XA RECOVER FORMAT='SQL'")]

    # --- inside --------------------------------------------------------------------------------------

    def _command(self) -> list[str]:
        return [
            _program("mariadbd") or "mariadbd",
            "--no-defaults",
            *self._account(),
            f"--datadir={self.folder / 'data'}",
            f"--tmpdir={self.folder / 'tmp'}",
            f"--socket={self.folder / 's.sock'}",
            f"--pid-file={self.folder / 'pid'}",
            f"--log-error={self.folder / 'log'}",
            f"--port={self.port}",
            "--bind-address=127.0.0.1",
            "--skip-name-resolve",
            *(f"--{name}={value}" for name, value in self.settings.items()),
        ]

    @staticmethod
    def _account() -> list[str]:
        return ["--user=root"] if os.geteuid() == 0 else []

    def _install(self) -> None:
        # A temporary folder of its own: a starting server deletes all temporary tables that it finds in a shared one.
        (self.folder / "tmp").mkdir(parents=True, exist_ok=True)
        command = [
            _program("mariadb-install-db") or "mariadb-install-db",
            "--no-defaults",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            "--skip-name-resolve",
            *self._account(),
            f"--datadir={self.folder / 'data'}",
            f"--tmpdir={self.folder / 'tmp'}",
            f"--innodb-log-file-size={self.settings['innodb_log_file_size']}",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ServerFailed(f"mariadb-install-db failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        (self.folder / "accounts.sql").write_text(
            f"CREATE USER IF NOT EXISTS root@'127.0.0.1';\n"
            f"GRANT ALL ON *.* TO root@'127.0.0.1' WITH GRANT OPTION;\n"
            f"CREATE USER IF NOT EXISTS '{USER}'@'%' IDENTIFIED BY '{USER}';\n"
            # What `syncpoint init` asks for, and CREATE so that first contact can make the schema itself.
            f"GRANT CREATE, SELECT, INSERT, UPDATE, DELETE ON syncpoint.* TO '{USER}'@'%';\n"
        )

    def _wait_until_ready(self) -> None:
        import pymysql

        deadline = time.monotonic() + START_SECONDS_MAX
        while True:
            try:
                self.connect().close()
                return
            except pymysql.err.OperationalError as error:
                if not self.running or time.monotonic() > deadline:
                    self.kill()
                    raise ServerFailed(f"mariadbd did not start ({error}):\n{self._log_tail()}") from error
            time.sleep(0.02)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.end(how)

    def _log_tail(self) -> str:
        with contextlib.suppress(OSError):
            return (self.folder / "log").read_text(errors="replace")[-3000:]
        return "(no log)"


def _program(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/usr/local/bin")
