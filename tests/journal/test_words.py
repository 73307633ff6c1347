"""The folder's words, exactly: refusals and failures as people read them, and the names of its steps in traces.

Found missing by mutants. Not for: when it refuses (test_refusals.py), or what it does (test_folder.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from syncpoint.errors import JournalDamaged, JournalFailed, JournalRefused, ManagerClosed, SyncpointError
from syncpoint.journal.head import Paths, check_identity, read_head
from syncpoint.journal.inspect import AdoptReport, Damage, adopt_copy, list_records, salvage, verify
from syncpoint.journal.opening import look_first, plainly, read_or_make
from syncpoint.testing.disks import MemoryDisk
from tests.journal.support import FOLDER, ManualClock, Process, SeededRandom, commit, key, transaction

PATHS = Paths(FOLDER)
SEGMENT = f"{FOLDER}/segments/0000000001-000001.log"


def with_one_commit() -> MemoryDisk:
    disk = MemoryDisk()
    process = Process(disk.process()).open()
    process(process.journal.force((commit(key(1)),)))
    disk.kill_all()
    return disk


def said(error: type[SyncpointError], call: Callable[[], Any]) -> tuple[str, str]:
    """(message, advice) of what is raised."""
    with pytest.raises(error) as caught:
        call()
    return caught.value.message, caught.value.advice


# --- opening -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "message", "advice"),
    [
        (
            PermissionError(13, "no", "/journal/counter"),
            "The journal at /journal may not be read and written by this user (/journal/counter).",
            "Run as the user who owns it, or give it to this one: chown -R USER /journal",
        ),
        (
            PermissionError(),
            "The journal at /journal may not be read and written by this user (/journal).",
            "Run as the user who owns it, or give it to this one: chown -R USER /journal",
        ),
        (
            NotADirectoryError(20, "no", "/journal"),
            "The journal at /journal would have to be a folder, but a file is in the way.",
            "Name another path for the journal.",
        ),
        (
            FileNotFoundError(2, "no", "/up"),
            "The journal at /journal cannot be made: /up does not exist.",
            "Make the folder above it first, or name another path.",
        ),
        (
            FileNotFoundError(),
            "The journal at /journal cannot be made: /journal does not exist.",
            "Make the folder above it first, or name another path.",
        ),
        (
            OSError(5, "Input/output error"),
            "The journal at /journal cannot be opened: [Errno 5] Input/output error.",
            "Mend the disk, or name another path for the journal.",
        ),
    ],
)
def test_why_a_folder_cannot_be_opened(error: OSError, message: str, advice: str) -> None:
    def fail() -> None:
        with plainly(FOLDER):
            raise error

    assert said(JournalRefused, fail) == (message, advice)


@pytest.mark.parametrize(
    "look",
    [
        verify,
        lambda path, disk: list(list_records(path, disk)),
        lambda path, disk: list(salvage(path, disk)),
        adopt_copy,
        lambda path, disk: Process(disk, path=path).open(),
    ],
)
def test_every_look_at_a_folder_says_so(look: Callable[[str, MemoryDisk], Any]) -> None:
    disk = with_one_commit()

    def forbid(operation: str, path: str) -> None:
        raise PermissionError(13, "no", path)

    disk.on_operation = forbid
    message, _ = said(JournalRefused, lambda: look(FOLDER, disk))
    assert message.startswith(f"The journal at {FOLDER} may not be read and written by this user ({FOLDER}")


def test_a_folder_of_something_else() -> None:
    disk = MemoryDisk()
    disk.make_folder(FOLDER)
    disk.create(f"{FOLDER}/thesis.odt").close()
    assert said(JournalRefused, lambda: look_first(disk, PATHS)) == (
        f"The folder {FOLDER} is no journal of Syncpoint's: it holds 'thesis.odt'.",
        "Name an empty or a new folder for the journal.",
    )


def test_a_moved_folder() -> None:
    disk = with_one_commit()
    disk.copy_folder(FOLDER, "/copy")
    head = read_head(disk, Paths("/copy"))
    assert head is not None
    assert said(JournalRefused, lambda: check_identity(disk, Paths("/copy"), head)) == (
        (
            "The journal at /copy was moved, copied, or restored from a backup: this is not the folder in which it was "
            "made."
        ),
        (
            "If the original is gone and nothing was decided there since the copy was made, "
            "run `syncpoint journal adopt-copy /copy`."
        ),
    )
    assert verify("/copy", disk).is_copy
    report = adopt_copy("/copy", disk)
    assert report == AdoptReport("/copy", head.guid, 1, 1_000_001)
    assert read_head(disk, Paths("/copy")) == disk_head_with_identity(disk, head)


def disk_head_with_identity(disk: MemoryDisk, head: Any) -> Any:
    device, inode = disk.identity("/copy")
    return type(head)(
        version=head.version, coordinator=head.coordinator, device=device, inode=inode, created_ms=head.created_ms
    )


def test_a_folder_refused_before() -> None:
    disk = with_one_commit()
    process = Process(disk.process()).open()
    process(process.journal.refuse_for_good("audit.db has seen more"))
    disk.kill_all()
    assert said(JournalRefused, lambda: Process(disk.process()).open()) == (
        f"The journal at {FOLDER} was refused before and stays so: audit.db has seen more",
        (
            f"Restore the newest copy whole, so that the file {FOLDER}/refused goes. If that copy is lost for good: "
            f"syncpoint journal adopt-copy {FOLDER}"
        ),
    )


@pytest.mark.parametrize(
    ("lose", "why"),
    [
        ("journal", "the head is missing, although there are segments"),
        ("counter", "the counter of incarnations is missing"),
    ],
)
def test_lost_files(lose: str, why: str) -> None:
    disk = with_one_commit()
    disk.remove(f"{FOLDER}/{lose}")
    assert said(JournalDamaged, lambda: Process(disk.process()).open()) == (
        f"The journal is damaged: /journal/{lose}, byte 0: {why}.",
        (
            "Nothing was changed. List what can be read with `syncpoint journal salvage /journal`, and restore the "
            "disk before starting again."
        ),
    )


def test_a_new_head_says_who_where_and_when() -> None:
    disk = MemoryDisk()
    disk.make_folder(FOLDER)
    clock = ManualClock()
    head = read_or_make(disk, clock, SeededRandom(), PATHS)
    device, inode = disk.identity(FOLDER)
    assert (head.version, head.device, head.inode, head.created_ms) == (1, device, inode, clock.wall_ms())
    assert head.guid.raw == SeededRandom().bytes(16)
    assert disk.read(PATHS.counter) == bytes(8) + b"\x69\xdf\x22\x65", "zero, and its CRC32"
    assert read_head(disk, PATHS) == head == read_or_make(disk, clock, SeededRandom(2), PATHS)


def test_a_folders_lock_that_is_held() -> None:
    disk = with_one_commit()
    assert disk.lock(PATHS.lock) is not None
    assert said(JournalRefused, lambda: Process(disk.process()).open()) == (
        f"Another process holds the lock of the journal at {FOLDER}.",
        "It is held for moments only: see what the process that holds it is stuck at.",
    )


# --- looking -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "look",
    [verify, lambda p, d: list(list_records(p, d)), lambda p, d: list(salvage(p, d)), adopt_copy],
)
@pytest.mark.parametrize("path", ["/missing", "/empty"])
def test_no_journal(look: Callable[[str, MemoryDisk], Any], path: str) -> None:
    disk = MemoryDisk()
    disk.make_folder("/empty")
    assert said(JournalRefused, lambda: look(path, disk)) == (
        f"There is no journal at {path}.",
        "Name the journal's folder.",
    )


def test_a_journal_in_use_is_not_adopted() -> None:
    disk = with_one_commit()
    Process(disk.process()).open()
    held = f"{FOLDER}/members/0000000002.lock"
    assert said(JournalRefused, lambda: adopt_copy(FOLDER, disk)) == (
        f"A process is using the journal at {FOLDER} ({held} is held).",
        "Stop it first.",
    )


def test_listing_a_damaged_journal_says_where() -> None:
    disk = with_one_commit()
    size = disk.size(SEGMENT)
    disk.flip(SEGMENT, size - 40)
    [damage] = verify(FOLDER, disk).damages
    assert damage.why == "the batch's checksum is wrong"
    with pytest.raises(JournalDamaged) as caught:
        list(list_records(FOLDER, disk))
    assert (caught.value.path, caught.value.offset) == (SEGMENT, damage.offset)
    assert caught.value.message == f"The journal is damaged: {SEGMENT}, byte {damage.offset}: {damage.why}."
    assert f"salvage {FOLDER}`" in caught.value.advice


def test_a_report_names_the_folder_and_whose_it_is() -> None:
    disk = with_one_commit()
    report = verify(FOLDER, disk)
    head = read_head(disk, PATHS)
    assert head is not None
    assert (report.path, report.coordinator, report.highest_incarnation) == (FOLDER, head.guid, 1)
    disk.remove(PATHS.head)
    disk.remove(PATHS.counter)
    lost = verify(FOLDER, disk)
    assert (lost.coordinator, lost.highest_incarnation, lost.is_copy) == (None, 0, False)
    assert lost.damages == (
        Damage(PATHS.head, 0, "the head is missing"),
        Damage(PATHS.counter, 0, "the counter of incarnations is missing"),
    )


# --- failing and closing -----------------------------------------------------------------------------------------


def test_r5_a_failed_journal_says_what_to_do() -> None:
    disk = MemoryDisk()
    process = Process(disk).open()
    assert " open incarnation=1 " in repr(process.journal)
    disk.fail_force_at = disk.forces + 1
    message, advice = said(JournalFailed, lambda: process(process.journal.force((commit(key(1)),))))
    assert message.startswith(f"Writing to the journal at {FOLDER} failed: [Errno 5] ")
    assert advice == (
        "Whether the last records are on disk is unknown. Mend the disk (is it full?) and restart: recovery settles "
        "what was under way."
    )
    assert said(JournalFailed, process.journal.next_attempt) == (message, advice)
    assert " failed incarnation=1 " in repr(process.journal)


def test_a_folder_that_cannot_be_read_now() -> None:
    disk = MemoryDisk()
    process = Process(disk).open()

    def fail(operation: str, path: str) -> None:
        raise OSError(5, "Input/output error")

    disk.on_operation = fail
    for script in (
        process.journal.look(),
        process.journal.highest_incarnation(),
        process.journal.claim(transaction(1)),
    ):
        assert said(JournalFailed, lambda script=script: process(script)) == (  # type: ignore[misc]
            f"The journal at {FOLDER} cannot be read: [Errno 5] Input/output error.",
            "Mend the disk, then restart.",
        )
    disk.on_operation = None
    assert process(process.journal.claim(transaction(1))).mine, "the claim that failed was given back"


@pytest.mark.parametrize("how", ["new", "closed", "abandoned"])
def test_a_journal_that_is_not_open_says_what_it_is(how: str) -> None:
    process = Process(MemoryDisk())
    assert repr(process.journal) == f"<FolderJournal {FOLDER} new incarnation=None {process.journal._index!r}>"
    if how != "new":
        process.open()
    if how == "closed":
        process(process.journal.close())
    elif how == "abandoned":
        process.journal.abandon()
    for call in (
        process.journal.next_attempt,
        lambda: process(process.journal.force((commit(key(1)),))),
        lambda: process(process.journal.claim(transaction(1))),
        lambda: process(process.journal.look()),
        lambda: process(process.journal.highest_incarnation()),
        lambda: process(process.journal.refuse_for_good("older")),
    ):
        assert said(ManagerClosed, call) == (f"The journal at {FOLDER} is {how}.", "Open a new manager.")


# --- steps -------------------------------------------------------------------------------------------------------


def test_the_names_of_the_steps() -> None:
    """Traces and the crash tests know a step by its name."""
    disk = with_one_commit()
    process = Process(disk.process())
    names: list[str] = []
    process.runner.before = lambda step: names.append(step.what)

    def steps_of(script: Any) -> list[str]:
        names.clear()
        process(script)
        return list(names)

    assert steps_of(process.journal.open(process.runner)) == [
        "journal: look at the folder",
        "journal: take the folder's lock",
        "journal: draw an incarnation",
        "journal survey",
        "journal take over",
    ]
    assert steps_of(process.journal.force((commit(key(2)),))) == ["journal force"]
    assert steps_of(process.journal.claim(transaction(3))) == ["journal: claim", "journal survey"]
    assert steps_of(process.journal.highest_incarnation()) == ["journal: the counter"]
    assert steps_of(process.journal.refuse_for_good("older")) == ["journal: refuse for good"]
    assert steps_of(process.journal.look()) == ["journal survey"]
