"""A process that works through Syncpoint and can be told to stop in the middle, with all its threads.

    python -m tests.conformance.worker      a plan as a JSON line on stdin; what it has to say as JSON lines on stdout

It stops itself (SIGSTOP) right before a step of its plan, a moment that no test could hit from outside. It is woken by
SIGCONT, and knows nothing of having slept. With `forever` it goes on until stdin ends, otherwise it does one piece of
work. Not for: looking at databases, or judging (the tests).
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
from typing import Any

import syncpoint
from tests.crash.trap import Trap
from tests.crash.world import BANK, LEDGER, transfer

ACCOUNTS = 100


def main() -> None:
    plan = json.loads(sys.stdin.readline())
    trap = Trap()
    manager = syncpoint.TransactionManager(plan["journal"], plan["resources"], background=plan["background"])
    trap.watch(manager._runner)
    with manager:
        say(ready=os.getpid())
        if plan["forever"]:
            _go_on(manager, trap, plan)
        else:
            trap.before(plan["stop"], stop)
            _once(manager, plan["name"], plan["id"])


def say(**what: Any) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def stop() -> None:
    """As if SIGSTOP came right now."""
    os.kill(os.getpid(), signal.SIGSTOP)


def _once(manager: syncpoint.TransactionManager, name: str, user_id: str | None) -> None:
    """One transfer, retried as `run` does."""
    tries = 0

    def work(tx: Any) -> int:
        nonlocal tries
        tries += 1
        transfer(tx, name, (BANK, LEDGER))
        return tries

    try:
        returned = manager.run(work, id=user_id, fingerprint="")
    except syncpoint.SyncpointError as error:
        say(told=type(error).__name__, why=str(error), tries=tries)
    else:
        say(told="committed", returned=returned, tries=tries)


# --- work without end --------------------------------------------------------------------------------------------


def _go_on(manager: syncpoint.TransactionManager, trap: Trap, plan: dict[str, Any]) -> None:
    """Transfers until stdin ends; the test hears how each came out. At a line "stop" it stops in the middle of one."""
    over = threading.Event()

    def listen() -> None:
        for line in sys.stdin:
            if line == "stop\n":
                trap.before(plan["stop"], stop)
        over.set()

    threading.Thread(target=listen, daemon=True).start()
    number = 0
    while not over.is_set():
        number += 1
        name = f"{plan['name']}-{number}"
        say(begun=name)
        say(told=[name, _move(manager, name, number % 2 == 0)])


def _move(manager: syncpoint.TransactionManager, name: str, with_id: bool) -> str:
    """One unit from an account of the bank to one of the ledger, and a row with the transfer's name in each."""
    one, other = random.randrange(ACCOUNTS), random.randrange(ACCOUNTS)
    try:
        with manager.transaction(id=name if with_id else None) as tx:
            bank, ledger = tx.connect(BANK), tx.connect(LEDGER)
            bank.execute("UPDATE storm SET balance = balance - 1 WHERE id = %s", (one,))
            bank.execute("INSERT INTO transfer VALUES (%s, 1, 1)", (name,))
            with ledger.cursor() as cursor:
                cursor.execute("UPDATE storm SET balance = balance + 1 WHERE id = %s", (other,))
                cursor.execute("INSERT INTO transfer VALUES (%s, 1, 1)", (name,))
    except syncpoint.OutcomePending:
        return ""
    except syncpoint.TransactionError as error:
        return "aborted" if isinstance(error, syncpoint.TransactionAborted) else type(error).__name__
    except Exception as error:  # a driver's own, out of the block: nothing stays
        say(error=repr(error))
        return "aborted"
    return "committed"


if __name__ == "__main__":
    main()
