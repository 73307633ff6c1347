"""The rules of recovery on all their inputs, against tables written by hand.

Not for: passes of recovery over real databases (manager/, crash/).
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from syncpoint.ids import Attempt, BranchNumber, Guid, Identifier, Incarnation, Key, TransactionId
from syncpoint.protocol.recovery import (
    Facts,
    Fate,
    Missing,
    Settled,
    evidence_can_go,
    fate_of,
    judge_abort,
    judge_missing,
    judge_settled,
    rests_on_absence,
)
from syncpoint.protocol.words import Answer, Evidence

OURS, THEIRS = Guid(bytes(15) + b"\xc0"), Guid(bytes(15) + b"\xc1")
TRANSACTION = TransactionId(bytes(15) + b"\x01")
BRANCH = Identifier(OURS, TRANSACTION, Attempt(Incarnation(3), 7), BranchNumber(1))
PEER = replace(BRANCH, branch=BranchNumber(2))

NOTHING_KNOWN = Facts(
    coordinators={OURS}, live_incarnations=set(), live_keys=set(), elsewhere=set(), decisions={}, forced={}
)


# --- what becomes of a prepared branch ---------------------------------------------------------------------------

# Read downward: the first row whose words all hold says the fate. `-`: whatever it is.
FATES = """
ours  live-process  live-here  elsewhere  forced  record   fate
no    -             -          -          -       -        UNKNOWN_COORDINATOR
yes   yes           -          -          -       -        LIVE
yes   -             yes        -          -       -        LIVE
yes   -             -          yes        -       -        ELSEWHERE
yes   -             -          -          commit  -        COMMIT
yes   -             -          -          abort   -        ABORT
yes   -             -          -          no      lists    COMMIT
yes   -             -          -          no      others   ABORT
yes   -             -          -          no      none     ABORT
"""


def expected_fate(row: tuple[str, ...]) -> Fate:
    for line in FATES.strip().splitlines()[1:]:
        *words, fate = line.split()
        if all(word in ("-", value) for word, value in zip(words, row, strict=True)):
            return Fate[fate]
    raise AssertionError(f"no line for {row}")


def facts_of(row: tuple[str, ...]) -> Facts:
    ours, process, here, elsewhere, forced, record = row
    return Facts(
        coordinators={OURS} if ours == "yes" else {THEIRS},
        live_incarnations={BRANCH.attempt.incarnation} if process == "yes" else {Incarnation(4)},
        live_keys={BRANCH.key} if here == "yes" else {Key(TRANSACTION, Attempt(Incarnation(3), 8))},
        elsewhere={BRANCH.key} if elsewhere == "yes" else set(),
        decisions={"lists": {BRANCH.key: {BRANCH, PEER}}, "others": {BRANCH.key: {PEER}}, "none": {}}[record],
        forced={"commit": {BRANCH: True}, "abort": {BRANCH: False}, "no": {PEER: True}}[forced],
    )


ROWS = list(product(*[("yes", "no")] * 4, ("commit", "abort", "no"), ("lists", "others", "none")))


@pytest.mark.parametrize("row", ROWS, ids=" ".join)
def test_fate_on_all_its_inputs(row: tuple[str, ...]) -> None:
    assert fate_of(BRANCH, facts_of(row)) is expected_fate(row)


@pytest.mark.parametrize("row", ROWS, ids=" ".join)
def test_o33_a_foreign_branch_is_untouched_whatever_is_known(row: tuple[str, ...]) -> None:
    assert fate_of(None, facts_of(row)) is Fate.FOREIGN


def test_o26_o32_no_record_is_abort() -> None:
    assert fate_of(BRANCH, NOTHING_KNOWN) is Fate.ABORT


def test_o27_a_record_is_commit() -> None:
    assert fate_of(BRANCH, replace(NOTHING_KNOWN, decisions={BRANCH.key: [BRANCH]})) is Fate.COMMIT


def test_o58_a_record_speaks_only_for_its_own_attempt() -> None:
    second = replace(BRANCH, attempt=Attempt(Incarnation(3), 8))
    facts = replace(NOTHING_KNOWN, decisions={second.key: [second]})
    assert fate_of(second, facts) is Fate.COMMIT
    assert fate_of(BRANCH, facts) is Fate.ABORT


def test_o34_o36_the_living_are_left_alone_though_their_record_is_seen() -> None:
    facts = replace(NOTHING_KNOWN, decisions={BRANCH.key: [BRANCH]})
    assert fate_of(BRANCH, replace(facts, live_incarnations=[BRANCH.attempt.incarnation])) is Fate.LIVE
    assert fate_of(BRANCH, replace(facts, live_keys=[BRANCH.key])) is Fate.LIVE


# --- what a missing branch means ------------------------------------------------------------------------------------

MISSING = """
decided  evidence   redo  means
commit   COMMITTED  yes   COMMITTED
commit   COMMITTED  no    COMMITTED
commit   ABSENT     yes   REDO
commit   ABSENT     no    HEURISTIC_ROLLBACK
commit   UNDECIDED  yes   RETRY
commit   UNDECIDED  no    RETRY
commit   UNKNOWN    yes   REDO
commit   UNKNOWN    no    HEURISTIC_HAZARD
abort    COMMITTED  yes   HEURISTIC_COMMIT
abort    COMMITTED  no    HEURISTIC_COMMIT
abort    ABSENT     yes   ABORTED
abort    ABSENT     no    ABORTED
abort    UNDECIDED  yes   RETRY
abort    UNDECIDED  no    RETRY
abort    UNKNOWN    yes   ABORTED
abort    UNKNOWN    no    ABORTED
"""
MISSING_ROWS = [tuple(line.split()) for line in MISSING.strip().splitlines()[1:]]
RESTS_ON_ABSENCE = {("commit", "ABSENT"), ("commit", "UNKNOWN")}


def test_o19_the_table_of_missing_branches_is_complete() -> None:
    written = {(decided, evidence, redo) for decided, evidence, redo, _ in MISSING_ROWS}
    assert written == set(product(("commit", "abort"), Evidence.__members__, ("yes", "no")))


@pytest.mark.parametrize("confirmed", [True, False])
@pytest.mark.parametrize("row", MISSING_ROWS, ids=" ".join)
def test_o10_o11_o19_a_missing_branch_on_all_its_inputs(row: tuple[str, str, str, str], confirmed: bool) -> None:
    decided, evidence, redo, means = row
    commit, there = decided == "commit", Evidence[evidence]
    expected = Missing.REDO if means == "REDO" else Answer[means]
    if (decided, evidence) in RESTS_ON_ABSENCE and not confirmed:
        expected = Missing.TAKEN_OVER
    said = judge_missing(commit=commit, evidence=there, has_redo=redo == "yes", confirmed=confirmed)
    assert said is expected
    assert rests_on_absence(commit=commit, evidence=there) is ((decided, evidence) in RESTS_ON_ABSENCE)


def test_o20_a_lost_one_phase_commit_is_aborted_only_if_nobody_can_have_cleaned_up() -> None:
    assert {(e, c): judge_settled(e, confirmed=c) for e, c in product(Evidence, (True, False))} == {
        (Evidence.COMMITTED, True): Answer.COMMITTED,
        (Evidence.COMMITTED, False): Answer.COMMITTED,
        (Evidence.ABSENT, True): Answer.ABORTED,
        (Evidence.ABSENT, False): Answer.HEURISTIC_HAZARD,
        (Evidence.UNDECIDED, True): Answer.RETRY,
        (Evidence.UNDECIDED, False): Answer.RETRY,
        (Evidence.UNKNOWN, True): Answer.HEURISTIC_HAZARD,
        (Evidence.UNKNOWN, False): Answer.HEURISTIC_HAZARD,
    }


def test_o46_what_the_abort_proves() -> None:
    assert judge_abort(accepted=False, confirmed=False) is Settled.COMMITTED
    assert judge_abort(accepted=True, confirmed=True) is Settled.ABORTED
    assert judge_abort(accepted=True, confirmed=False) is Settled.TAKEN_OVER


# --- when evidence goes -------------------------------------------------------------------------------------------

OWN, DEAD, UNFINISHED = Incarnation(3), Incarnation(2), Incarnation(1)
EVIDENCE = [
    # attempt, goes
    (Attempt(OWN, 6), True),  # ended, and everything before it
    (Attempt(OWN, 7), False),  # the oldest that has not ended
    (Attempt(OWN, 8), False),  # may still be read by recovery
    (Attempt(DEAD, 99), True),
    (Attempt(UNFINISHED, 1), False),
    (Attempt(Incarnation(4), 1), False),  # another living process's, though later
]


@pytest.mark.parametrize(("attempt", "goes"), EVIDENCE, ids=[str(attempt) for attempt, _ in EVIDENCE])
def test_evidence_goes_only_after_its_record(attempt: Attempt, goes: bool) -> None:
    assert evidence_can_go(attempt, own=OWN, oldest_unfinished=Attempt(OWN, 7), ended={DEAD}) is goes


def test_own_evidence_is_judged_by_its_attempt_though_the_incarnation_is_listed_as_ended() -> None:
    assert not evidence_can_go(Attempt(OWN, 7), own=OWN, oldest_unfinished=Attempt(OWN, 7), ended={OWN})
