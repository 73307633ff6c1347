"""The process whose disk fails or loses power, and what it says about its work, line by line as it happens.

    python -m tests.disks.worker                 orders as JSON lines on stdin; each forks its children, all at once
    python -m tests.disks.worker '{"job": …}'    one order, in this very process

Jobs: `journal` writes to a folder journal alone, `bank` runs transactions over two SQLite files, `recover` settles what
such a process left. Not for: judging (journal_power.py, bank.py).
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import random
import signal
import sys
import threading
import time
import traceback
from typing import Any, NoReturn

import apsw

from syncpoint.errors import (
    JournalError,
    JournalFailed,
    ManagerClosed,
    OutcomePending,
    SyncpointError,
    TransactionAborted,
)
from syncpoint.ids import Attempt, Incarnation, Key
from syncpoint.journal.folder import FolderJournal
from syncpoint.manager.sync import TransactionManager
from syncpoint.records import Commit
from syncpoint.resources import sqlite  # noqa: F401 - a manager would import it in every child anew
from syncpoint.runners.threads import ThreadRunner
from syncpoint.system import SystemClock, SystemDisk, SystemRandom
from tests.journal.support import commit, end, transaction

THREADS = 3
SEGMENT_SIZE_BYTES = 6000
RETENTION_S = 1e10
"""For good: the records of tests are of 1970."""


def say(**what: Any) -> None:
    """One line, written whole: several processes share the pipe. `at`: when it was so, by the machine's clock."""
    os.write(1, json.dumps({**what, "at": time.monotonic()}).encode() + b"\n")


def record_of(incarnation_and_counter: Any, number: int, size_bytes: int) -> Commit:
    """The Commit record that a worker hands in, made again from what it said."""
    incarnation, counter = incarnation_and_counter
    of = Key(transaction(number), Attempt(Incarnation(incarnation), counter))
    user_id = f"order {number}" if number % 2 else None
    return commit(of, user_id=user_id, result=bytes([number % 256]) * size_bytes)


# --- jobs --------------------------------------------------------------------------------------------------------


def journal(order: dict[str, Any], child: int) -> None:
    """Commit and end until killed; several threads share the forces. Reports what it hands in and what is accepted."""
    runner = ThreadRunner()
    book = FolderJournal(
        order["path"],
        disk=SystemDisk(),
        clock=SystemClock(),
        random=SystemRandom(),
        retention_s=RETENTION_S,
        segment_size_bytes_max=SEGMENT_SIZE_BYTES,
    )
    runner.run(book.open(runner))
    say(opened=book.incarnation)
    numbers = itertools.count(order["first"] + child * 100_000)
    threads = [threading.Thread(target=_keep, args=(runner, book, numbers)) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        runner.run(book.look())  # takes over a neighbour that was killed
        threads[0].join(0.005)


def _keep(runner: ThreadRunner, book: FolderJournal, numbers: Any) -> None:
    try:
        _keep_on(runner, book, numbers)
    except JournalFailed as error:
        say(failed=str(error))


def _keep_on(runner: ThreadRunner, book: FolderJournal, numbers: Any) -> NoReturn:
    chance = random.Random(os.urandom(8))
    while True:
        number = next(numbers)
        attempt = book.next_attempt()
        told = [attempt.incarnation, attempt.counter]
        size_bytes = chance.choice([0, 0, 100, 700, 2500])
        record = record_of(told, number, size_bytes)
        say(handed=[told, number, size_bytes])
        runner.run(book.force((record,)))
        say(accepted=[told, number])
        if chance.random() < 0.7:
            say(ending=[told, number])
            if chance.random() < 0.5:
                book.note((end(record.key),))
            else:
                runner.run(book.force((end(record.key),)))
                say(ended=[told, number])


def bank(order: dict[str, Any], child: int) -> None:
    """Insert the same row in both files, `count` times or until killed. Reports what the caller was told."""
    numbers = itertools.count(order["first"] + child * 100_000)
    resources = {name: f"sqlite:///{order[name]}" for name in ("a", "b")}
    manager = TransactionManager(order["journal"], resources, background=order.get("background", True))
    manager.open()
    say(opened=manager.incarnation)
    _wait_for(order.get("go"))
    left = itertools.count() if order.get("count") is None else range(order["count"])
    threads = [
        threading.Thread(target=_pay, args=(manager, numbers, left, order)) for _ in range(order.get("threads", 2))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if order.get("abandon"):
        os._exit(0)  # closing would force the SQLite files
    if order.get("count") is not None:
        manager.close()
        say(closed=True)


def _pay(manager: TransactionManager, numbers: Any, left: Any, order: dict[str, Any]) -> None:
    for _ in left:
        number = next(numbers)
        say(handed=number)
        try:
            with manager.transaction(id=f"order {number}") as tx:
                for name in ("a", "b"):
                    tx.connect(name).execute("INSERT INTO entry VALUES (?, ?)", (number, "x" * (number % 7 * 300)))
        except TransactionAborted as error:
            say(aborted=number, error=type(error).__name__)
        except OutcomePending as error:
            say(pending=number, error=repr(error))
        except (JournalError, ManagerClosed) as error:
            say(stopped=number, error=f"{type(error).__name__}: {error}")
            if not order.get("insist"):
                return
        except (SyncpointError, apsw.Error, OSError) as error:
            say(failed=number, error=f"{type(error).__name__}: {error}")
            if order.get("give_up"):
                return
            if order.get("count") is None:
                time.sleep(0.005)  # its disk is gone: not a busy loop until it is killed
        else:
            say(committed=number, pending_at=sorted(tx.pending))


def _wait_for(path: str | None) -> None:
    while path and not os.path.exists(path):
        time.sleep(0.005)


def recover(order: dict[str, Any], child: int) -> None:
    """Open, settle everything, say what is left."""
    resources = {name: f"sqlite:///{order[name]}" for name in ("a", "b")}
    with TransactionManager(order["journal"], resources) as manager:
        manager.recover(wait_seconds=10.0)
        say(in_doubt=[str(one) for one in manager.in_doubt()], heuristics=[str(one) for one in manager.heuristics()])


def heir(order: dict[str, Any], child: int) -> None:
    """Open, wait for the file `go`, settle what another process left, and make that certain. Then live on."""
    resources = {name: f"sqlite:///{order[name]}" for name in ("a", "b")}
    manager = TransactionManager(order["journal"], resources, background=False).open()
    say(opened=manager.incarnation)
    _wait_for(order["go"])
    manager.recover(wait_seconds=10.0)
    with manager.transaction(id=f"order {order['first']}") as tx:  # forces what recovery has noted in the journal
        tx.connect("a").execute("INSERT INTO heir VALUES (1)")
    say(settled=True)
    signal.pause()


JOBS = {job.__name__: job for job in (journal, bank, recover, heir)}


# --- being a process ---------------------------------------------------------------------------------------------


def die_with_parent() -> None:
    """Linux: SIGKILL for this process when the one that made it ends."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def main() -> None:
    die_with_parent()
    if len(sys.argv) > 1:
        order = json.loads(sys.argv[1])
        JOBS[order["job"]](order, 0)
        return
    children: list[int] = []
    for line in sys.stdin:
        for child in children:  # only now: until then its number is nobody else's, and may be killed
            os.waitpid(child, 0)
        order = json.loads(line)
        children = [_fork(order, number) for number in range(order.get("children", 1))]
        say(pids=children)
        for child in children:
            os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        say(over=True)


def _fork(order: dict[str, Any], number: int) -> int:
    child = os.fork()
    return child if child else _be_child(order, number)


def _be_child(order: dict[str, Any], number: int) -> NoReturn:
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        JOBS[order["job"]](order, number)
    except BaseException as error:
        say(died=f"{type(error).__name__}: {error}", where=traceback.format_exc(limit=-3))
    os._exit(0)


if __name__ == "__main__":
    main()
