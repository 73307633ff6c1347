"""`syncpoint demo takeover`: transfers across two sites, while resource managers, nodes and services are lost and
replaced; then every acknowledged transfer is compared with the data, from outside.

    {"takeovers": n, "committed": n, "redone_committed": n, "lost": 0, "duplicated": 0, "torn": 0, "in_doubt": 0,
     "takeover_ms": {"p50": x, "max": x}, "old_primary_refused": true, …}

Every transfer leaves its id at a bank (PostgreSQL), in an audit (SQLite) and as a file, all of the service "orders",
and in a stock (SQLite) of the service "stock", which takes part in a tree below. `redone_committed` counts the
transfers that were decided, and missing in a resource manager's data, at the moment it was killed, and were there when
its backup opened. `takeover_ms` is from the kill to that moment. Also: `aborted`, `node_kills`, `service_kills`,
`zombies`, `total_before` and `total_after`. Not for: the parts (takeover_services, takeover_sites, takeover_chaos).
"""

from __future__ import annotations

import functools
import itertools
import json as json_module
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
from rich.console import Console
from rich.live import Live
from rich.table import Table

from syncpoint.demo.bank import Bank, audit
from syncpoint.demo.client import read_log
from syncpoint.demo.takeover_chaos import Chaos, Tally
from syncpoint.demo.takeover_sites import SITE_OF, Site, Supervisor, kill_left, make_sites
from syncpoint.demo.takeover_watch import Watch
from syncpoint.demo.transfer import print_report
from syncpoint.errors import ConfigurationError
from syncpoint.resources.sqlite_note import NOTE_SUFFIX, decode_note
from syncpoint.testing.servers.base import ServerFailed, wait_until
from syncpoint.testing.servers.postgres import PostgresServer

SECONDS = 30.0
EXTRA_S_MAX = 120.0
HUNT_S_MAX = 2.0
PAUSE_S = 0.3
START_S_MAX = 60.0
DRAIN_S_MAX = 60.0
STOP_S_MAX = 20.0
COMPLAINT_CHARS_MAX = 3000
ZEROS = ("lost", "duplicated", "torn", "in_doubt")


@dataclass(frozen=True, kw_only=True)
class Needed:
    """What a run shows at least; on a busy machine it goes on until it does."""

    takeovers: int = 12
    redone: int = 3
    zombies: int = 1

    def is_shown(self, tally: Tally) -> bool:
        return (
            len(tally.takeover_ms) >= self.takeovers
            and tally.redone >= self.redone
            and tally.zombies_refused >= self.zombies
        )


NEEDED = Needed()


@dataclass
class Stage:
    """Everything that runs."""

    bank: Bank
    sites: tuple[Site, Site]
    supervisor: Supervisor
    chaos: Chaos
    total_before: int
    folder: Path

    @property
    def orders_log(self) -> Path:
        return self.sites[0].service.log


def run(seconds: float = SECONDS, json: bool = False, seed: int = 1) -> int:
    """Run the demonstration for about `seconds`; returns the exit code: 0 if every promise was kept."""
    if not PostgresServer.available():
        raise ConfigurationError(
            "The demonstration needs a PostgreSQL server and its driver.", advice="Run: pip install 'syncpoint[demo]'"
        )
    console = Console(stderr=True)
    with ExitStack() as stack:
        stage = _set_up(stack, console, seed)
        _perform(stage, seconds, console)
        report = _report(stage, console)
    if json:
        print(json_module.dumps(report))
    else:
        print_report(report, ZEROS, Console())
    return 0 if keeps_promises(report) else 1


def keeps_promises(report: dict[str, Any]) -> bool:
    """Whether nothing in a report breaks a promise."""
    whole = report["total_before"] == report["total_after"]
    return all(report[name] == 0 for name in ZEROS) and whole and report["old_primary_refused"]


# --- set-up ----------------------------------------------------------------------------------------------------


def _set_up(stack: ExitStack, console: Console, seed: int) -> Stage:
    console.print("Starting a private database server, two nodes, two services and their resource managers …")
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="syncpoint-", ignore_cleanup_errors=True)))
    postgres = stack.enter_context(PostgresServer())
    (folder / "files").mkdir()
    bank = Bank(
        {
            "bank": postgres.create_database("bank"),
            "audit": f"sqlite:///{folder / 'audit.db'}",
            "stock": f"sqlite:///{folder / 'stock.db'}",
            "files": f"files://{folder / 'files'}",
        }
    )
    bank.make_tables()
    sites = make_sites(folder, bank, seed)
    slots = [slot for site in sites for slot in site.all]
    watches = {site.name: stack.enter_context(Watch(site.node_url)) for site in sites}
    tell = functools.partial(console.print, highlight=False, markup=False)
    chaos = Chaos(bank, sites, {name: watch.lines for name, watch in watches.items()}, seed, tell)
    supervisor = Supervisor(slots)
    stage = Stage(bank, sites, supervisor, chaos, bank.total(), folder)
    stack.callback(kill_left, folder)
    for slot in slots:
        slot.start()
        stack.callback(slot.stop, 0.0)
    supervisor.start()
    stack.callback(supervisor.stop)
    try:
        wait_until(lambda: all(chaos.is_open(name) for name in SITE_OF), "all resource managers are open", START_S_MAX)
        wait_until(lambda: _counts(stage)["committed"] > 0, "the first transfer", START_S_MAX)
    except BaseException:
        _show_complaints(stage, console)
        raise
    return stage


# --- the run -----------------------------------------------------------------------------------------------------


def _perform(stage: Stage, seconds: float, console: Console) -> None:
    until = time.monotonic() + seconds
    trouble: list[BaseException] = []
    chaos = threading.Thread(target=_chaos, args=(stage, until, trouble), daemon=True)
    chaos.start()
    with Live(_progress(stage, seconds), console=console, refresh_per_second=4, transient=True) as live:
        while chaos.is_alive():
            chaos.join(0.25)
            live.update(_progress(stage, max(0.0, until - time.monotonic())))
    if trouble:
        _show_complaints(stage, console)
        raise trouble[0]


def _chaos(stage: Stage, until: float, trouble: list[BaseException]) -> None:
    """Lose one after the other, in turns, until `until` (monotonic) and enough was shown."""
    try:
        for act in itertools.cycle(_acts(stage.chaos)):
            late_s = time.monotonic() - until
            if late_s > EXTRA_S_MAX or (late_s > 0 and NEEDED.is_shown(stage.chaos.tally)):
                break
            act()
            time.sleep(PAUSE_S)
    except BaseException as error:
        trouble.append(error)


def _acts(chaos: Chaos) -> list[Callable[[], None]]:
    """What goes wrong, in turns; the zombie early, so that a short run has one."""
    return [
        lambda: chaos.kill_resource("audit", HUNT_S_MAX),
        lambda: chaos.freeze_resource("audit"),
        lambda: chaos.kill_resource("stock", HUNT_S_MAX),
        lambda: chaos.kill_resource("files", HUNT_S_MAX),
        lambda: chaos.kill_service("b"),
        lambda: chaos.kill_resource("audit", HUNT_S_MAX),
        lambda: chaos.kill_with_node("audit", HUNT_S_MAX),
        lambda: chaos.kill_resource("stock", 0.0),
        lambda: chaos.kill_service("a"),
        lambda: chaos.kill_resource("audit", 0.0),
        lambda: chaos.kill_node("b"),
        lambda: chaos.kill_resource("stock", HUNT_S_MAX),
        lambda: chaos.kill_resource("files", 0.0),
        lambda: chaos.kill_node("a"),
        lambda: chaos.kill_resource("stock", HUNT_S_MAX),
        lambda: chaos.kill_with_node("stock", HUNT_S_MAX),
        lambda: chaos.freeze_resource("stock"),
    ]


def _progress(stage: Stage, left_s: float) -> Table:
    counts, tally = _counts(stage), stage.chaos.tally
    table = Table(title=f"transfers over {', '.join(stage.bank.urls)} at two sites: {left_s:.0f} s left")
    for column in (
        "told committed",
        "tried again",
        "takeovers",
        "redone",
        "nodes killed",
        "services killed",
        "zombies",
    ):
        table.add_column(column, justify="right")
    numbers = (
        counts["committed"],
        _aborted(counts),
        len(tally.takeover_ms),
        tally.redone,
        tally.node_kills,
        tally.service_kills,
        tally.zombies,
    )
    table.add_row(*map(str, numbers))
    return table


def _counts(stage: Stage) -> Counter[str]:
    return Counter(event for event, _ in read_log(stage.orders_log))


def _aborted(counts: Counter[str]) -> int:
    return counts["aborted"] + counts["retried"] + counts["failed"]


# --- the audit -------------------------------------------------------------------------------------------------------


def _report(stage: Stage, console: Console) -> dict[str, Any]:
    console.print("Letting everything come to its end, then counting in the data …")
    left = _drain(stage)
    told = {what: event for event, what in read_log(stage.orders_log) if event in ("committed", "aborted")}
    counted, counts, tally = audit(stage.bank, told), _counts(stage), stage.chaos.tally
    _show_complaints(stage, console)
    took = sorted(tally.takeover_ms) or [0.0]
    return {
        "takeovers": len(tally.takeover_ms),
        "committed": counted.committed,
        "redone_committed": tally.redone,
        "lost": counted.lost + tally.not_redone,
        "duplicated": counted.duplicated,
        "torn": counted.torn,
        "in_doubt": left,
        "takeover_ms": {"p50": round(statistics.median(took)), "max": round(took[-1])},
        "old_primary_refused": tally.zombies == tally.zombies_refused > 0,
        "aborted": _aborted(counts),
        "node_kills": tally.node_kills,
        "service_kills": tally.service_kills,
        "zombies": tally.zombies,
        "total_before": stage.total_before,
        "total_after": stage.bank.total(),
    }


def _drain(stage: Stage) -> int:
    """Stop the transfers, wait until nothing is in doubt, then stop everything. Returns how much is left in doubt."""
    stage.supervisor.stop()
    for site in stage.sites:
        site.service.stop(STOP_S_MAX)
    with suppress(ServerFailed):
        wait_until(lambda: not in_doubt(stage.bank), "nothing is in doubt", DRAIN_S_MAX)
    for site in stage.sites:
        for slot in (*site.resources, site.node):
            slot.stop(STOP_S_MAX)
    return in_doubt(stage.bank)


def in_doubt(bank: Bank) -> int:
    """Branches that have voted and have no outcome: prepared in PostgreSQL; noted beside a SQLite file that has no
    evidence of their commit."""
    with bank.observe("bank") as execute:
        prepared = len(bank.prepared("bank", execute))
    files = [bank.urls[name].removeprefix("sqlite:///") for name in ("audit", "stock")]
    files.append(bank.urls["files"].removeprefix("files://") + "/.syncpoint/syncpoint.db")
    return prepared + sum(map(_stands, files))


def _stands(file: str) -> bool:
    note_file = Path(file + NOTE_SUFFIX)
    note = decode_note(note_file.read_bytes(), str(note_file)) if note_file.exists() else None
    if note is None:
        return False
    branch = note.identifier
    with closing(apsw.Connection(file)) as connection:
        connection.set_busy_timeout(5000)
        found = connection.execute(
            "SELECT 1 FROM syncpoint_evidence WHERE attempt = ? AND transaction_id = ?",
            (branch.attempt.to_int(), branch.transaction.raw),
        )
        return found.fetchone() is None


def _show_complaints(stage: Stage, console: Console) -> None:
    for site in stage.sites:
        for slot in site.all:
            if slot.complaints():
                console.print(
                    f"{slot.name} wrote:\n{slot.complaints()[-COMPLAINT_CHARS_MAX:]}", markup=False, highlight=False
                )
