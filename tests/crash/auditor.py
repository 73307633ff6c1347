"""The audit of `World.audit` for the suites that judge thousands of faults: on connections that stay open.

Not for: settling, or the faults (faults.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from contextlib import closing
from typing import Any

import apsw
import psycopg
import pymysql

from syncpoint.ids import GID_PREFIX, XA_FORMAT_ID
from tests.crash.world import ALL, AUDIT, BANK, LEDGER, World


class Auditor:
    """`World.audit` on connections that stay open: thousands of faults are judged by it. It changes nothing."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._bank: psycopg.Connection[tuple[Any, ...]] | None = None
        self._ledger: Any = None
        self._is_new = True
        """A play has been since: connections may be dead."""

    def played(self) -> None:
        """Something has happened; the next look begins with connections that are known to live."""
        self._is_new = True

    def close(self) -> None:
        """Also after a server was restarted: the next audit connects anew."""
        for one in (self._bank, self._ledger):
            if one is not None:
                with contextlib.suppress(Exception):
                    one.close()
        self._bank = self._ledger = None

    def audit(self, world: World, transfer: str, told: str, where: Iterable[str] = ALL) -> str:
        """Returns "committed" or "aborted". `told` as for `World.audit`."""
        rows = self.rows(world, transfer)
        assert set(rows.values()) <= {0, 1}, f"{transfer}: applied twice: {rows}"
        counted = {rows[name] for name in where} or {0}
        assert len(counted) == 1, f"{transfer}: torn: {rows}"
        assert all(rows[name] == 0 for name in ALL if name not in where), f"{transfer}: strange rows: {rows}"
        outcome = "committed" if counted == {1} else "aborted" if where else told or "aborted"
        assert told in ("", outcome), f"{transfer}: told {told}, but {outcome}: {rows}"
        self.check_free(transfer)
        self._check_audit_is_free(world, transfer)
        return outcome

    def rows(self, world: World, transfer: str) -> dict[str, int]:
        query = "SELECT count(*) FROM transfer WHERE id = "
        counted = {BANK: self.bank.execute(query + "%s", (transfer,)).fetchall()[0][0]}
        with self.ledger.cursor() as cursor:
            cursor.execute(query + "%s", (transfer,))
            counted[LEDGER] = cursor.fetchone()[0]
        with closing(apsw.Connection(world.audit_path)) as audit:
            counted[AUDIT] = audit.execute(query + "?", (transfer,)).fetchall()[0][0]
        return counted

    def check_free(self, transfer: str) -> None:
        """Nothing in doubt, and no lock on any account, in either server."""
        gids = self.bank.execute("SELECT gid FROM pg_prepared_xacts WHERE starts_with(gid, %s)", (GID_PREFIX,))
        assert gids.fetchall() == [], f"{transfer}: left in doubt in PostgreSQL"
        with self.ledger.cursor() as cursor:
            cursor.execute("XA RECOVER FORMAT='SQL'")
            left = [row[3] for row in cursor.fetchall() if row[0] == XA_FORMAT_ID]
        assert left == [], f"{transfer}: left in doubt in MariaDB: {left}"
        bank = self.bank
        with bank.transaction(force_rollback=True):
            bank.execute("SELECT 1 FROM account FOR UPDATE NOWAIT")
        with self.ledger.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute("SELECT 1 FROM account FOR UPDATE NOWAIT")
            cursor.fetchall()
            cursor.execute("ROLLBACK")

    def _check_audit_is_free(self, world: World, transfer: str) -> None:
        with closing(apsw.Connection(world.audit_path)) as audit:
            audit.set_busy_timeout(1000)
            try:
                audit.execute("BEGIN IMMEDIATE; ROLLBACK")
            except apsw.BusyError:
                raise AssertionError(f"{transfer}: the SQLite file is locked") from None

    @property
    def bank(self) -> psycopg.Connection[tuple[Any, ...]]:
        self._reconnect_if_dead()
        if self._bank is None:
            self._bank = self._world.bank()
        return self._bank

    @property
    def ledger(self) -> Any:
        self._reconnect_if_dead()
        if self._ledger is None:
            self._ledger = self._world.ledger()
        return self._ledger

    def _reconnect_if_dead(self) -> None:
        if self._is_new:
            self._is_new = False
            try:
                self.bank.execute("SELECT 1")
                self.ledger.query("DO 1")
            except (psycopg.Error, pymysql.MySQLError):  # a scene has ended all connections, or a server was restarted
                self.close()
