"""The journal's rows in a simulated database: the words that SQLite understands, over the simulated network.

Everything above this is production code: journal/database.py, living.py, lazily.py, wire.py, statements.py.
Not for: what the server does with a packet (journal_rows.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from syncpoint.journal.store import Said, Store
from syncpoint.resources.base import Session
from syncpoint.simulation.database import SimResource
from syncpoint.simulation.journal_rows import TABLES, JournalRows
from syncpoint.steps import Script


class SimStore(Store):
    """The journal in a simulated database where what can be seen is on disk, but for what is lazy (PostgreSQL)."""

    NOW: ClassVar[str] = "now_ms()"
    SHARE: ClassVar[str] = "AND share(i.incarnation)"
    visible_is_durable: ClassVar[bool] = True
    can_be_lazy: ClassVar[bool] = True

    def __init__(self, resource: SimResource) -> None:
        super().__init__(resource)
        self._sim = resource

    @property
    def rows(self) -> JournalRows:
        """The server's tables."""
        rows = self._sim.database.rows
        assert rows is not None, f"no journal lives in {self._sim.database!r}"
        return rows

    @property
    def tables(self) -> Sequence[str]:
        return [f"CREATE TABLE syncpoint.{table.name} ({table.definitions})" for table in TABLES.values()]

    @property
    def grants(self) -> str:
        return "-- none are needed"

    def make_tables(self, session: Session) -> Script[Said]:
        said: Said = yield self._sim._step(self.rows.make_tables, "journal: make its tables", session)
        return said

    def run(self, session: Session, statements: Sequence[str], what: str, *, durable: bool = True) -> Script[Said]:
        texts = tuple(statements)
        said: Said = yield self._sim._step(lambda: self.rows.submit(texts, what, durable=durable), what, session)
        return said

    # --- the words -----------------------------------------------------------------------------------------------

    @staticmethod
    def raw(data: bytes) -> str:
        return f"x'{data.hex()}'"

    @staticmethod
    def digits(column: str) -> str:
        return f"hex({column})"

    @staticmethod
    def text(value: str) -> str:
        return f"CAST(x'{value.encode().hex()}' AS TEXT)"

    @staticmethod
    def ago(seconds: float) -> str:
        return f"now_ms() - {round(seconds * 1000)}"

    @staticmethod
    def unless_there(key: str) -> str:
        return "ON CONFLICT DO NOTHING"

    @staticmethod
    def or_update(key: str, columns: Sequence[str]) -> str:
        return f"ON CONFLICT ({key}) DO UPDATE SET " + ", ".join(f"{one} = EXCLUDED.{one}" for one in columns)

    @staticmethod
    def conditions(columns: Sequence[str], found: Sequence[Sequence[str]]) -> list[str]:
        rows = ", ".join(f"({', '.join(one)})" for one in found)
        return [f"({', '.join(columns)}) IN (VALUES {rows})"]


class SimEarlyStore(SimStore):
    """The same where others see a commit a moment before it is on disk, and nothing is lazy (MariaDB)."""

    visible_is_durable: ClassVar[bool] = False
    can_be_lazy: ClassVar[bool] = False
