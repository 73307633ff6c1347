"""Checks that kill: a whole manager over the adapter dies at each of the adapter's points, and another one recovers.

Beside the adapter stands a SQLite file, so that there is something to be atomic with. Not for: the points of the
manager and the journal, which the project's own crash suite tries.
"""

from __future__ import annotations

import inspect
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

import syncpoint
from syncpoint.ports import Clock, Random
from syncpoint.resources import registry
from syncpoint.resources.base import Mode, Resource
from syncpoint.testing.conformance.subject import Subject
from syncpoint.testing.crash.explore import explore
from syncpoint.testing.crash.stops import Stop
from syncpoint.testing.crash.story import Mode as At
from syncpoint.testing.crash.story import Points, Story, every_point
from syncpoint.testing.plugin import KILLED

_numbers = itertools.count(1)
MAKER = "syncpoint.manager.assembly.make_resource"
TABLE = "CREATE TABLE beside (k TEXT NOT NULL PRIMARY KEY)"


class Gave(Exception):
    """The user's code gives up."""


class Crashes:
    """Rows O22 to O28, O31."""

    crash_points: Points = every_point
    """Which of the adapter's points are tried in each check. `--syncpoint-points` may say fewer."""

    @pytest.mark.parametrize("what", ["two_phases", "one_phase", "gives_up"])
    def test_o31_killed_at_every_step_it_is_whole_after_recovery(
        self, subject: Subject, mode: Mode, what: str, request: pytest.FixtureRequest
    ) -> None:
        for feature in (mode, "crash"):
            if feature in subject.without:
                pytest.skip(f"{feature}: {subject.without[feature]}")
        pytest.importorskip("apsw", reason="crash: needs a SQLite file beside the adapter: pip install apsw")
        subject.make_table()
        with _Play(subject, mode, what) as play, mock.patch(MAKER, play.make_resource):
            points = _sampled(request, self.crash_points.where(play.is_adapters))
            report = explore(play.story, points, (At.KILL, At.KILL_AFTER))
        request.node.user_properties.append((KILLED, report.dumps()))
        if report.failures:
            raise AssertionError(f"O31: killed at any step, it is whole after recovery.\n{report.explain()}")
        assert report.hit, f"O31: the adapter's scripts have steps at which they can be killed. Seen: {report}"


def _sampled(request: pytest.FixtureRequest, points: Points) -> Points:
    said = str(request.config.getoption("syncpoint_points", "") or "")
    return points.sample(int(said)) if said.isdigit() and said != "0" else points


class _Play:
    """One way through the adapter, played again and again, each time with another row."""

    def __init__(self, subject: Subject, mode: Mode, what: str) -> None:
        self._subject = subject
        self._scheme = subject.make(mode).scheme
        self._what = what
        self._folder = Path(tempfile.mkdtemp(prefix="syncpoint-conformance-", dir=_memory()))
        self._beside = self._folder / "beside.db"
        self._key = ""
        import apsw  # only here: an adapter's author may not have it

        with closing(apsw.Connection(str(self._beside))) as beside:
            beside.execute(TABLE)
        manager: Callable[[], Any] = self._manager if mode == "sync" else self._async_manager
        transfer: Callable[[Any], Any] = self._transfer if mode == "sync" else self._transfer_async
        self.story = Story(transfer=transfer, check=self._check, manager=manager, prepare=self._prepare)

    def __enter__(self) -> _Play:
        return self

    def __exit__(self, *ignored: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def make_resource(self, name: str, spec: Any, *, mode: Mode, clock: Clock, random: Random) -> Resource:
        """In place of the registry's: an adapter that is not registered yet is tried too."""
        if name == "subject":
            return self._subject.make(mode)
        return registry.make_resource(name, spec, mode=mode, clock=clock, random=random)

    def is_adapters(self, stop: Stop) -> bool:
        """Whether it is a step of the adapter's, wherever its file stands."""
        return os.path.isabs(stop.file) or stop.scheme == self._scheme

    @property
    def _configuration(self) -> dict[str, Any]:
        resources = {"subject": self._subject.url, "beside": f"sqlite:///{self._beside}"}
        return {"journal": str(self._folder / "journal"), "resources": resources}

    def _manager(self) -> Any:
        return syncpoint.TransactionManager(**self._configuration)

    def _async_manager(self) -> Any:
        return syncpoint.AsyncTransactionManager(**self._configuration)

    def _prepare(self) -> None:
        """Another row for each run. The journal stays: a database may belong to one journal for good."""
        self._key = f"c{next(_numbers)}x{os.getpid()}"

    def _transfer(self, manager: Any) -> None:
        try:
            with manager.transaction(**self._options) as tx:
                self._subject.put(tx.connect("subject"), self._key, 1)
                if self._what != "one_phase":
                    self._write_beside(tx.connect("beside"))
                self._end()
        except Gave:
            return

    async def _transfer_async(self, manager: Any) -> None:
        try:
            async with manager.transaction(**self._options) as tx:
                put = self._subject.put(await tx.connect("subject"), self._key, 1)
                if inspect.isawaitable(put):
                    await put
                if self._what != "one_phase":
                    self._write_beside(await tx.connect("beside"))
                self._end()
        except Gave:
            return

    @property
    def _options(self) -> dict[str, Any]:
        return {} if self._what == "one_phase" else {"id": self._key}

    def _write_beside(self, connection: Any) -> None:
        connection.execute("INSERT INTO beside VALUES (?)", (self._key,))

    def _end(self) -> None:
        if self._what == "gives_up":
            raise Gave

    def _check(self, committed: bool | None) -> None:
        import apsw

        here = self._key in self._subject.rows()
        with closing(apsw.Connection(str(self._beside))) as beside:
            there = bool(beside.execute("SELECT k FROM beside WHERE k = ?", (self._key,)).fetchall())
        if self._what == "gives_up":
            assert not here, "an aborted transaction has left its row"
            assert not there, "an aborted transaction has left its row beside"
            return
        if self._what == "two_phases":
            assert here == there, f"torn: the adapter has its row: {here}; the file beside has its: {there}"
        if committed is not None:
            assert here == committed, f"the caller was told committed={committed}; the row is there: {here}"


def _memory() -> str | None:
    """A file system in memory, where there is one: processes die here, disks do not."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108  # mkdtemp makes it safe
