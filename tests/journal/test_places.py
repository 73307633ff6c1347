"""Where a journal in a database is, and what its rows hold: the words of refusals, and the bounds of options.

Found missing by mutants. Not for: which text names which place (test_urls.py).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from syncpoint.errors import ConfigurationError, JournalUnavailable
from syncpoint.ids import Incarnation
from syncpoint.journal import rows
from syncpoint.journal.database import Options
from syncpoint.journal.postgres_store import PostgresStore
from syncpoint.journal.urls import Place, database_journal, database_place, split_options, split_query
from syncpoint.records import encode_record
from tests.journal.support import ManualClock, SeededRandom, abort, commit, key, transaction

BANK = "postgresql://app:secret@db/bank"
Resources = Mapping[str, str | Mapping[str, Any]]


def place(journal: str, resources: Resources | None = None) -> Place:
    return database_place(journal, resources or {}, mode="sync", clock=ManualClock(), random=SeededRandom())


def conninfo(found: Place) -> str:
    assert isinstance(found.store, PostgresStore)
    return str(found.store.resource._address.conninfo)


def test_a_resources_table_gives_its_options_but_the_pools() -> None:
    table = {"url": BANK, "pool_size_max": 10, "connect_timeout": 7}
    found = place("bank?dead_after_s=9", {"bank": table})
    assert "connect_timeout=7" in conninfo(found)
    assert (found.store.resource.name, found.options.dead_after_s) == ("bank", 9)
    assert table == {"url": BANK, "pool_size_max": 10, "connect_timeout": 7}, "not touched"


def test_a_url_of_its_own_is_called_the_journal() -> None:
    assert place(BANK).store.resource.name == "journal"


@pytest.mark.parametrize(
    ("journal", "resources"),
    [
        (f"{BANK}?sslmode=disable&cluster=shop&connect_timeout=7", None),
        ("bank?cluster=shop&connect_timeout=7", {"bank": f"{BANK}?sslmode=disable"}),
        ("bank?cluster=shop&sslmode=disable&connect_timeout=7", {"bank": BANK}),
    ],
)
def test_options_that_are_not_the_journals_go_to_the_driver(journal: str, resources: Resources | None) -> None:
    found = place(journal, resources)
    assert found.options == Options(cluster="shop")
    assert "sslmode=disable" in conninfo(found)
    assert "connect_timeout=7" in conninfo(found)


@pytest.mark.parametrize(
    ("call", "message", "advice"),
    [
        (
            lambda: place("bank", {"bank": "sqlite:///a.db"}),
            "A journal cannot live at sqlite://.",
            'Give a folder, journal="./syncpoint-journal", or a database: postgresql://… or mariadb://….',
        ),
        (lambda: place("bank", {"bank": {}}), "A journal cannot live at ://.", None),
        (
            lambda: split_options("heartbeat_s=5&dead_after_s=4.5"),
            "The journal's heartbeat_s=5 is not below dead_after_s=4.5.",
            "Leave room for several signs of life, for example heartbeat_s=0.5 and dead_after_s=3.",
        ),
        (
            lambda: split_options(f"cluster={'x' * 65}"),
            "The journal's cluster name has 65 characters.",
            "At most 64.",
        ),
        (
            lambda: split_options("sessions_max=1"),
            "The journal's sessions_max='1' is no number from 2 on.",
            "Give such a number.",
        ),
        (
            lambda: split_options("retention_s=x"),
            "The journal's retention_s='x' is no number above 0.",
            "Give such a number.",
        ),
    ],
    ids=["SQLite", "no URL", "heartbeat", "cluster", "sessions", "retention"],
)
def test_what_is_said_of_a_wrong_place(call: Callable[[], object], message: str, advice: str | None) -> None:
    with pytest.raises(ConfigurationError) as caught:
        call()
    assert caught.value.message == message
    assert advice in (None, caught.value.advice)


def test_the_bounds_of_options() -> None:
    options, _ = split_options(f"cluster={'x' * 64}&sessions_max=2&heartbeat_s=0.001&retention_s=1")
    assert (len(options.cluster), options.sessions_max, options.heartbeat_s, options.retention_s) == (64, 2, 0.001, 1)
    assert isinstance(options.sessions_max, int)


def test_a_journal_is_made_of_all_that_was_given() -> None:
    clock, random = ManualClock(), SeededRandom()
    made = database_journal("bank?cluster=shop", {"bank": BANK}, mode="sync", clock=clock, random=random)
    assert (made._clock, made._random, made.options) == (clock, random, Options(cluster="shop"))
    assert isinstance(made._store, PostgresStore)
    assert type(made._store.resource._driver) is type(place(BANK).store.resource._driver)  # type: ignore[attr-defined]
    assert made._process == f"{socket.gethostname()}, process {os.getpid()}"


def test_a_name_has_no_user() -> None:
    assert split_query("bank?cluster=a@b") == ("bank", "cluster=a@b")


# --- rows --------------------------------------------------------------------------------------------------------

ADVICE = "Nothing was changed. Somebody else has written to the schema syncpoint: see what, and restore it."


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda: rows.records([("zz",)]), "a record"),
        (lambda: rows.records([(None,)]), "a record"),
        (lambda: rows.commit([(encode_record(abort(key(1))).hex(),)]), "a Commit record"),
        (lambda: rows.transactions([("54" * 15,)]), "a transaction id"),
        (lambda: rows.incarnations([("x",)]), "a number"),
        (lambda: rows.number([("-1",)]), "a number"),
    ],
)
def test_what_is_said_of_a_strange_row(call: Callable[[], object], what: str) -> None:
    with pytest.raises(JournalUnavailable) as caught:
        call()
    assert caught.value.message.startswith(
        f"A table of the journal holds something else than {what} where one must stand: "
    )
    assert caught.value.advice == ADVICE


def test_what_rows_hold() -> None:
    name = "00000000000001000000000000000000"
    assert rows.keys([(name, str(key(1).attempt.to_int()))]) == [key(1)]
    assert rows.claims([(name, "7"), (name, None)]) == [
        (transaction(1), Incarnation(7)),
        (transaction(1), Incarnation(0)),
    ]
    assert rows.transactions([(name,)]) == [transaction(1)]
    raw = encode_record(commit(key(1))).hex()
    assert rows.records([(raw,)]) == rows.keyed([(raw,)]) == [rows.commit([(raw,)])] == [commit(key(1))]
    assert rows.commit([]) is None
    assert rows.number([(str((1 << 64) - 1),)]) == (1 << 64) - 1


def test_nothing_is_no_record() -> None:
    with pytest.raises(JournalUnavailable, match="a record has at least one byte"):
        rows.records([(None,)])
