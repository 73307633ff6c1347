"""Where databases of these tests are: in memory when there is room, since processes die here and disks do not.

Not for: anything that is forced.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def roomy_folder() -> Iterator[Path]:
    """A folder of its own, removed afterwards."""
    where = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="syncpoint-kit-", dir=where) as name:
        yield Path(name)
