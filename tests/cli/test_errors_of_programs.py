"""The misfortunes of docs/errors.md that a program meets and no command: what its user reads, and what is left.

Not for: every rule behind them (manager/, resources/).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from syncpoint.errors import (
    IdTooLong,
    JournalRefused,
    ResourceUnavailable,
    ResultNotStorable,
    SetupRefused,
    SyncpointError,
    TransactionAborted,
    UnknownResource,
)
from syncpoint.manager.sync import Transaction, TransactionManager
from syncpoint.testing.servers.postgres import PostgresServer

SECRET = "tr0ub4dor"


@pytest.fixture
def manager(tmp_path: Path, postgres_url: str) -> Iterator[TransactionManager]:
    resources = {"bank": postgres_url, "audit": f"sqlite:///{tmp_path}/audit.db"}
    with TransactionManager(tmp_path / "journal", resources) as manager:
        yield manager


def says(error: SyncpointError, *parts: str) -> None:
    """What happened, and what to do next; no secret."""
    for part in parts:
        assert part in str(error)
    assert error.advice
    assert SECRET not in str(error)


def test_a_resource_that_is_not_configured(manager: TransactionManager) -> None:
    with pytest.raises(UnknownResource) as caught, manager.transaction() as tx:
        tx.connect("bnak")
    says(caught.value, "'bnak'", "audit, bank")


def test_an_id_too_long(manager: TransactionManager) -> None:
    with pytest.raises(IdTooLong) as caught, manager.transaction(id="x" * 256):
        pass
    says(caught.value, "has 256 characters; at most 255 are allowed.")


def test_a_result_that_cannot_be_stored(manager: TransactionManager) -> None:
    with pytest.raises(ResultNotStorable) as caught:
        manager.run(lambda tx: object(), id="order-1")
    says(caught.value, "'order-1'", "was aborted", "JSON or MessagePack")
    assert manager.run(lambda tx: 1, id="order-1") == 1, "the id is free again"


def test_a_branch_that_cannot_be_prepared(
    manager: TransactionManager, postgres_url: str, postgres_server: PostgresServer
) -> None:
    def work(tx: Transaction) -> None:
        bank = tx.connect("bank")
        bank.execute("INSERT INTO entry VALUES (1)")
        bank.execute("CREATE TEMPORARY TABLE scratch (amount int)")

    with postgres_server.connect(postgres_url.rpartition("/")[2]) as connection:
        connection.execute("CREATE TABLE entry (amount int)")
    with pytest.raises(TransactionAborted) as caught:
        manager.run(work, id="order-1")
    assert "bank" in caught.value.message
    assert "order-1" in caught.value.message
    assert "temporary" in str(caught.value)
    assert not caught.value.retryable
    with postgres_server.connect(postgres_url.rpartition("/")[2]) as connection:
        assert connection.execute("SELECT count(*) FROM entry").fetchall() == [(0,)]


def test_an_unreachable_database(tmp_path: Path) -> None:
    """The start succeeds (O37); whoever needs the database is told."""
    url = f"postgresql://app:{SECRET}@127.0.0.1:1/bank"
    with (
        TransactionManager(tmp_path / "journal", {"bank": url}) as manager,
        pytest.raises(ResourceUnavailable) as caught,
        manager.transaction() as tx,
    ):
        tx.connect("bank")
    says(caught.value, "bank", "127.0.0.1")


def test_a_lying_set_up(tmp_path: Path, postgres_server: PostgresServer) -> None:
    with PostgresServer(settings={"max_prepared_transactions": "0"}) as lying:
        manager = TransactionManager(tmp_path / "journal", {"bank": lying.url("postgres")})
        with pytest.raises(SetupRefused) as caught, manager:
            pass
    says(caught.value, "'bank'", "max_prepared_transactions", "ALTER SYSTEM SET max_prepared_transactions = ")


def test_a_user_without_rights(tmp_path: Path, postgres_url: str, postgres_server: PostgresServer) -> None:
    database = postgres_url.rpartition("/")[2]
    with postgres_server.connect(database) as connection:
        connection.execute(f"CREATE ROLE weak_{database} LOGIN")
    url = postgres_server.url(database, f"weak_{database}")
    with pytest.raises(SetupRefused) as caught, TransactionManager(tmp_path / "journal", {"bank": url}):
        pass
    says(caught.value, "'bank'", "init --print-sql")


def test_a_journal_where_a_file_is(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("a file", encoding="utf-8")
    with pytest.raises(JournalRefused) as caught, TransactionManager(tmp_path / "journal", {"bank": "memory://a"}):
        pass
    says(caught.value, str(tmp_path / "journal"))
