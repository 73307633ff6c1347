"""A process that works with the ORM over two databases in one block, and kills itself at a step of its end.

    python -m tests.django.child '{"urls": …, "using": …, "journal": …, "what": "journal force", "nth": 1, …}'

Not for: judging what is left; the test does that.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from tests.crash.trap import Target, Trap
from tests.django.world import World, configure, entry


def work(order: dict[str, Any]) -> None:
    using = tuple(order["using"])
    configure(
        {alias: entry(order["urls"][alias]) for alias in using},
        {"journal": order["journal"], "databases": list(using)},
    )
    from syncpoint.django import atomic, manager

    trap = Trap(Target(what=order["what"], nth=order["nth"], after=order["after"]))
    with atomic(using=using, id="order-1"):
        World(order["urls"], using, order["journal"]).work("Ada")
        trap.watch(manager()._runner)


if __name__ == "__main__":
    work(json.loads(sys.argv[1]))
