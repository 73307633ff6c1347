"""A pass of recovery that has looked long ago: what it saw open may have ended since, and its evidence may be gone.

Found by the specification (spec/FolderJournal.tla, rule AlarmOnlyWhileOpen). Not for: passes that race transactions.
"""

from __future__ import annotations

from typing import Any

import pytest

from syncpoint.manager import recovery
from syncpoint.steps import Script
from tests.manager.conftest import AsyncBench


def test_o38_a_pass_that_was_overtaken_by_the_end_of_a_record_reports_nothing(
    bench: AsyncBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its branch was finished by this very process, the record ended, and a third process cleaned the evidence up."""
    bench.departed(decided=True)
    second, third = bench.manager(), bench.manager()
    core = second._core
    second._run(recovery.recover_resource(core, core.handles["a"]))
    look_around = recovery.look_around
    interrupted: list[bool] = []

    def slowly(its_core: Any) -> Script[Any]:
        seen = yield from look_around(its_core)
        if its_core is core and not interrupted:
            interrupted.append(bool(seen[1].decisions))
            yield from recovery.recover_resource(core, core.handles["b"])
            yield from core.journal.force(())
            third.recover()
        return seen

    monkeypatch.setattr(recovery, "look_around", slowly)
    second._run(recovery.recover_resource(core, core.handles["a"]))
    assert interrupted == [True]
    assert bench.a._evidence == {}
    assert second.heuristics() == []
    assert bench.rows() == "ab"
    second.recover()
    assert core.acknowledged == {}
    bench.assert_quiet()
