"""Django, configured once over real servers, and a clean pair of databases for each test.

world       each pair: two PostgreSQL databases, and PostgreSQL with MariaDB
postgres    the first pair only, for what does not depend on the driver
mariadb     the second pair only
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import _missing
from tests.django import world as worlds
from tests.django.world import World, entry, make_table, outside

if TYPE_CHECKING:
    from syncpoint.testing.servers.postgres import PostgresServer

PAIRS = {"postgresql": ("default", "second"), "mariadb": ("default", "ledger")}
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def configured(postgres_server: PostgresServer) -> dict[str, str]:
    """URL by alias. The MariaDB server starts with the first test that asks for it."""
    pytest.importorskip("django")
    urls = {alias: postgres_server.create_database(f"django_{alias}") for alias in ("default", "second")}
    for url in urls.values():
        make_table(url)
    databases = {alias: entry(url) for alias, url in urls.items()}
    databases["mirror"] = entry(urls["default"])
    databases["serializable"] = entry(urls["second"], OPTIONS={"isolation_level": 4})
    databases["requests"] = entry(urls["second"], ATOMIC_REQUESTS=True)
    databases["files"] = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
    if worlds.HAS_MYSQLCLIENT:
        databases["ledger"] = entry("mariadb://nobody@localhost/none")  # until there is a server
    worlds.configure(databases, {})
    worlds.model()
    return urls


@pytest.fixture(scope="session")
def configured_mariadb(configured: dict[str, str], request: pytest.FixtureRequest) -> dict[str, str]:
    if not worlds.HAS_MYSQLCLIENT:
        _missing("Tests of Django over MariaDB need mysqlclient: scripts/mysqlclient.sh installs it where it can")
    from django.db import connections

    server = request.getfixturevalue("mariadb_server")
    configured["ledger"] = server.create_database("django_ledger")
    make_table(configured["ledger"])
    connections.settings["ledger"].update(entry(configured["ledger"]))
    return configured


def _world(kind: str, folder: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    from django.db import connections
    from django.test import override_settings

    fixture = "configured_mariadb" if kind == "mariadb" else "configured"
    urls: dict[str, str] = request.getfixturevalue(fixture)
    using = PAIRS[kind]
    for alias in using:
        outside(urls[alias], "DELETE FROM account")
    journal = str(folder / "journal")
    with override_settings(SYNCPOINT={"journal": journal, "databases": [*using, "mirror", "serializable"]}):
        yield World(urls, using, journal)
        connections.close_all()
    assert all(not connections[alias].in_atomic_block for alias in using)


@pytest.fixture(params=sorted(PAIRS))
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    yield from _world(request.param, tmp_path, request)


@pytest.fixture
def postgres(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    yield from _world("postgresql", tmp_path, request)


@pytest.fixture
def mariadb(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    yield from _world("mariadb", tmp_path, request)


@pytest.fixture
def account(configured: Any) -> Any:
    """The model."""
    return worlds.model()
