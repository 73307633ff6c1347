"""Where the journal of a world is: in a folder, in a database that takes part, or in one that does not.

Of a journal in a database every play gets a fresh one: its rows are removed, and whoever comes next begins it anew,
under another GUID. Death is only guessed there, from missing signs of life; here nobody waits for that, and nobody is
guessed dead who lives: processes wait for very long, and when one has died the time is made to have passed.
Not for: what is played (scenes_*.py), or the databases' own rows (world.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import psycopg
import pymysql

if TYPE_CHECKING:
    from tests.crash.world import World

FOLDER, IN_BANK, IN_LEDGER, APART = "folder", "bank", "ledger", "apart"
"""The kinds. The middle two are in the database of that resource: its branch's commit is the decision."""
ADDED = (IN_BANK, IN_LEDGER, APART)
EVERYWHERE = (FOLDER, *ADDED)
DECIDERS = (IN_BANK, IN_LEDGER)

CALM = "heartbeat_s=5&dead_after_s=60"
"""Signs of life that come at the beginning, and later than any play lasts."""
TABLES = ("journal", "incarnation", "heartbeat", "record", "claim", "note", "known")
_MISSING = (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName)
_MISSING_ERRORS = (1049, 1146)


def option_of(kind: str, *, folder: str, apart_url: str) -> str:
    """What a manager is given as its journal."""
    if kind == FOLDER:
        return folder
    return f"{apart_url if kind == APART else kind}?{CALM}"


def empty(world: World) -> None:
    """Remove all rows of the journal: the next process begins another one."""
    run(world, [f"DELETE FROM syncpoint.{table}" for table in TABLES])


def let_time_pass(world: World) -> None:
    """Until whoever has died is taken for dead by the next that looks. Nobody may live just now."""
    run(world, ["DELETE FROM syncpoint.heartbeat"])


def run(world: World, statements: list[str]) -> None:
    """As one transaction. A journal that is not there is left so."""
    if world.kind == FOLDER:
        return
    try:
        with cursor(world) as one:
            for statement in statements:
                one.execute(statement)
    except _MISSING:
        return
    except pymysql.MySQLError as error:
        if error.args[0] not in _MISSING_ERRORS:
            raise


@contextlib.contextmanager
def cursor(world: World) -> Iterator[Any]:
    """On a connection of our own to the journal's database, in one transaction."""
    if world.kind == IN_LEDGER:
        with closing(world.ledger()) as ledger, ledger.cursor() as one:
            one.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
            one.execute("BEGIN")
            yield one
            one.execute("COMMIT")
    else:
        url = world.bank_url if world.kind == IN_BANK else world.apart_url
        with psycopg.connect(url) as connection:
            yield connection.cursor()
