"""Every broken adapter is caught by the check that names its promise, in words that say which and what was seen.

The same call passes for the adapter that breaks nothing. Not for: adapters (broken_*.py).
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from syncpoint.resources.base import Resource
from syncpoint.resources.memory import MemoryResource
from syncpoint.resources.sqlite import SqliteResource
from syncpoint.testing import ResourceConformance, Subject, every_point
from syncpoint.testing.conformance import manners
from syncpoint.testing.conformance.bench import Bench
from tests.testing.conformance import broken_branches, broken_manners
from tests.testing.conformance.broken import BROKEN, Broken
from tests.testing.conformance.subjects import MemorySubject, SqliteSubject

_numbers = itertools.count(1)
REGISTERED = (broken_branches, broken_manners)
KILLED = "test_o31_killed_at_every_step_it_is_whole_after_recovery"


class Suite(ResourceConformance):
    """Its checks are called one by one."""

    __test__ = False
    crash_points = every_point.where(lambda stop: stop.function == "commit")


def subject_of(adapter: type[Resource], folder: Path) -> Subject:
    if issubclass(adapter, SqliteResource):
        return SqliteSubject(folder / f"{next(_numbers)}.db", adapter=adapter)
    return MemorySubject(f"broken-{next(_numbers)}", adapter=adapter)


def run(broken: Broken, adapter: type[Resource], folder: Path, request: pytest.FixtureRequest) -> None:
    """The named check, over an adapter."""
    check: Any = getattr(Suite(), broken.check)
    subject = subject_of(adapter, folder)
    if broken.check == KILLED:
        check(subject, "sync", request=request, **broken.arguments)
        return
    with Bench(subject, "sync") as bench:
        check(bench, **broken.arguments)


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.adapter.__name__)
def test_a_broken_promise_is_caught_by_its_check(
    broken: Broken, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manners, "GRACE_S", 0.5)  # nothing here counts whole seconds
    whole = SqliteResource if issubclass(broken.adapter, SqliteResource) else MemoryResource
    run(broken, whole, tmp_path, request)
    with pytest.raises(AssertionError) as caught:
        run(broken, broken.adapter, tmp_path, request)
    text = str(caught.value)
    print(text)
    assert text.startswith(f"{broken.row}: ")
    assert broken.check == KILLED or f"seen at {broken.adapter.__name__} (sync): " in text


def test_enough_promises_are_broken() -> None:
    assert len(BROKEN) >= 40
    assert len({broken.check for broken in BROKEN}) >= 30
