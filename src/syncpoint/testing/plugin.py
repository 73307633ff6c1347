"""The pytest plugin: the fixture `syncpoint_crash`, which crashes a user's own transaction at every point.

    def test_transfer(syncpoint_crash):
        syncpoint_crash(every_point, transfer, check, manager=make_manager, prepare=make_databases)

    --syncpoint-points N     try at most N points of each test, evenly spread (or `all`); ini option `syncpoint_points`
    --syncpoint-point KEY    try only this point: what a failure prints; may be given several times
    --syncpoint-json FILE    write the figures of all tests there: of `syncpoint_crash`, and of `ResourceConformance`

Loaded by pytest itself through the entry point `pytest11`; nothing else in the package needs pytest.
Not for: what happens at a point (crash/), or adapters (conformance/).
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from syncpoint.testing.crash.report import CrashReport
    from syncpoint.testing.crash.story import Points

CRASH, CONFORMANCE, KILLED = "syncpoint_crash", "syncpoint_conformance", "syncpoint_killed"
"""What a test leaves in its report's properties: figures of a crash, its suite's name, figures of an adapter killed."""
_ENDS = ("passed", "failed", "error", "skipped")


class SyncpointCrash(Protocol):
    """What the fixture is."""

    def __call__(
        self,
        points: Points,
        transfer: Callable[[Any], Any],
        check: Callable[[bool | None], object],
        *,
        manager: Callable[[], Any],
        prepare: Callable[[], object] | None = None,
        modes: Sequence[str] = ("kill",),
        recovery_seconds_max: float = 20.0,
        run_seconds_max: float = 60.0,
    ) -> CrashReport:
        """Crash `transfer` at its points; after each, recover and call `check`.

        Parameters: `points`, `every_point` or a part of it (`every_point.sample(20)`); `transfer(manager)`, the code to
        try, a coroutine function for an AsyncTransactionManager; `check(committed)`, which looks at the databases from
        outside and raises when they are wrong (True: `transfer` had returned; False: it had raised; None: nobody was
        told); `manager()`, which makes a manager without opening it; `prepare()`, which makes everything as it was,
        the journal's folder too; `modes`, of "kill", "kill after", "lost reply" and "cancel"; bounds in seconds.

        Returns the figures. Fails the test when a check fails, when something stays in doubt, or no point is reached.
        """
        ...


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options, and what stands for them in the configuration file."""
    group = parser.getgroup("syncpoint")
    group.addoption("--syncpoint-points", metavar="N", help="crash at no more than N points a test; or: all")
    group.addoption(
        "--syncpoint-point", metavar="KEY", action="append", default=[], help="crash at this point only; repeatable"
    )
    group.addoption("--syncpoint-json", metavar="FILE", help="write the figures of crashes and conformance to a file")
    parser.addini("syncpoint_points", "crash at no more than this many points a test; or: all", default="")


@pytest.fixture
def syncpoint_crash(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> SyncpointCrash:
    """Crashes a transaction at every point: see `SyncpointCrash`, and docs/testing.md."""
    from syncpoint.testing.crash.explore import explore
    from syncpoint.testing.crash.story import Story

    config = request.config
    talks = config.get_verbosity() > 1

    def tell(line: str) -> None:
        if talks:
            with capsys.disabled():
                print(f"\n    {line}", end="", flush=True)

    def crash(
        points: Points,
        transfer: Callable[[Any], Any],
        check: Callable[[bool | None], object],
        *,
        manager: Callable[[], Any],
        prepare: Callable[[], object] | None = None,
        modes: Sequence[str] = ("kill",),
        recovery_seconds_max: float = 20.0,
        run_seconds_max: float = 60.0,
    ) -> CrashReport:
        story = Story(
            transfer=transfer,
            check=check,
            manager=manager,
            prepare=prepare or (lambda: None),
            recovery_seconds_max=recovery_seconds_max,
            run_seconds_max=run_seconds_max,
        )
        report = explore(story, _chosen(config, points), modes, tell)
        request.node.user_properties.append((CRASH, json.dumps({"text": str(report), **report.to_json()})))
        if report.failures:
            pytest.fail(report.explain(_replay(request)), pytrace=False)
        if not report.hit:
            why = "".join(f"\n    {what}: {why}" for what, why in report.left_out.items())
            pytest.fail(f"no point was reached: {report}{why}", pytrace=False)
        return report

    return crash


def _chosen(config: pytest.Config, points: Points) -> Points:
    """What the command line says goes before what the test says; a sample in the test is never made larger."""
    keys: list[str] = config.getoption("syncpoint_point")
    if keys:
        return points.only(*keys)
    return _sampled(config, points)


def _sampled(config: pytest.Config, points: Points) -> Points:
    wanted = config.getoption("syncpoint_points") or config.getini("syncpoint_points")
    if not wanted or wanted == "all" or points.keys:
        return points
    if not wanted.isdigit() or int(wanted) < 1:
        raise pytest.UsageError(f"--syncpoint-points is {wanted!r}: give a whole number above 0, or all")
    return points.sample(int(wanted))


def _replay(request: pytest.FixtureRequest) -> str:
    return f"pytest {shlex.quote(request.node.nodeid)} --syncpoint-point "


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A line of figures for each test that crashed something, those of parallel processes too."""
    reports = [one for how in _ENDS for one in terminalreporter.getreports(how)]
    crashes = dict(_crashes(reports))
    if crashes:
        terminalreporter.section("syncpoint crash")
        for name, figures in crashes.items():
            terminalreporter.write_line(f"{name}: {figures['text']}")
    file = terminalreporter.config.getoption("syncpoint_json")
    if file:
        figures = {"crash": crashes, "conformance": _conformance(reports)}
        Path(file).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def _crashes(reports: Iterable[Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for report in reports:
        for name, value in getattr(report, "user_properties", ()):
            if name == CRASH and report.when == "call":
                yield report.nodeid, json.loads(value)


def _conformance(reports: Iterable[Any]) -> dict[str, Any]:
    """Test class -> how many checks passed, the points at which its adapter was killed, which failed, which were
    skipped and why."""
    suites: dict[str, Any] = {}
    for report in reports:
        properties = dict(getattr(report, "user_properties", ()))
        if CONFORMANCE not in properties or (report.when != "call" and report.passed):
            continue
        empty: dict[str, Any] = {"passed": 0, "killed": 0, "failed": [], "skipped": {}}
        suite = suites.setdefault(properties[CONFORMANCE], empty)
        check = report.nodeid.rpartition("::")[2]
        if report.passed:
            suite["passed"] += 1
        elif report.failed:
            suite["failed"].append(check)
        else:
            suite["skipped"][check] = str(report.longrepr[2]) if report.longrepr else ""
        if KILLED in properties:
            suite["killed"] += json.loads(properties[KILLED])["hit"]
    return suites
