"""Opening a SQLite file, its set-up, first contact, and the look for lying set-ups."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from syncpoint.errors import (
    ConfigurationError,
    FormatTooNew,
    JournalRefused,
    ResourceUnavailable,
    SetupRefused,
)
from syncpoint.ids import Guid
from syncpoint.resources import sqlite_inspect
from syncpoint.resources.base import Answer, Finding, Severity
from syncpoint.resources.registry import make_resource
from syncpoint.resources.sqlite import parse_url
from syncpoint.system import SystemClock, SystemRandom
from tests.resources.sqlite_world import (
    COORDINATOR,
    MODES,
    TABLE,
    World,
    change,
    observe,
)

ROOT = os.geteuid() == 0


# --- the URL --------------------------------------------------------------------------------------------


def test_urls_name_relative_and_absolute_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_url("a", "sqlite:///audit.db", {}).path == str(tmp_path / "audit.db")
    assert parse_url("a", "sqlite:////srv/audit.db", {}).path == "/srv/audit.db"
    assert parse_url("a", "sqlite:////srv/100%25%20a%3Fb.db", {}).path == "/srv/100% a?b.db"
    target = parse_url("a", "sqlite:////srv/a.db?journal_mode=keep&mode=rw&pool_size_max=3", {"foreign_keys": "on"})
    assert (target.journal_mode, target.create, target.foreign_keys) == ("keep", False, True)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///",
        "sqlite://audit.db",
        "sqlite:///:memory:",
        "sqlite:///file:a?mode=memory",
        "sqlite:///a.db#x",
        "sqlite:///a.db?synchronous=off",
        "sqlite:///a.db?synchronous=normal",
        "sqlite:///a.db?journal_mode=off",
        "sqlite:///a.db?mode=memory",
        "sqlite:///a.db?foreign_keys=perhaps",
        "sqlite:///a.db?timeout=5",
    ],
)
def test_urls_that_could_not_keep_a_promise_are_refused(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make_resource("audit", url, mode="sync", clock=SystemClock(), random=SystemRandom())
    assert "'audit'" in str(caught.value)
    assert caught.value.advice


def test_the_registry_finds_the_adapter_and_its_options(tmp_path: Path) -> None:
    table = {"url": f"sqlite:///{tmp_path}/a.db", "synchronous": "extra", "pool_size_max": "3"}
    resource = make_resource("audit", table, mode="sync", clock=SystemClock(), random=SystemRandom())
    assert repr(resource) == f"<SqliteResource audit sqlite:///{tmp_path}/a.db>"
    assert (resource.single_writer, resource.has_redo) == (True, True)


# --- opening --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_a_new_file_gets_wal_and_full(tmp_path: Path, mode: Any) -> None:
    with World(tmp_path / "new.db", mode) as world:
        assert observe(world.path, "PRAGMA journal_mode") == [("wal",)]
        assert world.connection.pragma("synchronous") == 2


@pytest.mark.parametrize(
    ("option", "journal", "synchronous"), [("auto", "delete", 3), ("keep", "delete", 3), ("wal", "wal", 2)]
)
def test_an_existing_file_is_left_as_it_is_unless_told(
    tmp_path: Path, option: str, journal: str, synchronous: int
) -> None:
    change(tmp_path / "old.db", TABLE)
    with World(tmp_path / "old.db", "sync", {"journal_mode": option}) as world:
        assert observe(world.path, "PRAGMA journal_mode") == [(journal,)]
        assert world.connection.pragma("synchronous") == synchronous
        world.vote("INSERT INTO t VALUES (1, 1)")
        assert world.commit() is Answer.COMMITTED
        assert world.rows() == [(1, 1)]


def test_synchronous_extra(tmp_path: Path) -> None:
    with World(tmp_path / "a.db", "sync", {"synchronous": "extra"}) as world:
        assert world.connection.pragma("synchronous") == 3


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (lambda p: p / "missing" / "a.db", {}, "there is no folder"),
        (lambda p: p, {}, "it is a folder"),
        (lambda p: p / "none.db", {"mode": "rw"}, "mode=rw forbids"),
    ],
)
def test_a_file_that_cannot_be_opened_is_unavailable_in_one_paragraph(
    tmp_path: Path, make: Callable[[Path], Path], options: dict[str, str], words: str
) -> None:
    with World(make(tmp_path), "sync", options, ready=False) as world, pytest.raises(ResourceUnavailable) as caught:
        world.open()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "audit" in str(caught.value)


def test_a_file_that_is_no_database_is_refused_and_untouched(tmp_path: Path) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("Dear Sir or Madam, " * 100)
    with World(path, "sync", ready=False) as world, pytest.raises(SetupRefused, match="not a sound SQLite database"):
        world.open()
    assert path.read_text() == "Dear Sir or Madam, " * 100


@pytest.mark.skipif(ROOT, reason="root may write everything")
def test_a_file_without_rights_is_unavailable(tmp_path: Path) -> None:
    change(tmp_path / "a.db", TABLE)
    (tmp_path / "a.db").chmod(0o400)
    with World(tmp_path / "a.db", "sync", ready=False) as world, pytest.raises(ResourceUnavailable, match="right"):
        world.open()


def test_opening_waits_for_whoever_holds_the_file_but_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncpoint.resources.sqlite.PATIENCE_S", 0.3)
    monkeypatch.setattr("syncpoint.resources.sqlite_connection.OPEN_BUSY_MS", 10)
    path = tmp_path / "a.db"
    holder = apsw.Connection(str(path))
    holder.execute("CREATE TABLE x (y); BEGIN EXCLUSIVE")
    with World(path, "sync", {"journal_mode": "wal"}, ready=False) as world:
        with pytest.raises(ResourceUnavailable, match="another connection"):
            world.open()
        holder.execute("COMMIT")
        holder.close()
        world.open()


def test_two_resources_open_one_new_file_at_once(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from tests.resources.sqlite_world import World\n"
        "with World(Path(sys.argv[1]), 'sync') as world: print(world.guid)"
    )
    children = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / "new.db")],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
            text=True,
        )
        for _ in range(3)
    ]
    guids = {child.communicate(timeout=60)[0].strip() for child in children}
    assert [child.returncode for child in children] == [0, 0, 0]
    assert len(guids) == 1
    assert len(guids.pop()) == 32


# --- first contact --------------------------------------------------------------------------------------


def test_contact_makes_the_tables_and_returns_one_guid_for_ever(tmp_path: Path) -> None:
    with World(tmp_path / "a.db", "sync") as world, World(tmp_path / "a.db", "sync") as again:
        assert world.guid == again.guid
        assert observe(world.path, "SELECT guid FROM syncpoint_resource") == [(world.guid.raw,)]


def test_the_printed_statements_do_what_initialise_does(tmp_path: Path) -> None:
    with World(tmp_path / "a.db", "sync", ready=False) as world:
        session = world.open()
        change(world.path, ";".join(world.resource.init_statements()))
        change(world.path, ";".join(world.resource.init_statements()))
        guid = observe(world.path, "SELECT guid FROM syncpoint_resource")
        world.run(world.resource.initialise(session))
        world.run(world.resource.initialise(session))
        assert observe(world.path, "SELECT guid FROM syncpoint_resource") == guid
        assert world.run(world.resource.contact(session, world.contact())).raw == guid[0][0]


def test_a_journal_older_than_the_file_has_seen_is_refused(tmp_path: Path) -> None:
    with World(tmp_path / "a.db", "sync") as world:
        world.run(world.resource.contact(world.session, world.contact(7)))
        with pytest.raises(JournalRefused, match="incarnation 7"):  # O53
            world.run(world.resource.contact(world.session, world.contact(3, highest=6)))
        world.run(world.resource.contact(world.session, world.contact(3, highest=7)))
        assert observe(world.path, "SELECT incarnation FROM syncpoint_coordinator") == [(7,)]


def test_a_file_belongs_to_one_journal(tmp_path: Path) -> None:
    other = Guid(b"another-journal!")
    with World(tmp_path / "a.db", "sync") as world:
        with pytest.raises(SetupRefused, match="belongs to the journal") as caught:
            world.run(world.resource.contact(world.session, world.contact(coordinator=other)))
        assert "DELETE FROM syncpoint_coordinator" in caught.value.advice
        assert observe(world.path, "SELECT guid FROM syncpoint_coordinator") == [(COORDINATOR.raw,)]
        change(world.path, "DELETE FROM syncpoint_coordinator")
        world.run(world.resource.contact(world.session, world.contact(coordinator=other)))


def test_a_file_of_a_later_format_is_refused(tmp_path: Path) -> None:
    with World(tmp_path / "a.db", "sync") as world:
        change(world.path, "UPDATE syncpoint_resource SET format = 2")
        with pytest.raises(FormatTooNew):
            world.run(world.resource.contact(world.session, world.contact()))


def test_contact_needs_nobodys_word_about_a_note_that_stands(tmp_path: Path) -> None:
    with World(tmp_path / "a.db", "sync") as world:
        world.committed(TABLE)
        identifier, _ = world.vote("INSERT INTO t VALUES (1, 1)")
        world.fresh()
        world.run(world.resource.contact(world.session, world.contact(2)))
        assert world.standing() == [identifier]


@pytest.mark.parametrize("mode", MODES)
def test_contact_gives_up_on_a_file_that_stays_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: Any
) -> None:
    monkeypatch.setattr("syncpoint.resources.sqlite.PATIENCE_S", 0.1)
    monkeypatch.setattr("syncpoint.resources.sqlite.BUSY_SLICE_MS", 40)
    with World(tmp_path / "a.db", mode) as world:
        other = world.open()
        world.begin()
        with pytest.raises(ResourceUnavailable, match="this process holds the write lock"):
            world.run(world.resource.contact(other, world.contact(2)))
        world.abort()
        world.run(world.resource.contact(other, world.contact(2)))


# --- inspect --------------------------------------------------------------------------------------------


def inspect(world: World) -> dict[str, Finding]:
    findings: list[Finding] = world.run(world.resource.inspect(world.session))
    return {finding.check: finding for finding in findings}


def test_a_sound_file_has_nothing_to_mend(tmp_path: Path) -> None:
    with World(tmp_path / "a.db", "sync") as world:
        world.committed("CREATE TABLE good (id INTEGER PRIMARY KEY, v)", "CREATE TABLE w (a PRIMARY KEY) WITHOUT ROWID")
        assert {finding.severity for finding in inspect(world).values()} == {Severity.OK}


def test_what_cannot_take_part_is_named_ahead(tmp_path: Path) -> None:
    with World(tmp_path / "a.db", "sync") as world:
        world.committed(
            "CREATE TABLE bare (a)",
            "CREATE TABLE uuid (k TEXT PRIMARY KEY)",
            "CREATE VIRTUAL TABLE words USING fts5 (x)",
            "CREATE TRIGGER tidy AFTER INSERT ON uuid BEGIN DELETE FROM bare; END",
        )
        found = inspect(world)
        assert found["tables without a key"].severity is Severity.WARNING
        assert found["tables without a key"].found.startswith("bare:")
        assert found["virtual tables"].found.startswith("words:")
        assert found["keys that can be NULL"].found.startswith("uuid:")
        assert (found["triggers"].severity, found["triggers"].found[:5]) == (Severity.OK, "tidy:")


def test_a_connection_that_would_not_force_is_refused(tmp_path: Path) -> None:
    with World(tmp_path / "a.db", "sync") as world:
        world.connection.pragma("synchronous", 1)
        finding = inspect(world)["durability"]
        assert (finding.severity, finding.found) == (Severity.REFUSED, "synchronous=NORMAL")


@pytest.mark.skipif(ROOT, reason="root may write everything")
def test_missing_rights_are_found(tmp_path: Path) -> None:
    with World(tmp_path / "a.db", "sync") as world:
        world.path.chmod(0o400)
        assert inspect(world)["rights"].severity is Severity.REFUSED
        world.path.chmod(0o600)


def test_a_network_file_system_is_told_from_a_local_one(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "1 0 8:1 / / rw - ext4 /dev/sda rw\nbroken line\n"
        "2 1 0:9 / /mnt/shared\\040files rw,relatime shared:1 - nfs4 server:/x rw\n"
    )
    assert sqlite_inspect.file_system_of("/mnt/shared files/a.db", str(mounts)) == "nfs4"
    assert sqlite_inspect.file_system_of("/mnt/shared filesystem/a.db", str(mounts)) == "ext4"
    assert sqlite_inspect.file_system_of("/a.db", str(tmp_path / "none")) == ""


def test_a_file_on_a_network_file_system_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_inspect, "file_system_of", lambda path: "nfs4")
    with World(tmp_path / "a.db", "sync") as world:
        assert inspect(world)["file system"].severity is Severity.WARNING
