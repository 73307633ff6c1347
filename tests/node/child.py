"""An application of its own process: `python -m tests.node.child SETTINGS.json`. Used by test_processes.py.

It runs one transaction that writes the row `number` in every resource, and stops at each point on the way: it prints
the point's name and waits for a line. At the end it prints what the caller was told, as JSON, and asks on command.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import syncpoint
from syncpoint.errors import SyncpointError, TransactionAborted
from syncpoint.journal.base import Verdict
from syncpoint.journal.node import NodeJournal
from syncpoint.records import Commit, Record
from syncpoint.steps import Script


def at(point: str) -> str:
    print(point, flush=True)
    return sys.stdin.readline().strip()


class Stopping(NodeJournal):
    """Stops before and after a Commit record is forced."""

    def force(self, records: Sequence[Record]) -> Script[tuple[Verdict, ...]]:
        is_decision = any(isinstance(record, Commit) for record in records)
        if is_decision:
            at("voted")
        verdicts = yield from super().force(records)
        if is_decision:
            at("decided")
        return verdicts


def work(manager: syncpoint.TransactionManager, given: dict[str, Any]) -> None:
    with manager.transaction(id=given.get("id"), timeout=given.get("timeout", 30)) as tx:
        for name in given["resources"]:
            tx.connect(name).execute(f"INSERT INTO item VALUES ({int(given['number'])})")
        at("worked")


def main(given: dict[str, Any]) -> None:
    import syncpoint.manager.at_node as at_node

    at_node.NodeJournal = Stopping  # type: ignore[misc]
    with syncpoint.TransactionManager(given["journal"], given["resources"]) as manager:
        told = "committed"
        detail = ""
        try:
            work(manager, given)
        except SyncpointError as error:
            told = type(error).__name__
            detail = str(error)
            if isinstance(error, TransactionAborted) and error.retryable:
                told = "retryable"
        print(json.dumps({"told": told, "detail": detail}), flush=True)
        if given.get("id"):
            sys.stdin.readline()
            print(json.dumps({"outcome": manager.outcome(given["id"]).state.value}), flush=True)
        sys.stdin.readline()


main(json.loads(Path(sys.argv[1]).read_text()))
