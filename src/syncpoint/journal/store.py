"""A database as a place for the journal's rows: one packet of statements is one transaction, and this is how it went.

What PostgreSQL and MariaDB say differently stands behind `Store`; postgres_store.py and mariadb_store.py fulfil it.
Not for: what the rows mean (database.py), or the statements both share (statements.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import ClassVar

from syncpoint.errors import SetupRefused
from syncpoint.resources.base import Resource, Session
from syncpoint.steps import Script

Row = tuple[str | None, ...]

LOCK_WAIT_MS = 1000
"""How long a statement of the journal's waits for a lock: a recoverer behind an open INSERT decides nothing."""


class Trouble(Enum):
    """Why a packet did nothing. Whatever it was, nothing of the packet stays."""

    NONE = auto()
    DUPLICATE = auto()
    """A key is there already: another record was first."""
    FENCED = auto()
    """A value that must be there is not: the incarnation that wrote it was taken for dead."""
    BUSY = auto()
    """Waited too long for somebody's lock, or in a circle."""
    MISSING = auto()
    """No such schema, or no such table."""
    DENIED = auto()
    """Rights are missing."""
    REFUSED = auto()
    """Anything else the server said no to, before it came to committing."""


@dataclass(frozen=True, slots=True)
class Said:
    """What came back for a packet: the rows of each statement, as text, up to the error that ended it."""

    rows: tuple[tuple[Row, ...], ...]
    trouble: Trouble = Trouble.NONE
    error: Exception | None = None


class Store(ABC):
    """One database for the journal, through the sessions of a resource."""

    NOW: ClassVar[str]
    SHARE: ClassVar[str]
    """Behind a SELECT: keep the row as it is until this transaction has ended."""
    visible_is_durable: ClassVar[bool]
    """Whether a row that can be read is certainly on disk, had its writer asked for it (O59)."""
    can_be_lazy: ClassVar[bool]
    """Whether `durable=False` saves a force: what is written so can be read before it is on disk."""

    def __init__(self, resource: Resource) -> None:
        self.resource = resource

    @property
    @abstractmethod
    def tables(self) -> Sequence[str]:
        """What makes the journal's tables, one statement each, as a person could type it."""

    @property
    @abstractmethod
    def grants(self) -> str:
        """The least rights an application needs on them, as text for people."""

    @abstractmethod
    def make_tables(self, session: Session) -> Script[Said]:
        """Make what is missing. Any number of processes may do so at once."""

    @abstractmethod
    def run(self, session: Session, statements: Sequence[str], what: str, *, durable: bool = True) -> Script[Said]:
        """Run statements as one transaction and one packet. `durable=False`: it may be lost in a crash, and costs no
        force where the database can do without. Raises ConnectionLost: whether it was committed is unknown."""

    # --- the words -----------------------------------------------------------------------------------------------

    @staticmethod
    @abstractmethod
    def raw(data: bytes) -> str:
        """Bytes as SQL text."""

    @staticmethod
    @abstractmethod
    def digits(column: str) -> str:
        """A column of bytes, to be read as hexadecimal digits."""

    @staticmethod
    @abstractmethod
    def text(value: str) -> str:
        """A string as SQL text, whatever it holds."""

    @staticmethod
    @abstractmethod
    def ago(seconds: float) -> str:
        """The moment so long before now, by the database's clock."""

    @staticmethod
    @abstractmethod
    def unless_there(key: str) -> str:
        """Behind an INSERT: leave the row with the same key as it is. `key` is a column of it."""

    @staticmethod
    @abstractmethod
    def or_update(key: str, columns: Sequence[str]) -> str:
        """Behind an INSERT: put the new values of these columns into the row with the same key."""

    @staticmethod
    @abstractmethod
    def conditions(columns: Sequence[str], found: Sequence[Sequence[str]]) -> list[str]:
        """WHERE conditions, one statement each, that together mean the rows with these values of the columns of a
        key, and that make the server lock no other row on the way."""

    @staticmethod
    def in_branch(statement: str) -> str:
        """A statement that is to be run in a transaction of the application's, whose settings may be any."""
        return statement

    def refused(self, why: object) -> SetupRefused:
        """The error when the tables cannot be used or made."""
        sql = ";\n".join((*self.resource.init_statements(), *self.tables))
        return SetupRefused(
            f"The journal's database ({self.resource.safe_url}) has no usable journal tables, and this account may "
            f"not make them: {in_one_line(why)}.",
            advice=f"Let somebody who may run this once (`syncpoint init --print-sql` prints it too):\n{sql};\n"
            f"{self.grants}",
        )


def in_one_line(why: object) -> str:
    """What an error says, for a sentence: without the statement that a server may quote, and the driver's brackets."""
    said = why.args[-1] if isinstance(why, Exception) and why.args else why
    return (str(said).strip().splitlines() or [""])[0].rstrip(".")
