"""Questions and answers between processes of a world: encoded, and late, lost, doubled or cut off.

    exchange(address, ...).ask --> arrive --> the script that answers, in its process --> reply

Whoever asks gives up after its time; a question on its way arrives all the same, also at the next process of that
address, and also when its asker has died or stands still. Not for: what is asked (resources/*_messages.py), or
connections to databases (network.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from syncpoint.errors import ConnectionLost, ResourceUnavailable, SyncpointError
from syncpoint.ids import Guid
from syncpoint.messages import Message, Vocabulary
from syncpoint.ports import Exchange, Random, Runtime
from syncpoint.simulation.network import LATENCY_S, Network
from syncpoint.simulation.process import Process
from syncpoint.simulation.runtime import Outcome, Promise, SimRuntime
from syncpoint.steps import Call, Done, Failed, Script

LATE_S = (0.05, 3.0)

Answer = Callable[[Message], Script[Message]]


@dataclass(slots=True)
class Mishaps:
    """How likely one message is lost, comes twice, comes late."""

    lost: float = 0.0
    doubled: float = 0.0
    late: float = 0.0


@dataclass(slots=True)
class Trap:
    """Something that happens to a process right after one of the next messages that it sends."""

    who: str
    """The beginning of its name."""
    left: int
    """How many of its messages pass before."""
    spring: Callable[[Process], None]
    word: bytes = b""
    """Only messages count that have it in them."""


@dataclass(slots=True)
class _Endpoint:
    """Who answers at an address."""

    process: Process
    runtime: SimRuntime
    answer: Answer | None = None


class Wires:
    """Everybody's messages to everybody, in words of one vocabulary."""

    def __init__(self, network: Network, vocabulary: Vocabulary) -> None:
        self.world = network.world
        self.network = network
        self.vocabulary = vocabulary
        self.mishaps = Mishaps()
        self.deaf: set[str] = set()
        """Kinds of questions that get lost."""
        self._traps: list[Trap] = []
        self._endpoints: dict[str, _Endpoint] = {}
        self._chance = self.world.stream("wires")

    def __repr__(self) -> str:
        return f"<Wires {self.mishaps} to {sorted(self._endpoints)}>"

    def exchange(self, address: str, process: Process, runtime: SimRuntime) -> SimExchange:
        """The exchange of one process, which is reached at `address` from when it serves."""
        return SimExchange(self, address, process, runtime)

    def mend(self) -> None:
        """Every message arrives, once, soon."""
        self.mishaps = Mishaps()
        self.deaf.clear()
        self._traps.clear()

    def set_trap(self, trap: Trap) -> None:
        self._traps.append(trap)

    def serve(self, address: str, endpoint: _Endpoint) -> None:
        self._endpoints[address] = endpoint

    # --- one question ------------------------------------------------------------------------------------------------

    def ask(self, process: Process, address: str, question: Message, seconds: float) -> Promise:
        """A question on its way; the promise is its answer, encoded."""
        promise, what = Promise(), type(question).__name__
        late = ConnectionLost(f"{address} did not answer {what} in {seconds:g} s.")
        process.after(seconds, lambda: promise.keep(Failed(late)))
        raw = self.vocabulary.encode(question)
        self.world.note(process.name, what, address)
        for _ in range(0 if what in self.deaf else self.copies(process.name, address)):
            self.world.after(self.latency_s(), partial(self._arrive, process.name, address, raw, what, promise))
        self._sent(process)
        return promise

    def copies(self, source: str, target: str) -> int:
        """How many of a message arrive."""
        if self.network.is_cut(source, target):
            self.world.count("messages cut off")
            return 0
        if self.mishaps.lost and self._chance.random() < self.mishaps.lost:
            self.world.count("questions or answers lost")
            return 0
        if self.mishaps.doubled and self._chance.random() < self.mishaps.doubled:
            self.world.count("questions or answers doubled")
            return 2
        return 1

    def latency_s(self) -> float:
        if self.mishaps.late and self._chance.random() < self.mishaps.late:
            self.world.count("questions or answers late")
            return self._chance.uniform(*LATE_S)
        return self._chance.uniform(*LATENCY_S)

    def _sent(self, process: Process) -> None:
        for trap in self._traps:
            if process.name.startswith(trap.who):
                trap.left -= 1
                if trap.left < 0:
                    self._traps.remove(trap)
                    trap.spring(process)
                return

    def _arrive(self, source: str, address: str, raw: bytes, what: str, promise: Promise) -> None:
        endpoint = self._endpoints.get(address)
        if endpoint is None or not endpoint.process.alive or endpoint.answer is None:
            refused = ResourceUnavailable(f"{address} refuses connections.")
            self.world.after(self.latency_s(), lambda: promise.keep(Failed(refused)))
            return
        answer, process, runtime = endpoint.answer, endpoint.process, endpoint.runtime
        reply = partial(self._reply, process, source, what, promise)

        def begin() -> None:
            runtime.begin(answer(self.vocabulary.decode(raw)), f"answer {what}", reply)

        process.now(begin)

    def _reply(self, process: Process, source: str, what: str, promise: Promise, outcome: Outcome) -> None:
        if isinstance(outcome, Failed):
            if not isinstance(outcome.error, SyncpointError | OSError):
                self.world.violation(f"{process.name} failed to answer {what}: {outcome.error!r}")
            return  # a script that raises gives no answer
        raw = self.vocabulary.encode(outcome.value)
        self.world.note(process.name, f"{what}: {outcome.value!r}", source)
        for _ in range(self.copies(process.name, source)):
            self.world.after(self.latency_s(), lambda: promise.keep(Done(raw)))
        self._sent(process)


class SimExchange(Exchange):
    """One process's exchange over the wires."""

    def __init__(self, wires: Wires, address: str, process: Process, runtime: SimRuntime) -> None:
        self._wires = wires
        self._address = address
        self._endpoint = _Endpoint(process, runtime)

    def __repr__(self) -> str:
        return f"<SimExchange {self._address} of {self._endpoint.process!r}>"

    @property
    def address(self) -> str:
        return self._address

    def serve(self, answer: Answer, *, runtime: Runtime, guid: Guid, random: Random) -> None:
        self._endpoint.answer = answer
        self._wires.serve(self._address, self._endpoint)

    def close(self) -> None:
        self._endpoint.answer = None

    def ask(self, address: str, question: Message, seconds: float) -> Script[Message]:
        ask = partial(self._wires.ask, self._endpoint.process, address, question, seconds)
        raw = yield Call(ask, f"ask {type(question).__name__}")
        return self._wires.vocabulary.decode(raw)
