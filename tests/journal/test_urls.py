"""From a text to a journal's place and options. Nothing here touches a database."""

from __future__ import annotations

import pytest

from syncpoint.errors import ConfigurationError
from syncpoint.journal.database import Options
from syncpoint.journal.mariadb_store import MariadbStore
from syncpoint.journal.postgres_store import PostgresStore
from syncpoint.journal.urls import address_of, database_place, is_database, split_options, split_query
from syncpoint.system import SystemClock, SystemRandom

RESOURCES = {"bank": "postgresql://app:secret@db/bank?sslmode=disable", "ledger": {"url": "mariadb://app@db/ledger"}}


def _place(journal: str):  # type: ignore[no-untyped-def]
    return database_place(journal, RESOURCES, mode="sync", clock=SystemClock(), random=SystemRandom())


@pytest.mark.parametrize(
    ("journal", "safe_url", "store"),
    [
        ("bank", "postgresql://app@db/bank", PostgresStore),
        ("bank?cluster=shop&dead_after_s=9", "postgresql://app@db/bank", PostgresStore),
        ("ledger?dead_after_s=9", "mariadb://app@db:3306/ledger", MariadbStore),
        ("postgresql://u:p@h:1/d?sslmode=disable&cluster=shop", "postgresql://u@h:1/d", PostgresStore),
        ("postgresql://u:p?w@h:1/d?cluster=shop", "postgresql://u@h:1/d", PostgresStore),
        ("mariadb://u:p@h:1/d?connect_timeout=3&dead_after_s=9", "mariadb://u@h:1/d", MariadbStore),
    ],
)
def test_the_place(journal: str, safe_url: str, store: type) -> None:
    place = _place(journal)
    assert place.store.resource.safe_url == safe_url
    assert type(place.store) is store
    assert place.options.cluster == ("shop" if "cluster" in journal else "")
    assert place.options.dead_after_s == (9 if "dead_after_s" in journal else 3)
    assert is_database(journal, RESOURCES)


@pytest.mark.parametrize("journal", ["./bank", "/var/lib/journal", "file:///var/lib/journal", "folder?x=1", "banks"])
def test_everything_else_is_a_folder(journal: str) -> None:
    assert not is_database(journal, RESOURCES)


def test_all_options() -> None:
    options, others = split_options(
        "cluster=shop&heartbeat_s=1&dead_after_s=10.5&retention_s=60&sessions_max=4&sslmode=require"
    )
    assert options == Options(cluster="shop", heartbeat_s=1, dead_after_s=10.5, retention_s=60, sessions_max=4)
    assert others == ["sslmode=require"]
    assert split_options("") == (Options(), [])


@pytest.mark.parametrize(
    "query",
    [
        "heartbeat_s=0",
        "heartbeat_s=-1",
        "heartbeat_s=x",
        "heartbeat_s=",
        "heartbeat_s=nan",
        "retention_s=inf",
        "sessions_max=1",
        "sessions_max=2.5",
        "heartbeat_s=3&dead_after_s=3",
        "dead_after_s=0.1",
        f"cluster={'x' * 65}",
    ],
)
def test_wrong_options_are_refused_with_advice(query: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        split_options(query)
    assert raised.value.advice


def test_unknown_options_are_the_driver_s_to_refuse() -> None:
    with pytest.raises(ConfigurationError, match="'dead_after'"):
        _place("postgresql://u@h/d?dead_after=9")
    with pytest.raises(ConfigurationError, match="cannot live at sqlite"):
        _place("sqlite:///x.db")


@pytest.mark.parametrize(
    ("journal", "shown"),
    [
        ("./folder", "./folder"),
        ("bank?dead_after_s=9", "bank?dead_after_s=9"),
        ("postgresql://u:sec@ret@h:1/d?password=sec", "postgresql://u@h:1/d"),
        ("postgresql://u:sec?ret@h/d?x=1", "postgresql://u@h/d"),
        ("postgresql://h/d?user=u&password=sec", "postgresql://h/d"),
        ("mariadb://:sec@h/d", "mariadb://@h/d"),
        ("postgresql:///d", "postgresql:///d"),
    ],
)
def test_what_is_shown_of_an_address_holds_no_secret(journal: str, shown: str) -> None:
    assert address_of(journal) == shown
    assert "sec" not in address_of(journal)


def test_options_begin_behind_the_place() -> None:
    assert split_query("bank") == ("bank", "")
    assert split_query("bank?a=1&b=2") == ("bank", "a=1&b=2")
    assert split_query("postgresql://u:p?w@h/d?a=1") == ("postgresql://u:p?w@h/d", "a=1")
    assert split_query("postgresql:///d?host=/tmp&user=a@b") == ("postgresql:///d", "host=/tmp&user=a@b")
