"""What a disk holds, as a value: `Image`. Taken of a `MemoryDisk`, and made into one again.

An image keeps the inodes of folders, because a journal knows its folder by them (O53). Not for: what is durable and
what is not (crash_states.py), or locks: no process lives in an image.
"""

from __future__ import annotations

import itertools
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass

from syncpoint.testing.disks import MemoryDisk, _File, _Folder

ROOT = "/"


@dataclass(frozen=True, slots=True)
class Entry:
    """One file or folder."""

    inode: int
    data: bytes | None
    """A file's bytes; None for a folder."""


Image = Mapping[str, Entry]
"""By absolute path; every entry's folder is there too, and before it in order of path. The root goes by "/"."""


def image_of(disk: MemoryDisk) -> dict[str, Entry]:
    """What a reader of this disk would see now."""
    machine = disk._machine
    with machine.mutex:
        found = {ROOT: Entry(machine.root.inode, None)}
        _collect(machine.root, ROOT, found)
    return found


def _collect(folder: _Folder, path: str, found: dict[str, Entry]) -> None:
    for name, entry in folder.content.items():
        below = posixpath.join(path, name)
        if isinstance(entry, _Folder):
            found[below] = Entry(entry.inode, None)
            _collect(entry, below, found)
        else:
            found[below] = Entry(entry.inode, bytes(entry.content))


def disk_holding(image: Image) -> MemoryDisk:
    """A disk on which everything in the image is durable, and nothing else is there."""
    disk = MemoryDisk()
    machine = disk._machine
    folders = {ROOT: machine.root}
    for path in sorted(image):
        entry = image[path]
        made: _File | _Folder
        if entry.data is None:
            made = folders[path] = machine.root if path == ROOT else _Folder(entry.inode)
            made.inode = entry.inode
        else:
            made = _File(entry.inode, bytearray(entry.data), bytearray(entry.data), len(entry.data))
        if path != ROOT:
            folder = folders[posixpath.dirname(path)]
            for entries in (folder.content, folder.durable, folder.clean):
                entries[posixpath.basename(path)] = made
    machine.inodes = itertools.count(1 + max((entry.inode for entry in image.values()), default=0))
    return disk
