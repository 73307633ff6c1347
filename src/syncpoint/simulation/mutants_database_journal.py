"""Deliberate bugs in the journal in a database, and around it, that the simulator must catch. Patched in by name.

Each breaks one rule of docs/journal-in-a-database.md or DESIGN section 3. Not for: bugs elsewhere (mutants.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any

from syncpoint.errors import JournalUncertain
from syncpoint.ids import Incarnation, Key
from syncpoint.journal.base import Verdict, View
from syncpoint.journal.database import DatabaseJournal
from syncpoint.journal.lazily import Lazily
from syncpoint.journal.living import Living
from syncpoint.journal.statements import Statements
from syncpoint.journal.store import Trouble
from syncpoint.manager import deciding, recovery
from syncpoint.manager.core import Core
from syncpoint.protocol.recovery import Settled
from syncpoint.records import Abort, Commit, End, key_fields
from syncpoint.simulation.journal_store import SimStore
from syncpoint.simulation.mutant import Mutant, put
from syncpoint.steps import Script


def _mutant(
    name: str,
    rule: str,
    where: str,
    patch: Callable[[], AbstractContextManager[None]],
    kinds: tuple[str, ...],
    *,
    workload: str | None = None,
) -> Mutant:
    return Mutant(name, rule, where, patch, workload=workload, journal="database", kinds=kinds)


# --- the decision -------------------------------------------------------------------------------------------------


def _commit_unkept(self: Statements, record: Commit) -> str:
    once = self._words.raw(record.transaction)
    own = str(record.key.attempt.incarnation)
    return self._insert_record(record, own, once, kept=record.user_id is not None)


def _commit_many(self: Statements, record: Commit) -> str:
    own = record.key.attempt.incarnation
    alive = (
        f"(SELECT i.incarnation FROM syncpoint.incarnation i WHERE i.incarnation = {own} AND i.keeper = {own} "
        f"{self._words.SHARE})"
    )
    once = self._words.raw(record.transaction + record.attempt.to_bytes(8, "big"))
    return self._insert_record(record, alive, once, kept=record.user_id is not None)


def _commit_again(self: DatabaseJournal, record: Commit) -> Script[Verdict]:
    said = yield from self._wire.insist([self._sql.commit(record)], "force a Commit record", repeat=True)
    if said.trouble in (Trouble.FENCED, Trouble.DUPLICATE):
        return Verdict.REFUSED
    self._wire.check(said)
    return Verdict.ACCEPTED


def _commit_lazily(self: DatabaseJournal, record: Commit) -> Script[Verdict]:
    said = yield from self._wire.insist([self._sql.commit(record)], "force", repeat=False, durable=False)
    if said.trouble is Trouble.FENCED:
        yield from self._living.refused()
    if said.trouble in (Trouble.FENCED, Trouble.DUPLICATE):
        return Verdict.REFUSED
    self._wire.check(said)
    return Verdict.ACCEPTED


def _assume_refused(core: Core, record: Abort) -> Script[Settled | None]:
    return Settled.ABORTED
    yield from ()


def _assume_committed(core: Core, record: Abort) -> Script[Settled | None]:
    return Settled.COMMITTED
    yield from ()


_abort = DatabaseJournal._abort


def _abort_uncertain_wins(self: DatabaseJournal, record: Abort) -> Script[Verdict]:
    try:
        return (yield from _abort(self, record))
    except JournalUncertain:
        return Verdict.ACCEPTED


# --- taking over ----------------------------------------------------------------------------------------------------


def _only_guess(self: Living, own: Incarnation, one: Incarnation, keeper: Incarnation) -> Script[None]:
    self._inherited.add(one)
    _guessed.setdefault(id(self), set()).add(one)
    return
    yield from ()


_guessed: dict[int, set[Incarnation]] = {}
_look = DatabaseJournal.look


def _look_by_guess(self: DatabaseJournal, *, inherit: bool = True) -> Script[View]:
    view = yield from _look(self, inherit=inherit)
    return replace(view, live=view.live - _guessed.get(id(self._living), set()))


@contextlib.contextmanager
def _guess() -> Iterator[None]:
    _guessed.clear()
    with (
        put(Living, "_take_over", _only_guess),
        put(DatabaseJournal, "look", _look_by_guess),
    ):
        yield


def _back_to_life(self: Living, taken: Incarnation) -> Script[None]:
    statement = f"UPDATE syncpoint.incarnation SET keeper = {taken} WHERE incarnation = {taken}"
    yield from self._others.ask([statement], "take our own number back")


def _confirm(self: Living, incarnation: Incarnation) -> Script[bool]:
    return True
    yield from ()


# --- what goes --------------------------------------------------------------------------------------------------------


_flush = Lazily.flush


def _flush_lazily(self: Lazily, *, durable: bool) -> Script[None]:
    yield from _flush(self, durable=False)


def _unended(self: DatabaseJournal, key: Key) -> Script[bool]:
    return True
    yield from ()


def _durable_never(self: Living) -> Script[None]:
    return
    yield from ()


@contextlib.contextmanager
def _never_forced() -> Iterator[None]:
    with put(Lazily, "flush", _flush_lazily), put(Living, "make_durable", _durable_never):
        yield


def _fenced_aborts(self: Statements, limit: int) -> str:
    digits = self._words.digits("r.transaction")
    return f"SELECT {digits}, r.attempt FROM syncpoint.record r WHERE r.once IS NULL LIMIT {limit}"


def _end_early(core: Core, view: View) -> None:
    for key in view.decisions:
        if key not in core.live_keys():
            core.journal.note((End(**key_fields(key)),))


def _finished(own: Incarnation) -> str:
    return f"SELECT i.incarnation FROM syncpoint.incarnation i WHERE i.keeper = {own} AND i.incarnation <> {own}"


def _remove_incarnation(one: Incarnation, *, keeper: int) -> list[str]:
    return [f"DELETE FROM syncpoint.incarnation WHERE incarnation = {one} AND keeper = {keeper}"]


@contextlib.contextmanager
def _remove_unfinished() -> Iterator[None]:
    with (
        put(Statements, "finished", staticmethod(_finished)),
        put(Statements, "_remove_incarnation", staticmethod(_remove_incarnation)),
    ):
        yield


def _claims_taken(self: Statements, transaction: Any, own: Incarnation) -> list[str]:
    raw = self._words.raw(transaction.raw)
    return [
        f"INSERT INTO syncpoint.claim (transaction, incarnation) VALUES ({raw}, {own}) "
        + self._words.unless_there("transaction"),
        f"UPDATE syncpoint.claim SET incarnation = {own} WHERE transaction = {raw}",
        f"SELECT incarnation FROM syncpoint.claim WHERE transaction = {raw}",
        self.committed(transaction),
    ]


def _may_always_judge(self: Living) -> bool:
    return True


def _unheard(self: Statements, own: Incarnation, dead_after_s: float) -> str:
    return "1 = 1"


@contextlib.contextmanager
def _judge_unheard() -> Iterator[None]:
    with (
        put(Statements, "_we_were_heard", _unheard),
        put(Living, "_may_judge", _may_always_judge),
    ):
        yield


SILENCES = ("pause", "pause-while-committing", "journal-cut", "journal-stall", "cut", "kill", "delay")
"""Processes fall silent, and most wake up again."""
DEATHS = ("kill", "pause", "pause-while-committing", "kill-while-committing")
"""Processes die, or fall silent, in the midst of committing: others finish what they decided, several at once."""
LOSSES = ("lose-a-reply", "journal-slow", "journal-stall", "journal-cut", "cut-replies", "delay", "loss", "kill")
"""Replies of the journal are lost, or late."""
CRASHES = ("database-restart-while-committing", "database-restart", "journal-slow", "kill")
"""The journal's database loses what was not on disk."""

MUTANTS: Sequence[Mutant] = (
    _mutant(
        "commit-without-share",
        "a decision that is being written keeps its incarnation as it is",
        "journal/statements.py",
        partial(put, SimStore, "SHARE", ""),
        SILENCES,
    ),
    _mutant(
        "commit-of-the-taken-over",
        "whoever was taken over decides nothing more",
        "journal/statements.py",
        partial(put, Statements, "commit", _commit_unkept),
        SILENCES,
    ),
    _mutant(
        "commit-of-many-attempts",
        "of all attempts at a transaction one commits",
        "journal/statements.py",
        partial(put, Statements, "commit", _commit_many),
        CRASHES,
        workload="resends",
    ),
    _mutant(
        "commit-sent-again",
        "a lost reply is settled by writing Abort, never by asking again",
        "journal/database.py",
        partial(put, DatabaseJournal, "_commit", _commit_again),
        LOSSES,
    ),
    _mutant(
        "commit-not-forced",
        "a decision is on disk before anybody is told",
        "journal/database.py",
        partial(put, DatabaseJournal, "_commit", _commit_lazily),
        CRASHES,
        workload="resends",
    ),
    _mutant(
        "lost-reply-is-no",
        "a lost reply is never taken for failure",
        "manager/deciding.py",
        partial(put, deciding, "_try", _assume_refused),
        LOSSES,
    ),
    _mutant(
        "lost-reply-is-yes",
        "a lost reply is never taken for success",
        "manager/deciding.py",
        partial(put, deciding, "_try", _assume_committed),
        LOSSES,
        workload="resends",
    ),
    _mutant(
        "abort-assumed",
        "who could not write an Abort knows nothing",
        "journal/database.py",
        partial(put, DatabaseJournal, "_abort", _abort_uncertain_wins),
        LOSSES,
    ),
    _mutant(
        "take-over-without-keeping",
        "whoever takes over becomes the keeper first",
        "journal/living.py",
        _guess,
        SILENCES,
    ),
    _mutant(
        "own-number-taken-back",
        "whoever was taken over stays so",
        "journal/living.py",
        partial(put, Living, "_begin_anew", _back_to_life),
        SILENCES,
    ),
    _mutant(
        "confirmed-unasked",
        "evidence that is absent proves nothing to who was taken over",
        "journal/living.py",
        partial(put, Living, "confirm", _confirm),
        SILENCES,
    ),
    _mutant(
        "ended-unasked",
        "evidence that is absent proves nothing of what others have ended",
        "journal/database.py",
        partial(put, DatabaseJournal, "unended", _unended),
        DEATHS,
    ),
    _mutant(
        "ends-not-forced",
        "an end is on disk before the evidence goes",
        "journal/lazily.py",
        _never_forced,
        CRASHES,
    ),
    _mutant(
        "aborts-of-the-living-removed",
        "an Abort outlives the last moment at which its Commit could arrive",
        "journal/statements.py",
        partial(put, Statements, "fenced_aborts", _fenced_aborts),
        ("journal-stall", "delay"),
    ),
    _mutant(
        "ends-too-early",
        "a record ends when every branch has acknowledged",
        "manager/recovery.py",
        partial(put, recovery, "end_what_is_done", _end_early),
        SILENCES,
    ),
    _mutant(
        "unfinished-removed",
        "an incarnation stays until all it decided has ended",
        "journal/statements.py",
        _remove_unfinished,
        SILENCES,
    ),
    _mutant(
        "claims-of-the-living-taken",
        "an id is exclusive among processes that live",
        "journal/statements.py",
        partial(put, Statements, "claim", _claims_taken),
        SILENCES,
        workload="resends",
    ),
    _mutant(
        "judges-unheard",
        "who was not heard of himself judges nobody",
        "journal/living.py",
        _judge_unheard,
        CRASHES,
    ),
)
