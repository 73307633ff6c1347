"""What a node says of its resource managers, asked as an operator's command asks: `syncpoint resource list`.

Not for: what the data say (bank.py), which is what counts.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

from syncpoint.errors import SyncpointError
from syncpoint.manager.at_node import node_link
from syncpoint.resources.node_messages import ListResources, ResourceLine, Resources
from syncpoint.runners.threads import ThreadRunner
from syncpoint.system import SystemRandom

ASK_S = 0.5


class Watch:
    """A connection to one node that comes back whenever the node does.

    Parameters: `url`, as a journal there has it: node://….
    """

    def __init__(self, url: str) -> None:
        self._runner = ThreadRunner()
        self._random = SystemRandom()
        self._link = node_link(url, role="operator", prefix="op-", random=self._random)

    def __enter__(self) -> Self:
        self._link.open(self._runner, self._random)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._link.close()
        self._runner.close()

    def lines(self) -> dict[str, ResourceLine]:
        """By name; empty when the node does not answer just now."""
        try:
            said = self._runner.run(self._link.ask(ListResources(), ASK_S))
        except SyncpointError:
            return {}
        return {line.name: line for line in said.lines} if isinstance(said, Resources) else {}
