"""The journal's folder with one file replaced by garbage: whatever stands there, people and processes get our words.

Not for: the bytes of a segment alone (codecs.py), or which record survives what damage (tests/journal/).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from syncpoint.errors import FormatTooNew, JournalDamaged, JournalRefused
from syncpoint.journal.head import Paths
from syncpoint.journal.inspect import adopt_copy, list_records, salvage, verify
from syncpoint.testing.disks import MemoryDisk
from tests.fuzz.decoder import Decoder, as_text
from tests.journal.support import FOLDER, Process, commit, end, key

REFUSALS = (JournalRefused, JournalDamaged, FormatTooNew)
SEGMENT = f"{FOLDER}/segments/0000000001-000001.log"
PATHS = Paths(FOLDER)
FILES = (SEGMENT, PATHS.head, PATHS.counter, PATHS.refused, PATHS.claims, f"{PATHS.members}/0000000001.lock")


def left_by_a_dead_process() -> MemoryDisk:
    """A journal of three commits, one of them ended; its process was killed."""
    disk = MemoryDisk()
    process = Process(disk.process()).open()
    process(process.journal.force((commit(key(1), user_id="order"), commit(key(2)))))
    process(process.journal.force((commit(key(3)), end(key(2)))))
    disk.kill_all()
    return disk


def put(disk: MemoryDisk, path: str, data: bytes) -> None:
    disk.remove(path)
    file = disk.create(path)
    file.append(data)
    file.close()


def each_look(disk: MemoryDisk) -> None:
    """Everything that reads a folder; each must answer, or refuse in our words."""
    looks: tuple[Callable[[], object], ...] = (
        lambda: verify(FOLDER, disk),
        lambda: list(list_records(FOLDER, disk)),
        lambda: list(salvage(FOLDER, disk)),
        lambda: Process(disk.process()).open(),
        lambda: adopt_copy(FOLDER, disk),
    )
    for look in looks:
        with suppress(*REFUSALS):
            look()
        disk.kill_all()


def one_file(raw: bytes) -> None:
    """The first byte chooses the file, the rest is what it holds."""
    disk = left_by_a_dead_process()
    put(disk, FILES[(raw[:1] or b"\0")[0] % len(FILES)], raw[1:])
    each_look(disk)


def strange_names(raw: bytes) -> None:
    """Files that others put there: the first byte chooses the folder, a line the name."""
    disk = left_by_a_dead_process()
    folder = (PATHS.segments, PATHS.members, FOLDER)[(raw[:1] or b"\0")[0] % 3]
    name, _, data = raw[1:].partition(b"\n")
    if name not in (b"", b".", b"..") and b"/" not in name and b"\0" not in name:
        path = f"{folder}/{as_text(name)}"
        if not disk.exists(path):
            put(disk, path, data)
    each_look(disk)


def _seeds() -> list[bytes]:
    disk = left_by_a_dead_process()
    kept = [bytes((number,)) + disk.read(path) for number, path in enumerate(FILES) if disk.exists(path)]
    return [*kept, b"\3an older copy"]


FILES_DECODERS = (
    Decoder("journal-file", one_file, (), _seeds()),
    Decoder(
        "journal-names",
        strange_names,
        (),
        (
            b"\0" + b"0000000002-000001.log\nBTCH",
            b"\0" + b"9" * 21 + b"-000001.log\n" + b"BTCH" + b"\0" * 40,
            b"\x01x.lock\n",
        ),
    ),
)
