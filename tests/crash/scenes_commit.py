"""Scenes of transactions that go their way: transfers, read-only branches, nested blocks, user errors, votes no."""

from __future__ import annotations

import contextlib

import apsw
import psycopg

from syncpoint.errors import SyncpointError
from tests.crash.journals import EVERYWHERE
from tests.crash.run import GaveUp, Run
from tests.crash.scenes import scene
from tests.crash.world import ALL, AUDIT, BANK, LEDGER, transfer

NOWHERE: dict[str, tuple[str, ...]] = {"": ()}


# --- transfers ----------------------------------------------------------------------------------------------


@scene(user_id=True, journals=EVERYWHERE)
def transfer_with_id(run: Run) -> None:
    run.transfer(run.manager(), id=run.name)


@scene(journals=EVERYWHERE)
def transfer_without_id(run: Run) -> None:
    run.transfer(run.manager())


@scene(journals=EVERYWHERE)
def answered_when_decided(run: Run) -> None:
    """Phase two follows in the background; `close` waits for it."""
    run.transfer(run.manager(), wait="decided")


@scene(expects={"-bank": (BANK,), "-ledger": (LEDGER,), "-audit": (AUDIT,)}, journals=EVERYWHERE)
def one_phase(run: Run) -> None:
    """One database alone writes: no record."""
    manager = run.manager()
    for name in ALL:
        run.transfer(manager, (name,), f"{run.name}-{name}")


@scene(expects={"": (BANK,)}, journals=EVERYWHERE)
def one_writes_of_three(run: Run) -> None:
    """The others were opened and only read: asked, and not prepared (O03)."""
    with run.block(run.manager()) as tx:
        for name in ALL:
            _read(tx, name)
        transfer(tx, run.name, (BANK,))


@scene(expects={"": (BANK, LEDGER)}, journals=EVERYWHERE)
def two_write_of_three(run: Run) -> None:
    with run.block(run.manager()) as tx:
        tx.connect(AUDIT, read_only=True)
        transfer(tx, run.name, (BANK, LEDGER))


@scene(expects=NOWHERE, journals=EVERYWHERE)
def nobody_writes(run: Run) -> None:
    with run.block(run.manager()) as tx:
        for name in ALL:
            _read(tx, name)


@scene(expects=NOWHERE, journals=EVERYWHERE)
def nobody_may_write(run: Run) -> None:
    """With an id, and a serializable one: it must commit, for only then was what it read consistent."""
    manager = run.manager()
    with run.block(manager, id=run.name) as tx:
        bank = tx.connect(BANK)
        bank.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
        bank.execute("SELECT balance FROM account")
    with run.block(manager) as tx:
        for name in ALL:
            tx.connect(name, read_only=True)


@scene(expects={"": (BANK,)}, user_id=True, journals=EVERYWHERE)
def writes_in_a_function(run: Run) -> None:
    """A SELECT that writes: only the vote finds out."""
    with run.bank() as bank:
        bank.execute(
            "CREATE OR REPLACE FUNCTION send(text) RETURNS void LANGUAGE sql AS "
            "$$INSERT INTO transfer (id, amount, number) VALUES ($1, 1, 1)$$"
        )
    with run.block(run.manager(), id=run.name) as tx:
        tx.connect(BANK).execute("SELECT send(%s)", (run.name,))


def _read(tx: object, name: str) -> None:
    connection = tx.connect(name)  # type: ignore[attr-defined]
    if name == LEDGER:
        with connection.cursor() as cursor:
            cursor.execute("SELECT balance FROM account")
    else:
        list(connection.execute("SELECT balance FROM account"))


# --- nested blocks --------------------------------------------------------------------------------------------


@scene()
def nested(run: Run) -> None:
    """Kept, rolled back, and begun inside a nested block."""
    manager = run.manager()
    with run.block(manager) as tx:
        with manager.transaction():
            transfer(tx, run.name)
        with contextlib.suppress(GaveUp), manager.transaction():
            transfer(tx, run.name + "-inner")
            raise GaveUp


# --- aborts ---------------------------------------------------------------------------------------------------


@scene(journals=EVERYWHERE)
def gives_up(run: Run) -> None:
    """The user's code fails after it has written everywhere."""
    with run.block(run.manager(), fails=GaveUp) as tx:
        transfer(tx, run.name)
        raise GaveUp


@scene(journals=EVERYWHERE)
def bank_votes_no(run: Run) -> None:
    """A deferred constraint fails at PREPARE; the others are told to abort (O04)."""
    with run.bank() as bank:
        bank.execute(
            "CREATE TABLE IF NOT EXISTS entry (account INTEGER REFERENCES account DEFERRABLE INITIALLY DEFERRED)"
        )
    with run.block(run.manager()) as tx:
        transfer(tx, run.name)
        tx.connect(BANK).execute("INSERT INTO entry VALUES (99)")


@scene(journals=EVERYWHERE)
def bank_has_failed(run: Run) -> None:
    """An SQL error that the user's code swallowed (DATABASES PostgreSQL 1)."""
    with run.block(run.manager()) as tx:
        transfer(tx, run.name)
        with contextlib.suppress(psycopg.Error):
            tx.connect(BANK).execute("SELECT 1 / 0")


@scene(journals=EVERYWHERE)
def bank_cannot_prepare(run: Run) -> None:
    """A temporary table (DATABASES PostgreSQL 5)."""
    with run.block(run.manager()) as tx:
        transfer(tx, run.name)
        tx.connect(BANK).execute("CREATE TEMP TABLE t (n integer)")


@scene()
def bank_is_busy(run: Run) -> None:
    """A stream that nobody has read to its end."""
    with run.block(run.manager()) as tx:
        transfer(tx, run.name)
        stream = tx.connect(BANK).cursor().stream("SELECT generate_series(1, 100000)")
        next(stream)


@scene()
def serializable_reader_is_refused(run: Run) -> None:
    """Its COMMIT would be wrong after an error."""
    with run.block(run.manager(), id=run.name) as tx:
        bank = tx.connect(BANK)
        bank.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
        with contextlib.suppress(psycopg.Error):
            bank.execute("SELECT 1 / 0")


@scene(journals=EVERYWHERE)
def ledger_was_the_victim(run: Run) -> None:
    """A deadlock's victim, swallowed: XA ROLLBACK only (DATABASES MariaDB 4)."""
    other = run.ledger()
    with run.block(run.manager(), fails=Exception) as tx:
        transfer(tx, run.name, (BANK, AUDIT))
        ledger = tx.connect(LEDGER)
        with ledger.cursor() as mine, other.cursor() as theirs:
            # The one that has changed less is the victim.
            theirs.execute("BEGIN")
            theirs.execute("INSERT INTO transfer (id, amount, number) VALUES ('weight', 1, 1), ('weight', 1, 2)")
            theirs.execute("UPDATE account SET balance = balance WHERE id = 2")
            mine.execute("SELECT balance FROM account WHERE id = 1 FOR UPDATE")
            _wait_for(other, mine)
    other.rollback()


def _wait_for(other: object, mine: object) -> None:
    """Both wait for each other; the server ends ours."""
    import threading

    def want_first() -> None:
        with other.cursor() as theirs:  # type: ignore[attr-defined]
            theirs.execute("UPDATE account SET balance = balance WHERE id = 1")

    thread = threading.Thread(target=want_first, daemon=True)
    thread.start()
    with contextlib.suppress(Exception):
        mine.execute("SELECT balance FROM account WHERE id = 2 FOR UPDATE")  # type: ignore[attr-defined]
    thread.join()


@scene(journals=EVERYWHERE)
def audit_cannot_capture(run: Run) -> None:
    """A table without a key: no changeset, so no vote."""
    with run.block(run.manager()) as tx:
        transfer(tx, run.name)
        audit = tx.connect(AUDIT)
        audit.execute("CREATE TABLE IF NOT EXISTS loose (n)")
        audit.execute("INSERT INTO loose VALUES (1)")


@scene(expects=NOWHERE)
def one_phase_refused(run: Run) -> None:
    """The lone writer cannot commit."""
    with run.bank() as bank:
        bank.execute(
            "CREATE TABLE IF NOT EXISTS entry (account INTEGER REFERENCES account DEFERRABLE INITIALLY DEFERRED)"
        )
    manager = run.manager()
    with run.block(manager) as tx:
        transfer(tx, run.name, (BANK,))
        tx.connect(BANK).execute("INSERT INTO entry VALUES (99)")
    with run.block(manager, fails=Exception) as tx, tx.connect(LEDGER).cursor() as cursor:
        cursor.execute("INSERT INTO account VALUES (1, 1)")


# --- waits that expire ----------------------------------------------------------------------------------------


@scene()
def waits_in_vain(run: Run) -> None:
    """Somebody else holds the rows until the time is over; the error says who (DESIGN section 3)."""
    manager = run.manager()
    bank, ledger, audit = run.bank(), run.ledger(), run.audit()
    bank.autocommit = False
    bank.execute("UPDATE account SET balance = balance")
    with run.block(manager, fails=psycopg.Error, timeout=0.4) as tx:
        transfer(tx, run.name)
    bank.rollback()
    ledger.begin()
    with ledger.cursor() as cursor:
        cursor.execute("UPDATE account SET balance = balance")
    with run.block(manager, fails=Exception, timeout=1.2) as tx:
        transfer(tx, run.name, (LEDGER,))
    ledger.rollback()
    audit.execute("BEGIN IMMEDIATE")
    with run.block(manager, fails=(apsw.BusyError, SyncpointError), timeout=0.4) as tx:
        transfer(tx, run.name, (AUDIT,))
    audit.execute("ROLLBACK")
    with run.block(manager, fails=apsw.BusyError) as tx:  # on a connection of the user's own
        transfer(tx, run.name, (AUDIT,))
        audit.execute("BEGIN IMMEDIATE")
