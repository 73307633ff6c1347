"""A resource manager's process without a process: its host in this one, and a port that can lose questions and answers.

Not for: real processes (process_child.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from syncpoint.errors import ConnectionLost
from syncpoint.ids import Identifier
from syncpoint.messages import Message
from syncpoint.protocol.words import Decision
from syncpoint.resources.base import Mode, Resource, Ruling
from syncpoint.resources.process import ProcessResource
from syncpoint.resources.process_host import ProcessHost
from syncpoint.resources.process_messages import RESOURCE_VOCABULARY, Question
from syncpoint.resources.process_port import ServiceAway
from syncpoint.runners.threads import ThreadRunner
from syncpoint.steps import Blocking, Script
from syncpoint.system import SystemClock, SystemRandom
from syncpoint.testing.in_process import Fate

Rule = Callable[[Message], Fate | None]
"""What becomes of a question; None: no opinion."""


class World:
    """One resource's data, its processes one after the other, and the way to them."""

    def __init__(self, make: Callable[[], Resource], name: str = "subject") -> None:
        self._make = make
        self.name = name
        self.runner = ThreadRunner()
        self.clock = SystemClock()
        self.rules: list[Rule] = []
        self.asked: list[Message] = []
        self.process = "app-1"
        """Which manager's process asks."""
        self.incarnation = 0
        self.rulings: dict[Identifier, Ruling] = {}
        self.host: ProcessHost | None = None

    def start(self) -> ProcessHost:
        """One more process, of the next incarnation; it serves from now on."""
        self.incarnation += 1
        self.host = self.new_host(self.incarnation)
        return self.host

    def new_host(self, incarnation: int) -> ProcessHost:
        resource = self._make()
        resource.attach(self._rule, self.runner)
        host = ProcessHost(resource, self.runner, self.clock)
        self.runner.run(host.service.serve_as(incarnation))
        return host

    def _rule(self, identifier: Identifier) -> Script[Ruling]:
        return self.rulings.get(identifier, Ruling(Decision.UNKNOWN))
        yield from ()

    def kill(self) -> None:
        """Its process is gone: every connection is closed, whatever is on it."""
        host, self.host = self.host, None
        if host is not None:
            self.runner.run(host.close())

    def resource(self, mode: Mode = "sync", url: str | None = None) -> ProcessResource:
        """As a manager has it."""
        where = f"process://{self.name}" if url is None else url
        made = ProcessResource("subject", where, {}, mode=mode, clock=self.clock, random=SystemRandom())
        made.port = self
        return made

    def ask(self, question: Message, process: str | None = None) -> Message:
        """Put a question as some process."""
        assert self.host is not None
        raw = self.runner.run(self.host.answer(process or self.process, RESOURCE_VOCABULARY.encode(question)))
        return RESOURCE_VOCABULARY.decode(raw)

    def close(self) -> None:
        self.kill()
        self.runner.close()

    # --- the port --------------------------------------------------------------------------------------------

    def to_resource(self, name: str, incarnation: int, question: bytes, seconds: float) -> Script[tuple[int, bytes]]:
        message = RESOURCE_VOCABULARY.decode(question)
        self.asked.append(message)
        fate = next((said for said in (rule(message) for rule in self.rules) if said is not None), Fate.ANSWERED)
        host = self.host
        if host is None or name != self.name or incarnation not in (0, host.service.incarnation):
            raise ServiceAway("Nobody serves it now.", advice="Try again.")
        if fate is Fate.LOST:
            raise ConnectionLost("The question was lost.")
        for _ in range(2 if fate is Fate.TWICE else 1):
            answer: Any = yield Blocking(lambda: self.runner.run(host.answer(self.process, question)), "ask")
        if fate is Fate.UNANSWERED:
            raise ConnectionLost("The answer was lost.")
        return host.service.incarnation, answer

    def lose_next_answer(self) -> None:
        """The next question is carried out; its answer is lost, however often the session asks it again."""
        chosen: list[Message] = []

        def rule(question: Message) -> Fate | None:
            if not chosen:
                chosen.append(question)
                return Fate.UNANSWERED
            return Fate.UNANSWERED if isinstance(question, Question) and question == chosen[0] else None

        self.rules = [rule]
