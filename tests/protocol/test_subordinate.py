"""The coordinator of a subordinate: one force more between the votes and the decision, and the superior's word alone.

Not for: asking, messages and journals (tests/trees/), or the coordinator's own transitions (test_coordinator.py).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest

from syncpoint.ids import Attempt, BranchNumber, Guid, Identifier, Incarnation, Key, TransactionId
from syncpoint.protocol.coordinator import Decided, Input, Result, Send, State, What
from syncpoint.protocol.recovery import Facts, Fate, fate_of
from syncpoint.protocol.subordinate import Heard, Subordinate, hear, judge_unknown
from syncpoint.protocol.words import Answer, Choice, Decision, Illegal
from syncpoint.records import Commit, End, Prepared

SUPERIOR = Identifier(Guid(b"S" * 16), TransactionId(b"T" * 16), Attempt(Incarnation(3), 1), BranchNumber(2))
KEY = Key(TransactionId.under(SUPERIOR), Attempt(Incarnation(1), 7))
OWN = Guid(b"C" * 16)
B1, B2 = BranchNumber(1), BranchNumber(2)
DECIDED = Decided(at_ms=5)


class Recorded(Subordinate):
    """Notes the transitions it makes."""

    __slots__ = ("taken",)

    def __init__(self) -> None:
        self.taken: list[tuple[State, Input]] = []
        super().__init__(KEY, OWN, SUPERIOR)

    def _move(self, what: Input) -> None:
        was = self.state
        super()._move(what)
        self.taken.append((was, what))


def active() -> Recorded:
    part = Recorded()
    for name in ("bank", "ledger"):
        part.enlist(name, Guid(name.encode().ljust(16, b".")))
    return part


def preparing() -> Recorded:
    part = active()
    part.prepare([B1, B2], DECIDED)
    return part


def promising() -> Recorded:
    part = preparing()
    part.voted(B1, Choice.YES, b"one")
    part.voted(B2, Choice.YES, b"two")
    return part


def in_doubt() -> Recorded:
    part = promising()
    part.accepted()
    return part


def deciding() -> Recorded:
    part = in_doubt()
    part.told(commit=True)
    return part


def committing() -> Recorded:
    part = deciding()
    part.accepted()
    return part


def committed() -> Recorded:
    part = committing()
    part.answered(B1, Answer.COMMITTED)
    part.answered(B2, Answer.COMMITTED)
    return part


def told_abort() -> Recorded:
    part = in_doubt()
    part.told(commit=False)
    return part


def promise_broken() -> Recorded:
    """Its Prepared record was not written: it votes no."""
    part = promising()
    part.refused("the journal was away")
    return part


def read_only() -> Recorded:
    part = preparing()
    part.voted(B1, Choice.READ_ONLY)
    part.voted(B2, Choice.READ_ONLY)
    return part


AT: dict[str, Callable[[], Recorded]] = {
    one.__name__: one
    for one in (
        active,
        preparing,
        promising,
        in_doubt,
        deciding,
        committing,
        committed,
        told_abort,
        promise_broken,
        read_only,
    )
}


def test_prepared_is_forced_before_the_yes() -> None:  # S-I1, B10
    part = preparing()
    assert (part.vote, part.is_promised) == (None, False)
    part.voted(B1, Choice.YES, b"one")
    effects = part.voted(B2, Choice.YES, b"two")
    assert (part.state, part.vote, effects.then) == (State.PROMISING, None, ())
    (record,) = effects.force
    assert isinstance(record, Prepared)
    assert record.key == KEY
    assert Guid(record.superior) == SUPERIOR.coordinator
    assert record.read_identifier() == SUPERIOR  # A6: whom to ask, and about what
    assert [(one.resource, one.state) for one in record.branches] == [("bank", b"one"), ("ledger", b"two")]
    assert part.accepted().then == ()
    assert part.vote is Choice.YES


def test_a_lone_writer_is_asked_for_its_vote_too() -> None:
    part = active()
    effects = part.prepare([B1], DECIDED)
    assert effects.then == (Send(What.PREPARE, B1), Send(What.RELEASE, B2))


def test_one_no_and_it_votes_no_with_no_record() -> None:  # A9
    part = preparing()
    part.voted(B1, Choice.YES)
    effects = part.voted(B2, Choice.NO, why="the ledger is full")
    assert (effects.force, effects.then) == ((), (Send(What.ABORT, B1),))
    assert (part.vote, part.why) == (Choice.NO, "the ledger is full")


def test_a_subordinate_that_wrote_nothing_votes_read_only_with_no_record() -> None:
    part = read_only()
    assert (part.vote, part.state) == (Choice.READ_ONLY, State.COMMITTED)
    assert not part.is_promised
    nothing = active()
    nothing.prepare([], DECIDED)
    for number in (B1, B2):
        nothing.answered(number, Answer.ABORTED)
    assert nothing.vote is Choice.READ_ONLY


def test_a_withdrawn_one_asks_nobody() -> None:
    part = active()
    part.withdraw("its time was over")
    assert part.prepare([B1, B2], DECIDED).then == (Send(What.ABORT, B1), Send(What.ABORT, B2))
    assert part.vote is Choice.NO


@pytest.mark.parametrize("lost", [True, False], ids=["lost", "refused"])
def test_without_its_record_it_votes_no(lost: bool) -> None:
    part = promising()
    effects = part.force_lost() if lost else part.refused("the journal was away")
    assert (effects.force, part.vote, part.state) == ((), Choice.NO, State.ABORTING)  # S-I1
    assert effects.then == (Send(What.ABORT, B1), Send(What.ABORT, B2))
    assert part.why == ("the reply to its Prepared record was lost" if lost else "the journal was away")


def test_the_first_reason_is_the_one_that_is_told() -> None:
    part = active()
    part.withdraw("its time was over")
    part.prepare([B1], DECIDED)
    assert (part.vote, part.why) == (Choice.NO, "its time was over")


def test_in_doubt_nothing_here_has_an_effect() -> None:  # S-I2, A7
    part = in_doubt()
    calls: list[Callable[[], object]] = [
        lambda: part.withdraw("cancelled"),
        lambda: part.abort("out of time"),
        lambda: part.commit([B1, B2], DECIDED),
        lambda: part.voted(B1, Choice.NO),
        lambda: part.accepted(),
        lambda: part.refused("late"),
        lambda: part.answered(B1, Answer.ABORTED),
        lambda: part.enlist("late", OWN),
    ]
    for call in calls:
        with pytest.raises((Illegal, AssertionError)):
            call()
        assert (part.state, part.vote) == (State.IN_DOUBT, Choice.YES)


def test_commit_is_forced_before_any_branch_is_told() -> None:  # S-I3
    part = in_doubt()
    effects = part.told(commit=True)
    (record,) = effects.force
    assert isinstance(record, Commit)
    assert effects.then == ()
    assert [one.state for one in record.branches] == [b"one", b"two"]
    assert part.accepted().then == (Send(What.COMMIT, B1), Send(What.COMMIT, B2))


@pytest.mark.parametrize("lost", [True, False], ids=["lost", "refused"])
def test_a_commit_that_is_not_certain_leaves_it_in_doubt(lost: bool) -> None:  # S-I4
    part = deciding()
    effects = part.force_lost() if lost else part.refused("it is not known")
    assert (effects.force, effects.then, part.state) == ((), (), State.IN_DOUBT)
    assert part.hear(commit=True) is Heard.NOW


def test_told_abort_it_ends_its_promise_when_all_have_answered() -> None:
    part = told_abort()
    assert part.why == "its superior aborted"
    assert part.answered(B1, Answer.ABORTED).lazily == ()
    assert part.answered(B2, Answer.ABORTED).lazily == (
        End(transaction=KEY.transaction.raw, attempt=KEY.attempt.to_int()),
    )
    assert part.result is Result.ABORTED


def test_told_abort_with_a_branch_away_the_promise_stays_on_record() -> None:
    part = told_abort()
    part.answered(B1, Answer.RETRY)
    assert part.answered(B2, Answer.ABORTED).lazily == ()


HEARD = {  # state: (told commit, told abort)
    "active": (Heard.WRONG, Heard.EARLY),
    "preparing": (Heard.WRONG, Heard.EARLY),
    "promising": (Heard.WRONG, Heard.EARLY),
    "in_doubt": (Heard.NOW, Heard.NOW),
    "deciding": (Heard.AGAIN, Heard.WRONG),
    "committing": (Heard.AGAIN, Heard.WRONG),
    "committed": (Heard.AGAIN, Heard.WRONG),
    "told_abort": (Heard.WRONG, Heard.AGAIN),
    "promise_broken": (Heard.WRONG, Heard.AGAIN),
    "read_only": (Heard.WRONG, Heard.EARLY),
}


def test_the_superiors_word_has_a_meaning_in_every_state() -> None:
    assert HEARD.keys() == AT.keys()
    for state, promised, commit in product(State, (True, False), (True, False)):
        assert isinstance(hear(state, promised=promised, commit=commit), Heard)


@pytest.mark.parametrize(("name", "commit"), list(product(AT, (True, False))))
def test_told_once_is_obeyed_and_anything_else_changes_nothing(name: str, commit: bool) -> None:  # S-I5, O48, O49
    part = AT[name]()
    heard = part.hear(commit=commit)
    assert heard is HEARD[name][0 if commit else 1]
    if heard is Heard.NOW:
        part.told(commit=commit)
    else:
        before = repr(part)
        with pytest.raises(Illegal, match=f"^told commit={commit} in {part.state.name}$"):
            part.told(commit=commit)
        assert repr(part) == before


def test_every_transition_of_a_subordinate_is_reached() -> None:
    lost = deciding()
    lost.force_lost()
    runs = [committed(), told_abort(), promise_broken(), lost]
    mine = {what for run in runs for _, what in run.taken}
    assert mine >= {
        Input.LAST_VOTE_PROMISE,
        Input.PROMISED,
        Input.NOT_PROMISED,
        Input.TOLD_COMMIT,
        Input.TOLD_ABORT,
        Input.COMMIT_LOST,
    }


def test_one_branch_of_a_superior_is_one_transaction_here() -> None:
    other = Identifier(SUPERIOR.coordinator, SUPERIOR.transaction, SUPERIOR.attempt, BranchNumber(3))
    assert TransactionId.under(SUPERIOR) == KEY.transaction != TransactionId.under(other)
    with pytest.raises(AssertionError, match=r"^a subordinate's transaction is named by its superior's\b"):
        Subordinate(KEY, OWN, other)


@pytest.mark.parametrize(
    ("committed", "elsewhere", "commit", "said"),
    [
        (False, False, True, Decision.COMMIT),  # its promise is gone, so it was kept
        (False, False, False, Decision.ABORT),
        (True, False, True, Decision.COMMIT),
        (True, False, False, Decision.UNKNOWN),
        (False, True, True, Decision.UNKNOWN),
        (False, True, False, Decision.UNKNOWN),
    ],
)
def test_told_about_what_it_knows_nothing_of(committed: bool, elsewhere: bool, commit: bool, said: Decision) -> None:
    assert judge_unknown(committed=committed, held_elsewhere=elsewhere, commit=commit) is said


def test_recovery_leaves_what_was_promised() -> None:  # A7
    branch = Identifier(OWN, KEY.transaction, KEY.attempt, B1)
    facts = Facts(
        coordinators=[OWN], live_incarnations=[], live_keys=frozenset(), elsewhere=[], decisions={}, promised=[KEY]
    )
    assert fate_of(branch, facts) is Fate.PROMISED
    decided = Facts(
        coordinators=[OWN],
        live_incarnations=[],
        live_keys=frozenset(),
        elsewhere=[],
        decisions={KEY: [branch]},
        promised=[KEY],
    )
    assert fate_of(branch, decided) is Fate.COMMIT
    forced = Facts(
        coordinators=[OWN],
        live_incarnations=[],
        live_keys=frozenset(),
        elsewhere=[],
        decisions={},
        promised=[KEY],
        forced={branch: False},
    )
    assert fate_of(branch, forced) is Fate.ABORT
