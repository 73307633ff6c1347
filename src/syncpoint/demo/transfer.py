"""`syncpoint demo transfer`: sixteen transfers at a time over real databases, while workers are killed and databases
restarted; then the books are audited, from outside.

    {"databases": […], "committed": n, "aborted": n, "kills": n, "kills_in_commit": n, "torn": 0, "lost": 0,
     "duplicated": 0, "in_doubt": 0, "total_before": x, "total_after": x, "longest_lock_after_kill_ms": n,
     "longest_lock_after_restart_ms": n, …}

Also: `restarts`, `finished_by_commit` and `finished_by_abort` (of the transactions seen prepared after a kill),
`journal` and `pgbouncer`.

With the journal in one of the databases that one's branches are never prepared, so a kill in a commit shows in
another: where MariaDB is missing, a second PostgreSQL database stands in for it. A dead worker's locks last until it
is taken for dead, a few seconds. One PgBouncer stands between the workers and PostgreSQL then, if it is installed; the
audit looks past it.
Not for: the parts (bank, worker, chaos).
"""

from __future__ import annotations

import json as json_module
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

import syncpoint
from syncpoint.demo.bank import Audit, Bank, audit
from syncpoint.demo.chaos import Chaos, Server, WorkerSlot
from syncpoint.demo.client import read_log
from syncpoint.errors import ConfigurationError
from syncpoint.ids import TransactionId
from syncpoint.testing.servers.mariadb import MariadbServer
from syncpoint.testing.servers.pgbouncer import PgBouncerServer
from syncpoint.testing.servers.postgres import PostgresServer

WORKERS = 4
TRANSFERS_AT_A_TIME = 16
KILL_PERIOD_S = 0.7
HUNT_S_MAX = 2.0
EXTRA_S_MAX = 60.0
KILLS_WANTED = 10
COMMITS_WANTED = 500
SECONDS = 15.0
"""In so many seconds so many kills in a commit, and commits. On a busy machine it goes on until it has them."""
DRAIN_S_MAX = 30.0
ZEROS = ("torn", "lost", "duplicated", "in_doubt")


FOLDER = "folder"
POOLER_SETTINGS = {"default_pool_size": "24"}


@dataclass
class Stage:
    """Everything that runs."""

    bank: Bank
    journal: str
    where: str
    """What the report calls it."""
    pooler: bool
    workers: list[WorkerSlot]
    chaos: Chaos
    total_before: int


def run(
    seconds: float = SECONDS, json: bool = False, seed: int = 1, journal: str = FOLDER, pgbouncer: bool = True
) -> int:
    """Run the demonstration for about `seconds`; returns the exit code: 0 if every promise was kept.

    `journal`: "folder", "bank" (PostgreSQL) or "ledger" (MariaDB). `pgbouncer`: put one in between if it is installed
    and the journal is in a database.
    """
    if journal not in (FOLDER, "bank", "ledger"):
        raise ConfigurationError(
            f"The demonstration has no journal {journal!r}.", advice="Write --journal folder, bank or ledger."
        )
    if not PostgresServer.available():
        raise ConfigurationError(
            "The demonstration needs a PostgreSQL server and its driver.", advice="Run: pip install 'syncpoint[demo]'"
        )
    console = Console(stderr=True)
    with ExitStack() as stack:
        stage = _set_up(stack, console, seed, journal, pgbouncer)
        _perform(stage, seconds, console)
        report = _report(stage, console)
    if json:
        print(json_module.dumps(report))
    else:
        print_report(report, ZEROS, Console())
    kept = all(report[name] == 0 for name in ZEROS) and report["total_before"] == report["total_after"]
    return 0 if kept else 1


# --- set-up ----------------------------------------------------------------------------------------------------


def _set_up(stack: ExitStack, console: Console, seed: int, where: str, pgbouncer: bool) -> Stage:
    console.print("Starting private database servers …")
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="syncpoint-demo-")))
    servers: dict[str, Server] = {}
    urls: dict[str, str] = {}
    postgres = stack.enter_context(PostgresServer())
    servers["bank"], urls["bank"] = postgres, postgres.create_database("bank")
    if MariadbServer.available():
        mariadb = stack.enter_context(MariadbServer())
        servers["ledger"], urls["ledger"] = mariadb, mariadb.create_database("ledger")
    else:
        console.print("MariaDB is left out: no mariadbd was found (install your system's mariadb-server to see it).")
        if where != FOLDER:
            urls["ledger"] = postgres.create_database("ledger")
    urls["audit"] = f"sqlite:///{folder / 'audit.db'}"
    bank = Bank(urls)
    bank.make_tables()
    journal = str(folder / "journal") if where == FOLDER else where
    pooler = _pooler(stack, postgres) if where != FOLDER and pgbouncer else None
    through = urls if pooler is None else {name: _through(pooler, url) for name, url in urls.items()}
    threads = TRANSFERS_AT_A_TIME // WORKERS
    workers = [WorkerSlot(number, threads, journal, through, folder, seed) for number in range(WORKERS)]
    chaos = Chaos(bank, workers, servers, seed)
    stage = Stage(bank, journal, where, pooler is not None, workers, chaos, bank.total())
    for slot in workers:
        slot.start()
        stack.callback(slot.stop, 0.0)
    return stage


def _pooler(stack: ExitStack, postgres: PostgresServer) -> PgBouncerServer | None:
    if not PgBouncerServer.available():
        return None
    return stack.enter_context(PgBouncerServer(postgres.url("postgres"), settings=POOLER_SETTINGS))


def _through(pooler: PgBouncerServer, url: str) -> str:
    """The same database, through PgBouncer if it is PostgreSQL's."""
    return pooler.url(url.rpartition("/")[2]) if url.startswith("postgresql:") else url


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
        raise trouble[0]
    for slot in stage.workers:
        slot.stop(DRAIN_S_MAX)
    stage.chaos.close()


def _chaos(stage: Stage, until: float, trouble: list[BaseException]) -> None:
    """Kill a worker again and again; restart each database once, in between."""
    begun = time.monotonic()
    length = until - begun
    names = list(stage.chaos.servers)
    restarts = [(begun + length * (number + 1) / (len(names) + 1), name) for number, name in enumerate(names)]
    try:
        while time.monotonic() < until or (time.monotonic() < until + EXTRA_S_MAX and _lacks(stage, length)):
            if restarts and time.monotonic() >= restarts[0][0]:
                stage.chaos.restart(restarts.pop(0)[1])
            if time.monotonic() < until or _lacks_kills(stage, length):
                hunt_until = restarts[0][0] if restarts else max(until, time.monotonic() + HUNT_S_MAX)
                stage.chaos.kill_one(hunt_until, _hunt_s(stage, length, until))
            time.sleep(KILL_PERIOD_S)
    except BaseException as error:
        trouble.append(error)


def _wanted(whole: int, length: float) -> int:
    """Of what is wanted in a run of the usual length, the part for one of this length."""
    return min(whole, round(whole * length / SECONDS))


def _hunt_s(stage: Stage, length: float, until: float) -> float:
    """How long to look for the best moment of the next kill: not so long that there are too few in the end."""
    still = _wanted(KILLS_WANTED, length) - stage.chaos.tally.kills_in_commit
    return min(HUNT_S_MAX, max(0.0, (until - time.monotonic()) / max(1, still) - KILL_PERIOD_S))


def _lacks(stage: Stage, length: float) -> bool:
    """Whether there is too little yet to show anything."""
    committed = _count_events(stage).get("committed", 0)
    return _lacks_kills(stage, length) or committed < _wanted(COMMITS_WANTED, length)


def _lacks_kills(stage: Stage, length: float) -> bool:
    tally = stage.chaos.tally
    too_few = tally.kills_in_commit < _wanted(KILLS_WANTED, length)
    return too_few or not (tally.ended_by_commit and tally.ended_by_abort)


def _progress(stage: Stage, left_s: float) -> Table:
    events = _count_events(stage)
    tally = stage.chaos.tally
    table = Table(title=f"transfers over {', '.join(stage.bank.urls)}: {left_s:.0f} s left")
    for column in ("told committed", "told aborted", "kill -9", "in a commit", "restarts"):
        table.add_column(column, justify="right")
    table.add_row(
        str(events.get("committed", 0)),
        str(_aborted(events)),
        str(tally.kills),
        str(tally.kills_in_commit),
        str(tally.restarts),
    )
    return table


def _count_events(stage: Stage) -> dict[str, int]:
    counted: dict[str, int] = {}
    for slot in stage.workers:
        for event, _ in read_log(slot.log):
            counted[event] = counted.get(event, 0) + 1
    return counted


def _aborted(events: dict[str, int]) -> int:
    return events.get("aborted", 0) + events.get("retried", 0) + events.get("failed", 0)


# --- the audit -------------------------------------------------------------------------------------------------------


def _report(stage: Stage, console: Console) -> dict[str, Any]:
    console.print("Settling what is left, then counting in the databases …")
    with syncpoint.TransactionManager(stage.journal, dict(stage.bank.urls), background=False) as manager:
        manager.recover(wait_seconds=DRAIN_S_MAX)
    told = {
        what: event for slot in stage.workers for event, what in read_log(slot.log) if event in ("committed", "aborted")
    }
    counted = audit(stage.bank, told)
    committed, aborted = _endings(stage, counted)
    events, tally = _count_events(stage), stage.chaos.tally
    for slot in stage.workers:
        if slot.complaints():
            console.print(f"[yellow]worker {slot.slot} wrote:[/] {slot.complaints()[-2000:]}")
    return {
        "databases": [stage.bank.kind(name) for name in stage.bank.urls],
        "committed": counted.committed,
        "aborted": _aborted(events),
        "kills": tally.kills,
        "kills_in_commit": tally.kills_in_commit,
        "torn": counted.torn,
        "lost": counted.lost,
        "duplicated": counted.duplicated,
        "in_doubt": counted.in_doubt,
        "total_before": stage.total_before,
        "total_after": stage.bank.total(),
        "longest_lock_after_kill_ms": round(tally.longest_lock_after_kill_ms),
        "longest_lock_after_restart_ms": round(tally.longest_lock_after_restart_ms),
        "finished_by_commit": committed,
        "finished_by_abort": aborted,
        "restarts": tally.restarts,
        "journal": stage.where,
        "pgbouncer": stage.pooler,
    }


def _endings(stage: Stage, counted: Audit) -> tuple[int, int]:
    """How the tries ended that were seen prepared after their worker's death: by the rows that carry their number."""
    caught = {(str(one.transaction), str(one.attempt)) for one in stage.chaos.tally.caught}
    done = {(str(TransactionId.from_user_id("", transfer)), attempt) for transfer, attempt in counted.tries}
    return len(caught & done), len(caught - done)


def print_report(report: dict[str, Any], zeros: Iterable[str], console: Console) -> None:
    """As a table, what must be zero and is in green."""
    table = Table(title="Counted in the databases, against what the clients were told", show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    for name, value in report.items():
        good = name in zeros and value == 0
        shown = f"{value:,}" if isinstance(value, int | float) and not isinstance(value, bool) else _words(value)
        table.add_row(name.replace("_", " "), f"[green]{shown}[/]" if good else shown)
    console.print(table)
    sys.stdout.flush()


def _words(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{name} {one}" for name, one in value.items())
    return ", ".join(value) if isinstance(value, list) else str(value)
