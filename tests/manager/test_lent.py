"""A branch on a session that is lent: whoever lent it gets it back, or is told that it must go."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import syncpoint
from syncpoint.errors import ConfigurationError, ConnectionLost, ResourceUnavailable
from syncpoint.resources.base import Resource, Session
from syncpoint.resources.memory import MemoryResource
from syncpoint.steps import Script


class Lender:
    """Sessions of its own, as a framework keeps them."""

    def __init__(self, resource: Resource) -> None:
        self.resource = resource
        self.log: list[str] = []
        self.lose_first = False

    def acquire(self, deadline_monotonic: float) -> Script[Session]:
        session = yield from self.resource.open()
        self.log.append("acquire")
        if self.lose_first:
            self.lose_first = False
            yield from self.resource.close(session)
        else:
            session.opened_at = self.resource.clock.monotonic()
        return session

    def release(self, session: Session) -> Script[None]:
        self.log.append("release broken" if session.broken else "release")
        yield from self.resource.close(session)

    def discard(self, session: Session) -> Script[None]:
        self.log.append("discard")
        yield from self.resource.close(session)

    def abandon(self) -> None:
        self.log.append("abandon")


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[syncpoint.TransactionManager]:
    resources = {"bank": "memory://lent-bank", "ledger": "memory://lent-ledger"}
    with syncpoint.TransactionManager(tmp_path / "journal", resources, background=False) as manager:
        yield manager


@pytest.fixture
def lender(manager: syncpoint.TransactionManager) -> Lender:
    return Lender(manager._core.handle("bank").resource)


def _busy(manager: syncpoint.TransactionManager) -> str:
    return repr(manager._core.handle("bank").pool)


def test_it_comes_back_after_commit_and_after_abort(manager: syncpoint.TransactionManager, lender: Lender) -> None:
    with manager.transaction() as tx:
        tx.connect_on("bank", lender)
        assert "0 busy" in _busy(manager)
        tx.connect("ledger")
    assert lender.log == ["acquire", "release"]
    with pytest.raises(KeyError), manager.transaction() as tx:  # noqa: PT012
        tx.connect_on("bank", lender)
        raise KeyError
    assert lender.log == ["acquire", "release"] * 2


def test_a_broken_one_is_not_released_as_if_it_were_whole(
    manager: syncpoint.TransactionManager, lender: Lender
) -> None:
    with pytest.raises(syncpoint.TransactionAborted), manager.transaction() as tx:  # noqa: PT012
        tx.connect_on("bank", lender)
        session = tx.work.branches["bank"].session
        assert session is not None
        session.broken = True
    assert lender.log in (["acquire", "release broken"], ["acquire", "discard"])


def test_a_branch_that_has_begun_cannot_be_lent_another(manager: syncpoint.TransactionManager, lender: Lender) -> None:
    with manager.transaction() as tx:
        tx.connect("bank")
        with pytest.raises(ConfigurationError, match="begun already"):
            tx.connect_on("bank", lender)
    assert lender.log == []


def test_an_idle_one_that_had_died_is_replaced_and_a_fresh_one_is_not(
    manager: syncpoint.TransactionManager, lender: Lender, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = MemoryResource.begin
    died = iter([True, False, True])

    def sometimes(self: MemoryResource, session: Session, start: object) -> Script[None]:
        if next(died):
            raise ConnectionLost("It had died.")
        yield from begin(self, session, start)  # type: ignore[arg-type]

    monkeypatch.setattr(MemoryResource, "begin", sometimes)
    lender.lose_first = True
    with manager.transaction() as tx:
        tx.connect_on("bank", lender)
    assert lender.log == ["acquire", "discard", "acquire", "release"]
    with pytest.raises(ResourceUnavailable), manager.transaction() as tx:
        tx.connect_on("bank", lender)
    assert lender.log[4:] == ["acquire", "discard"]


def test_an_adapter_that_cannot_borrow_says_so(manager: syncpoint.TransactionManager) -> None:
    resource = manager._core.handle("bank").resource
    with pytest.raises(ConfigurationError, match="cannot be lent"):
        manager._run(resource.borrow(object(), manager._runner))
