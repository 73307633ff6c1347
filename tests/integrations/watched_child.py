"""A process that stays where all have voted yes and nothing is decided, until it is killed. Run by test_prometheus.py.

watched_child.py JOURNAL NAME=URL NAME=URL
"""

from __future__ import annotations

import sys
import threading

import syncpoint
from syncpoint.manager.observer import Event, Phase, PhaseEnded


class StayAfterVotes:
    def observe(self, event: Event, /) -> None:
        if isinstance(event, PhaseEnded) and event.phase is Phase.PREPARE:
            print("prepared", flush=True)
            threading.Event().wait()


def main(journal: str, *resources: str) -> None:
    urls = dict(one.split("=", 1) for one in resources)
    manager = syncpoint.TransactionManager(journal, urls, observers=[StayAfterVotes()])
    with manager, manager.transaction() as tx:
        for name in urls:
            tx.connect(name).execute("INSERT INTO note VALUES ('from the child')")


if __name__ == "__main__":
    main(*sys.argv[1:])
