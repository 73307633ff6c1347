"""Managers of one process in a tree: `Hall` joins their exchanges without a network. For tests of services that take
part.

    hall = Hall()
    orders = TransactionManager("./orders-journal", {…}, tree=Tree(exchange=hall.exchange("orders"), keys=[key]))
    stock = TransactionManager("./stock-journal", {…}, tree=Tree(exchange=hall.exchange("stock"), keys=[key]))

All of them blocking, or all of them of one event loop. Messages are encoded and decoded as on a link. `hall.rules`
may lose questions or answers. Not for: production, where managers are in different processes (docs/trees.md).
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import Any, Protocol, cast

from syncpoint.errors import ConnectionLost, ResourceUnavailable, SyncpointError
from syncpoint.ids import Guid
from syncpoint.messages import Message
from syncpoint.ports import Exchange, Random, Runtime
from syncpoint.resources.subordinate_messages import TREE_VOCABULARY
from syncpoint.steps import Call, Script

Answer = Callable[[Message], Script[Message]]


class _Runner(Runtime, Protocol):
    def run(self, script: Script[Any]) -> Any: ...


class Fate(Enum):
    """What becomes of a question."""

    ANSWERED = auto()
    LOST = auto()
    """It does not arrive."""
    UNANSWERED = auto()
    """It is carried out, and its answer is lost."""
    TWICE = auto()
    """It arrives twice; the second answer counts."""


Rule = Callable[[str, str, Message], Fate | None]
"""(from, to, question) -> what becomes of it; None: no opinion."""


class Hall:
    """Where the exchanges of one process's managers meet."""

    def __init__(self) -> None:
        self.rules: list[Rule] = []
        """The first that has an opinion counts."""
        self.asked: list[tuple[str, str, str]] = []
        """Every question: from, to, its kind."""
        self._answers: dict[str, tuple[Answer, _Runner]] = {}

    def __repr__(self) -> str:
        return f"<Hall {', '.join(sorted(self._answers))}>"

    def exchange(self, address: str) -> InProcessExchange:
        """The exchange for one manager, which the others reach at `address`."""
        return InProcessExchange(self, address)

    def fate(self, source: str, target: str, question: Message) -> Fate:
        said = (rule(source, target, question) for rule in self.rules)
        return next((fate for fate in said if fate is not None), Fate.ANSWERED)


class InProcessExchange(Exchange):
    """One manager's exchange. Made by `Hall.exchange`."""

    def __init__(self, hall: Hall, address: str) -> None:
        self._hall = hall
        self._address = address

    def __repr__(self) -> str:
        return f"<InProcessExchange {self._address} in {self._hall!r}>"

    @property
    def address(self) -> str:
        return self._address

    def serve(self, answer: Answer, *, runtime: Runtime, guid: Guid, random: Random) -> None:
        """See `Exchange.serve`."""
        self._hall._answers[self._address] = answer, cast(_Runner, runtime)  # both runners are more than a Runtime

    def close(self) -> None:
        """See `Exchange.close`."""
        self._hall._answers.pop(self._address, None)

    def ask(self, address: str, question: Message, seconds: float) -> Script[Message]:
        """See `Exchange.ask`. It waits as long as the other takes."""
        hall, what = self._hall, type(question).__name__
        hall.asked.append((self._address, address, what))
        fate = hall.fate(self._address, address, question)
        if fate is Fate.LOST:
            raise ConnectionLost(f"{what} to {address} was lost.")
        raw = TREE_VOCABULARY.encode(question)
        answer = yield self._step(address, raw, what)
        if fate is Fate.TWICE:
            answer = yield self._step(address, raw, what)
        if fate is Fate.UNANSWERED:
            raise ConnectionLost(f"The answer of {address} to {what} was lost.")
        if isinstance(answer, SyncpointError):
            raise ConnectionLost(f"{address} gave no answer to {what}.") from answer
        return TREE_VOCABULARY.decode(TREE_VOCABULARY.encode(answer))

    def _step(self, address: str, raw: bytes, what: str) -> Call:
        there = self._hall._answers.get(address)
        if there is None:
            raise ResourceUnavailable(f"Nobody answers at {address}.", advice="Start the manager there.")
        answer, runner = there
        return Call(lambda: runner.run(_answered(answer, raw)), f"ask {what}")


def _answered(answer: Answer, raw: bytes) -> Script[Message | SyncpointError]:
    try:
        return (yield from answer(TREE_VOCABULARY.decode(raw)))
    except SyncpointError as error:
        return error
