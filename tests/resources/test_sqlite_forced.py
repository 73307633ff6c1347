"""Evidence that another process left is forced before it is answered with: it may be in the page cache only.

Seen from outside: the file's log grows, and a change to it is forced by its COMMIT. Power cuts: tests/disks.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from syncpoint.resources.base import Answer, Evidence
from tests.resources.sqlite_world import TABLE, World


@pytest.mark.parametrize("what", ["commit", "abort", "evidence"])
@pytest.mark.parametrize("journal_mode", ["wal", "keep"])
def test_evidence_that_is_found_is_forced_before_it_counts(tmp_path: Path, what: str, journal_mode: str) -> None:
    path = tmp_path / "audit.db"
    with World(path, "sync", {"journal_mode": journal_mode}) as owner:
        owner.committed(TABLE)
        identifier, vote = owner.vote("INSERT INTO t VALUES (1, 'x')")
        assert owner.commit() is Answer.COMMITTED
        with World(path, "sync", {"journal_mode": journal_mode}) as finder:
            before = bytes_of(tmp_path)
            if what == "evidence":
                assert finder.run(finder.resource.evidence(finder.session, identifier)) is Evidence.COMMITTED
            else:
                assert finder.finish(identifier, vote.state, commit=what == "commit") is Answer.COMMITTED
            assert bytes_of(tmp_path) != before
            assert finder.rows() == [(1, "x")]


def bytes_of(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.iterdir()) if not path.name.endswith(("-shm", "-syncpoint"))]
