"""A private PgBouncer before a PostgreSQL for tests: a temporary folder, a free loopback port, no trace afterwards.

    with PostgresServer() as server, PgBouncerServer(server.url("postgres")) as bouncer:
        url = bouncer.url("bank")            # postgresql://postgres@127.0.0.1:20124/bank, in transaction mode
        bouncer.kill()                       # SIGKILL: every client's and every server's connection is cut
        bouncer.start()                      # same port
        assert bouncer.show("POOLS") == [{"database": "bank", …}]   # PgBouncer's own tables

Its pools are small, so that clients really share server connections. Whoever the server trusts, PgBouncer trusts. It
refuses to run as root, so root runs it as `nobody`. It dies with the process that started it, however that process
ends. Not for: production, or servers it did not start.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

from syncpoint.testing.servers.base import Account, GuardedProcess, PrivateServer, ServerFailed, wait_until
from syncpoint.testing.servers.postgres import USER

if TYPE_CHECKING:
    import psycopg

ADMIN_DATABASE = "pgbouncer"  # its own, for SHOW, PAUSE and the like
START_SECONDS_MAX = 30.0

DEFAULT_SETTINGS: Mapping[str, str] = {
    "pool_mode": "transaction",
    "default_pool_size": "4",  # for each pair of database and user
    "max_client_conn": "500",
    "auth_type": "trust",
    "auth_user": USER,  # asks the server who else there is
    "admin_users": USER,
    "server_login_retry": "1",  # seconds; its default of 15 would make every restart of the server as long
    "server_idle_timeout": "10",  # seconds; tests leave many databases behind
    "query_wait_timeout": "30",  # seconds; its default of 120 is longer than a transaction may take
    "log_connections": "0",
    "log_disconnections": "0",
}


class PgBouncerServer(PrivateServer):
    """One private pgbouncer in front of one server.

    Parameters: `server_url` (any URL of the PostgreSQL behind it; host and port matter), `folder` (made when missing; a
    temporary one, removed on leaving, when None), `settings` (of pgbouncer.ini, that override `DEFAULT_SETTINGS`),
    `port` (a free one below 32768 when None).
    """

    NAME: ClassVar[str] = "pgbouncer"
    DEFAULT_SETTINGS: ClassVar[Mapping[str, str]] = DEFAULT_SETTINGS

    def __init__(
        self,
        server_url: str,
        folder: str | Path | None = None,
        settings: Mapping[str, str] | None = None,
        port: int | None = None,
    ) -> None:
        super().__init__(folder, settings, port)
        self._behind = urlsplit(server_url)
        self._account = Account.choose()

    @staticmethod
    def available() -> bool:
        """Whether this machine has the program."""
        return _program() is not None

    # --- life ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start it. Raises ServerFailed. The server behind it need not run."""
        assert not self.running, "PgBouncer runs already"
        program = _program()
        if program is None:
            raise ServerFailed(
                "The program pgbouncer is missing: run scripts/pgbouncer.sh, which says what to install."
            )
        self._configure()
        # Its log is what it prints: a configuration it cannot read is reported nowhere else.
        log = f"exec \"$@\" >>'{self.folder / 'log'}' 2>&1"
        command = ["/bin/sh", "-c", log, "pgbouncer", program, str(self.folder / "pgbouncer.ini")]
        self._process = GuardedProcess(command, self._account, signal.SIGKILL)
        try:
            wait_until(self._answers, "PgBouncer starts", START_SECONDS_MAX)
        except ServerFailed as error:
            self.kill()
            raise ServerFailed(f"{error}\n{self._log_tail()}") from error

    def kill(self) -> None:
        """SIGKILL: all connections through it are cut, on both sides, wherever they were."""
        process, self._process = self._process, None
        if process is not None:
            process.end(signal.SIGKILL)

    # --- use -----------------------------------------------------------------------------------------

    def url(self, database: str, user: str = USER) -> str:
        """The URL of one of the server's databases, through PgBouncer."""
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def admin(self) -> psycopg.Connection[tuple[Any, ...]]:
        """A connection to PgBouncer itself, for its own commands: SHOW, PAUSE, RECONNECT, …"""
        import psycopg

        return psycopg.connect(
            self.url(ADMIN_DATABASE), autocommit=True, prepare_threshold=None, connect_timeout=5, sslmode="disable"
        )

    def show(self, what: str) -> list[dict[str, Any]]:
        """The rows of `SHOW what` of its console, as dictionaries: POOLS, SERVERS, CLIENTS, …"""
        with contextlib.closing(self.admin()) as admin:
            cursor = admin.execute(f"SHOW {what}".encode())
            names = [column.name for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    # --- inside --------------------------------------------------------------------------------------

    def _configure(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._account.own(self.folder)
        obstacle = self._account.obstacle(self.folder)
        if obstacle is not None:
            raise ServerFailed(
                f"As root, PgBouncer runs as the user nobody, who may not enter {obstacle}. "
                f"Choose a folder that everybody can reach, or run as another user."
            )
        settings = {
            **self.settings,
            "listen_addr": "127.0.0.1",
            "listen_port": str(self.port),
            "unix_socket_dir": "",
            "auth_file": str(self.folder / "users.txt"),
        }
        lines = [
            "[databases]",
            f"* = host={self._behind.hostname or '127.0.0.1'} port={self._behind.port or 5432}",
            "[pgbouncer]",
            *(f"{name} = {value}" for name, value in settings.items()),
        ]
        (self.folder / "pgbouncer.ini").write_text("\n".join(lines) + "\n")
        (self.folder / "users.txt").write_text(f'"{USER}" ""\n')

    def _answers(self) -> bool:
        import psycopg

        if not self.running:
            raise ServerFailed("PgBouncer ended at start.")
        try:
            self.admin().close()
        except psycopg.OperationalError:
            return False
        return True

    def _log_tail(self) -> str:
        with contextlib.suppress(OSError):
            return (self.folder / "log").read_text(errors="replace")[-3000:]
        return "(no log)"


def _program() -> str | None:
    return shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin:/usr/local/bin")
