"""From Django's settings to resources."""

from __future__ import annotations

from typing import Any

import pytest

from syncpoint.errors import ConfigurationError, WrongResource
from tests.django.world import World


def _table(**more: Any) -> dict[str, Any]:
    return {"NAME": "", "USER": "", "PASSWORD": "", "HOST": "", "PORT": "", "OPTIONS": {}, **more}


def test_postgresql_settings_become_libpqs(configured: Any) -> None:
    from syncpoint.django.configuration import _postgres

    options = {"sslmode": "require", "isolation_level": 4, "pool": True, "assume_role": "app", "service": "bank"}
    made = _postgres(_table(NAME="bank", USER="a@b", PASSWORD="p?/", HOST="db", PORT=5433, OPTIONS=options))
    assert made == {
        "url": "postgresql://",
        "sslmode": "require",
        "service": "bank",
        "dbname": "bank",
        "user": "a@b",
        "password": "p?/",
        "host": "db",
        "port": 5433,
    }


def test_postgresql_settings_make_a_resource(configured: Any) -> None:
    from syncpoint.django.configuration import _postgres
    from syncpoint.resources.registry import make_resource
    from syncpoint.system import SystemClock, SystemRandom

    made = _postgres(_table(NAME="bank", USER="a@b", PASSWORD="p?/", HOST="::1", PORT="5433"))
    resource = make_resource("default", made, mode="sync", clock=SystemClock(), random=SystemRandom())
    assert resource.safe_url == "postgresql://a@b@[::1]:5433/bank"


@pytest.mark.parametrize(
    ("table", "made"),
    [
        (_table(NAME="bank", USER="app"), {"url": "mariadb://app:@localhost/bank"}),
        (
            _table(NAME="bank", USER="a@b", PASSWORD="p/?", HOST="db", PORT=3307),
            {"url": "mariadb://a%40b:p%2F%3F@db:3307/bank"},
        ),
        (
            _table(NAME="bank", HOST="/run/mysqld.sock", OPTIONS={"charset": "utf8mb4", "init_command": "SET x=1"}),
            {"url": "mariadb://localhost/bank", "charset": "utf8mb4", "unix_socket": "/run/mysqld.sock"},
        ),
        (
            _table(NAME="bank", HOST="::1", OPTIONS={"ssl": {"ca": "/ca.pem"}}),
            {"url": "mariadb://[::1]/bank", "ssl": "true", "ssl_ca": "/ca.pem"},
        ),
        (
            _table(NAME="bank", HOST="db", OPTIONS={"ssl_mode": "REQUIRED"}),
            {"url": "mariadb://db/bank", "ssl": "true", "ssl_verify": "false"},
        ),
        (
            _table(NAME="bank", HOST="db", OPTIONS={"ssl_mode": "DISABLED"}),
            {"url": "mariadb://db/bank", "ssl": "false"},
        ),
        (_table(NAME="bank", HOST="db", OPTIONS={"ssl_mode": "PREFERRED"}), {"url": "mariadb://db/bank"}),
        (
            _table(NAME="x", OPTIONS={"host": "db", "user": "u", "passwd": "p", "db": "bank"}),
            {"url": "mariadb://u:p@db/bank"},
        ),
    ],
)
def test_mariadb_settings_become_a_url(configured: Any, table: dict[str, Any], made: dict[str, str]) -> None:
    from syncpoint.django.configuration import _mariadb
    from syncpoint.resources.registry import make_resource
    from syncpoint.system import SystemClock, SystemRandom

    assert _mariadb(table) == made
    make_resource("ledger", made, mode="sync", clock=SystemClock(), random=SystemRandom())


@pytest.mark.parametrize(
    ("setting", "match"),
    [
        (None, "do not say where decisions are durable"),
        ({}, "do not say where decisions are durable"),
        ({"journal": "j", "jornal": "j"}, "Did you mean 'journal'"),
        ({"journal": "j", "databases": ["default", "files"]}, "'files' is SQLite"),
        ({"journal": "j", "databases": ["nope"]}, "No database has the alias 'nope'"),
    ],
)
def test_wrong_settings_are_told(configured: Any, setting: Any, match: str) -> None:
    from django.test import override_settings

    from syncpoint.django import manager

    with override_settings(SYNCPOINT=setting), pytest.raises(ConfigurationError, match=match):
        manager()


def test_without_databases_every_alias_that_can_takes_part(mariadb: World) -> None:
    from django.test import override_settings

    from syncpoint.django import manager

    with override_settings(SYNCPOINT={"journal": mariadb.journal}):
        assert manager().resources == ("default", "ledger", "mirror", "requests", "second", "serializable")
        assert manager() is manager()


def test_a_connection_that_leads_elsewhere_is_refused(postgres: World) -> None:
    """Recovery would look in another database than the one where the branches are."""
    from django.test import override_settings

    from syncpoint.django import atomic

    table = {
        "journal": f"{postgres.journal}-2",
        "databases": ["default", "second"],
        "resources": {"default": postgres.urls["second"]},
    }
    with (
        override_settings(SYNCPOINT=table),
        pytest.raises(WrongResource, match="another database"),
        atomic(using=["default"]),
    ):
        raise AssertionError("nothing of it may run")
    with atomic(using=postgres.using):
        postgres.work("Ada")
    assert postgres.everywhere() == ["Ada"]
