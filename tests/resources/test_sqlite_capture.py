"""What a branch changed can be redone exactly, or the branch votes no and names what cannot. Real files."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from syncpoint.errors import FormatTooNew
from syncpoint.resources.base import Answer, Choice
from syncpoint.resources.sqlite_changeset import BadState, State, decode_state, encode_state
from tests.resources.sqlite_world import World, change, observe

SCHEMA = """
BEGIN;
CREATE TABLE t (id INTEGER PRIMARY KEY, v, w UNIQUE);
CREATE TABLE pair (a TEXT NOT NULL, b INT NOT NULL, v BLOB, PRIMARY KEY (a, b)) WITHOUT ROWID;
CREATE TABLE text_key (k TEXT NOT NULL PRIMARY KEY, v ANY) STRICT;
CREATE TABLE counted (id INTEGER PRIMARY KEY AUTOINCREMENT, v);
CREATE TABLE made (id INTEGER PRIMARY KEY, a, twice AS (a * 2) STORED, next AS (a + 1));
CREATE TABLE parent (id INTEGER PRIMARY KEY, n);
CREATE TABLE child (id INTEGER PRIMARY KEY, p REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE);
CREATE TABLE orphan (id INTEGER PRIMARY KEY, p REFERENCES parent ON DELETE SET NULL ON UPDATE CASCADE);
CREATE TABLE log (id INTEGER PRIMARY KEY, what);
CREATE TRIGGER t_insert AFTER INSERT ON t BEGIN INSERT INTO log (what) VALUES ('insert ' || new.id); END;
CREATE TRIGGER t_delete AFTER DELETE ON t BEGIN INSERT INTO log (what) VALUES ('delete ' || old.id); END;
CREATE TRIGGER t_update AFTER UPDATE ON t BEGIN INSERT INTO log (what) VALUES ('update ' || new.id); END;
CREATE VIEW v AS SELECT id, v FROM t;
CREATE TRIGGER v_insert INSTEAD OF INSERT ON v BEGIN INSERT INTO t (id, v) VALUES (new.id, new.v); END;
CREATE TABLE nullable (k TEXT PRIMARY KEY, v, u UNIQUE);
CREATE TABLE nullable_pair (a, b, v, PRIMARY KEY (a, b));
CREATE TABLE descending (k INTEGER PRIMARY KEY DESC, v);
CREATE TABLE keyless (a, b);
CREATE TABLE keyless_unique (a UNIQUE NOT NULL);
CREATE VIRTUAL TABLE words USING fts5 (body);
CREATE VIRTUAL TABLE boxes USING rtree (id, x0, x1);
INSERT INTO t VALUES (1, 'one', 10), (2, 'two', 20), (3, NULL, 30);
INSERT INTO pair VALUES ('x', 1, x'00ff'), ('x', 2, NULL);
INSERT INTO text_key VALUES ('a', 1), ('b', 2);
INSERT INTO counted VALUES (5, 'five');
INSERT INTO made (id, a) VALUES (1, 1), (2, 2);
INSERT INTO parent VALUES (1, 'p1'), (2, 'p2');
INSERT INTO child VALUES (1, 1), (2, 1), (3, 2);
INSERT INTO orphan VALUES (1, 1), (2, 2);
INSERT INTO nullable VALUES ('a', 1, 1), (NULL, 2, 2), (NULL, 3, 3);
INSERT INTO nullable_pair VALUES (1, 1, 1), (1, NULL, 2);
INSERT INTO descending VALUES (1, 1);
INSERT INTO keyless VALUES (1, 2), (3, 4);
COMMIT;
"""


@pytest.fixture(params=[False, True], ids=["foreign keys off", "foreign keys on"])
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    with World(tmp_path / "audit.db", "sync", {"foreign_keys": "on" if request.param else "off"}) as made:
        change(made.path, SCHEMA)
        yield made


def dump(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table but Syncpoint's own, types told apart."""
    tables = observe(
        path,
        "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' "
        "AND name NOT LIKE 'syncpoint%' AND name <> 'sqlite_schema' ORDER BY name",
    )
    return {name: sorted(map(repr, observe(path, f'SELECT * FROM "{name}"'))) for (name,) in tables}


REDOABLE = {
    "insert": ["INSERT INTO t VALUES (7, 'seven', 70)"],
    "types": ["INSERT INTO t VALUES (7, 1.5, x'00'), (8, -0.0, 9223372036854775807), (9, 'é\U0001f600', 1e300)"],
    "infinity": ["INSERT INTO t (id, v) VALUES (7, 9e999), (8, -9e999), (9, '')"],
    "update": ["UPDATE t SET v = v || '!' WHERE id <> 3"],
    "update of a key": ["UPDATE t SET id = id + 100"],
    "swap of unique values": [
        "UPDATE t SET w = -w",
        "UPDATE t SET w = 30 WHERE id = 1",
        "UPDATE t SET w = 10 WHERE id = 3",
    ],
    "upsert": ["INSERT INTO t VALUES (1, 'new', 11) ON CONFLICT (id) DO UPDATE SET v = excluded.v, w = excluded.w"],
    "replace": ["REPLACE INTO t VALUES (1, 'new', 20)"],
    "delete": ["DELETE FROM t WHERE id = 2"],
    "delete everything": ["DELETE FROM t"],
    "delete and insert again": ["DELETE FROM t", "INSERT INTO t VALUES (1, 'again', 10)"],
    "insert and delete": ["INSERT INTO t VALUES (7, 'x', 70)", "DELETE FROM t WHERE id = 7"],
    "many rows": [
        "INSERT INTO t WITH n(i) AS (VALUES (9) UNION ALL SELECT i + 1 FROM n LIMIT 3000) SELECT i, 0, -i FROM n"
    ],
    "without rowid": ["INSERT INTO pair VALUES ('y', 1, x'01')", "UPDATE pair SET b = 3 WHERE b = 2"],
    "truncate without rowid": ["DELETE FROM pair"],
    "strict": ["UPDATE text_key SET k = 'c' WHERE k = 'a'"],
    "autoincrement": ["INSERT INTO counted (v) VALUES ('six')"],
    "autoincrement that leaves no row": [
        "INSERT INTO counted (v) VALUES ('six')",
        "DELETE FROM counted WHERE v = 'six'",
    ],
    "generated columns": ["INSERT INTO made (id, a) VALUES (3, 3)", "UPDATE made SET a = 20 WHERE id = 2"],
    "cascading delete": ["DELETE FROM parent WHERE id = 1"],
    "cascading update": ["UPDATE parent SET id = 9 WHERE id = 2"],
    "view": ["INSERT INTO v VALUES (7, 'through the view')"],
    "nullable key, none NULL": ["INSERT INTO nullable VALUES ('b', 4, 4)", "UPDATE nullable SET v = 0 WHERE k = 'a'"],
    "nullable pair, none NULL": ["DELETE FROM nullable_pair WHERE b = 1"],
    "NULL key put back as it was": ["UPDATE nullable SET v = v + 1", "UPDATE nullable SET v = v - 1", "DELETE FROM t"],
    "keyless put back as it was": [
        "INSERT INTO keyless VALUES (9, 9)",
        "DELETE FROM keyless WHERE a = 9",
        "DELETE FROM t",
    ],
}


@pytest.mark.parametrize("case", REDOABLE)
def test_a_redo_gives_exactly_the_rows_of_the_original(world: World, tmp_path: Path, case: str) -> None:
    """The branch commits on one file; on a copy from before, which lost it, it is redone."""
    identifier, vote = world.vote(*REDOABLE[case])
    assert vote.choice is Choice.YES, vote.reason
    state = vote.state
    world.abort()
    world.close(world.session)
    original = tmp_path / "original.db"
    shutil.copy(world.path, original)
    world.session = world.open()
    assert world.finish(identifier, state) is Answer.COMMITTED
    assert world.finish(identifier, state) is Answer.COMMITTED  # and once only
    with World(original, "sync", {"foreign_keys": "on" if world.resource.target.foreign_keys else "off"}) as other:
        other.committed(*REDOABLE[case])
    assert dump(world.path) == dump(original)
    assert observe(world.path, "PRAGMA integrity_check") == [("ok",)]


def test_a_cached_delete_of_everything_is_seen_by_the_session(world: World) -> None:
    """Compiled while no session watches, it would use the truncate optimisation, which no session sees."""
    world.begin()
    world.execute("DELETE FROM t")
    world.abort()
    identifier, vote = world.vote("DELETE FROM t")
    assert vote.choice is Choice.YES
    world.fresh()
    assert world.finish(identifier, vote.state) is Answer.COMMITTED
    assert world.rows("SELECT count(*) FROM t") == [(0,)]


UNCAPTURABLE = {
    "insert without a key": (["INSERT INTO keyless VALUES (9, 9)"], "'keyless', which has no PRIMARY KEY"),
    "update without a key": (["UPDATE keyless SET b = 0"], "'keyless'"),
    "truncate without a key": (["DELETE FROM keyless"], "'keyless'"),
    "unique is no primary key": (["INSERT INTO keyless_unique VALUES (1)"], "'keyless_unique'"),
    "beside rows that could": (["INSERT INTO t VALUES (7, 7, 7)", "DELETE FROM keyless"], "'keyless'"),
    "insert of a NULL key": (["INSERT INTO nullable (v) VALUES (1)"], "'nullable' whose key is NULL"),
    "update of a row with a NULL key": (["UPDATE nullable SET v = 7 WHERE k IS NULL"], "'nullable'"),
    "delete of a row with a NULL key": (["DELETE FROM nullable WHERE v = 2"], "'nullable'"),
    "delete of all": (["DELETE FROM nullable"], "'nullable'"),
    "key to NULL": (["UPDATE nullable SET k = NULL WHERE k = 'a'"], "'nullable'"),
    "key from NULL": (["UPDATE nullable SET k = 'z' WHERE v = 2"], "'nullable'"),
    "replaced through another unique": (["REPLACE INTO nullable VALUES ('q', 9, 2)"], "'nullable'"),
    "second column NULL": (["INSERT INTO nullable_pair VALUES (2, NULL, 1)"], "'nullable_pair'"),
    "INTEGER PRIMARY KEY DESC is no rowid": (["INSERT INTO descending VALUES (NULL, 1)"], "'descending'"),
    "fts5": (["INSERT INTO words VALUES ('hello')"], "virtual table 'words'"),
    "rtree": (["INSERT INTO boxes VALUES (1, 0, 1)"], "virtual table 'boxes'"),
    "create table": (["CREATE TABLE more (id INTEGER PRIMARY KEY)"], "DDL"),
    "drop table": (["DROP TABLE log"], "DDL"),
    "alter": (["ALTER TABLE t ADD COLUMN z"], "DDL"),
    "create index": (["INSERT INTO t VALUES (7, 7, 7)", "CREATE INDEX i ON t (v)"], "DDL"),
    "analyze": (["ANALYZE"], "DDL"),
    "user_version": (["PRAGMA user_version = 5"], "user_version"),
    "application_id": (["PRAGMA application_id = 5"], "application_id"),
    "sequence lowered": (["UPDATE sqlite_sequence SET seq = 1"], "sequence of 'counted'"),
    "sequence deleted": (["DELETE FROM sqlite_sequence"], "sequence of 'counted'"),
}


@pytest.mark.parametrize("case", UNCAPTURABLE)
def test_what_cannot_be_captured_votes_no_and_is_named(world: World, case: str) -> None:
    statements, named = UNCAPTURABLE[case]
    before = dump(world.path)
    _, vote = world.vote(*statements)
    assert vote.choice is Choice.NO
    assert named in vote.reason
    assert not vote.retryable
    assert dump(world.path) == before
    assert world.standing() == []
    world.vote("INSERT INTO t VALUES (7, 7, 7)")  # the session is good for another branch
    assert world.commit() is Answer.COMMITTED


def test_null_keys_made_by_another_program_in_between_are_told_from_ours(world: World) -> None:
    world.vote("INSERT INTO nullable VALUES ('b', 4, 4)")
    world.commit()
    change(world.path, "INSERT INTO nullable VALUES (NULL, 5, 5)")
    _, vote = world.vote("INSERT INTO nullable VALUES ('c', 6, 6)")
    assert vote.choice is Choice.YES
    world.commit()
    world.committed("INSERT INTO nullable VALUES (NULL, 7, 7)")
    _, vote = world.vote("INSERT INTO nullable VALUES ('d', 8, 8)")
    assert vote.choice is Choice.YES


@pytest.mark.parametrize("one_phase", [True, False])
def test_writing_an_attached_file_votes_no_and_names_it(world: World, tmp_path: Path, one_phase: bool) -> None:
    change(tmp_path / "other.db", "CREATE TABLE o (id INTEGER PRIMARY KEY); INSERT INTO o VALUES (1)")
    attach = f"ATTACH '{tmp_path / 'other.db'}' AS elsewhere"
    world.begin()
    world.execute(attach)
    assert world.connection.execute("SELECT * FROM elsewhere.o").fetchall() == [(1,)]
    world.execute("INSERT INTO t VALUES (7, 7, 7)")
    assert world.run(world.resource.prepare(world.session)).choice is Choice.YES
    world.abort()
    world.begin()
    assert world.connection.db_names() == ["main", "temp"]
    world.execute(attach, "INSERT INTO elsewhere.o VALUES (2)")
    resource = world.resource
    vote = world.run((resource.commit_one_phase if one_phase else resource.prepare)(world.session))
    assert vote.choice is Choice.NO
    assert "'elsewhere'" in vote.reason
    assert observe(tmp_path / "other.db", "SELECT * FROM o") == [(1,)]


def test_a_blob_written_in_place_is_captured(world: World) -> None:
    identifier = world.begin()
    world.execute("UPDATE t SET v = zeroblob(4) WHERE id = 1")
    blob = world.connection.blob_open("main", "t", "v", 1, True)
    blob.write(b"abcd")
    vote = world.run(world.resource.prepare(world.session))
    world.fresh()
    assert world.finish(identifier, vote.state) is Answer.COMMITTED
    assert world.rows("SELECT v FROM t WHERE id = 1") == [(b"abcd",)]


# --- conflicts of a redo --------------------------------------------------------------------------------------------

CONFLICTS = {
    "changed row": ("UPDATE t SET v = 'mine' WHERE id = 1", "UPDATE t SET v = 'theirs' WHERE id = 1"),
    "deleted row": ("UPDATE t SET v = 'mine' WHERE id = 1", "DELETE FROM t WHERE id = 1"),
    "same key": ("INSERT INTO t VALUES (7, 'mine', 70)", "INSERT INTO t VALUES (7, 'theirs', 71)"),
    "same unique value": ("INSERT INTO t VALUES (7, 'mine', 70)", "INSERT INTO t VALUES (8, 'theirs', 70)"),
    "table dropped": ("INSERT INTO text_key VALUES ('z', 1)", "DROP TABLE text_key"),
    "column added": ("INSERT INTO t VALUES (7, 'mine', 70)", "ALTER TABLE t ADD COLUMN z NOT NULL DEFAULT 5"),
    "key changed": (
        "INSERT INTO text_key VALUES ('z', 1)",
        "DROP TABLE text_key; CREATE TABLE text_key (k TEXT NOT NULL, v INT NOT NULL PRIMARY KEY) STRICT",
    ),
}


@pytest.mark.parametrize("case", CONFLICTS)
def test_a_redo_over_foreign_writes_is_a_hazard_and_applies_nothing(world: World, case: str) -> None:
    mine, theirs = CONFLICTS[case]
    identifier, vote = world.vote("UPDATE parent SET n = 'mine' WHERE id = 2", mine)
    assert vote.choice is Choice.YES
    world.fresh()
    change(world.path, theirs)
    before = dump(world.path)
    assert world.finish(identifier, vote.state) is Answer.HEURISTIC_HAZARD
    assert dump(world.path) == before
    assert world.standing() == []  # the file is not closed for ever
    assert world.finish(identifier, vote.state) is Answer.HEURISTIC_HAZARD  # and the answer stays
    assert world.finish(identifier, vote.state, commit=False) is Answer.NOT_FOUND
    world.vote("UPDATE parent SET n = 'next' WHERE id = 1")
    assert world.commit() is Answer.COMMITTED


def test_a_redo_that_would_break_a_foreign_key_is_a_hazard(world: World) -> None:
    identifier, vote = world.vote("INSERT INTO child VALUES (9, 2)")
    world.fresh()
    change(world.path, "DELETE FROM child WHERE p = 2; DELETE FROM orphan; DELETE FROM parent WHERE id = 2")
    enforced = world.resource.target.foreign_keys
    expected = Answer.HEURISTIC_HAZARD if enforced else Answer.COMMITTED
    assert world.finish(identifier, vote.state) is expected
    assert world.rows("SELECT count(*) FROM child WHERE id = 9") == [(0 if enforced else 1,)]


# --- the bytes -------------------------------------------------------------------------------------------------------


def test_state_information_carries_a_format_version() -> None:
    state = State(b"changes", (("counted", 7),))
    assert decode_state(encode_state(state)) == state
    with pytest.raises(FormatTooNew):
        decode_state(b"\x02" + encode_state(state)[1:])


@pytest.mark.parametrize("raw", [b"", b"\x01", b"\x01\x91", b"\x01" + msgspec.msgpack.encode({"a": 1}), b"\x00junk"])
def test_bytes_that_are_no_state_information_are_refused(world: World, raw: bytes) -> None:
    with pytest.raises(BadState):
        decode_state(raw)
    identifier, _ = world.vote("INSERT INTO t VALUES (7, 7, 7)")
    world.fresh()
    expected = Answer.HEURISTIC_HAZARD if raw else Answer.NOT_FOUND
    assert world.finish(identifier, raw) is expected
    assert world.rows("SELECT count(*) FROM t") == [(3,)]


def test_a_changeset_cut_short_applies_nothing(world: World) -> None:
    identifier, vote = world.vote("INSERT INTO t VALUES (7, 7, 7)", "DELETE FROM parent WHERE id = 1")
    world.fresh()
    state = decode_state(vote.state)
    before = dump(world.path)
    torn = encode_state(State(state.changeset[:-3], state.sequences))
    assert world.finish(identifier, torn) is Answer.HEURISTIC_HAZARD  # as any state that cannot be read: a person looks
    assert dump(world.path) == before
