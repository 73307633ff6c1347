"""The memory resource carries a decision, and keeps the keys that `settle` wrote."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from syncpoint.errors import ConnectionLost
from syncpoint.resources.base import Answer, Choice, Evidence
from syncpoint.resources.memory import LostReply, MemoryServer
from tests.resources.test_memory import COORDINATOR, Bank, identifier


@pytest.fixture
def bank() -> Iterator[Bank]:
    bank = Bank()
    yield bank
    bank.runner.close()
    MemoryServer.remove(bank.name)


def test_a_decision_and_its_branch_are_one(bank: Bank) -> None:
    for number, accepted in ((1, True), (2, False)):
        session, connection = bank.begin(number)
        connection.put(f"row {number}", number)
        said = bank.run(bank.resource.decide(session, lambda accepted=accepted: accepted))
        assert said is Answer.COMMITTED if accepted else (said.choice, said.retryable) == (Choice.NO, True)
        assert bank.resource.is_usable(session)
    assert (bank.values(), bank.server.locked()) == ({"row 1": b"1"}, {})
    assert bank.run(bank.resource.evidence(bank.session(), identifier(1))) is Evidence.ABSENT  # the record is it


def test_a_branch_that_is_gone_writes_no_record(bank: Bank) -> None:
    session, connection = bank.begin(1)
    connection.put("a", 1)
    bank.server.leave(session, commit=False)  # type: ignore[arg-type]
    written: list[int] = []
    vote = bank.run(bank.resource.decide(session, lambda: not written.append(1)))  # type: ignore[func-returns-value]
    assert (vote.choice, written, bank.values()) == (Choice.NO, [], {})


def test_a_lost_reply_is_no_answer(bank: Bank) -> None:
    session, connection = bank.begin(1)
    connection.put("a", 1)
    bank.server.answers["decide"].append(LostReply())
    with pytest.raises(ConnectionLost):
        bank.run(bank.resource.decide(session, lambda: True))
    assert bank.values() == {"a": b"1"}


def test_the_keys_that_settle_wrote_are_neither_listed_nor_dropped(bank: Bank) -> None:
    session, connection = bank.begin(1)
    connection.put("a", 1)
    helper = bank.session()
    assert bank.run(bank.resource.settle(helper, identifier(1))) is Evidence.ABSENT
    attempt = identifier(1).attempt
    assert bank.run(bank.resource.evidence_attempts(helper, COORDINATOR, attempt, 9)) == []
    assert bank.run(bank.resource.drop_evidence(helper, COORDINATOR, [attempt])) == 0
    assert bank.run(bank.resource.commit_one_phase(session)) is Answer.ABORTED
    assert bank.values() == {}
