"""Every state in which a power failure may leave a disk, for any code that writes through a `Disk`: `points`.

    recording, disk = Recording(), MemoryDisk()
    my_store = MyStore(recording.process(disk.process()))    # any code that writes through ports.Disk
    my_store.put("x"); recording.mark("x is promised")
    for point in points(recording):
        for image in point.states(limit=200, chance=random.Random(1)):
            check(MyStore(disk_holding(image)), promised=point.marks)

A *point* is a moment just before an operation, and the end. What had been forced by then is there; of the rest:

    bytes of a file       it is as long as it was when last forced, or as any append since left it, or up to any sector
                          boundary, or a few lengths between; of each sector (512 bytes) that grew, the data, or zeros,
                          or what stood on the disk before ("stale": bytes of removed files, at the same offset)
    entries of a folder   each name by itself: as last forced, or as any change since left it
    a failed force        promises nothing for that file or folder from then on

That is weaker than what ext4, XFS or Btrfs do, so what survives here does not lean on one of them. Assumed: a sector is
written whole or not at all, so that forced bytes in a sector that is written again stay; a name refers to one file or
another, never to none while it is being replaced.

Not for: lying disks and flipped bits, which no order of writing survives.
"""

from __future__ import annotations

import itertools
import math
import posixpath
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from syncpoint.testing.disk_images import ROOT, Entry, Image
from syncpoint.testing.recording_disk import Operation, Recording

SECTOR_SIZE_BYTES = 512
LENGTHS_BETWEEN = 3


# --- what is durable, and what may be --------------------------------------------------------------------------------


@dataclass(eq=False, slots=True)
class _File:
    inode: int
    durable: bytes = b""
    pending: list[bytes] = field(default_factory=list)
    is_trusted: bool = True
    tail: _Tail | None = None
    """Of `pending`, until that changes."""

    def force(self) -> None:
        if self.is_trusted:
            self.durable += b"".join(self.pending)
            self.pending, self.tail = [], None

    def fail_force(self) -> None:
        self.is_trusted = False


@dataclass(eq=False, slots=True)
class _Folder:
    inode: int
    content: dict[str, _File | _Folder] = field(default_factory=dict)
    versions: dict[str, list[_File | _Folder | None]] = field(default_factory=dict)
    """Of names that changed since the last force: all that they may refer to, what was forced first."""
    untrusted: set[str] = field(default_factory=set)
    """Names that a failed force was to make durable: no later one does, unless they are changed again."""

    def put(self, name: str, entry: _File | _Folder | None) -> None:
        self.untrusted.discard(name)
        versions = self.versions.setdefault(name, [self.content.get(name)])
        if entry not in versions:
            versions.append(entry)
        if entry is None:
            self.content.pop(name, None)
        else:
            self.content[name] = entry

    def force(self) -> None:
        self.versions = {name: versions for name, versions in self.versions.items() if name in self.untrusted}

    def fail_force(self) -> None:
        self.untrusted.update(self.versions)


class _Tail:
    """What may be left of a file's unforced bytes."""

    def __init__(self, file: _File, stale: bytes) -> None:
        self._forced = len(file.durable)
        self._whole = file.durable + b"".join(file.pending)
        self._stale = stale
        self._ends = list(itertools.accumulate((len(piece) for piece in file.pending), initial=self._forced))
        first = self._forced // SECTOR_SIZE_BYTES + 1
        bounds = range(first * SECTOR_SIZE_BYTES, len(self._whole), SECTOR_SIZE_BYTES)
        chance = random.Random(len(self._whole))
        between = (chance.randint(self._forced, len(self._whole)) for _ in range(LENGTHS_BETWEEN))
        self.lengths = sorted({*self._ends, *bounds, *between})

    def count(self) -> int:
        return sum(
            math.prod(len(self._contents(*stretch)) for stretch in self._sectors(length)) for length in self.lengths
        )

    def every(self) -> Iterator[bytes]:
        for length in self.lengths:
            for parts in itertools.product(*(self._contents(*stretch) for stretch in self._sectors(length))):
                yield self._with(parts)

    def any(self, chance: random.Random) -> bytes:
        length = chance.choice(self.lengths)
        return self._with([chance.choice(self._contents(*stretch)) for stretch in self._sectors(length)])

    def nothing(self) -> bytes:
        return self._whole[: self._forced]

    def all(self) -> bytes:
        return self._whole

    def _with(self, parts: Sequence[bytes]) -> bytes:
        return self.nothing() + b"".join(parts)

    def _sectors(self, length: int) -> list[tuple[int, int]]:
        """The unforced part of every sector that a file of this length has: (begin, end)."""
        bounds = range((self._forced // SECTOR_SIZE_BYTES + 1) * SECTOR_SIZE_BYTES, length, SECTOR_SIZE_BYTES)
        edges = [self._forced, *bounds, length] if length > self._forced else []
        return list(itertools.pairwise(edges))

    def _contents(self, begin: int, end: int) -> list[bytes]:
        """What such a part may hold: as after any append that touched it, or nothing, or what was there before."""
        size = end - begin
        cuts = [cut for cut in self._ends if begin < cut < end]
        contents = [self._whole[begin:end], *(self._whole[begin:cut].ljust(size, b"\0") for cut in cuts), bytes(size)]
        stale = self._stale[begin:end]
        return [*contents, stale.ljust(size, b"\0")] if stale.strip(b"\0") else contents


class _Platter:
    """The disk at one moment."""

    def __init__(self, start: Image) -> None:
        # Far above those that the recorded disk gives to its folders.
        self._inodes = itertools.count(1_000_000 + max(entry.inode for entry in start.values()))
        self.stale = b""
        """Bytes of the longest file that was removed: they may show through where others grow."""
        self.root = _Folder(start[ROOT].inode)
        for path in sorted(start):
            entry = start[path]
            if path != ROOT:
                made = _Folder(entry.inode) if entry.data is None else _File(entry.inode, entry.data)
                folder, name = self._parent(path)
                folder.content[name] = made

    def apply(self, operation: Operation) -> None:
        folder, name = self._parent(operation.path)
        match operation.kind:
            case "make_folder":
                if name not in folder.content:
                    folder.put(name, _Folder(operation.inode))
            case "create":
                folder.put(name, _File(next(self._inodes)))
            case "append":
                file = self._file(operation.path)
                file.pending.append(operation.data)
                file.tail = None
            case "force":
                self._file(operation.path).force()
            case "rename":
                target, target_name = self._parent(operation.target)
                target.put(target_name, folder.content[name])
                folder.put(name, None)
            case "remove":
                gone = self._file(operation.path)
                self.stale = max(self.stale, gone.durable + b"".join(gone.pending), key=len)
                folder.put(name, None)
            case "force_folder":
                self._folder(operation.path).force()
            case "failed_force":
                self._find(operation.path).fail_force()
            case "remove_folder":
                folder.put(name, None)
            case _:
                raise AssertionError(f"no such operation: {operation.kind}")

    def _parent(self, path: str) -> tuple[_Folder, str]:
        return self._folder(posixpath.dirname(path)), posixpath.basename(path)

    def _find(self, path: str) -> _File | _Folder:
        entry: _File | _Folder = self.root
        for name in path.split("/"):
            if name:
                assert isinstance(entry, _Folder), path
                entry = entry.content[name]
        return entry

    def _file(self, path: str) -> _File:
        entry = self._find(path)
        assert isinstance(entry, _File), path
        return entry

    def _folder(self, path: str) -> _Folder:
        entry = self._find(path)
        assert isinstance(entry, _Folder), path
        return entry

    def tail(self, file: _File) -> _Tail | None:
        if file.pending and file.tail is None:
            file.tail = _Tail(file, self.stale)
        return file.tail

    # States.

    def count(self) -> int:
        """How many states there are: of every name and every file, whatever it may be."""
        total, seen = 1, set[int]()
        stack: list[_File | _Folder | None] = [self.root]
        while stack:
            entry = stack.pop()
            if entry is None or id(entry) in seen:
                continue
            seen.add(id(entry))
            if isinstance(entry, _File):
                tail = self.tail(entry)
                total *= tail.count() if tail else 1
                continue
            for name in entry.content.keys() | entry.versions.keys():
                versions = entry.versions.get(name) or [entry.content[name]]
                total *= len(versions)
                stack.extend(versions)
        return total

    def image(self, pick: Pick) -> dict[str, Entry]:
        found = {ROOT: Entry(self.root.inode, None)}
        self._collect(self.root, "", pick, found, {})
        return found

    def _collect(
        self, folder: _Folder, path: str, pick: Pick, found: dict[str, Entry], chosen: dict[int, bytes]
    ) -> None:
        for name in sorted(folder.content.keys() | folder.versions.keys()):
            versions = folder.versions.get(name)
            entry = pick.entry(versions) if versions else folder.content[name]
            below = f"{path}/{name}"
            if isinstance(entry, _Folder):
                found[below] = Entry(entry.inode, None)
                self._collect(entry, below, pick, found, chosen)
            elif entry is not None:
                if id(entry) not in chosen:  # the same under two names: a rename half done
                    tail = self.tail(entry)
                    chosen[id(entry)] = pick.tail(tail) if tail else entry.durable
                found[below] = Entry(entry.inode, chosen[id(entry)])


Entries = Sequence[_File | _Folder | None]


class Pick:
    """Makes the choices of one state."""

    def entry(self, versions: Entries) -> _File | _Folder | None:
        raise NotImplementedError

    def tail(self, tail: _Tail) -> bytes:
        raise NotImplementedError


class _Extreme(Pick):
    """Nothing that was not forced is there (0), or all of it (-1)."""

    def __init__(self, which: int) -> None:
        self._which = which

    def entry(self, versions: Entries) -> _File | _Folder | None:
        return versions[self._which]

    def tail(self, tail: _Tail) -> bytes:
        return tail.nothing() if self._which == 0 else tail.all()


class _Chance(Pick):
    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def entry(self, versions: Entries) -> _File | _Folder | None:
        return self._chance.choice(versions)

    def tail(self, tail: _Tail) -> bytes:
        return tail.any(self._chance)


class _Counting(Pick):
    """One state after the other: an odometer whose wheels show up as the choices are made."""

    def __init__(self) -> None:
        self._wheels: list[tuple[int, int]] = []
        self._at = 0

    def entry(self, versions: Entries) -> _File | _Folder | None:
        return versions[self._turn(len(versions))]

    def tail(self, tail: _Tail) -> bytes:
        return next(itertools.islice(tail.every(), self._turn(tail.count()), None))

    def _turn(self, count: int) -> int:
        if self._at == len(self._wheels):
            self._wheels.append((0, count))
        value, _ = self._wheels[self._at]
        self._at += 1
        return value

    def advance(self) -> bool:
        """On to the next state. False when there is none."""
        self._at = 0
        while self._wheels:
            value, count = self._wheels.pop()
            if value + 1 < count:
                self._wheels.append((value + 1, count))
                return True
        return False


@dataclass(frozen=True, slots=True)
class Point:
    """One moment of a recording. Look at it before the next one is asked for."""

    number: int
    before: str
    """The kind of the operation that comes next; "end" at the end."""
    path: str
    marks: tuple[Any, ...]
    _platter: _Platter

    def __repr__(self) -> str:
        return f"<Point {self.number} before {self.before} {self.path}>"

    def count(self) -> int:
        """How many states a power failure at this moment may leave, at most."""
        return self._platter.count()

    def states(self, *, limit: int, chance: random.Random) -> Iterator[Image]:
        """All of them when they are no more than `limit`; else that many, the two extremes among them."""
        if self.count() <= limit:
            counting = _Counting()
            yield self._platter.image(counting)
            while counting.advance():
                yield self._platter.image(counting)
            return
        yield self._platter.image(_Extreme(0))
        yield self._platter.image(_Extreme(-1))
        for _ in range(limit - 2):
            yield self._platter.image(_Chance(chance))


def points(recording: Recording) -> Iterator[Point]:
    """The moments before each change, and the end. Whatever was marked until then stands in each."""
    platter = _Platter(recording.start)
    marks: list[Any] = []
    for number, operation in enumerate(recording.operations):
        if operation.kind == "mark":
            marks.append(operation.mark)
            continue
        yield Point(number, operation.kind, operation.path, tuple(marks), platter)
        platter.apply(operation)
    yield Point(len(recording.operations), "end", "", tuple(marks), platter)
