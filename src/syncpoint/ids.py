"""The names of things: GUIDs, transaction ids, attempts, branch identifiers.

Every layer uses these words; none of them does any IO. An `Identifier` is what a prepare request
carries (A1): from its bytes alone a restarted participant knows which coordinator to ask, and about
which unit of work (A6).

Bytes of an identifier, format version 1 (43 bytes, fixed):

    offset  size  field
         0     1  format version (1)
         1    16  coordinator GUID
        17    16  transaction id
        33     8  attempt, big-endian: incarnation (4), counter (4)
        41     2  branch number, big-endian

Not for: making random values (ports.Random does that) or storing anything.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import NewType

from syncpoint.errors import ConfigurationError, FormatTooNew, IdTooLong

IDENTIFIER_FORMAT = 1
IDENTIFIER_SIZE_BYTES = 43
XA_FORMAT_ID = 0x53505431  # "SPT1": how our branches are told from others' in XA RECOVER
GID_PREFIX = "syncpoint_"  # how our branches are told from others' in pg_prepared_xacts
ID_SIZE_CHARS_MAX = 255  # a user's id, and its scope, each

Incarnation = NewType("Incarnation", int)
"""Which start of a process: drawn from the journal's single counter, never reused."""
INCARNATION_MAX = 0xFFFF_FFFF  # four bytes of an attempt

BranchNumber = NewType("BranchNumber", int)


class NotOurs(ValueError):
    """These bytes are no identifier of Syncpoint's: leave that branch alone (O33)."""


def _sixteen_bytes(text: str, what: str) -> bytes:
    if len(text) != 32:  # `fromhex` passes over blanks: a user's own id may look so
        raise ValueError(f"{what} has 32 hexadecimal digits, not {len(text)} characters")
    raw = bytes.fromhex(text)
    if len(raw) != 16:
        raise ValueError(f"{what} has 32 hexadecimal digits and nothing between them")
    return raw


@dataclass(frozen=True, slots=True, order=True)
class Guid:
    """Sixteen random bytes that name a coordinator or a resource manager for ever."""

    raw: bytes

    def __post_init__(self) -> None:
        assert len(self.raw) == 16, f"a GUID has 16 bytes, not {len(self.raw)}"

    def __str__(self) -> str:
        return self.raw.hex()

    @classmethod
    def parse(cls, text: str) -> Guid:
        """Read the 32 hexadecimal digits that `str` writes, capital letters too. Raises ValueError."""
        return cls(_sixteen_bytes(text, "a GUID"))


@dataclass(frozen=True, slots=True, order=True)
class TransactionId:
    """Sixteen bytes that name one transaction: random, or derived from the user's own id."""

    raw: bytes

    def __post_init__(self) -> None:
        assert len(self.raw) == 16, f"a transaction id has 16 bytes, not {len(self.raw)}"

    def __str__(self) -> str:
        return self.raw.hex()

    @classmethod
    def parse(cls, text: str) -> TransactionId:
        """Read the 32 hexadecimal digits that `str` writes, capital letters too. Raises ValueError."""
        return cls(_sixteen_bytes(text, "a transaction id"))

    @classmethod
    def from_user_id(cls, scope: str, user_id: str) -> TransactionId:
        """SHA-256(scope, id)[:16] (DESIGN section 3). Raises IdTooLong."""
        for what, text in (("scope", scope), ("id", user_id)):
            if not text and what == "id":
                raise IdTooLong("A transaction's id may not be empty.", advice="Give a non-empty id, or none.")
            if len(text) > ID_SIZE_CHARS_MAX:
                raise IdTooLong(
                    f"The transaction's {what} has {len(text)} characters; at most {ID_SIZE_CHARS_MAX} are allowed.",
                    advice="Use a shorter one, for example a digest of it.",
                )
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise ConfigurationError(
                    f"The transaction's {what} is no valid text: {error}.", advice="Use text that UTF-8 can write."
                ) from None
        scope_bytes = scope.encode()
        joined = len(scope_bytes).to_bytes(4, "big") + scope_bytes + user_id.encode()
        return cls(hashlib.sha256(joined).digest()[:16])

    @classmethod
    def under(cls, superior: Identifier) -> TransactionId:
        """What a subordinate calls the branch of its superior's transaction that this identifier names.

        A journal takes one Commit of a transaction, whatever its attempt: so nobody can commit one branch twice.
        """
        return cls(hashlib.sha256(b"subordinate" + superior.to_bytes()).digest()[:16])


@dataclass(frozen=True, slots=True, order=True)
class Attempt:
    """One try at a transaction: (incarnation; counter). Never reused, so a late message of an old try hits nothing."""

    incarnation: Incarnation
    counter: int

    COUNTER_MAX = 0xFFFF_FFFF  # a class attribute, not a field: it has no annotation

    def __str__(self) -> str:
        return f"{self.incarnation}.{self.counter}"

    def to_int(self) -> int:
        assert 0 <= self.counter <= self.COUNTER_MAX, "an attempt's counter is used up: draw a new incarnation"
        return (self.incarnation << 32) | self.counter

    @classmethod
    def from_int(cls, value: int) -> Attempt:
        return cls(Incarnation(value >> 32), value & 0xFFFF_FFFF)


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """What a journal's record is filed under: (transaction, attempt)."""

    transaction: TransactionId
    attempt: Attempt

    def __str__(self) -> str:
        return f"{self.transaction}/{self.attempt}"


@dataclass(frozen=True, slots=True, order=True)
class Identifier:
    """What a prepare request carries (A1), and the name of the branch in its database."""

    coordinator: Guid
    transaction: TransactionId
    attempt: Attempt
    branch: BranchNumber

    @property
    def key(self) -> Key:
        return Key(self.transaction, self.attempt)

    def __str__(self) -> str:
        return f"{self.transaction}/{self.attempt}#{self.branch}"

    def to_bytes(self) -> bytes:
        return b"".join(
            (
                bytes((IDENTIFIER_FORMAT,)),
                self.coordinator.raw,
                self.transaction.raw,
                self.attempt.to_int().to_bytes(8, "big"),
                self.branch.to_bytes(2, "big"),
            )
        )

    @classmethod
    def from_bytes(cls, raw: bytes) -> Identifier:
        """Read an identifier. Raises NotOurs on anything else, FormatTooNew on a later version of ours."""
        if len(raw) < 1 or raw[0] == 0:
            raise NotOurs(f"not an identifier: {raw[:8].hex()}…")
        if raw[0] > IDENTIFIER_FORMAT:
            raise FormatTooNew("identifier", raw[0], IDENTIFIER_FORMAT)
        if len(raw) != IDENTIFIER_SIZE_BYTES:
            raise NotOurs(f"an identifier has {IDENTIFIER_SIZE_BYTES} bytes, not {len(raw)}")
        return cls(
            coordinator=Guid(raw[1:17]),
            transaction=TransactionId(raw[17:33]),
            attempt=Attempt.from_int(int.from_bytes(raw[33:41], "big")),
            branch=BranchNumber(int.from_bytes(raw[41:43], "big")),
        )

    def to_gid(self) -> str:
        """The text that names the branch in PostgreSQL (96 bytes; at most 199 are allowed)."""
        return GID_PREFIX + self.to_bytes().hex()

    @classmethod
    def from_gid(cls, gid: str) -> Identifier:
        """Read `to_gid`. Raises NotOurs, FormatTooNew."""
        if not gid.startswith(GID_PREFIX):
            raise NotOurs(f"not an identifier: {gid!r}")
        try:
            raw = bytes.fromhex(gid.removeprefix(GID_PREFIX))
        except ValueError:
            raise NotOurs(f"not an identifier: {gid!r}") from None
        if gid != GID_PREFIX + raw.hex():  # other letters, other branch: PostgreSQL compares bytes
            raise NotOurs(f"not an identifier as Syncpoint writes it: {gid!r}")
        return cls.from_bytes(raw)

    def to_xid(self) -> tuple[bytes, bytes]:
        """(gtrid, bqual) for XA: the transaction's part (33 bytes of 64), the attempt's and branch's (10 of 64)."""
        raw = self.to_bytes()
        return raw[:33], raw[33:]

    @classmethod
    def from_xid(cls, format_id: int, gtrid: bytes, bqual: bytes) -> Identifier:
        """Read `to_xid`. Raises NotOurs, FormatTooNew."""
        if format_id != XA_FORMAT_ID:
            raise NotOurs(f"XA format id {format_id} is not Syncpoint's")
        identifier = cls.from_bytes(gtrid + bqual)
        if len(gtrid) != 33:  # the same bytes cut elsewhere are another branch to MariaDB
            raise NotOurs(f"a gtrid of Syncpoint's has 33 bytes, not {len(gtrid)}")
        return identifier
