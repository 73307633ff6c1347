"""The tables of a journal in a simulated database server: rows, locks, transactions, and what a crash leaves of them.

The rows are kept by SQLite in memory, which runs the journal's real statements; what a server adds stands here:

    a packet           one transaction, READ COMMITTED: each statement sees what is committed, and its own writes
    locks              on what is written, exclusive; on what `share(row)` names, shared; until the packet has ended.
                       Whoever meets one waits, LOCK_WAIT at most, then the whole packet did nothing (BUSY)
    in between         a packet may stand still after any statement, and its commit takes what the disk takes
    the log            commits in order. A forced one is seen by others once it is on disk, or, with `early`, a moment
                       before (MariaDB); a lazy one is seen at once and is on disk some time later. A crash takes back
                       a suffix of what is not on disk, seen or not
    the clock          is the server's own: it may run fast or slow, and jump

Not for: the network in between (database.py), or the words that make the statements SQLite's (journal_store.py).
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from syncpoint.ids import Guid
from syncpoint.journal.store import LOCK_WAIT_MS, Row, Said, Trouble
from syncpoint.simulation.process import SimClock
from syncpoint.simulation.runtime import Promise
from syncpoint.simulation.world import Timer, World
from syncpoint.steps import Done

FORCE_S = (0.0005, 0.003)
STALL_S = (0.05, 2.5)
"""How long a commit may take when the disk has something else to do."""
SLOW = 0.7
PAUSE_S = (0.001, 0.5)
"""How long a packet may stand still between two statements."""
LAZY_S = (0.05, 0.6)
"""After how long a lazy commit is on disk."""

Values = tuple[Any, ...]
Name = tuple[str, Values]
"""A row: its table, and the values of its key."""
Branch = Callable[[], Callable[[], None]]
"""What commits together with a packet; returns how to take it back."""


@dataclass(frozen=True, slots=True)
class Table:
    """One table: its columns, the first `keys` of which are its key, and a column that is unique besides."""

    name: str
    columns: tuple[str, ...]
    definitions: str
    keys: int
    unique: str = ""

    def names(self, values: Values) -> list[Name]:
        """What a row with these values locks: itself, and the value of its unique column."""
        found: list[Name] = [(self.name, values[: self.keys])]
        if self.unique:
            value = values[self.columns.index(self.unique)]
            found += [(f"{self.name} {self.unique}", (value,))] if value is not None else []
        return found


TABLES: Mapping[str, Table] = {
    table.name: table
    for table in (
        Table(
            "journal",
            ("single", "guid", "format", "cluster", "counter", "refused"),
            "single BOOLEAN PRIMARY KEY, guid BLOB NOT NULL, format INTEGER NOT NULL, cluster TEXT NOT NULL, "
            "counter BIGINT NOT NULL, refused TEXT",
            1,
        ),
        Table(
            "incarnation",
            ("incarnation", "keeper", "process"),
            "incarnation BIGINT PRIMARY KEY NOT NULL, keeper BIGINT NOT NULL, process TEXT NOT NULL",
            1,
        ),
        Table("heartbeat", ("incarnation", "beat"), "incarnation BIGINT PRIMARY KEY NOT NULL, beat BIGINT NOT NULL", 1),
        Table(
            "record",
            ("transaction", "attempt", "incarnation", "once", "kept", "data", "ended"),
            '"transaction" BLOB NOT NULL, attempt BIGINT NOT NULL, incarnation BIGINT NOT NULL, once BLOB UNIQUE, '
            'kept BOOLEAN NOT NULL, data BLOB NOT NULL, ended BIGINT, PRIMARY KEY ("transaction", attempt)',
            2,
            unique="once",
        ),
        Table(
            "claim",
            ("transaction", "incarnation"),
            '"transaction" BLOB PRIMARY KEY NOT NULL, incarnation BIGINT NOT NULL',
            1,
        ),
        Table(
            "note",
            ("transaction", "attempt", "data"),
            'id INTEGER PRIMARY KEY AUTOINCREMENT, "transaction" BLOB NOT NULL, attempt BIGINT NOT NULL, '
            "data BLOB NOT NULL",
            3,
        ),
        Table(
            "known",
            ("kind", "name", "data"),
            "kind TEXT NOT NULL, name TEXT NOT NULL, data BLOB NOT NULL, PRIMARY KEY (kind, name)",
            2,
        ),
    )
}

_TROUBLES = {
    sqlite3.SQLITE_CONSTRAINT_NOTNULL: Trouble.FENCED,
    sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY: Trouble.DUPLICATE,
    sqlite3.SQLITE_CONSTRAINT_UNIQUE: Trouble.DUPLICATE,
}
_COLUMN = re.compile(r"\btransaction\b")
"""A reserved word in SQLite. Values are hexadecimal digits: it is always the column."""


@dataclass(frozen=True, slots=True)
class Habits:
    """How this server behaves where real ones differ, and how bad its disk is."""

    early: bool = False
    """A commit can be seen a moment before it is on disk; and none is lazy."""
    stalls: float = 0.0
    """How likely a commit takes long."""
    pauses: float = 0.0
    """How likely a packet stands still after a statement."""


@dataclass(eq=False, slots=True)
class Packet:
    """One transaction under way."""

    statements: Sequence[str]
    durable: bool
    what: str
    branch: Branch | None
    promise: Promise = field(default_factory=Promise)
    found: list[tuple[Row, ...]] = field(default_factory=list)
    writes: dict[Name, tuple[Values | None, Values | None]] = field(default_factory=dict)
    """Row to (what it was, what it becomes)."""
    locks: dict[Name, bool] = field(default_factory=dict)
    """Row to whether it is exclusive."""
    waits: Timer | None = None
    """Until when it waits for somebody's lock."""
    take_back: Callable[[], None] | None = None
    is_seen: bool = False
    is_on_disk: bool = False


class JournalRows:
    """The journal's tables of one server. `name` is the server's."""

    def __init__(self, world: World, name: str, habits: Habits, guid: Callable[[], Guid | None]) -> None:
        self.world = world
        self.name = name
        self.habits = habits
        self.clock = SimClock(world, offset_s=1_000_000.0)
        self.slow = 0
        """How many faults slow its disk down at the moment: then most commits take long."""
        self.is_healed = False
        """No stalls and no pauses any more."""
        self.dead_after_s = 3.0
        """What the processes have agreed on, for the check of who judges whom."""
        self.crashes = 0
        self._away = (0.0, 0.0)
        """From when until when it was down last."""
        self._drawn_s: dict[int, float] = {}
        self.taken: set[int] = set()
        """Incarnations that were seen to be kept by others, even if a crash took that back."""
        self._guid = guid
        self._chance = world.stream(f"journal at {name}")
        self._open: dict[Packet, None] = {}
        self._log: list[Packet] = []
        """Commits that are not on disk, or not seen, in order."""
        self._heard: list[tuple[bool, str, Values]] = []
        self._shared: list[Name] = []
        self._database = sqlite3.connect(":memory:", isolation_level=None, cached_statements=256)
        self._database.execute("ATTACH ':memory:' AS syncpoint")
        self._database.create_function("now_ms", 0, self.now_ms)
        self._database.create_function("share", 1, self._share)
        self._database.create_function("database_guid", 0, self._database_guid)
        self._database.create_function("took", -1, partial(self._hear, False))
        self._database.create_function("put", -1, partial(self._hear, True))

    def __repr__(self) -> str:
        return f"<JournalRows {self.name} {len(self._open)} open, {len(self._log)} not on disk>"

    # --- from outside ------------------------------------------------------------------------------------------

    def now_ms(self) -> int:
        """What its clock shows."""
        return int((self.clock.monotonic() + self.clock.wall_step_s) * 1000)

    def select(self, statement: str) -> list[Values]:
        """What is committed, for checks. Nothing, while there are no tables."""
        try:
            return self._database.execute(_COLUMN.sub('"transaction"', statement)).fetchall()
        except sqlite3.OperationalError:
            return []

    def lives(self, incarnation: int) -> bool:
        """Whether nobody has taken over from it, as far as is committed."""
        return bool(
            self.select(
                f"SELECT 1 FROM syncpoint.incarnation WHERE incarnation = {incarnation} AND keeper = {incarnation}"
            )
        )

    def heal(self) -> None:
        """From now on its disk is fast, and its clock right but for what it has jumped."""
        self.is_healed = True
        self.clock.drift(1.0)

    # --- its life ------------------------------------------------------------------------------------------------

    def make_tables(self) -> Said:
        """Make what is missing; on disk at once."""
        run = self._database.execute
        for table in TABLES.values():
            run(f"CREATE TABLE IF NOT EXISTS syncpoint.{table.name} ({table.definitions})")
            columns = {age: ", ".join(f'{age}."{column}"' for column in table.columns) for age in ("OLD", "NEW")}
            took, put = (
                f"SELECT {word}('{table.name}', {columns[age]});" for word, age in (("took", "OLD"), ("put", "NEW"))
            )
            for event, body in (("INSERT", put), ("UPDATE", took + put), ("DELETE", took)):
                run(
                    f"CREATE TEMP TRIGGER IF NOT EXISTS {table.name}_{event} AFTER {event} ON syncpoint.{table.name} "
                    f"BEGIN {body} END"
                )
        run("CREATE VIEW IF NOT EXISTS syncpoint.resource AS SELECT database_guid() AS guid")
        return Said(())

    def crash(self) -> None:
        """What is under way is lost; of what is not on disk, the last commits, or all, or none."""
        for packet in self._open:
            if packet.waits is not None:
                packet.waits.cancel()
        self._open.clear()
        kept = self._chance.randint(sum(packet.is_on_disk for packet in self._log), len(self._log))
        if kept < len(self._log):
            self.world.count("journal commits lost in a crash")
        for packet in reversed(self._log[kept:]):
            if packet.is_seen:
                self._write({name: (after, before) for name, (before, after) in packet.writes.items()})
                if packet.take_back is not None:
                    packet.take_back()
        for packet in self._log[:kept]:
            if not packet.is_seen:
                self._show(packet)
        self._log.clear()
        self.crashes += 1
        self._away = (self.world.now_s, self.world.now_s)

    def start(self) -> None:
        """It is back."""
        self._away = (self._away[0], self.world.now_s)

    def flush(self) -> None:
        """Something else was forced in the same log: all that came before is on disk."""
        self._force_all(len(self._log))

    def _force_all(self, count: int) -> None:
        for packet in self._log[:count]:
            packet.is_on_disk = True
        self._log = [packet for packet in self._log if not (packet.is_on_disk and packet.is_seen)]

    # --- packets -------------------------------------------------------------------------------------------------

    def submit(self, statements: Sequence[str], what: str, *, durable: bool, branch: Branch | None = None) -> Promise:
        """Run these as one transaction; the promise is kept with what was `Said`. A server that crashes keeps none."""
        packet = Packet(statements, durable or self.habits.early, what, branch)
        self._open[packet] = None
        self._go_on(packet)
        return packet.promise

    def _go_on(self, packet: Packet) -> None:
        if packet not in self._open:
            return  # the server has crashed since
        while len(packet.found) < len(packet.statements):
            try:
                rows = self._run(packet, _COLUMN.sub('"transaction"', packet.statements[len(packet.found)]))
            except sqlite3.Error as error:
                self._end(packet, _trouble(error), error)
                return
            if rows is None:
                if packet.waits is None:
                    self.world.count("journal packets that waited")
                    packet.waits = self.world.after(LOCK_WAIT_MS / 1000, partial(self._give_up, packet))
                return
            if packet.waits is not None:
                packet.waits.cancel()
                packet.waits = None
            packet.found.append(rows)
            if self._happens(self.habits.pauses):
                self.world.after(self._chance.uniform(*PAUSE_S), partial(self._go_on, packet))
                return
        self._commit(packet)

    def _run(self, packet: Packet, statement: str) -> tuple[Row, ...] | None:
        """One statement; None: somebody holds a lock that it needs, and nothing was done."""
        run = self._database.execute
        touches_own = any(f"syncpoint.{table}" in statement for table, _ in packet.writes)
        if statement.startswith("SELECT") and not touches_own:
            return _rows(run(statement).fetchall())
        run("BEGIN")
        try:
            self._put(packet.writes)
            self._heard, self._shared = [], []
            rows = _rows(run(statement).fetchall())
        finally:
            run("ROLLBACK")
        needed = dict.fromkeys(self._shared, False)
        for _, table, values in self._heard:
            needed.update(dict.fromkeys(TABLES[table].names(values), True))
        if any(_excludes(other, needed) for other in self._open if other is not packet):
            return None
        for name, is_exclusive in needed.items():
            packet.locks[name] = is_exclusive or packet.locks.get(name, False)
        for is_put, table, values in self._heard:
            name = TABLES[table].names(values)[0]
            before = packet.writes[name][0] if name in packet.writes else None if is_put else values
            packet.writes[name] = (before, values if is_put else None)
        return rows

    def _give_up(self, packet: Packet) -> None:
        if packet in self._open:
            packet.waits = None
            self._end(packet, Trouble.BUSY, sqlite3.OperationalError("it waited too long for somebody's lock"))

    def _commit(self, packet: Packet) -> None:
        """It is in the log now; when it is on disk, and when others see it, depends."""
        if not packet.writes and packet.branch is None:
            self._end(packet)
            return
        self._log.append(packet)
        if not packet.durable or self.habits.early:
            self._show(packet)
        if not packet.durable:
            self.world.after(self._chance.uniform(*LAZY_S), partial(self._forced, packet))
            self._end(packet)
            return
        seconds = self._chance.uniform(
            *(STALL_S if self._happens(SLOW if self.slow else self.habits.stalls) else FORCE_S)
        )
        if self.habits.early:
            packet.locks.clear()
            self._wake()
        self.world.after(seconds, partial(self._forced, packet))

    def _forced(self, packet: Packet) -> None:
        """It is on disk, and all before it."""
        if packet in self._open and not packet.is_seen:
            self._show(packet)
        if packet in self._log:
            self._force_all(self._log.index(packet) + 1)
        if packet in self._open:
            self._end(packet)

    def _show(self, packet: Packet) -> None:
        packet.is_seen = True
        self._write(packet.writes)
        for (table, _), (before, after) in packet.writes.items():
            if table == "incarnation" and after is not None:
                self._look_at(before, after)
        if packet.branch is not None:
            packet.take_back = packet.branch()

    def _look_at(self, before: Values | None, after: Values) -> None:
        """Nobody is taken for dead because the server was away: who was not heard of himself judges nobody for a while.
        (Clocks run up to twice as fast. A process that has begun since knows of no outage.)"""
        own, keeper = after[:2]
        if keeper != own:
            self.taken.add(own)
        if before is None:
            self._drawn_s[own] = self.world.now_s
        elif before[1] == own and keeper not in (0, own):
            down_s, up_s = self._away
            is_new = self._drawn_s.get(keeper, 0.0) >= up_s
            was_away = up_s - down_s > 2.5 * self.dead_after_s
            if was_away and not is_new and self.world.now_s - up_s < 0.4 * self.dead_after_s:
                self.world.violation(f"{keeper} took {own} for dead just after the journal's database was away")

    def _end(self, packet: Packet, trouble: Trouble = Trouble.NONE, error: Exception | None = None) -> None:
        del self._open[packet]
        if trouble is not Trouble.NONE:
            self.world.note(self.name, f"{packet.what}: {trouble.name}")
            self.world.count(f"journal packets {trouble.name}")
        packet.promise.keep(Done(Said(tuple(packet.found), trouble, error)))
        self._wake()

    def _wake(self) -> None:
        """Locks have come free: whoever waits tries again, in order."""
        for packet in [one for one in self._open if one.waits is not None]:
            self.world.after(0.0, partial(self._try_again, packet))

    def _try_again(self, packet: Packet) -> None:
        if packet.waits is not None:
            self._go_on(packet)

    def _happens(self, how_likely: float) -> bool:
        return not self.is_healed and how_likely > 0 and self._chance.random() < how_likely

    # --- rows ------------------------------------------------------------------------------------------------------

    def _write(self, writes: Mapping[Name, tuple[Values | None, Values | None]]) -> None:
        self._database.execute("BEGIN")
        self._put(writes)
        self._database.execute("COMMIT")

    def _put(self, writes: Mapping[Name, tuple[Values | None, Values | None]]) -> None:
        for (name, keys), (before, after) in writes.items():
            table = TABLES[name]
            if before is not None:
                which = " AND ".join(f'"{column}" = ?' for column in table.columns[: table.keys])
                self._database.execute(f"DELETE FROM syncpoint.{name} WHERE {which}", keys)
            if after is not None:
                columns = ", ".join(f'"{column}"' for column in table.columns)
                places = ", ".join("?" for _ in after)
                self._database.execute(f"INSERT INTO syncpoint.{name} ({columns}) VALUES ({places})", after)

    # --- what statements call ------------------------------------------------------------------------------------

    def _share(self, incarnation: int) -> bool:
        self._shared.append(("incarnation", (incarnation,)))
        return True

    def _hear(self, is_put: bool, table: str, *values: Any) -> None:
        self._heard.append((is_put, table, values))

    def _database_guid(self) -> bytes | None:
        guid = self._guid()
        return None if guid is None else guid.raw


def _excludes(other: Packet, needed: Mapping[Name, bool]) -> bool:
    return any(name in other.locks and (is_exclusive or other.locks[name]) for name, is_exclusive in needed.items())


def _rows(found: Sequence[Values]) -> tuple[Row, ...]:
    return tuple(tuple(None if value is None else str(value) for value in row) for row in found)


def _trouble(error: sqlite3.Error) -> Trouble:
    if "no such table" in str(error):
        return Trouble.MISSING
    return _TROUBLES.get(getattr(error, "sqlite_errorcode", -1), Trouble.REFUSED)
