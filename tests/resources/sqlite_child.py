"""A process that works on a SQLite file and kills itself with SIGKILL at a given point. Run by test_sqlite_crash.py.

    python -m tests.resources.sqlite_child ROLE FILE MODE POINT

POINT is `never`; `before:N` or `after:N`, the N-th step its runner performs; or `in:NAME:before`, `in:NAME:after`,
`in:note:torn`, inside a step (see INNER). The journal of these tests is a file beside the database that holds the
state information of decided branches, by identifier.

Not for: asserting anything; the test looks at the file afterwards.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from syncpoint.ids import Identifier
from syncpoint.resources import sqlite_branch, sqlite_changeset, sqlite_ledger, sqlite_settlement
from syncpoint.resources.base import Ask, BranchStart, Choice, Decision, Mode, Ruling
from syncpoint.resources.sqlite_connection import GuardedConnection
from syncpoint.resources.sqlite_note import NoteFile
from syncpoint.steps import Local, Script
from tests.resources.sqlite_world import World, make_identifier

BRANCH = 1_000_000
"""The number of the branch that role `branch` works on; its row has this id. (No other test gets that far.)"""


class TestJournal:
    """Decisions, durable enough for a SIGKILL."""

    __test__ = False

    def __init__(self, database: Path) -> None:
        self.path = database.with_suffix(".decisions")

    def decide(self, identifier: Identifier, state: bytes) -> None:
        decisions = self._read()
        decisions[identifier.to_bytes().hex()] = state.hex()
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(decisions))
        new.replace(self.path)

    def ruling(self, identifier: Identifier) -> Ruling:
        state = self._read().get(identifier.to_bytes().hex())
        return Ruling(Decision.ABORT) if state is None else Ruling(Decision.COMMIT, bytes.fromhex(state))

    def ask(self) -> Ask:
        def ask(identifier: Identifier) -> Script[Ruling]:
            ruling: Ruling = yield Local(lambda: self.ruling(identifier), "read the decisions")
            return ruling

        return ask

    def _read(self) -> dict[str, str]:
        return json.loads(self.path.read_text()) if self.path.exists() else {}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _wrap(owner: Any, name: str, when: str) -> None:
    real: Callable[..., Any] = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if when == "before":
            die()
        result = real(*args, **kwargs)
        die()
        return result

    _replace(owner, name, wrapped)


def _replace(owner: Any, name: str, value: Any) -> None:
    setattr(owner, name, value)


def _wrap_statement(sql: str, when: str) -> None:
    real = GuardedConnection.control

    def control(self: GuardedConnection, statement: str) -> None:
        if statement == sql and when == "before":
            die()
        real(self, statement)
        if statement == sql:
            die()

    _replace(GuardedConnection, "control", control)


def _wrap_torn(*_: str) -> None:
    real = os.pwrite

    def write(self: NoteFile, raw: bytes) -> None:
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT)
        real(descriptor, raw[:40], 0)
        die()

    _replace(NoteFile, "write", write)


INNER: dict[str, Callable[[str], None]] = {
    "note": lambda when: _wrap_torn() if when == "torn" else _wrap(NoteFile, "write", when),
    "evidence": lambda when: _wrap(sqlite_ledger, "insert_evidence", when),
    "changeset": lambda when: _wrap(sqlite_branch, "encode_state", when),
    "apply": lambda when: _wrap(sqlite_changeset, "_apply", when),
    "clear": lambda when: _wrap(sqlite_settlement, "clear_note", when),
    "COMMIT": lambda when: _wrap_statement("COMMIT", when),
    "ROLLBACK": lambda when: _wrap_statement("ROLLBACK", when),
    "BEGIN IMMEDIATE": lambda when: _wrap_statement("BEGIN IMMEDIATE", when),
}


def arm(world: World, point: str) -> None:
    """Make this process kill itself at the point."""
    kind, _, rest = point.partition(":")
    if kind == "in":
        name, _, when = rest.partition(":")
        INNER[name](when)
    elif kind in ("before", "after"):
        steps = iter(range(1, 1_000_000))

        def count(*_: Any) -> None:
            if next(steps) == int(rest):
                die()

        setattr(world.runner, "observer" if kind == "before" else "observer_after", count)


# --- roles ---------------------------------------------------------------------------------------------------------


def branch(world: World, journal: TestJournal) -> None:
    """One branch, decided commit between its vote and its commit."""
    session = world.open()
    world.session = session
    world.run(world.resource.contact(session, world.contact()))
    world.begin(identifier=make_identifier(number=BRANCH))
    world.execute(f"INSERT INTO t VALUES ({BRANCH}, 'child')", "UPDATE t SET v = v + 1 WHERE id = 1")
    vote = world.run(world.resource.prepare(session))
    assert vote.choice is Choice.YES, vote.reason
    journal.decide(make_identifier(number=BRANCH), vote.state)
    world.commit()


def aborted(world: World, journal: TestJournal) -> None:
    """One branch that votes yes and is aborted."""
    world.session = world.open()
    world.begin(identifier=make_identifier(number=BRANCH))
    world.execute(f"INSERT INTO t VALUES ({BRANCH}, 'child')", "UPDATE t SET v = v + 1 WHERE id = 1")
    world.run(world.resource.prepare(world.session))
    world.abort()


def settle(world: World, journal: TestJournal) -> None:
    """Another branch, which settles what stands there when it begins."""
    world.session = world.open()
    world.begin(identifier=make_identifier(number=BRANCH + 1))
    world.abort()


def recover(world: World, journal: TestJournal) -> None:
    """Recovery: scan, ask, finish."""
    world.session = world.open()
    for found in world.run(world.resource.scan(world.session)):
        assert found.identifier is not None
        ruling = world.run(journal.ask()(found.identifier))
        world.finish(found.identifier, ruling.state, commit=ruling.decision is Decision.COMMIT)


def hold(world: World, journal: TestJournal) -> None:
    """Vote, say so, and wait to be killed."""
    world.session = world.open()
    world.begin(identifier=make_identifier(number=BRANCH))
    world.execute(f"INSERT INTO t VALUES ({BRANCH}, 'held')")
    print(world.run(world.resource.prepare(world.session)).state.hex(), flush=True)
    sys.stdin.read()


def contend(world: World, journal: TestJournal) -> None:
    """Many small branches against another process that does the same."""
    world.session = world.open()
    for number in range(40):
        identifier = make_identifier(incarnation=os.getpid(), number=number + 1)
        world.run(world.resource.begin(world.session, BranchStart(identifier, 30_000)))
        world.execute("UPDATE t SET v = v + 1 WHERE id = 1")
        vote = world.run(world.resource.prepare(world.session))
        if number % 4 == 3:
            world.abort()
        else:
            journal.decide(identifier, vote.state)
            world.commit()


def main() -> None:
    role, path, mode, point = sys.argv[1:]
    journal = TestJournal(Path(path))
    modes: dict[str, Mode] = {"sync": "sync", "async": "async"}
    with World(Path(path), modes[mode], ready=False) as world:
        world.resource.ask = journal.ask()
        arm(world, point)
        {"branch": branch, "aborted": aborted, "settle": settle, "recover": recover, "hold": hold, "contend": contend}[
            role
        ](world, journal)


if __name__ == "__main__":
    main()
