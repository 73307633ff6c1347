"""Who is proven dead, and not yet taken over: between the two another thread of the same process may look (O55).

Nothing of him may be concluded meanwhile: he counts as living, and what he has recorded as held by somebody else.
Not for: taking over itself (test_sharing.py).
"""

from __future__ import annotations

import pytest

from syncpoint.ids import Attempt, Guid, Incarnation
from syncpoint.journal.base import Verdict
from syncpoint.steps import Script
from syncpoint.testing.disks import MemoryDisk
from tests.journal.support import FOLDER, Process, T, abort, commit, end, key, prepared
from tests.journal.test_sharing import kill, look, once, opened

FIRST, SECOND, THIRD = Incarnation(1), Incarnation(2), Incarnation(3)


def surveyed_by_another_thread(process: Process) -> None:
    process.journal._handle_surveys([True])


def asked_while_he_dies(asking: Process, script: Script[T], dying: Process) -> T:
    """The script takes over somebody else; before it goes on, this one dies and another thread finds that out."""
    runner = asking.runner
    surveyed = runner._perform(next(script))
    taken_over = runner._perform(script.send(surveyed))
    kill(dying)
    surveyed_by_another_thread(asking)
    with pytest.raises(StopIteration) as stopped:
        script.send(taken_over)
    answer: T = stopped.value.value
    return answer


def three() -> tuple[Process, Process, Process]:
    """The first holds a decision and a promise; the third is dead."""
    disk = MemoryDisk()
    first, second, third = opened(disk), opened(disk), opened(disk)
    first(first.journal.force((commit(key(1)), prepared(key(2)))))
    kill(third)
    return first, second, third


def test_recovery_does_not_presume_abort_of_what_he_decided_or_promised() -> None:
    first, second, _ = three()
    view = asked_while_he_dies(second, second.journal.look(), first)
    assert FIRST in view.live
    assert key(1) in view.elsewhere
    assert key(2) in view.promised_elsewhere
    view = look(second)
    assert (view.live, set(view.decisions), set(view.promised)) == (frozenset(), {key(1)}, {key(2)})


def test_evidence_of_what_he_has_not_ended_stays() -> None:
    """Gone, it would read as a rollback by hand as soon as his records are taken over."""
    first, second, _ = three()
    ended = second.journal.ended_incarnations([FIRST, THIRD])
    assert asked_while_he_dies(second, ended, first) == {THIRD}
    assert second(second.journal.ended_incarnations([FIRST, THIRD])) == {THIRD}
    second(second.journal.force((end(key(1)),)))
    assert second(second.journal.ended_incarnations([FIRST, THIRD])) == {FIRST, THIRD}


def test_b8_a_backup_is_told_of_what_he_decided() -> None:
    first, second, _ = three()
    runner = second.runner
    script = second.journal.holding(Guid(b"R" * 16))
    taken_over = runner._perform(script.send(runner._perform(next(script))))
    kill(first)
    surveyed_by_another_thread(second)
    surveyed = runner._perform(script.send(taken_over))  # it looks again
    taken_over = runner._perform(script.send(surveyed))
    with pytest.raises(StopIteration) as stopped:
        script.send(taken_over)
    assert stopped.value.value.commits == (commit(key(1)),)


def test_o47_his_decision_was_first() -> None:
    first, second, _ = three()
    kill(first)
    surveyed_by_another_thread(second)
    another = key(1, Attempt(SECOND, 1))
    verdicts = second(second.journal.force((commit(another), abort(key(1)))))
    assert verdicts == (Verdict.REFUSED, Verdict.REFUSED)


def test_what_is_taken_over_is_held_before_his_file_is_gone() -> None:
    disk = MemoryDisk()
    first, second, third = opened(disk), opened(disk), opened(disk)
    first(first.journal.force((commit(key(1)),)))
    kill(first)
    kill(third)
    held: list[bool] = []

    def ask() -> None:
        held.append(second(second.journal.unended(key(1))))

    disk.on_operation = once("remove", "0000000003.lock", ask)
    look(second)
    assert held == [True]
    assert disk.list(f"{FOLDER}/members") == ["0000000002.lock"]
