"""A scene of a journal that was restored from an older copy, wherever it is (O53).

Not for: what is checked before it is refused (tests/journal).
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from syncpoint.errors import JournalRefused
from syncpoint.journal.inspect import adopt_copy
from syncpoint.system import SystemDisk
from tests.crash import journals
from tests.crash.run import Run
from tests.crash.scenes import scene
from tests.crash.world import World


def _adopt(world: World) -> None:
    """As `syncpoint journal adopt-copy` does it."""
    if world.kind == journals.FOLDER:
        with contextlib.suppress(JournalRefused):  # it had not come so far
            adopt_copy(world.journal, SystemDisk())
    else:
        journals.run(world, ["UPDATE syncpoint.journal SET refused = NULL, counter = counter + 1000"])


@scene(journals=journals.EVERYWHERE, mend=_adopt)
def journal_is_an_older_copy(run: Run) -> None:
    """Its counter names what a database has seen long ago: refused, for good."""
    run.manager().close()
    copy = Path(f"{run.world.audit_path}-copy")
    if run.world.kind == journals.FOLDER:
        shutil.copytree(run.world.journal, copy)
    for _ in range(2):
        run.manager().close()
    run.transfer(run.manager())
    run.close()
    if run.world.kind == journals.FOLDER:
        _restore(copy, Path(run.world.journal))
    else:
        run.journal_cursor().execute("UPDATE syncpoint.journal SET counter = 1")
    with contextlib.suppress(JournalRefused):
        run.manager()


def _restore(copy: Path, journal: Path) -> None:
    """In place, as a backup's restore does it: the folder itself is the same."""
    for entry in journal.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    shutil.copytree(copy, journal, dirs_exist_ok=True)
