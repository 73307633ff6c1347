"""A journal in a database with asynchronous backups is refused: promoting one loses decisions (DESIGN section 4)."""

from __future__ import annotations

import pytest

import syncpoint
from tests.conformance.conftest import raises


@pytest.mark.parametrize("backups", ["none", "synchronous"])
def test_other_databases_may_hold_it(postgres_url: str, backups: str) -> None:
    bank = {"url": postgres_url, "backups": backups}
    with syncpoint.TransactionManager("bank", {"bank": bank}, background=False) as manager:
        assert manager.in_doubt() == []


def test_refused_by_name_before_anything_is_touched() -> None:
    bank = {"url": "postgresql://nobody@127.0.0.1:1/nowhere", "backups": "asynchronous"}
    with raises(syncpoint.SetupRefused, "asynchronous backups") as caught:
        syncpoint.TransactionManager("bank?cluster=shop", {"bank": bank})
    assert "keep the journal elsewhere" in str(caught.value)


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_refused_by_url_at_first_contact(kind: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue({"postgresql": "postgres_url", "mariadb": "mariadb_url"}[kind])
    manager = syncpoint.TransactionManager(url, {"bank": {"url": url, "backups": "asynchronous"}})
    with raises(syncpoint.SetupRefused, "asynchronous backups"):
        manager.open()


def test_a_resource_elsewhere_may_lag(postgres_url: str, mariadb_url: str) -> None:
    resources = {"ledger": {"url": mariadb_url, "backups": "asynchronous"}}
    with syncpoint.TransactionManager(postgres_url, resources, background=False) as manager:
        assert manager.in_doubt() == []
