"""Questions and answers over a link: a number goes out with the question and comes back with its answer.

    exchange = LinkExchange(settings, vocabulary=WORDS, may_ask=…)
    exchange.serve_peers(answer, runtime=runtime, guid=guid, random=random)
    reply = yield from exchange.ask("node", Question(…), 5.0)

An address is the link's name of a process. The link proves who is at the other end; `may_ask` checks that nobody
speaks for another. The link's GUID is the one given to `serve`, whatever the settings say. A question is not resent:
who gets no answer asks again. Not for: what questions mean, or sockets (stream.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from syncpoint.errors import ConnectionLost, FormatTooNew, ManagerClosed, ResourceUnavailable, SyncpointError
from syncpoint.ids import Guid
from syncpoint.link.settings import LinkSettings
from syncpoint.link.threaded import ThreadedLink
from syncpoint.messages import LINK_VOCABULARY, BadMessage, Message, Number, Vocabulary
from syncpoint.ports import (
    Arrived,
    Connected,
    Exchange,
    Link,
    LinkEvent,
    Lost,
    Peer,
    Random,
    Runtime,
    Sent,
    Signal,
)
from syncpoint.steps import Script, Wait

log = logging.getLogger("syncpoint")

Answer = Callable[[Peer, Message], Script[Message]]
"""A script that answers a question of a peer. One that raises a SyncpointError gives no answer."""

AWAY_S_MAX = 0.5
"""How long a peer that is not connected is waited for: it may be connecting just now. Who is away longer is not
asked."""


class Asked(Message, frozen=True, array_like=True, kw_only=True, tag="tree-asked"):
    """A question on a link: the answer carries the same number."""

    number: Number
    question: bytes


class Answered(Message, frozen=True, array_like=True, kw_only=True, tag="tree-answered"):
    """Its answer."""

    number: Number
    answer: bytes


EXCHANGE_VOCABULARY: Final = LINK_VOCABULARY.extended(Asked, Answered)
"""What goes over the link: envelopes. What is in them is of the exchange's own vocabulary."""


@dataclass(slots=True)
class _Waiting:
    """A question whose answer has still to come."""

    to: str
    signal: Signal
    answer: Message | None = None
    why: str = ""
    """Why there will be none."""


class LinkExchange(Exchange):
    """One process's exchange. The link is opened by `serve`, and closed by `close`.

    Parameters: `settings` of the link; its `name` is the address under which others reach this process, and must stay
    the same over restarts. `vocabulary` of questions and answers. `may_ask(peer, question)`: whether this peer may put
    this question; who may not gets no answer. `open_link` makes the link, for tests.
    """

    def __init__(
        self,
        settings: LinkSettings,
        *,
        vocabulary: Vocabulary,
        may_ask: Callable[[Peer, Message], bool],
        open_link: Callable[[LinkSettings, Runtime, Random], Link] | None = None,
    ) -> None:
        self.settings = settings
        self._vocabulary = vocabulary
        self._may_ask = may_ask
        self._open_link = open_link or _open_threaded
        self._link: Link | None = None
        self._waiting: dict[int, _Waiting] = {}
        self._number = 0
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<LinkExchange {self.address} {self._link!r}>"

    @property
    def address(self) -> str:
        return self.settings.name

    @property
    def listening_at(self) -> tuple[str, ...]:
        """The addresses at which it can be dialled, with the ports that were found. Empty when it is not open."""
        return self._link.listening_at if isinstance(self._link, ThreadedLink) else ()

    def serve(
        self, answer: Callable[[Message], Script[Message]], *, runtime: Runtime, guid: Guid, random: Random
    ) -> None:
        """See `Exchange.serve`. Raises ConfigurationError when the link cannot be opened."""
        self.serve_peers(lambda _, question: answer(question), runtime=runtime, guid=guid, random=random)

    def serve_peers(
        self,
        answer: Answer,
        *,
        runtime: Runtime,
        guid: Guid,
        random: Random,
        noticed: Callable[[LinkEvent], None] = lambda _: None,
    ) -> None:
        """As `serve`, for who must know who asks. `noticed` is told, in order and without delay, who was connected and
        who was lost. Raises ConfigurationError when the link cannot be opened."""
        self._runtime, self._answer, self._mutex = runtime, answer, runtime.mutex()
        self._noticed = noticed
        self._connected = runtime.signal()
        self._is_closed = False
        self._link = self._open_link(replace(self.settings, guid=guid), runtime, random)
        runtime.spawn(self._pump(self._link), f"messages of {self.address}")

    def close(self) -> None:
        """See `Exchange.close`."""
        link, self._link = self._link, None
        if link is None:
            return
        self._is_closed = True
        for waiting in self._take_waiting(lambda _: True):
            _end(waiting, "this process has closed its link")
        link.arrived.set()
        if isinstance(link, ThreadedLink):
            link.close()

    # --- asking ----------------------------------------------------------------------------------------

    def ask(self, address: str, question: Message, seconds: float) -> Script[Message]:
        """See `Exchange.ask`."""
        what = type(question).__name__
        if self._link is None:
            raise ResourceUnavailable(f"{what} was not sent to {address}: this process's link is not open.")
        waiting = _Waiting(address, self._runtime.signal())
        with self._mutex:
            self._number += 1
            number = self._number
            self._waiting[number] = waiting
        try:
            message = Asked(number=number, question=self._vocabulary.encode(question))
            left_s = yield from self._send(address, message, what, seconds)
            if not (yield Wait(waiting.signal, left_s)):
                raise ConnectionLost(f"{address} did not answer {what} in {seconds:g} s.")
        finally:
            with self._mutex:
                self._waiting.pop(number, None)
        if waiting.answer is None:
            raise ConnectionLost(f"{address} did not answer {what}: {waiting.why}.")
        return waiting.answer

    def _send(self, address: str, message: Asked, what: str, seconds: float) -> Script[float]:
        """Hand it to the link, as soon as the peer is connected and has room; returns the seconds that are left."""
        pause_s = min(0.05, seconds)
        left_s = seconds
        while self._link is not None:
            sent = self._link.send(address, message)
            if sent is Sent.TAKEN:
                return max(left_s, pause_s)
            if left_s <= 0 or (sent is Sent.AWAY and left_s <= seconds - AWAY_S_MAX):
                break
            # Whatever sets the signal, it is looked again after a short while: nothing depends on it.
            yield Wait(self._link.room(address) if sent is Sent.FULL else self._connected, pause_s)
            left_s -= pause_s
        raise ResourceUnavailable(f"{what} could not be sent to {address}: it is not connected.")

    # --- what arrives ------------------------------------------------------------------------------------

    def _pump(self, link: Link) -> Script[None]:
        while True:
            yield Wait(link.arrived, None)
            if self._is_closed:
                return
            link.arrived.clear()
            for event in link.take():
                match event:
                    case Connected():
                        self._noticed(event)
                        connected, self._connected = self._connected, self._runtime.signal()
                        connected.set()
                    case Lost():
                        self._lost(event)
                        self._noticed(event)
                    case Arrived():
                        self._arrived(link, event)

    def _lost(self, event: Lost) -> None:
        for waiting in self._take_waiting(lambda one: one.to == event.peer.name):
            _end(waiting, f"the connection was lost: {event.why}")

    def _take_waiting(self, chosen: Callable[[_Waiting], bool]) -> list[_Waiting]:
        with self._mutex:
            taken = {number: one for number, one in self._waiting.items() if chosen(one)}
            for number in taken:
                del self._waiting[number]
        return list(taken.values())

    def _arrived(self, link: Link, event: Arrived) -> None:
        peer, message = event.peer, event.message
        try:
            if isinstance(message, Answered):
                answer = self._vocabulary.decode(message.answer)
                with self._mutex:
                    waiting = self._waiting.get(message.number)
                if waiting is not None and waiting.to == peer.name:
                    waiting.answer = answer
                    waiting.signal.set()
            elif isinstance(message, Asked):
                question = self._vocabulary.decode(message.question)
                if not self._may_ask(peer, question):
                    log.error("%s asked %s in somebody else's name: not answered.", peer, type(question).__name__)
                    return
                answering = self._reply(link, peer, message.number, question)
                self._runtime.spawn(answering, f"answer {type(question).__name__} of {peer}")
        except (BadMessage, FormatTooNew, ValueError) as error:
            log.error("%s sent what is no message here: %s", peer, error)

    def _reply(self, link: Link, peer: Peer, number: int, question: Message) -> Script[None]:
        """No answer is an answer too: it is asked again."""
        try:
            answer = yield from self._answer(peer, question)
        except SyncpointError as error:
            if not isinstance(error, ManagerClosed):
                log.warning("%s of %s was not answered: %s", type(question).__name__, peer, error.message)
            return
        link.send(peer.name, Answered(number=number, answer=self._vocabulary.encode(answer)))


def _end(waiting: _Waiting, why: str) -> None:
    waiting.why = why
    waiting.signal.set()


def _open_threaded(settings: LinkSettings, runtime: Runtime, random: Random) -> Link:
    link = ThreadedLink(settings, vocabulary=EXCHANGE_VOCABULARY, signal=runtime.signal, random=random)
    link.start()
    return link
