"""The note `<file>-syncpoint` beside a SQLite database: which branch has voted yes there and may be in doubt.

A SQLite branch's vote is volatile: its changes are an open transaction, and the file's write lock dies with its
process. So a branch notes its identifier here before it votes, and whoever next gets the write lock settles it
first (DESIGN section 4, rule 9). The note is read and written **only while holding the database's write lock**; a
scan may read it without, and then only reports it.

It is never forced: a power cut ends every process, and recovery, which knows all decided branches from the journal,
comes before service. What the note protects against is the death of one process among several.

Bytes, format version 1 (84 bytes, fixed, written in place by one `pwrite`):

    offset  size  field
         0     8  b"SYNCNOTE"
         8     1  format version (1)
         9     1  1 = a branch stands, 0 = cleared
        10    43  identifier (ids.Identifier; it begins with the coordinator's GUID)
        53    16  GUID of the database it belongs to
        69    11  zeros
        80     4  CRC-32 of bytes 0..79, big-endian

A note of ours that is cut short or whose CRC is wrong was torn by a kill in the middle of the write. The note comes
before the vote, so that branch never voted: it is dropped. (A flipped bit looks the same; recovery then redoes the
branch from the journal, and rows changed meanwhile show as conflicts.) Bytes that are not ours, a later format
version and another database's note are refused and left as they are.

Not for: evidence, or deciding what becomes of the branch (sqlite.py).
"""

from __future__ import annotations

import os
import stat
import zlib
from dataclasses import dataclass

from syncpoint.errors import FormatTooNew, ResourceUnavailable, SetupRefused
from syncpoint.ids import IDENTIFIER_SIZE_BYTES, Guid, Identifier, NotOurs

NOTE_MAGIC = b"SYNCNOTE"
NOTE_FORMAT = 1
NOTE_SIZE_BYTES = 84
NOTE_SUFFIX = "-syncpoint"
_STANDING = 1
_CLEARED = 0


@dataclass(frozen=True, slots=True)
class Note:
    """A branch that stands: `identifier`, and the `guid` of the database it belongs to."""

    identifier: Identifier
    guid: Guid


class NoteRefused(SetupRefused):
    """The note beside the database is not one that this database may act upon. Nothing was changed."""


def encode_note(note: Note, *, standing: bool) -> bytes:
    """The bytes of a note that stands, or of the same note cleared."""
    body = b"".join(
        (
            NOTE_MAGIC,
            bytes((NOTE_FORMAT, _STANDING if standing else _CLEARED)),
            note.identifier.to_bytes(),
            note.guid.raw,
        )
    ).ljust(NOTE_SIZE_BYTES - 4, b"\0")
    return body + zlib.crc32(body).to_bytes(4, "big")


def decode_note(raw: bytes, path: str) -> Note | None:
    """Read a note; None: there is none, it was cleared, or it was torn before its branch could vote.

    `path` is for messages. Raises NoteRefused (not ours), FormatTooNew. Nothing is changed.
    """
    if not NOTE_MAGIC.startswith(raw[:8].rstrip(b"\0")):  # a torn first write may leave a part of it, and zeros
        raise _refused(path, f"it begins with {raw[:8].hex()}, which Syncpoint never writes")
    if len(raw) > 8 and raw[8] > NOTE_FORMAT:
        raise FormatTooNew(f"note {path}", raw[8], NOTE_FORMAT)
    if len(raw) < NOTE_SIZE_BYTES or zlib.crc32(raw[:80]) != int.from_bytes(raw[80:84], "big"):
        return None  # torn: the note precedes the vote, so there was none
    if raw[9] == _CLEARED:
        return None
    try:
        identifier = Identifier.from_bytes(raw[10 : 10 + IDENTIFIER_SIZE_BYTES])
    except NotOurs as error:
        raise _refused(path, f"its checksum is right but {error}") from None
    return Note(identifier, Guid(raw[53:69]))


def _refused(path: str, why: str) -> NoteRefused:
    return NoteRefused(
        f"The file {path} is not a note of Syncpoint's: {why}.",
        advice="Nothing was changed. Move that file away if it belongs to something else.",
    )


class NoteFile:
    """The note's file, opened once for each session. Every method blocks; OSError becomes ResourceUnavailable.

    It is a file of its own, so closing it drops none of SQLite's POSIX locks on the database.
    """

    __slots__ = ("_descriptor", "database", "path")

    def __init__(self, database_path: str) -> None:
        self.path = database_path + NOTE_SUFFIX
        self.database = database_path
        self._descriptor: int | None = None

    def __repr__(self) -> str:
        return f"<NoteFile {self.path}>"

    def read(self) -> bytes:
        """The file's bytes; empty when there is no file."""
        try:
            if self._descriptor is None:
                self._descriptor = self._open(os.O_RDWR)
            return os.pread(self._descriptor, NOTE_SIZE_BYTES, 0)
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise self._trouble(error) from error

    def write(self, raw: bytes) -> None:
        """Write the note in place, making the file (with the database's own mode and group) when it is missing."""
        assert len(raw) == NOTE_SIZE_BYTES
        try:
            if self._descriptor is None:
                self._descriptor = self._open(os.O_RDWR | os.O_CREAT)
            written = os.pwrite(self._descriptor, raw, 0)
        except OSError as error:
            raise self._trouble(error) from error
        if written != NOTE_SIZE_BYTES:  # a full disk; what is there now reads as torn
            raise ResourceUnavailable(
                f"The note {self.path} could not be written whole: the disk is full.", advice="Make room and try again."
            )

    def close(self) -> None:
        """Close the file; never raises."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            try:
                os.close(descriptor)
            except OSError:
                return

    def is_current(self) -> bool:
        """Whether the open file is still the one at the path (it was not removed or replaced)."""
        if self._descriptor is None:
            return True
        try:
            return os.path.samestat(os.fstat(self._descriptor), os.stat(self.path))
        except OSError:
            return False

    def _open(self, flags: int) -> int:
        database = os.stat(self.database)
        mode = stat.S_IMODE(database.st_mode) & 0o666
        descriptor = os.open(self.path, flags | os.O_CLOEXEC, mode)
        if flags & os.O_CREAT and stat.S_IMODE(os.fstat(descriptor).st_mode) != mode:
            self._widen(descriptor, mode)
        return descriptor

    def _widen(self, descriptor: int, mode: int) -> None:
        """Whoever may write the database must be able to write the note, whatever the umask (as SQLite's own WAL)."""
        try:
            os.fchmod(descriptor, mode)
        except OSError:
            return  # another user made it

    def _trouble(self, error: OSError) -> ResourceUnavailable:
        return ResourceUnavailable(
            f"The note {self.path} cannot be used: {error.strerror or error}.",
            advice="This user must be able to read and write it and to make files in that folder.",
        )
