"""Every statement in the source of the PostgreSQL and MariaDB adapters has lost its reply in some scene (O43).

What was lost is known from the tests of test_lost_replies.py, which must run in the same test run; so this file comes
last in its folder. Not for: losing anything.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from syncpoint.testing.servers.base import ServerFailed, wait_until
from tests.crash import test_database_journals, test_lost_replies
from tests.crash.faults import Theatre
from tests.crash.harness import Zygote
from tests.crash.journals import DECIDERS
from tests.crash.points import PACKAGE, Kind, Point, enumerate_points
from tests.crash.test_lost_replies import FOUND, SCENES

TEST = "test_losing_any_reply_tears_nothing"
TEST_DECISION, DECIDED = "test_losing_any_reply_with_the_journal_in_a_database_tears_nothing", "transfer_with_id"
"""Decisions in a branch are lost there only."""
WAIT_S_MAX = 120.0


def test_every_statement_lost_its_reply(
    request: pytest.FixtureRequest,
    shared_folder: Path,
    announce: Callable[[str], None],
) -> None:
    """The tests that lose them may run in other processes: they are waited for."""
    chosen = {item.name for item in request.session.items}
    needed = {f"{TEST}[{name}]": name for name in SCENES}
    needed |= {f"{TEST_DECISION}[{kind}-{DECIDED}]": f"{kind}-{DECIDED}" for kind in DECIDERS}
    if not chosen.issuperset(needed):
        pytest.skip("says something only when all scenes are played")
    files = [shared_folder / f"{FOUND}{name}.json" for name in needed.values()]
    with contextlib.suppress(ServerFailed):
        wait_until(lambda: all(file.exists() for file in files), "the other test processes", WAIT_S_MAX)
    missing = [name for file, name in zip(files, needed.values(), strict=True) if not file.exists()]
    if missing:  # their tests stand in line behind this very one: then do it here
        with Theatre.opened() as theatre, Zygote() as zygote:
            for name in missing:
                _lose(name, theatre, zygote, shared_folder)
    lost = {(path, line) for file in files for path, line in json.loads(file.read_text())}
    statements = statement_points()
    unhit = [point for point in statements if (point.file, point.line) not in lost]
    announce(f"{len(statements) - len(unhit)} of {len(statements)} statements in the source have lost their reply")
    assert not unhit, "no scene lost the reply of: " + ", ".join(map(str, unhit))


def _lose(name: str, theatre: Theatre, zygote: Zygote, shared_folder: Path) -> None:
    if name in SCENES:
        test_lost_replies.test_losing_any_reply_tears_nothing(name, theatre, zygote, shared_folder, _ignore)
    else:
        kind = name.removesuffix(f"-{DECIDED}")
        test_database_journals.test_losing_any_reply_with_the_journal_in_a_database_tears_nothing(
            DECIDED, kind, theatre, zygote, shared_folder, _ignore
        )


def _ignore(name: str, value: object) -> None:
    """In place of `record_property`."""


def statement_points() -> list[Point]:
    """Every yield that sends something to a server: all but the local ones."""
    return sorted(
        point
        for point in enumerate_points()
        if point.kind is Kind.YIELD
        and point.file.startswith(("resources/postgres", "resources/mariadb"))
        and "yield Local(" not in (PACKAGE / point.file).read_text().splitlines()[point.line - 1]
    )
