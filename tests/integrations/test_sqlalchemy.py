"""SQLAlchemy in a branch, blocking: ORM code as it is, on each of the three databases, seen from outside."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine, exc, func, insert, inspect, select, text, update
from sqlalchemy.orm import Session, selectinload, sessionmaker
from sqlalchemy.orm.exc import StaleDataError

import syncpoint
from syncpoint.errors import ConfigurationError, NotAllowed, TransactionAborted, TransactionEnded
from syncpoint.testing.servers.mariadb import MariadbServer
from tests.integrations.bank import PLACES, RESOURCES, Account, Entry, World

each_resource = pytest.mark.parametrize("name", RESOURCES)


@each_resource
def test_orm_code_runs_unchanged(world: World, manager: syncpoint.TransactionManager, name: str) -> None:
    with manager.transaction() as tx, Session(tx.sqlalchemy(name)) as session:
        session.add(Account(owner="Ada", balance=10, entries=[Entry(amount=4), Entry(amount=6)]))
        session.add_all([Account(owner=f"Owner {number:02}") for number in range(20)])
        session.commit()
        ada = session.scalars(select(Account).where(Account.owner == "Ada")).one()
        assert [entry.amount for entry in ada.entries] == [4, 6]
        ada.balance += 1
        ada.entries.append(Entry(amount=1))
        session.delete(session.scalars(select(Account).where(Account.owner == "Owner 03")).one())
        session.commit()
        loaded = session.scalars(select(Account).options(selectinload(Account.entries)).order_by(Account.id)).all()
        assert len(loaded) == 20
        assert session.scalar(select(func.sum(Entry.amount))) == 11
        assert session.execute(update(Account).where(Account.owner != "Ada").values(balance=2)).rowcount == 19  # type: ignore[attr-defined]
        session.commit()
    assert len(world.owners(name)) == 20
    assert "Owner 03" not in world.owners(name)
    assert world.balance(name, "Ada") == 11
    assert world.balance(name, "Owner 07") == 2
    assert world.outside(name, "SELECT sum(amount) FROM entry")[0][0] == 11


@each_resource
def test_rolling_a_session_back_leaves_the_rest_of_the_branch(
    world: World, manager: syncpoint.TransactionManager, name: str
) -> None:
    with manager.transaction() as tx:
        connection = tx.sqlalchemy(name)
        connection.execute(insert(Account).values(owner="Core", balance=0, version=1))
        with Session(connection) as session:
            session.add(Account(owner="kept"))
            session.commit()
            session.add(Account(owner="undone"))
            session.flush()
            session.rollback()
            session.add(Account(owner="later"))
            session.commit()
            session.add(Account(owner="not committed"))
            session.flush()
    assert world.owners(name) == ["Core", "kept", "later"]


@each_resource
def test_a_failed_flush_can_be_rolled_back(world: World, manager: syncpoint.TransactionManager, name: str) -> None:
    with manager.transaction() as tx, Session(tx.sqlalchemy(name)) as session:
        session.add(Account(owner="Ada"))
        session.commit()
        session.add(Account(owner="Ada"))
        with pytest.raises(exc.IntegrityError):
            session.commit()
        session.rollback()
        with pytest.raises(exc.IntegrityError), session.begin_nested():
            session.execute(insert(Account).values(owner="Ada", balance=1, version=1))
        session.add(Account(owner="Bob"))
        session.commit()
    assert world.owners(name) == ["Ada", "Bob"]


@each_resource
def test_an_error_in_the_block_undoes_committed_sessions(
    world: World, manager: syncpoint.TransactionManager, name: str
) -> None:
    def work() -> None:
        with manager.transaction() as tx, Session(tx.sqlalchemy(name)) as session:
            session.add(Account(owner="Ada"))
            session.commit()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert world.owners(name) == []


@each_resource
@pytest.mark.parametrize("mode", ["conditional_savepoint", "create_savepoint"])
def test_sessionmakers_and_both_ways_of_joining(
    world: World, manager: syncpoint.TransactionManager, name: str, mode: Any
) -> None:
    def fail(session: Session) -> None:
        with session.begin():
            session.add(Account(owner="Bob"))
            session.flush()
            raise ZeroDivisionError

    make = sessionmaker(join_transaction_mode=mode, expire_on_commit=False)
    with manager.transaction() as tx, make(bind=tx.sqlalchemy(name)) as session:
        with session.begin():
            session.add(Account(owner="Ada"))
        with pytest.raises(ZeroDivisionError):
            fail(session)
    assert world.owners(name) == ["Ada"]


@each_resource
def test_core_and_the_driver_work_in_the_same_branch(
    world: World, manager: syncpoint.TransactionManager, name: str
) -> None:
    with manager.transaction() as tx:
        connection = tx.sqlalchemy(name)
        assert connection is tx.sqlalchemy(name)
        connection.execute(
            text("INSERT INTO account (owner, balance, version) VALUES (:owner, 1, 1)"),
            [{"owner": "Ada"}, {"owner": "Bob"}],
        )
        cursor = tx.connect(name).cursor()
        cursor.execute("SELECT count(*) FROM account")
        assert cursor.fetchone()[0] == 2
        savepoint = connection.begin_nested()
        connection.exec_driver_sql("DELETE FROM account")
        savepoint.rollback()
        assert inspect(connection).has_table("entry")
        assert {column["name"] for column in inspect(connection).get_columns("entry")} == {"id", "account_id", "amount"}
    assert world.owners(name) == ["Ada", "Bob"]


def test_one_session_over_three_resources(world: World, manager: syncpoint.TransactionManager) -> None:
    def fail() -> None:
        with manager.transaction() as tx:
            binds: dict[Any, Any] = {PLACES[name]: tx.sqlalchemy(name) for name in RESOURCES}
            with Session(binds=binds) as session:
                session.add_all([PLACES[name](owner="Bob") for name in RESOURCES])
                session.commit()
            raise ZeroDivisionError

    with manager.transaction() as tx:
        binds: dict[Any, Any] = {PLACES[name]: tx.sqlalchemy(name) for name in RESOURCES}
        with Session(binds=binds) as session:
            session.add_all([PLACES[name](owner=f"Ada at {name}") for name in RESOURCES])
            session.commit()
            session.add_all([PLACES[name](owner="nobody") for name in RESOURCES])
            session.flush()
            session.rollback()
        assert all(world.owners(name) == [] for name in ("bank", "ledger"))
    assert {name: world.owners(name) for name in RESOURCES} == {name: [f"Ada at {name}"] for name in RESOURCES}

    with pytest.raises(ZeroDivisionError):
        fail()
    assert {name: world.owners(name) for name in RESOURCES} == {name: [f"Ada at {name}"] for name in RESOURCES}
    assert world.in_doubt() == []


# --- what others changed ---------------------------------------------------------------------------------------


@each_resource
def test_an_update_that_changes_nothing_still_counts_as_matched(
    world: World, manager: syncpoint.TransactionManager, name: str
) -> None:
    world.outside(name, "INSERT INTO account (id, owner, balance, version) VALUES (1, 'Ada', 5, 1), (2, 'Bob', 5, 1)")
    with manager.transaction() as tx, Session(tx.sqlalchemy(name)) as session:
        same = session.execute(update(Account).values(balance=5).execution_options(synchronize_session=False))
        assert same.rowcount == 2  # type: ignore[attr-defined]
        none = session.execute(update(Account).where(Account.id == 9).values(balance=5))
        assert none.rowcount == 0  # type: ignore[attr-defined]
        many = session.connection().execute(
            text("UPDATE account SET balance = :balance WHERE id = :id"),
            [{"id": 1, "balance": 5}, {"id": 2, "balance": 6}, {"id": 3, "balance": 7}],
        )
        assert many.rowcount == 2
        session.commit()


@each_resource
def test_a_version_that_another_has_raised_is_noticed(
    world: World, manager: syncpoint.TransactionManager, name: str
) -> None:
    world.outside(name, "INSERT INTO account (id, owner, balance, version) VALUES (1, 'Ada', 5, 1)")
    with manager.transaction() as tx, Session(tx.sqlalchemy(name)) as session:
        ada = session.get_one(Account, 1)
        session.connection().execute(text("UPDATE account SET version = 2"))
        ada.balance = 6
        with pytest.raises(StaleDataError):
            session.flush()


# --- nested blocks -----------------------------------------------------------------------------------------------


@each_resource
def test_nested_blocks_and_sessions_are_savepoints_of_one_branch(
    world: World, manager: syncpoint.TransactionManager, name: str
) -> None:
    def fail() -> None:
        with manager.transaction() as inner, Session(inner.sqlalchemy(name)) as session:
            session.add(Account(owner="undone"))
            session.commit()
            raise ZeroDivisionError

    with manager.transaction() as tx:
        with Session(tx.sqlalchemy(name)) as session:
            session.add(Account(owner="outer"))
            session.commit()
        with pytest.raises(ZeroDivisionError):
            fail()
        with manager.transaction() as inner, Session(inner.sqlalchemy(name)) as session:
            session.add(Account(owner="inner"))
            session.commit()
    assert world.owners(name) == ["inner", "outer"]


@each_resource
def test_a_session_begun_outside_a_nested_block_cannot_end_inside_it(
    world: World, manager: syncpoint.TransactionManager, name: str
) -> None:
    def work() -> None:
        with manager.transaction() as tx:
            session = Session(tx.sqlalchemy(name))
            session.add(Account(owner="Ada"))
            session.flush()
            with manager.transaction(), pytest.raises(NotAllowed, match="nested block"):
                session.commit()
            session.close()

    with pytest.raises(TransactionAborted) as caught:
        work()
    assert not caught.value.retryable
    assert world.owners(name) == []


@each_resource
def test_a_session_begun_inside_a_nested_block_cannot_end_outside_it(
    world: World, manager: syncpoint.TransactionManager, name: str
) -> None:
    def work() -> None:
        with manager.transaction() as tx:
            with manager.transaction():
                session = Session(tx.sqlalchemy(name))
                session.add(Account(owner="Ada"))
                session.flush()
            with pytest.raises(NotAllowed, match="nested block"):
                session.rollback()

    with pytest.raises(TransactionAborted):
        work()
    assert world.owners(name) == []


# --- what is refused ---------------------------------------------------------------------------------------------


@each_resource
def test_ending_the_branch_is_refused_by_name(world: World, manager: syncpoint.TransactionManager, name: str) -> None:
    with manager.transaction() as tx:
        connection = tx.sqlalchemy(name)
        root = connection.get_transaction()
        refused = {
            "commit": connection.commit,
            "rollback": connection.rollback,
            "close": connection.close,
            "begin": connection.begin,
            "with": connection.__enter__,
            "detach": connection.detach,
            "invalidate": connection.invalidate,
            "twophase": connection.begin_twophase,
            "isolation": lambda: connection.execution_options(isolation_level="SERIALIZABLE"),
            "autocommit": lambda: connection.execution_options(isolation_level="AUTOCOMMIT"),
            "root.commit": root.commit,
            "root.rollback": root.rollback,
            "root.close": root.close,
            "engine": connection.engine.connect,
            "engine.begin": connection.engine.begin().__enter__,
            "driver": connection.connection.commit,
        }
        allowed = []
        for what, call in refused.items():
            try:
                call()
                allowed.append(what)
            except NotAllowed:
                pass
        assert allowed == []
        connection.engine.dispose()
        for options in ({"join_transaction_mode": "control_fully"}, {"twophase": True}):
            with pytest.raises(NotAllowed), Session(connection, **options) as session:
                session.execute(text("SELECT 1"))
        connection.execute(insert(Account).values(owner="Ada", balance=0, version=1))
    assert world.owners(name) == ["Ada"]


@each_resource
def test_using_it_after_the_end_is_refused_and_sends_nothing(
    world: World, manager: syncpoint.TransactionManager, name: str
) -> None:
    with manager.transaction() as tx:
        connection = tx.sqlalchemy(name)
        open_session = Session(connection)
        open_session.scalars(select(Account)).all()
        session = Session(connection)
    with manager.transaction() as another:  # on the same server connection, most likely
        another.sqlalchemy(name).execute(insert(Account).values(owner="Ada", balance=0, version=1))
        session.add(Account(owner="Bob"))
        for call in (
            session.commit,
            lambda: connection.execute(text("DELETE FROM account")),
            connection.begin_nested,
            open_session.commit,
            lambda: tx.sqlalchemy(name),
        ):
            with pytest.raises(TransactionEnded):
                call()
        session.close()
        open_session.close()
    assert world.owners(name) == ["Ada"]


@each_resource
def test_a_session_may_be_closed_after_the_transaction(
    world: World, manager: syncpoint.TransactionManager, name: str
) -> None:
    with Session() as session, manager.transaction() as tx:
        session.bind = tx.sqlalchemy(name)
        session.add(Account(owner="Ada"))
        session.commit()
        assert session.scalar(select(func.count()).select_from(Account)) == 1
    assert world.owners(name) == ["Ada"]


@each_resource
def test_connections_that_are_dropped_are_collected_silently(manager: syncpoint.TransactionManager, name: str) -> None:
    for _ in range(3):
        with manager.transaction() as tx:
            Session(tx.sqlalchemy(name)).scalars(select(Account)).all()
        del tx
        gc.collect()


def test_unflushed_changes_abort_instead_of_being_lost(world: World, manager: syncpoint.TransactionManager) -> None:
    def forget_to_flush() -> None:
        with manager.transaction() as tx:
            session = Session(tx.sqlalchemy("bank"))
            session.scalars(select(Account)).all()
            session.add(Account(owner="lost"))
            held.append(session)

    held: list[Session] = []
    with pytest.raises(syncpoint.TransactionAborted, match="never flushed") as caught:
        forget_to_flush()
    assert not caught.value.retryable
    assert world.owners("bank") == []
    held[0].close()


def test_flushed_changes_that_their_session_left_open_abort(
    world: World, manager: syncpoint.TransactionManager
) -> None:
    def forget_to_commit() -> None:
        with manager.transaction() as tx:
            session = Session(tx.sqlalchemy("bank"))
            session.add(Account(owner="Ada"))
            session.flush()
            held.append(session)

    held: list[Session] = []
    with pytest.raises(syncpoint.TransactionAborted, match="flushed but not committed"):
        forget_to_commit()
    assert world.owners("bank") == []
    held[0].close()

    with manager.transaction() as tx, Session(tx.sqlalchemy("bank")) as session:
        session.add(Account(owner="Ada"))
        session.commit()
        session.scalars(select(Account)).all()  # begins again, and only reads
    assert world.owners("bank") == ["Ada"]


def test_resources_that_sqlalchemy_does_not_know(tmp_path: Path) -> None:
    with (
        syncpoint.TransactionManager(tmp_path / "journal", {"cache": "memory://cache"}) as manager,
        manager.transaction() as tx,
        pytest.raises(ConfigurationError, match="no dialect"),
    ):
        tx.sqlalchemy("cache")


def test_without_sqlalchemy_the_extra_is_named(
    manager: syncpoint.TransactionManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sqlalchemy.ext.asyncio", None)
    with manager.transaction() as tx, pytest.raises(ConfigurationError, match=r"syncpoint\[sqlalchemy\]"):
        tx.sqlalchemy("bank")


# --- on the wire -------------------------------------------------------------------------------------------------


def _work(tx: syncpoint.Transaction, name: str) -> None:
    with Session(tx.sqlalchemy(name)) as session:
        session.add(Account(owner="Ada"))
        session.commit()
        session.add(Account(owner="Ada"))
        with pytest.raises(exc.IntegrityError):
            session.flush()
        session.rollback()
        session.scalars(select(Account)).all()


def test_sqlalchemy_ends_nothing_on_postgresql(manager: syncpoint.TransactionManager, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    with trace.open("wb") as file, manager.transaction() as tx:
        connection: psycopg.Connection[Any] = tx.connect("bank")
        connection.pgconn.trace(file.fileno())
        _work(tx, "bank")  # the first use: SQLAlchemy learns about the server, too
        connection.pgconn.untrace()
    sent = [line.upper() for line in trace.read_text().splitlines() if "\tF\t" in line]
    ends = [line.split('"')[1] for line in sent if any(word in line for word in ('"COMMIT', '"ROLLBACK', '"BEGIN'))]
    ours = [one for one in ends if "_PG3_" not in one]  # psycopg's own savepoint, when SQLAlchemy asks for a type
    assert [one.partition(" SA_")[0].partition(' \\"SA_')[0] for one in ours] == ["ROLLBACK TO SAVEPOINT"] * 2
    assert sum('"SAVEPOINT SA_' in line for line in sent) == 3
    assert sum('"RELEASE SAVEPOINT SA_' in line for line in sent) == 1


def test_sqlalchemy_ends_nothing_on_mariadb(
    mariadb_server: MariadbServer, manager: syncpoint.TransactionManager
) -> None:
    mariadb_server.execute("SET GLOBAL log_output = 'TABLE'")
    mariadb_server.execute("SET GLOBAL general_log = ON")
    try:
        with manager.transaction() as tx:
            thread = tx.connect("ledger").thread_id()
            _work(tx, "ledger")
    finally:
        mariadb_server.execute("SET GLOBAL general_log = OFF")
    rows = mariadb_server.execute(
        f"SELECT argument FROM mysql.general_log WHERE thread_id = {thread} ORDER BY event_time"
    )
    sent = [str(argument).upper() for (argument,) in rows]
    begun = next(at for at, one in enumerate(sent) if "XA START" in one)
    ended = next(at for at, one in enumerate(sent) if "XA END" in one)
    within = sent[begun + 1 : ended]
    ends = [one for one in within if one.startswith(("COMMIT", "ROLLBACK", "BEGIN", "START", "SET NAMES", "SET AUTO"))]
    assert [one.partition(" SA_")[0] for one in ends] == ["ROLLBACK TO SAVEPOINT"] * 2
    assert sum(one.startswith("SAVEPOINT") for one in within) == 3
    assert sum(one.startswith("RELEASE SAVEPOINT") for one in within) == 1


def test_row_factories_of_the_driver_do_not_reach_sqlalchemy(manager: syncpoint.TransactionManager) -> None:
    with manager.transaction() as tx:
        connection = tx.sqlalchemy("bank")
        tx.connect("bank").row_factory = psycopg.rows.dict_row
        tx.connect("audit").row_trace = lambda cursor, row: {"row": row}
        assert connection.execute(text("SELECT 1, 2")).one() == (1, 2)
        assert tx.sqlalchemy("audit").execute(text("SELECT 1, 2")).one() == (1, 2)
        heard: list[str | None] = []
        tx.connect("bank").add_notice_handler(lambda notice: heard.append(notice.message_primary))
        connection.execute(text("DO $$ BEGIN RAISE NOTICE 'hello'; END $$"))
        assert heard == ["hello"]


def test_an_engine_of_the_users_own_is_not_touched(world: World, manager: syncpoint.TransactionManager) -> None:
    engine = create_engine(world.urls["bank"].replace("postgresql://", "postgresql+psycopg://"))
    with manager.transaction() as tx, Session(tx.sqlalchemy("bank")) as session:
        session.add(Account(owner="Ada"))
        session.commit()
        with engine.begin() as own:
            own.execute(insert(Account).values(owner="Bob", balance=0, version=1))
        session.rollback()
    engine.dispose()
    assert world.owners("bank") == ["Ada", "Bob"]
