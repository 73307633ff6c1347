"""A service of its own: `python -m tests.trees.service SETTINGS.json`. Used by test_processes.py.

A manager over one SQLite file and a journal in a folder, in a tree over a real link. It does what each line of its
input says, one after the other, and answers with one line of JSON:

    {"begin": key}                 begin a transaction and write the row; answers with a context
    {"join": context, "key": …}    take part, write the row, and leave; answers with a context if "export" is true
    {"pass on": context}           the same in one: joins, writes, and keeps the block open until {"leave": true}
    {"commit": true}               commit what was begun
    {"recover": seconds}           recovery passes until nothing is in doubt
    {"die at": number}             be killed by SIGKILL at that step of any script from now on

A closed standard input ends it.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import syncpoint
from syncpoint.link.peers import KnownPeer
from syncpoint.link.settings import Limits, LinkSettings
from syncpoint.manager.link_exchange import LinkExchange

KEY = b"the key of these tests: 32 bytes"
LIMITS = Limits(retry_base_s=0.02, retry_max_s=0.2)


def manager_of(given: dict[str, Any]) -> syncpoint.TransactionManager:
    settings = LinkSettings(
        cluster="test",
        name=given["name"],
        role="node",
        guid=syncpoint.ids.Guid(bytes(16)),
        peers=tuple(KnownPeer(name=name, address=address) for name, address in given["peers"].items()),
        listen=(given["listen"],),
        limits=LIMITS,
    )
    return syncpoint.TransactionManager(
        given["journal"],
        {"db": f"sqlite:///{given['database']}"},
        timeout=8.0,
        tree=syncpoint.Tree(exchange=LinkExchange(settings), keys=[KEY]),
    )


class Service:
    def __init__(self, manager: syncpoint.TransactionManager) -> None:
        self.manager = manager
        self.open = ExitStack()
        self.inside: Any = None

    def do(self, order: dict[str, Any]) -> Any:
        if "begin" in order:
            self.inside = self.open.enter_context(self.manager.transaction())
            return self.write(order["begin"])
        if "join" in order:
            self.inside = self.open.enter_context(self.manager.join(order["join"]))
            token = self.write(order["key"])
            if not order.get("stay"):
                self.open.close()
            return token
        if "commit" in order or "leave" in order:
            self.open.close()
            return sorted(self.inside.pending) if self.inside is not None else []
        if "recover" in order:
            report = self.manager.recover(order["recover"])
            return [f"{one.status} {one.explanation}" for one in report.left]
        if "die at" in order:
            return self.die_at(order["die at"])
        raise AssertionError(order)

    def write(self, key: str) -> str:
        self.inside.connect("db").execute("INSERT INTO row VALUES (?)", (key,))
        return str(self.inside.export().token)

    def die_at(self, number: int) -> None:
        count = itertools.count(1)

        def observe(*_: object) -> None:
            if next(count) == number:
                os.kill(os.getpid(), signal.SIGKILL)

        self.manager._runner.observer = observe


def main() -> None:
    given = json.loads(Path(sys.argv[1]).read_text())
    with manager_of(given) as manager:
        service = Service(manager)
        print(json.dumps({"ready": True}), flush=True)
        for line in sys.stdin:
            try:
                said: Any = {"done": service.do(json.loads(line))}
            except syncpoint.SyncpointError as error:
                service.open.pop_all()
                said = {"error": type(error).__name__, "text": str(error)}
            print(json.dumps(said), flush=True)
        with_open = service.open.pop_all()
        del with_open
    os._exit(0)


if __name__ == "__main__":
    main()
