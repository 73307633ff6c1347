"""O53: a folder that a database has proved an older copy stays refused, whatever its counter says, until adopted."""

from __future__ import annotations

from pathlib import Path

import pytest

from syncpoint.errors import JournalRefused
from syncpoint.journal.folder import FolderJournal
from syncpoint.journal.inspect import adopt_copy
from syncpoint.runners.threads import ThreadRunner
from syncpoint.system import SystemClock, SystemDisk, SystemRandom


def opened(path: Path, runner: ThreadRunner) -> FolderJournal:
    journal = FolderJournal(str(path), disk=SystemDisk(), clock=SystemClock(), random=SystemRandom())
    runner.run(journal.open(runner))
    return journal


def test_o53_refused_for_good_until_it_is_adopted(tmp_path: Path) -> None:
    runner = ThreadRunner()
    folder = tmp_path / "journal"
    journal = opened(folder, runner)
    runner.run(journal.refuse_for_good("the file audit.db has seen incarnation 6"))
    runner.run(journal.close())
    for _ in range(3):
        with pytest.raises(JournalRefused, match=r"has seen incarnation 6.*adopt-copy"):
            opened(folder, runner)
    adopt_copy(str(folder), SystemDisk())
    journal = opened(folder, runner)
    assert journal.incarnation > 1_000_000
    runner.run(journal.close())
    runner.close()
