"""A transfer between two databases, as an application writes it. It knows nothing of tests.

python transfer.py FOLDER        make two SQLite files there, move money once, print the balances
"""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path

import apsw

import syncpoint


class NotEnough(Exception):
    """There is not so much money in the account."""


def make_databases(folder: Path) -> None:
    """Two banks with one account each."""
    for name in ("bank", "ledger"):
        with closing(apsw.Connection(str(folder / f"{name}.db"))) as database:
            database.execute("CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL)")
            database.execute("INSERT INTO account VALUES (1, 100)")


def make_manager(folder: Path) -> syncpoint.TransactionManager:
    """One transaction over both."""
    return syncpoint.TransactionManager(
        journal=folder / "journal",
        resources={"bank": f"sqlite:///{folder}/bank.db", "ledger": f"sqlite:///{folder}/ledger.db"},
    )


def transfer(manager: syncpoint.TransactionManager, amount: int) -> None:
    """Move money from the bank to the ledger. Raises NotEnough."""
    with manager.transaction() as tx:
        bank, ledger = tx.connect("bank"), tx.connect("ledger")
        ((balance,),) = bank.execute("SELECT balance FROM account WHERE id = 1").fetchall()
        if balance < amount:
            raise NotEnough(f"{balance} is less than {amount}")
        bank.execute("UPDATE account SET balance = balance - ? WHERE id = 1", (amount,))
        ledger.execute("UPDATE account SET balance = balance + ? WHERE id = 1", (amount,))


def balances(folder: Path) -> dict[str, int]:
    """What is in the two files, seen from outside."""
    found = {}
    for name in ("bank", "ledger"):
        with closing(apsw.Connection(str(folder / f"{name}.db"))) as database:
            ((found[name],),) = database.execute("SELECT balance FROM account WHERE id = 1").fetchall()
    return found


if __name__ == "__main__":
    here = Path(sys.argv[1])
    make_databases(here)
    with make_manager(here) as manager:
        transfer(manager, 10)
    print(balances(here))
