"""Opening a folder: is it ours, is it the original, is everything in it readable? Then draw an incarnation.

All of this but the first look happens under the folder's lock, so that two processes that make one folder agree, and
nobody mistakes a process that is just opening for a dead one. Damage refuses before anything is changed (O41).

Not for: waiting for that lock (folder.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from syncpoint.errors import JournalDamaged, JournalRefused
from syncpoint.ids import Guid, Incarnation
from syncpoint.journal.head import (
    OWN_NAMES,
    Head,
    Paths,
    check_identity,
    read_counter,
    read_head,
    write_counter,
    write_head,
)
from syncpoint.journal.neighbours import Neighbours
from syncpoint.ports import Clock, Disk, FileLock, Random


@contextmanager
def plainly(path: str) -> Iterator[None]:
    """Say in plain words why a folder cannot be opened. Turns an OSError into JournalRefused."""
    try:
        yield
    except PermissionError as error:
        raise JournalRefused(
            f"The journal at {path} may not be read and written by this user ({error.filename or path}).",
            advice=f"Run as the user who owns it, or give it to this one: chown -R USER {path}",
        ) from error
    except (FileExistsError, NotADirectoryError) as error:
        raise JournalRefused(
            f"The journal at {path} would have to be a folder, but a file is in the way.",
            advice="Name another path for the journal.",
        ) from error
    except FileNotFoundError as error:
        raise JournalRefused(
            f"The journal at {path} cannot be made: {error.filename or path} does not exist.",
            advice="Make the folder above it first, or name another path.",
        ) from error
    except OSError as error:
        raise JournalRefused(
            f"The journal at {path} cannot be opened: {error}.",
            advice="Mend the disk, or name another path for the journal.",
        ) from error


def look_first(disk: Disk, paths: Paths) -> None:
    """Make the folder if it is missing; refuse what is somebody else's. Raises JournalRefused, OSError."""
    if not disk.exists(paths.root):
        disk.make_folder(paths.root)
    names = disk.list(paths.root)
    strangers = [name for name in names if name.partition(".")[0] not in OWN_NAMES]
    if strangers and "journal" not in names:
        raise JournalRefused(
            f"The folder {paths.root} is no journal of Syncpoint's: it holds {strangers[0]!r}.",
            advice="Name an empty or a new folder for the journal.",
        )


def read_or_make(disk: Disk, clock: Clock, random: Random, paths: Paths) -> Head:
    """The folder's head; made when the folder is new. Raises JournalRefused, JournalDamaged, FormatTooNew, OSError."""
    head = read_head(disk, paths)
    if head is not None:
        check_identity(disk, paths, head)
        _check_not_refused(disk, paths)
        return head
    if disk.exists(paths.segments) and disk.list(paths.segments):
        raise JournalDamaged(paths.head, 0, "the head is missing, although there are segments")
    disk.make_folder(paths.root)  # whoever made it may have died before that was durable
    disk.make_folder(paths.members)
    disk.make_folder(paths.segments)
    write_counter(disk, paths, 0)
    return write_head(disk, paths, Guid(random.bytes(16)), clock.wall_ms())


def _check_not_refused(disk: Disk, paths: Paths) -> None:
    """A folder once proved an older copy stays refused, however far its own counter has come since (O53)."""
    if disk.exists(paths.refused):
        why = disk.read(paths.refused).decode(errors="replace")
        raise JournalRefused(
            f"The journal at {paths.root} was refused before and stays so: {why}",
            advice=f"Restore the newest copy whole, so that the file {paths.refused} goes. If that copy is lost "
            f"for good: syncpoint journal adopt-copy {paths.root}",
        )


def verify_and_draw(
    disk: Disk, paths: Paths, neighbours: Neighbours, *, probe: bool = True
) -> tuple[Incarnation, FileLock]:
    """Read what all others left, then draw the next incarnation and take its lock. With `probe`, find out who is dead.

    Raises JournalDamaged before anything is changed, FormatTooNew, OSError.
    """
    neighbours.survey(probe=probe)
    drawn = read_counter(disk, paths)
    if drawn < neighbours.highest():
        raise JournalDamaged(
            paths.counter, 0, f"it says {drawn}, but incarnation {neighbours.highest()} has left its records"
        )
    incarnation = Incarnation(drawn + 1)
    write_counter(disk, paths, incarnation)  # before it is used, so that it is never drawn again
    lock = disk.lock(paths.member(incarnation))
    assert lock is not None  # never drawn before, and only who holds the folder's lock tries a file without segments
    return incarnation, lock
