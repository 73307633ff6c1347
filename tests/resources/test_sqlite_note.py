"""The note beside a SQLite file, and the file's lock as the operating system shows it."""

from __future__ import annotations

import os
import sqlite3
import zlib
from pathlib import Path

import pytest

from syncpoint.errors import (
    FormatTooNew,
    ResourceUnavailable,
    SyncpointError,
)
from syncpoint.ids import Guid
from syncpoint.resources import sqlite_locks
from syncpoint.resources.base import Answer, Choice
from syncpoint.resources.sqlite_note import NOTE_SIZE_BYTES, Note, NoteFile, NoteRefused, decode_note, encode_note
from tests.resources.sqlite_world import (
    ABORT,
    TABLE,
    UNKNOWN,
    World,
    answering,
    change,
    is_locked,
    make_identifier,
)

# --- the note -------------------------------------------------------------------------------------------

GUID = Guid(b"g" * 16)


def test_a_note_has_fixed_bytes() -> None:
    identifier = make_identifier(number=5)
    raw = encode_note(Note(identifier, GUID), standing=True)
    body = b"SYNCNOTE\x01\x01" + identifier.to_bytes() + GUID.raw + bytes(11)
    assert raw == body + zlib.crc32(body).to_bytes(4, "big")
    assert len(raw) == NOTE_SIZE_BYTES
    assert decode_note(raw, "n") == Note(identifier, GUID)
    assert decode_note(encode_note(Note(identifier, GUID), standing=False), "n") is None


def test_a_note_torn_anywhere_reads_as_none() -> None:
    old = encode_note(Note(make_identifier(), GUID), standing=True)
    new = encode_note(Note(make_identifier(), GUID), standing=True)
    for size in range(NOTE_SIZE_BYTES):
        assert decode_note(new[:size], "n") is None
        assert decode_note(new[:size] + bytes(NOTE_SIZE_BYTES - size), "n") is None
        assert decode_note(new[:size] + old[size:], "n") in (None, decode_note(old, "n"), decode_note(new, "n"))


@pytest.mark.parametrize("raw", [b"hello", b"\xff" * 84, b"SYNCNOTX" + bytes(76), b"SQLite format 3\0"])
def test_foreign_bytes_are_refused(raw: bytes) -> None:
    with pytest.raises(NoteRefused):
        decode_note(raw, "n")


def test_a_note_of_a_later_version_is_refused() -> None:
    raw = bytearray(encode_note(Note(make_identifier(), GUID), standing=True))
    raw[8] = 2
    with pytest.raises(FormatTooNew):
        decode_note(bytes(raw), "n")


def test_a_note_whose_identifier_is_none_is_refused() -> None:
    body = (b"SYNCNOTE\x01\x01" + bytes(70)).ljust(80, b"\0")
    with pytest.raises(NoteRefused, match="checksum is right"):
        decode_note(body + zlib.crc32(body).to_bytes(4, "big"), "n")


@pytest.mark.parametrize("kind", ["foreign", "later version", "another database"])
def test_a_note_that_is_not_ours_stops_writers_and_is_left_alone(tmp_path: Path, kind: str) -> None:
    note = tmp_path / "a.db-syncpoint"
    standing = encode_note(Note(make_identifier(), GUID), standing=True)
    with World(tmp_path / "a.db", "sync") as world:
        world.committed(TABLE)
        raw = {
            "foreign": b"my notes",
            "later version": standing[:8] + b"\x02" + standing[9:],
            "another database": standing,
        }
        note.write_bytes(raw[kind])
        with pytest.raises(SyncpointError) as caught:
            world.begin()
        assert isinstance(caught.value, NoteRefused | FormatTooNew)
        assert str(note) in str(caught.value)
        assert note.read_bytes() == raw[kind]
        assert not is_locked(world.path)
        assert world.standing() == [None]  # O33
        world.begin(read_only=True)
        world.abort()
        note.unlink()
        world.vote("INSERT INTO t VALUES (1, 1)")
        assert world.commit() is Answer.COMMITTED
        assert note.stat().st_size == NOTE_SIZE_BYTES


def test_a_note_is_written_where_everybody_sees_it_though_the_file_was_removed(tmp_path: Path) -> None:
    note = tmp_path / "a.db-syncpoint"
    with World(tmp_path / "a.db", "sync") as world:
        world.committed(TABLE)
        world.vote("INSERT INTO t VALUES (1, 1)")
        world.commit()
        note.unlink()
        identifier, _ = world.vote("INSERT INTO t VALUES (2, 2)")
        assert decode_note(note.read_bytes(), "n") == Note(identifier, world.guid)
        assert note.stat().st_mode & 0o777 == world.path.stat().st_mode & 0o666


def test_a_note_that_cannot_be_written_makes_the_branch_vote_no(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwrite
    with World(tmp_path / "a.db", "sync") as world:
        world.committed(TABLE)
        monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: real(descriptor, data[:10], offset))
        _, vote = world.vote("INSERT INTO t VALUES (1, 1)")
        monkeypatch.undo()
        assert (vote.choice, "disk is full" in vote.reason) == (Choice.NO, True)
        assert world.standing() == []
        monkeypatch.setattr(os, "pwrite", lambda *_: os.close(-1))
        _, vote = world.vote("INSERT INTO t VALUES (1, 1)")
        monkeypatch.undo()
        assert (vote.choice, "cannot be used" in vote.reason) == (Choice.NO, True)
        world.vote("INSERT INTO t VALUES (1, 1)")
        assert world.commit() is Answer.COMMITTED


def test_a_note_in_a_folder_without_rights(tmp_path: Path) -> None:
    notes = NoteFile(str(tmp_path / "missing" / "a.db"))
    assert notes.read() == b""
    with pytest.raises(ResourceUnavailable, match="cannot be used"):
        notes.write(bytes(NOTE_SIZE_BYTES))
    (tmp_path / "b.db-syncpoint").mkdir()
    change(tmp_path / "b.db", TABLE)
    with pytest.raises(ResourceUnavailable, match="cannot be used"):
        NoteFile(str(tmp_path / "b.db")).read()
    assert repr(notes).endswith("a.db-syncpoint>")


# --- locks that another SQLite drops --------------------------------------------------------------------


def use_the_other_sqlite(path: Path) -> None:
    """What a program must not do: the standard library's copy of SQLite opens and closes the same file here."""
    other = sqlite3.connect(path)
    other.execute("SELECT count(*) FROM sqlite_schema").fetchall()
    other.close()


needs_proc_locks = pytest.mark.skipif(not Path("/proc/locks").exists(), reason="needs /proc/locks")


@needs_proc_locks
@pytest.mark.parametrize("journal", ["wal", "keep"])
def test_a_lock_dropped_before_the_vote_makes_it_vote_no(tmp_path: Path, journal: str) -> None:
    with World(tmp_path / "a.db", "sync", {"journal_mode": journal}) as world:
        world.committed(TABLE)
        world.begin()
        world.execute("INSERT INTO t VALUES (1, 1)")
        use_the_other_sqlite(world.path)
        vote = world.run(world.resource.prepare(world.session))
        assert vote.choice is Choice.NO
        assert "module sqlite3" in vote.reason
        assert not world.resource.is_usable(world.session)


@needs_proc_locks
def test_a_lock_dropped_after_the_vote_leaves_the_branch_to_redo(tmp_path: Path) -> None:
    with World(tmp_path / "a.db", "sync") as world:
        world.committed(TABLE)
        identifier, vote = world.vote("INSERT INTO t VALUES (1, 1)")
        use_the_other_sqlite(world.path)
        assert world.commit() is Answer.RETRY
        world.fresh()
        assert world.finish(identifier, vote.state) is Answer.COMMITTED
        assert world.rows() == [(1, 1)]


def test_where_the_system_shows_no_locks_nothing_is_concluded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_locks, "PROC_LOCKS", str(tmp_path / "none"))
    with World(tmp_path / "a.db", "sync") as world:
        world.committed(TABLE)
        world.vote("INSERT INTO t VALUES (1, 1)")
        assert world.run(world.resource.blockers(world.session)) == ""
        assert world.commit() is Answer.COMMITTED


def test_the_holder_of_the_lock_is_read_from_the_systems_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, shared, locks = tmp_path / "a.db", tmp_path / "a.db-shm", tmp_path / "locks"
    path.touch()
    shared.touch()
    monkeypatch.setattr(sqlite_locks, "PROC_LOCKS", str(locks))
    inode = shared.stat().st_ino
    locks.write_text(
        f"1: POSIX  ADVISORY  READ 11 fe:01:{inode} 128 128\n"
        f"2: POSIX  ADVISORY  WRITE 12 fe:01:{inode} 121 127\n"
        f"2: -> POSIX  ADVISORY  WRITE 13 fe:01:{inode} 120 120\n"
        f"3: FLOCK  ADVISORY  WRITE 14 fe:01:{inode} 0 EOF\n"
    )
    assert sqlite_locks.lock_holder(str(path)) == ""
    with locks.open("a") as file:
        file.write(f"4: POSIX  ADVISORY  WRITE 15 fe:01:{path.stat().st_ino} 1073741824 EOF\n")
    assert sqlite_locks.lock_holder(str(path)) == "process 15"
    shared.unlink()
    assert sqlite_locks.lock_holder_pid(str(path)) == 15


# --- asking ---------------------------------------------------------------------------------------------


def test_a_coordinator_nobody_knows_keeps_the_file_closed_and_is_named(tmp_path: Path) -> None:
    stranger = Guid(b"unknown-journal!")
    with World(tmp_path / "a.db", "sync") as world:
        world.committed(TABLE)
        world.begin(identifier=make_identifier(stranger))
        world.execute("INSERT INTO t VALUES (1, 1)")
        world.run(world.resource.prepare(world.session))
        world.fresh()
        world.resource.ask = answering(UNKNOWN)
        with pytest.raises(SyncpointError, match=str(stranger)):
            world.begin(remaining_ms=60)
        world.resource.ask = answering(ABORT)
        world.session = world.open()
        world.begin()
