"""One short life of a folder journal on any disk, always the same: to compare what two disks are told to do.

python -m tests.disks.ordered FOLDER      on the real disk
"""

from __future__ import annotations

import sys

from syncpoint.ids import Key
from syncpoint.ports import Disk
from syncpoint.system import SystemDisk
from tests.journal.support import Process, commit, end, transaction


def live(disk: Disk, folder: str) -> None:
    """Make the folder, commit over several segments, close; open again, and take over what was left."""
    for first in (1, 11):
        process = Process(disk, path=folder, segment_size_bytes_max=1000).open()
        for number in range(first, first + 4):
            of = Key(transaction(number), process.journal.next_attempt())
            process(process.journal.force((commit(of, result=b"x" * 300),)))
            process.journal.note((end(of),))
        process(process.journal.refuse_for_good("why")) if first == 11 else None
        process(process.journal.close())


if __name__ == "__main__":
    live(SystemDisk(), sys.argv[1])
