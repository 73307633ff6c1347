"""The PEP 249 face of apsw: what SQLAlchemy's SQLite dialect and ordinary code expect of a driver."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import apsw
import pytest
from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Date,
    DateTime,
    Integer,
    Interval,
    LargeBinary,
    MetaData,
    Numeric,
    String,
    Table,
    Time,
    Uuid,
    create_engine,
    insert,
    select,
    text,
)
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.pool import NullPool

from syncpoint.errors import NotAllowed
from syncpoint.integrations import apsw_dbapi
from syncpoint.integrations.sqlalchemy_sqlite import SqliteDialect


@pytest.fixture
def driver() -> Iterator[apsw.Connection]:
    connection = apsw.Connection(":memory:")
    connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT UNIQUE)")
    yield connection
    connection.close()


@pytest.fixture
def cursor(driver: apsw.Connection) -> Iterator[apsw_dbapi.Cursor]:
    cursor = apsw_dbapi.Connection(driver).cursor()
    yield cursor
    cursor.close()


def test_rows_come_one_by_one_in_parts_and_all_at_once(cursor: apsw_dbapi.Cursor) -> None:
    cursor.executemany("INSERT INTO t (v) VALUES (?)", [(letter,) for letter in "abcdef"])
    assert cursor.rowcount == 6
    cursor.execute("SELECT id, v FROM t ORDER BY id")
    assert cursor.description is not None
    assert [column[0] for column in cursor.description] == ["id", "v"]
    assert cursor.fetchone() == (1, "a")
    assert cursor.fetchmany() == [(2, "b")]
    assert cursor.fetchmany(2) == [(3, "c"), (4, "d")]
    assert cursor.fetchall() == [(5, "e"), (6, "f")]
    assert cursor.fetchone() is None
    assert cursor.rowcount == -1
    assert list(cursor.execute("SELECT v FROM t WHERE id < 3")) == [("a",), ("b",)]
    assert cursor.connection.execute("SELECT count(*) FROM t").fetchone() == (6,)


def test_a_query_without_rows_is_described_all_the_same(cursor: apsw_dbapi.Cursor) -> None:
    cursor.execute("SELECT id, v AS name FROM t")
    assert cursor.description is not None
    assert [column[0] for column in cursor.description] == ["id", "name"]
    assert cursor.fetchall() == []
    cursor.execute("CREATE TABLE u (x)")
    assert cursor.description is None
    assert cursor.rowcount == -1


def test_counts_and_row_ids(cursor: apsw_dbapi.Cursor) -> None:
    cursor.execute("INSERT INTO t (v) VALUES ('a'), ('b') RETURNING id")
    assert (cursor.fetchall(), cursor.rowcount, cursor.lastrowid) == ([(1,), (2,)], 2, 2)
    cursor.execute("  -- a comment\n UPDATE t SET v = v || '!'")
    assert cursor.rowcount == 2
    cursor.execute("/* none */ DELETE FROM t WHERE id = 9")
    assert cursor.rowcount == 0
    cursor.execute("WITH old AS (SELECT 1 AS id) DELETE FROM t WHERE id IN (SELECT id FROM old)")
    assert cursor.rowcount == 1


def test_returning_is_done_when_execute_returns(driver: apsw.Connection, cursor: apsw_dbapi.Cursor) -> None:
    cursor.execute("INSERT INTO t (v) VALUES ('a'), ('b'), ('c') RETURNING id")
    cursor.close()
    assert list(driver.execute("SELECT count(*) FROM t")) == [(3,)]


@pytest.mark.parametrize(
    ("sql", "parameters", "kind"),
    [
        ("INSERT INTO t (v) VALUES ('a'), ('a')", (), apsw_dbapi.IntegrityError),
        ("INSERT INTO t (id) VALUES ('no number')", (), apsw_dbapi.IntegrityError),
        ("SELECT * FROM nowhere", (), apsw_dbapi.OperationalError),
        ("SELEKT 1", (), apsw_dbapi.OperationalError),
        ("SELECT ?", (), apsw_dbapi.ProgrammingError),
        ("SELECT ?", (1, 2), apsw_dbapi.ProgrammingError),
        ("SELECT ?", (object(),), apsw_dbapi.ProgrammingError),
        ("SELECT 1; SELECT 2", (), apsw_dbapi.ProgrammingError),
        ("SELECT zeroblob(2000000000)", (), apsw_dbapi.DataError),
    ],
)
def test_errors_have_the_kinds_of_pep_249(
    cursor: apsw_dbapi.Cursor, sql: str, parameters: Any, kind: type[Exception]
) -> None:
    with pytest.raises(kind) as caught:
        cursor.execute(sql, parameters).fetchall()
    assert isinstance(caught.value, apsw_dbapi.Error)
    assert cursor.execute("SELECT 1").fetchall() == [(1,)]


def test_an_error_in_the_middle_of_the_rows(cursor: apsw_dbapi.Cursor) -> None:
    numbers = (
        "WITH n(x) AS (VALUES (2), (1), (0)) SELECT abs(CASE x WHEN 0 THEN -9223372036854775808 ELSE x END) FROM n"
    )
    for read in (cursor.fetchall, lambda: cursor.fetchmany(9)):
        cursor.execute(numbers)
        with pytest.raises(apsw_dbapi.OperationalError, match="overflow"):
            read()


def test_values_of_every_kind(cursor: apsw_dbapi.Cursor) -> None:
    values = (None, True, 7, 2.5, "text", b"bytes", bytearray(b"array"), memoryview(b"view"))
    row = cursor.execute("SELECT ?, ?, ?, ?, ?, ?, ?, ?", values).fetchone()
    assert row == (None, 1, 7, 2.5, "text", b"bytes", b"array", b"view")
    moment = datetime.datetime(2026, 2, 3, 4, 5, 6)
    assert cursor.execute("SELECT ?, ?", (moment, moment.date())).fetchone() == ("2026-02-03 04:05:06", "2026-02-03")
    assert cursor.execute("SELECT :a + :b", {"a": 1, "b": 2}).fetchone() == (3,)


class _OtherCursor(apsw.Cursor):
    def __init__(self, connection: apsw.Connection) -> None:
        raise AssertionError("this one is the user's")


def test_users_tracers_and_factories_stay_outside(driver: apsw.Connection) -> None:
    driver.row_trace = lambda cursor, row: {"row": row}
    driver.exec_trace = lambda cursor, sql, bindings: False
    driver.cursor_factory = _OtherCursor
    assert apsw_dbapi.Connection(driver).execute("SELECT 1, 2").fetchall() == [(1, 2)]


def test_functions_are_registered_once_for_each_connection(driver: apsw.Connection) -> None:
    def twice(value: int) -> int:
        return 2 * value

    for _ in range(2):
        connection = apsw_dbapi.Connection(driver)
        connection.create_function("twice", 1, twice, deterministic=True)
        rows = connection.execute("SELECT twice(4)")
        connection.create_function("twice", 1, twice, deterministic=True)  # would fail while `rows` is read
        assert rows.fetchall() == [(8,)]
    connection.create_function("twice", 1, abs)
    assert connection.execute("SELECT twice(-4)").fetchone() == (4,)


def test_a_closed_cursor_and_ending_the_branch(driver: apsw.Connection) -> None:
    connection = apsw_dbapi.Connection(driver)
    cursor = connection.cursor()
    cursor.close()
    with pytest.raises(apsw_dbapi.ProgrammingError):
        cursor.execute("SELECT 1")
    for end in (connection.commit, connection.rollback, connection.close):
        with pytest.raises(NotAllowed, match="branch"):
            end()
    assert not connection.in_transaction
    assert connection.total_changes == 0


def test_sqlalchemys_types_come_back_as_they_went() -> None:
    driver = apsw.Connection(":memory:")
    registry.register("sqlite.syncpoint", SqliteDialect.__module__, SqliteDialect.__name__)
    engine = create_engine("sqlite+syncpoint://", creator=lambda: apsw_dbapi.Connection(driver), poolclass=NullPool)
    kinds: dict[str, tuple[Any, Any]] = {
        "a_boolean": (Boolean(), True),
        "a_date": (Date(), datetime.date(2026, 2, 3)),
        "a_moment": (DateTime(), datetime.datetime(2026, 2, 3, 4, 5, 6, 7)),
        "a_time": (Time(), datetime.time(4, 5, 6)),
        "an_interval": (Interval(), datetime.timedelta(days=3, seconds=4)),
        "a_number": (Numeric(10, 2, asdecimal=True), Decimal("12.50")),
        "bytes": (LargeBinary(), b"\0\1"),
        "a_uuid": (Uuid(), uuid.UUID(int=7)),
        "json": (JSON(), {"list": [1, None, "two"]}),
    }
    table = Table(
        "kinds",
        MetaData(),
        Column("id", Integer, primary_key=True),
        Column("name", String, unique=True),
        *(Column(name, kind) for name, (kind, _) in kinds.items()),
    )
    values = {name: value for name, (_, value) in kinds.items()}
    driver.execute("BEGIN")
    with engine.connect() as connection:
        table.create(connection)
        made = connection.execute(insert(table).values(name="x", **values))
        assert made.inserted_primary_key == (1,)
        many = connection.execute(
            insert(table).returning(table.c.id, sort_by_parameter_order=True), [{"name": f"n{n}"} for n in range(50)]
        )
        assert [row.id for row in many] == list(range(2, 52))
        again = upsert(table).values(name="x").on_conflict_do_nothing()
        assert connection.execute(again).rowcount == 0
        row = connection.execute(select(table).where(table.c.id == 1)).one()
        assert {name: getattr(row, name) for name in kinds} == values
        assert connection.scalar(select(table.c.id).where(table.c.name.regexp_match("^n4[0-2]$"))) == 42
        assert connection.scalar(text("SELECT floor(2.5)")) == 2
    assert driver.in_transaction  # leaving the block has ended nothing
    driver.close()
