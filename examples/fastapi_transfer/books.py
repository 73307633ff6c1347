"""The two databases from outside: their tables, and the audit. Plain psycopg, never Syncpoint."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass

import psycopg

ACCOUNTS = 100
BALANCE = 1000
NAMES = ("bank", "ledger")
TABLES = (
    "CREATE TABLE account (id integer PRIMARY KEY, balance bigint NOT NULL)",
    # Neither column is unique: a transfer done twice must show, not fail.
    "CREATE TABLE transfer (receipt text, reference text, account integer NOT NULL, delta bigint NOT NULL)",
    f"INSERT INTO account SELECT number, {BALANCE} FROM generate_series(1, {ACCOUNTS}) AS number",
)


@dataclass(frozen=True)
class Audit:
    """What is wrong, counted in the databases. All zeros is what was promised."""

    lost: int
    """Acknowledged transfers that are missing somewhere, or stand there under another receipt."""
    duplicated: int
    """Transfers that were done more than once."""
    torn: int
    """Transfers that one database has and the other has not."""
    refused_but_done: int
    wrong_balances: int
    """Accounts whose balance is not what their transfers make it."""
    in_doubt: int
    """Prepared branches that nobody has finished."""

    @property
    def is_clean(self) -> bool:
        return not any(asdict(self).values())


class Books:
    """The databases, name to URL."""

    def __init__(self, urls: dict[str, str]) -> None:
        self.urls = urls

    def make_tables(self) -> None:
        for name in NAMES:
            with psycopg.connect(self.urls[name]) as connection:
                for statement in TABLES:
                    connection.execute(statement.encode())

    def prepared(self) -> list[str]:
        """What is prepared on the server now, in both databases."""
        with psycopg.connect(self.urls["bank"]) as connection:
            return [gid for (gid,) in connection.execute("SELECT gid FROM pg_prepared_xacts").fetchall()]

    def total(self) -> int:
        """All the money there is."""
        total = 0
        for name in NAMES:
            with psycopg.connect(self.urls[name]) as connection:
                row = connection.execute("SELECT sum(balance) FROM account").fetchone()
                total += int(row[0]) if row is not None else 0
        return total

    def audit(self, acknowledged: dict[str, str], refused: set[str]) -> Audit:
        """Count what went wrong. `acknowledged`: reference to receipt, as clients were told."""
        done = {name: self._receipts(name) for name in NAMES}
        references = set(done["bank"]) | set(done["ledger"])
        return Audit(
            lost=sum(
                any(receipt not in done[name].get(reference, []) for name in NAMES)
                for reference, receipt in acknowledged.items()
            ),
            duplicated=sum(any(len(done[name].get(one, [])) > 1 for name in NAMES) for one in references),
            torn=sum(Counter(done["bank"].get(one, [])) != Counter(done["ledger"].get(one, [])) for one in references),
            refused_but_done=len(refused & references),
            wrong_balances=sum(self._wrong_balances(name) for name in NAMES),
            in_doubt=len(self.prepared()),
        )

    def _receipts(self, name: str) -> dict[str, list[str]]:
        """Each reference's receipts in one database."""
        found: dict[str, list[str]] = {}
        with psycopg.connect(self.urls[name]) as connection:
            for reference, receipt in connection.execute("SELECT reference, receipt FROM transfer").fetchall():
                found.setdefault(reference, []).append(receipt)
        return found

    def _wrong_balances(self, name: str) -> int:
        with psycopg.connect(self.urls[name]) as connection:
            row = connection.execute(
                "SELECT count(*) FROM account WHERE balance <> %s + "
                "(SELECT coalesce(sum(delta), 0) FROM transfer WHERE transfer.account = account.id)",
                (BALANCE,),
            ).fetchone()
        return int(row[0]) if row is not None else 0
