"""What a scene is given: its world, managers that are looked at, and a way to say what the caller was told.

Everything here runs in the process that may die. Not for: the scenes (scenes_*.py), or the audit (world.py).
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import apsw
import psycopg
import pymysql

from syncpoint.errors import OutcomePending, TransactionAborted
from syncpoint.manager.sync import TransactionManager
from syncpoint.ports import Disk
from tests.crash import journals
from tests.crash.trap import Trap, told_without
from tests.crash.world import ALL, LEDGER, World, transfer


class GaveUp(Exception):
    """The user's own code fails in the middle of its block."""


class Run:
    """One run of a scene."""

    def __init__(
        self, world: Mapping[str, str], name: str, trap: Trap, channel: socket.socket, disk: Disk | None = None
    ) -> None:
        self.world = World(**world)
        self.name = name
        """The transfer's id; also its row's."""
        self.trap = trap
        self._disk = disk
        self._channel = channel
        self._managers: list[TransactionManager] = []
        self._open: list[Any] = []

    # --- saying --------------------------------------------------------------------------------------

    def say(self, **what: Any) -> None:
        """Tell the test, at once: a kill later takes nothing of it back."""
        self._channel.sendall(json.dumps(what).encode() + b"\n")

    def tell(self, outcome: str, name: str = "") -> None:
        """What the caller of a transfer was told: "committed" or "aborted"."""
        self.say(told=[name or self.name, outcome])

    def leave_open(self, *sockets: int) -> None:
        """Give copies of sockets away, so that their servers do not notice when this process dies."""
        socket.send_fds(self._channel, [b"\n"], list(sockets))

    # --- doing ---------------------------------------------------------------------------------------

    def manager(self, names: Iterable[str] = ALL, *, open: bool = True, **options: Any) -> TransactionManager:
        """A manager over the world's databases, opened, looked at from the start."""
        resources: dict[str, Any] = dict(self.world.resources(names))
        if LEDGER in resources:
            resources[LEDGER] += "?ssl=false"  # PyMySQL would read all certificates of the machine at every start
        resources.update(options.pop("resources", {}))
        journal = options.pop("journal", self.world.journal_over(resources))
        options.setdefault("background", False)
        options.setdefault("disk", self._disk)
        manager = TransactionManager(journal, resources, **options)
        self._managers.append(manager)
        self.trap.watch(manager._runner)
        return manager.open() if open else manager

    @contextlib.contextmanager
    def block(
        self,
        manager: TransactionManager,
        name: str = "",
        *,
        fails: type[BaseException] | tuple[type[BaseException], ...] = (),
        **options: Any,
    ) -> Iterator[Any]:
        """A transaction's block; its caller is told how it came out. `fails`: errors that are the point of it."""
        try:
            with manager.transaction(**options) as tx:
                yield tx
        except OutcomePending:
            return
        except TransactionAborted as error:
            self.say(why=str(error))
            self.tell("aborted", name)
        except fails:
            self.tell("aborted", name)
        else:
            self.tell("committed", name)

    def transfer(self, manager: TransactionManager, where: Iterable[str] = ALL, name: str = "", **options: Any) -> None:
        """One whole transfer; its caller is told how it came out."""
        with self.block(manager, name, **options) as tx:
            transfer(tx, name or self.name, where)

    def close(self) -> None:
        for manager in self._managers:
            manager.close()
        for connection in self._open:
            connection.close()

    # --- the journal, when it is in a database -----------------------------------------------------------------

    def phase_two(self, what: str) -> str:
        """How "COMMIT bank, COMMIT ledger, …" reads with this journal."""
        return told_without(what, self.world.decider)

    def journal_cursor(self) -> Any:
        """Of a connection of its own to the journal's database, which commits every statement."""
        if self.world.kind == journals.IN_LEDGER:
            return self.ledger().cursor()
        if self.world.kind == journals.IN_BANK:
            return self.bank().cursor()
        connection = psycopg.connect(self.world.apart_url, autocommit=True)
        self._open.append(connection)
        return connection.cursor()

    # --- other programs at the same databases ----------------------------------------------------------

    def bank(self, **options: Any) -> psycopg.Connection[tuple[Any, ...]]:
        connection = psycopg.connect(self.world.bank_url, autocommit=True, **options)
        self._open.append(connection)
        return connection

    def ledger(self) -> Any:
        """As root."""
        _, _, address = self.world.ledger_url.rpartition("@")
        host, _, rest = address.partition(":")
        port, _, database = rest.partition("/")
        connection = pymysql.connect(
            host=host, port=int(port), user="root", password="", database=database, autocommit=True
        )
        self._open.append(connection)
        return connection

    def audit(self) -> apsw.Connection:
        connection = apsw.Connection(self.world.audit_path)
        self._open.append(connection)
        return connection
