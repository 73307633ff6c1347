"""The node's registry of resource managers, and the snapshot for a backup (B1 to B9).

Not for: the backup's own way (test_backup.py), a manager's votes (test_votebook.py), or the three joined.
"""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from syncpoint.ids import Attempt, BranchNumber, Guid, Identifier, Incarnation, Key, TransactionId
from syncpoint.protocol.takeover import (
    NEXT,
    Claimant,
    Effects,
    Fence,
    Granted,
    Input,
    NotGranted,
    Registry,
    Round,
    Service,
    Snapshot,
    State,
    Undone,
    Unserved,
    Waiting,
    describe,
    in_order,
)
from syncpoint.protocol.words import Decision, Illegal
from syncpoint.records import BranchEntry, Commit, Prepared, ResourceIncarnation, key_fields

# The table again, as a person reads it: written by hand, to be compared with the code's.
EXPECTED = """
NEVER_SEEN   ENROL ENROLLING
LOST         ENROL ENROLLING, BACK TAKING_OVER, LOSE LOST
ENROLLING    FORCED TAKING_OVER, NOT_FORCED LOST, LOSE LOST
TAKING_OVER  OPENED OPEN, LOSE LOST
OPEN         OPENED OPEN, LOSE LOST
"""

AUDIT = Guid(bytes(15) + b"\xa1")
OTHER = Guid(bytes(15) + b"\xa2")
COORDINATOR = Guid(bytes(15) + b"\xc0")
FIRST = Claimant("rm-1", b"instance", "host 1")
SECOND = Claimant("rm-2", b"second..", "host 2")
ONE = Incarnation(1)
TWO = Incarnation(2)


def expected_table() -> dict[tuple[State, Input], State]:
    table = {}
    for line in EXPECTED.strip().splitlines():
        state, rest = line.split(maxsplit=1)
        for pair in rest.split(", "):
            what, target = pair.split()
            table[State[state], Input[what]] = State[target]
    return table


def test_the_table_is_total_and_as_written_here() -> None:
    assert set(NEXT) == set(product(State, Input))
    assert {pair: target for pair, target in NEXT.items() if target is not None} == expected_table()


def test_what_the_table_forbids_changes_nothing() -> None:
    service = Service(AUDIT, "audit")
    with pytest.raises(Illegal, match="OPENED of audit in NEVER_SEEN"):
        service.move(Input.OPENED)
    assert service.state is State.NEVER_SEEN


def granted(registry: Registry, claimant: Claimant = FIRST, *, guid: Guid = AUDIT, name: str = "audit") -> Incarnation:
    """Enrol and force."""
    effects = registry.enrol(name, guid, claimant)
    (record,) = effects.force
    incarnation = Incarnation(record.incarnation)
    assert registry.forced(guid, incarnation) == Granted(incarnation)
    return incarnation


def opened(registry: Registry, claimant: Claimant = FIRST) -> Incarnation:
    incarnation = granted(registry, claimant)
    assert registry.hear(AUDIT, incarnation, claimant) is None
    assert registry.snapshot_given(AUDIT, incarnation)
    assert registry.opened(AUDIT, incarnation)
    return incarnation


def service_of(registry: Registry) -> Service:
    service = registry.named("audit")
    assert service is not None
    return service


# --- enrolling -------------------------------------------------------------------------------------------------


def test_an_incarnation_is_forced_before_it_is_told() -> None:
    registry = Registry()
    effects = registry.enrol("audit", AUDIT, FIRST, at_ms=7)
    assert effects == Effects(
        force=(ResourceIncarnation(name="audit", guid=AUDIT.raw, incarnation=1, place="host 1", at_ms=7),)
    )
    assert service_of(registry).state is State.ENROLLING
    assert registry.forced(AUDIT, ONE) == Granted(ONE)
    assert repr(registry) == "<Registry <Service audit TAKING_OVER incarnation=1 by rm-1>>"


def test_a_number_whose_force_failed_is_passed_over() -> None:
    registry = Registry()
    registry.enrol("audit", AUDIT, FIRST)
    registry.not_forced(AUDIT, ONE)
    assert service_of(registry).state is State.LOST
    assert granted(registry) == 2


def test_the_same_process_gets_the_same_incarnation_again() -> None:
    registry = Registry()
    granted(registry)
    anew = Claimant("rm-1", b"instance", "host 1")
    assert registry.enrol("audit", AUDIT, anew).then == (Granted(ONE),)


def test_while_its_incarnation_is_forced_it_is_told_to_ask_again() -> None:
    registry = Registry()
    registry.enrol("audit", AUDIT, FIRST)
    (answer,) = registry.enrol("audit", AUDIT, FIRST).then
    assert isinstance(answer, NotGranted)
    assert answer.retry


def test_a_guid_claimed_twice_is_refused_and_the_first_stays() -> None:
    registry = Registry()
    opened(registry)
    (answer,) = registry.enrol("audit", AUDIT, SECOND).then
    assert isinstance(answer, NotGranted)
    assert "incarnation 1 in host 1 serves 'audit'" in answer.why
    assert registry.hear(AUDIT, ONE, FIRST) is None


def test_a_name_of_another_guid_and_a_guid_of_another_name_are_refused() -> None:
    registry = Registry(names={"audit": OTHER})
    (answer,) = registry.enrol("audit", AUDIT, FIRST).then
    assert isinstance(answer, NotGranted)
    assert "is the name of" in answer.why
    granted(registry, name="ledger")
    (answer,) = registry.enrol("book", AUDIT, SECOND).then
    assert isinstance(answer, NotGranted)
    assert "under the name of 'ledger'" in answer.why


def test_data_that_have_seen_more_than_the_node_are_refused() -> None:
    registry = Registry()
    (answer,) = registry.enrol("audit", AUDIT, FIRST, seen=4).then
    assert isinstance(answer, NotGranted)
    assert "its journal is an older copy" in answer.why
    assert not answer.retry


# --- losing ----------------------------------------------------------------------------------------------------


def test_after_a_loss_the_next_gets_a_higher_incarnation_and_the_first_is_fenced() -> None:
    registry = Registry()
    opened(registry)
    (lost,) = registry.lost("rm-1")
    assert lost.name == "audit"
    assert lost.state is State.LOST
    assert granted(registry, SECOND) == 2
    assert registry.hear(AUDIT, ONE, FIRST) == Fence(TWO)
    assert not registry.may_pass_on(AUDIT, ONE)


def test_a_holder_that_comes_back_before_anybody_else_goes_on() -> None:
    registry = Registry()
    opened(registry)
    registry.lost("rm-1")
    assert isinstance(registry.route("audit", ONE), Unserved)
    assert registry.hear(AUDIT, ONE, FIRST) is None
    assert registry.route("audit", ONE) == (service_of(registry), FIRST), "it does not know that it was given up"
    assert registry.opened(AUDIT, ONE)
    assert registry.route("audit", ONE) == (service_of(registry), FIRST)


def test_a_holder_that_comes_back_before_it_has_opened_is_not_open() -> None:
    registry = Registry()
    granted(registry, FIRST)
    registry.lost("rm-1")
    assert registry.hear(AUDIT, ONE, FIRST) is None
    assert isinstance(registry.route("audit", ONE), Unserved)


def test_a_holder_lost_while_its_incarnation_was_forced_does_not_get_it() -> None:
    registry = Registry()
    registry.enrol("audit", AUDIT, FIRST)
    registry.lost("rm-1")
    assert registry.forced(AUDIT, ONE) == Fence(ONE)
    assert registry.hear(AUDIT, ONE, FIRST) == Fence(ONE)
    assert granted(registry, SECOND) == 2


def test_superseded_a_living_holder_is_fenced_at_once() -> None:
    registry = Registry()
    opened(registry)
    (record,) = registry.supersede(AUDIT).force
    assert record.incarnation == 2
    assert registry.hear(AUDIT, ONE, FIRST) == Fence(TWO)
    assert registry.hear(AUDIT, TWO, FIRST) == Fence(TWO), "the number was given to nobody"
    assert granted(registry, SECOND) == 3


def test_what_was_never_seen_cannot_be_superseded() -> None:
    registry = Registry()
    registry.enrol("audit", AUDIT, FIRST, standby=True)
    assert registry.supersede(AUDIT) == Effects()


def test_standbys_wait_in_order_and_leave_when_they_enrol_or_die() -> None:
    registry = Registry()
    opened(registry)
    third = Claimant("rm-3", b"third...")
    for one in (SECOND, third, SECOND):
        assert registry.enrol("audit", AUDIT, one, standby=True).then == (Waiting(),)
    assert [one.peer for one in service_of(registry).standbys] == ["rm-3", "rm-2"]
    assert registry.lost("rm-3") == []
    registry.lost("rm-1")
    assert granted(registry, SECOND) == 2
    assert service_of(registry).standbys == []


def test_a_node_that_starts_again_knows_what_counts_and_lets_its_holder_go_on() -> None:
    records = [
        ResourceIncarnation(name="audit", guid=AUDIT.raw, incarnation=number, place=f"p{number}")
        for number in (3, 5, 4)
    ]
    registry = Registry(records)
    assert repr(registry) == "<Registry <Service audit LOST incarnation=5 by nobody>>"
    assert registry.hear(AUDIT, Incarnation(4), FIRST) == Fence(Incarnation(5))
    assert registry.hear(AUDIT, Incarnation(5), FIRST) is None
    assert registry.opened(AUDIT, Incarnation(5))
    assert registry.hear(AUDIT, Incarnation(5), SECOND) == Fence(Incarnation(5)), "one process holds it"


def test_of_an_unknown_guid_nothing_counts() -> None:
    assert Registry().hear(AUDIT, ONE, FIRST) == Fence(Incarnation(0))


def test_it_does_not_open_before_it_was_told() -> None:
    registry = Registry()
    granted(registry)
    assert not registry.opened(AUDIT, ONE)
    assert registry.snapshot_given(AUDIT, ONE)
    assert registry.opened(AUDIT, ONE)
    assert registry.opened(AUDIT, ONE), "said twice"


def test_a_snapshot_that_took_too_long_is_not_given() -> None:
    registry = Registry()
    granted(registry)
    registry.lost("rm-1")
    granted(registry, SECOND)
    assert not registry.snapshot_given(AUDIT, ONE)
    assert not registry.opened(AUDIT, TWO)


# --- questions -------------------------------------------------------------------------------------------------


def test_questions_go_to_the_open_incarnation_only() -> None:
    registry = Registry()
    assert registry.route("audit", Incarnation(0)) == Unserved("no process has ever served 'audit'", Incarnation(0))
    granted(registry)
    assert registry.route("audit", ONE) == Unserved("'audit' is not served just now: taking over", ONE)
    registry.snapshot_given(AUDIT, ONE)
    registry.opened(AUDIT, ONE)
    for meant in (Incarnation(0), ONE):
        assert registry.route("audit", meant) == (service_of(registry), FIRST)
    registry.lost("rm-1")
    opened(registry, SECOND)
    unserved = registry.route("audit", ONE)
    assert unserved == Unserved("incarnation 1 of 'audit' is gone: incarnation 2 serves now", TWO)


def test_states_in_words() -> None:
    assert [describe(state) for state in State] == ["never seen", "lost", "taking over", "taking over", "open"]


# --- the snapshot ----------------------------------------------------------------------------------------------


def identifier(number: int, *, incarnation: int = 1, branch: int = 1) -> Identifier:
    transaction = TransactionId(number.to_bytes(16, "big"))
    return Identifier(COORDINATOR, transaction, Attempt(Incarnation(incarnation), number), BranchNumber(branch))


def entries(one: Identifier) -> tuple[BranchEntry, ...]:
    here = BranchEntry(resource="audit", guid=AUDIT.raw, identifier=one.to_bytes(), state=b"redo")
    there = Identifier(one.coordinator, one.transaction, one.attempt, BranchNumber(9))
    return (here, BranchEntry(resource="bank", guid=OTHER.raw, identifier=there.to_bytes()))


def commit(one: Identifier, at_ms: int = 0) -> Commit:
    return Commit(**key_fields(Key(one.transaction, one.attempt)), branches=entries(one), at_ms=at_ms)


def promise(one: Identifier) -> Prepared:
    key = key_fields(Key(one.transaction, one.attempt))
    return Prepared(**key, superior=COORDINATOR.raw, branches=entries(one), identifier=identifier(99).to_bytes())


def test_the_snapshot_waits_for_answers_and_fences() -> None:
    asked = Round(AUDIT, ONE, ["app-2", "app-1"])
    assert asked.waiting == ["app-1", "app-2"]
    asked.answered("app-1", [Undone(identifier(1), b"s")])
    asked.silent("app-2")
    assert not asked.is_ready
    with pytest.raises(Illegal, match=r"waiting=\[\] fencing=\['app-2'\] votes=1"):
        asked.snapshot([], [])
    asked.fenced("app-2")
    assert asked.snapshot([], []) == Snapshot((), (Undone(identifier(1), b"s"),))


def test_the_snapshot_has_this_resource_managers_branches_in_the_order_of_their_records() -> None:
    asked = Round(AUDIT, ONE, ["app"])
    asked.answered("app", [Undone(identifier(2), b"old"), Undone(identifier(5))])
    told = asked.snapshot([commit(identifier(3)), commit(identifier(2))], [promise(identifier(4))])
    assert told.decided == (Undone(identifier(3), b"redo"), Undone(identifier(2), b"redo"))
    assert told.undecided == (Undone(identifier(4), b"redo"), Undone(identifier(5)))
    assert told.outcome(identifier(2)) == (Decision.COMMIT, b"redo")
    assert told.outcome(identifier(4)) == (Decision.UNKNOWN, b"redo")
    assert told.outcome(identifier(6)) == (Decision.ABORT, b"")


def test_records_of_several_writers_keep_each_writers_order() -> None:
    early, back, late = (commit(identifier(n), at_ms=at) for n, at in ((1, 10), (2, 3), (3, 30)))
    other = commit(identifier(4, incarnation=2), at_ms=20)
    assert in_order([early, back, late, other]) == [early, back, other, late]


# --- at random -------------------------------------------------------------------------------------------------


class Processes(RuleBasedStateMachine):
    """Processes enrol, are lost, come back, open; forces fail; the node starts again. One holds a number, ever."""

    def __init__(self) -> None:
        super().__init__()
        self.registry = Registry()
        self.durable: list[ResourceIncarnation] = []
        self.holders: dict[int, str] = {}
        self.highest_open = 0

    claimants = st.sampled_from(
        [Claimant(f"rm-{number}", f"instance{number}".encode()[:8] + b"%d" % number) for number in range(3)]
    )

    @rule(claimant=claimants, standby=st.booleans(), is_forced=st.sampled_from(["yes", "no", "lost"]))
    def enrol(self, claimant: Claimant, standby: bool, is_forced: str) -> None:
        effects = self.registry.enrol("audit", AUDIT, claimant, standby=standby)
        for record in effects.force:
            assert record.incarnation not in self.holders, "a number given twice"
            if is_forced != "no":
                self.durable.append(record)
            if is_forced == "yes":
                answer = self.registry.forced(AUDIT, Incarnation(record.incarnation))
                assert answer == Granted(Incarnation(record.incarnation))
                self.holders[record.incarnation] = claimant.peer
            else:
                self.registry.not_forced(AUDIT, Incarnation(record.incarnation))
        for answer in effects.then:
            if isinstance(answer, Granted):
                assert self.holders[answer.incarnation] == claimant.peer

    @rule(peer=st.sampled_from(["rm-0", "rm-1", "rm-2"]))
    def lose(self, peer: str) -> None:
        self.registry.lost(peer)

    @rule(is_forced=st.booleans())
    def supersede(self, is_forced: bool) -> None:
        if self.registry.service(AUDIT) is not None:
            self.durable += self.registry.supersede(AUDIT).force if is_forced else ()

    @rule(data=st.data())
    def speak(self, data: st.DataObject) -> None:
        if not self.holders:
            return
        number = data.draw(st.sampled_from(sorted(self.holders)))
        claimant = Claimant(self.holders[number], b"whatever")
        if self.registry.hear(AUDIT, Incarnation(number), claimant) is None:
            assert number >= self.highest_open, "a lower incarnation came back"
            self.registry.snapshot_given(AUDIT, Incarnation(number))
            assert self.registry.opened(AUDIT, Incarnation(number))
            self.highest_open = number

    @rule()
    def restart_the_node(self) -> None:
        self.registry = Registry(self.durable)

    @invariant()
    def what_is_open_is_held_by_who_was_given_it(self) -> None:
        routed = self.registry.route("audit", Incarnation(0))
        if not isinstance(routed, Unserved):
            service, holder = routed
            assert self.holders[service.incarnation] == holder.peer


TestProcesses = Processes.TestCase
TestProcesses.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
