"""Questions and answers over real links: who may ask what, what is lost, and both kinds of manager.

Not for: processes that die (tests/trees/test_processes.py), or the link itself (tests/link/).
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import syncpoint
from syncpoint.errors import ConnectionLost, ResourceUnavailable
from syncpoint.ids import Attempt, BranchNumber, Guid, Identifier, Incarnation, TransactionId
from syncpoint.link.exchange import Asked
from syncpoint.link.peers import KnownPeer
from syncpoint.link.settings import Limits, LinkSettings
from syncpoint.manager.link_exchange import LinkExchange, may_ask
from syncpoint.messages import Message
from syncpoint.ports import Arrived, Peer
from syncpoint.resources.memory_server import MemoryServer
from syncpoint.resources.subordinate_messages import (
    AskInDoubt,
    AskOutcome,
    Greet,
    Greeting,
    Join,
    Prepare,
    Tell,
)
from syncpoint.testing.servers.base import wait_until

KEY = b"the key of these tests: 32 bytes"
MINE, OTHER = Guid(b"M" * 16), Guid(b"O" * 16)
PEER = Peer(name="stock", guid=MINE, role="node", instance=bytes(8))


def identifier(coordinator: Guid) -> bytes:
    return Identifier(coordinator, TransactionId(bytes(16)), Attempt(Incarnation(1), 1), BranchNumber(1)).to_bytes()


@pytest.mark.parametrize(
    ("question", "may"),
    [
        (Greet(), True),
        (Join(ticket=bytes(16), guid=MINE.raw, address="stock", attempt=1), True),
        (Join(ticket=bytes(16), guid=OTHER.raw, address="stock", attempt=1), False),
        (Join(ticket=bytes(16), guid=MINE.raw, address="elsewhere", attempt=1), False),
        (AskOutcome(identifier=identifier(OTHER), guid=MINE.raw, address="stock"), True),
        (AskOutcome(identifier=identifier(OTHER), guid=OTHER.raw, address="stock"), False),
        (Prepare(identifier=identifier(MINE), attempt=1), True),
        (Prepare(identifier=identifier(OTHER), attempt=1), False),
        (Tell(identifier=identifier(MINE), commit=True), True),
        (Tell(identifier=identifier(OTHER), commit=True), False),
        (AskInDoubt(superior=MINE.raw), True),
        (AskInDoubt(superior=OTHER.raw), False),
        (Greeting(guid=MINE.raw), False),
    ],
)
def test_a_manager_speaks_for_itself_alone(question: Message, may: bool) -> None:
    assert may_ask(PEER, question) is may


class Street:
    """Two managers' options, joined by Unix sockets."""

    def __init__(self, folder: Path, sockets: str) -> None:
        self.folder, self.sockets = folder, sockets
        self.mark = os.urandom(4).hex()

    def options(self, name: str) -> tuple[str, dict[str, str], dict[str, Any]]:
        settings = LinkSettings(
            cluster="test",
            name=name,
            role="node",
            guid=Guid(bytes(16)),
            listen=(f"unix://{self.sockets}/{name}",),
            # Only one of them dials: of two connections one is given up, and with it a question that is under way.
            peers=tuple(
                KnownPeer(name=one, address=f"unix://{self.sockets}/{one}" if one < name else None)
                for one in "ab"
                if one != name
            ),
            limits=Limits(retry_base_s=0.02, retry_max_s=0.1),
        )
        tree = syncpoint.Tree(exchange=LinkExchange(settings), keys=[KEY])
        return str(self.folder / name), {"db": f"memory://{name}-{self.mark}"}, {"tree": tree, "timeout": 10.0}

    def rows(self) -> list[dict[str, bytes]]:
        return [MemoryServer.named(f"{name}-{self.mark}").rows() for name in "ab"]


@pytest.fixture
def street(tmp_path: Path) -> Iterator[Street]:
    with tempfile.TemporaryDirectory() as sockets:  # a socket's path is short
        yield Street(tmp_path, sockets)


def blocking(street: Street, name: str) -> syncpoint.TransactionManager:
    journal, resources, options = street.options(name)
    return syncpoint.TransactionManager(journal, resources, **options)


def test_blocking_managers_over_a_link(street: Street, caplog: pytest.LogCaptureFixture) -> None:
    with blocking(street, "a") as a, blocking(street, "b") as b:
        with a.transaction() as tx:
            tx.connect("db").put("x", 1)
            with b.join(tx.export()) as part:
                part.connect("db").put("x", 1)
        assert street.rows() == [{"x": b"1"}] * 2
        exchange = b._core.tree.exchange  # type: ignore[union-attr]
        with pytest.raises(ConnectionLost, match="did not answer"):  # in the name of another: no answer
            b._run(exchange.ask("a", Prepare(identifier=identifier(OTHER), attempt=1), 0.2))
        wait_until(lambda: "in somebody else's name" in caplog.text, "it is in the log", 5.0)
        with pytest.raises(ResourceUnavailable, match="is not connected"):
            b._run(exchange.ask("nobody", Greet(), 0.1))
        a._core.tree.exchange._arrived(  # type: ignore[union-attr,attr-defined]
            a._core.tree.exchange._link,  # type: ignore[union-attr,attr-defined]
            Arrived(PEER, Asked(number=1, question=b"\x01garbage")),
        )
        assert "is no message here" in caplog.text
        with a.transaction() as tx, b.join(tx.export()) as part:  # it goes on
            part.connect("db").put("y", 1)
    with pytest.raises(ResourceUnavailable, match="is not open"):
        next(exchange.ask("a", Greet(), 0.1))


def test_asyncio_managers_over_a_link(street: Street) -> None:
    async def main() -> None:
        journal, resources, options = street.options("a")
        other, databases, more = street.options("b")
        async with (
            syncpoint.AsyncTransactionManager(journal, resources, **options) as a,
            syncpoint.AsyncTransactionManager(other, databases, **more) as b,
            a.transaction() as tx,
        ):
            await (await tx.connect("db")).put("x", 1)
            async with b.join(tx.export()) as part:
                await (await part.connect("db")).put("x", 1)

    asyncio.run(main())
    assert street.rows() == [{"x": b"1"}] * 2
