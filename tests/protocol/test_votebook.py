"""A manager's book of accepted votes: what it tells a backup, and whose votes it takes no more (B7, B8).

Not for: how votes arrive and are answered over a link.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from syncpoint.ids import Attempt, BranchNumber, Guid, Identifier, Incarnation, TransactionId
from syncpoint.protocol.votebook import Accepted, VoteBook

AUDIT = Guid(bytes(15) + b"\xa1")
OTHER = Guid(bytes(15) + b"\xa2")
COORDINATOR = Guid(bytes(15) + b"\xc0")


def vote(number: int, incarnation: int, guid: Guid = AUDIT) -> Accepted:
    transaction = TransactionId(number.to_bytes(16, "big"))
    identifier = Identifier(COORDINATOR, transaction, Attempt(Incarnation(1), number), BranchNumber(1))
    return Accepted(identifier, guid, Incarnation(incarnation), b"state")


def test_it_tells_what_it_has_accepted_and_takes_no_lower_vote_from_then_on() -> None:
    book = VoteBook()
    assert book.accept(vote(1, 1))
    assert book.accept(vote(1, 1)), "said twice"
    assert book.accept(vote(2, 1, OTHER))
    assert book.asked(AUDIT, Incarnation(2)) == (vote(1, 1),)
    assert not book.accept(vote(3, 1)), "the fenced one's"
    assert book.accept(vote(4, 2))
    assert book.accept(vote(5, 1, OTHER)), "another's"
    assert repr(book) == "<VoteBook 4 votes 00000000>=2>"


def test_asked_again_it_says_the_same_less_what_was_decided() -> None:
    book = VoteBook()
    book.accept(vote(1, 1))
    book.accept(vote(2, 1))
    assert book.asked(AUDIT, Incarnation(2)) == book.asked(AUDIT, Incarnation(2)) == (vote(1, 1), vote(2, 1))
    book.forget([vote(1, 1).identifier])
    assert book.asked(AUDIT, Incarnation(2)) == (vote(2, 1),)


def test_a_question_of_a_fenced_backup_gets_no_answer_and_lowers_nothing() -> None:
    book = VoteBook()
    book.asked(AUDIT, Incarnation(3))
    assert book.asked(AUDIT, Incarnation(2)) is None
    assert book.floor(AUDIT) == 3
    assert book.floor(OTHER) == 0


def test_what_was_told_may_be_decided() -> None:
    book = VoteBook()
    book.accept(vote(1, 1))
    book.asked(AUDIT, Incarnation(2))
    assert book.against([vote(1, 1).identifier, vote(9, 1).identifier]) == frozenset()


def test_a_vote_that_was_taken_for_another_branch_is_not_taken_again() -> None:
    book = VoteBook()
    assert book.accept(vote(1, 1))
    assert not book.accept(vote(1, 2)), "a branch votes under one incarnation"


def test_of_a_branch_that_was_asked_about_too_early_no_vote_is_taken_later() -> None:
    book = VoteBook()
    book.accept(vote(1, 1))
    assert book.asked(AUDIT, Incarnation(1), vote(2, 1).identifier) == (vote(1, 1),)
    book.asked(AUDIT, Incarnation(1), vote(1, 1).identifier)
    assert book.accept(vote(1, 1)), "it was there"
    assert not book.accept(vote(2, 1)), "its asker was told that it is aborted"
    book.forget([vote(2, 1).identifier])
    assert book.accept(vote(2, 1))


class Books(RuleBasedStateMachine):
    """Whatever is decided was given under an incarnation that counts, or the latest backup was told of it."""

    def __init__(self) -> None:
        super().__init__()
        self.book = VoteBook()
        self.floor = 0
        self.told: dict[Identifier, int] = {}

    @rule(number=st.integers(1, 6), incarnation=st.integers(1, 5))
    def accept(self, number: int, incarnation: int) -> None:
        assert self.book.accept(vote(number, incarnation)) <= (incarnation >= self.floor)

    @rule(incarnation=st.integers(1, 5))
    def ask(self, incarnation: int) -> None:
        answer = self.book.asked(AUDIT, Incarnation(incarnation))
        assert (answer is None) is (incarnation < self.floor)
        if answer is not None:
            self.floor = incarnation
            self.told = {one.identifier: incarnation for one in answer}

    @rule(number=st.integers(1, 6))
    def decide(self, number: int) -> None:
        identifier = vote(number, 1).identifier
        held = [one for one in self.book.asked(AUDIT, Incarnation(self.floor)) or () if one.identifier == identifier]
        assert not self.book.against([identifier])
        assert all(one.incarnation >= self.floor or identifier in self.told for one in held)
        self.book.forget([identifier])


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=50, deadline=None)
