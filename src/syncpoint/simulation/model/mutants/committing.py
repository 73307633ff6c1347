"""Deliberate bugs in the coordinator.

Not for: the rest of the protocol (answering.py, recovering.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from syncpoint.protocol import coordinator_table, judgement
from syncpoint.protocol.coordinator import Coordinator, Decided, Effects, Send, Standing, What
from syncpoint.protocol.coordinator_table import Input, State
from syncpoint.protocol.words import Answer, Choice
from syncpoint.records import Abort, End, key_fields
from syncpoint.simulation.model.mutants.patch import Mutant, entry, instead, method


def _send_before_force(original: Any) -> Any:
    def last_vote(self: Coordinator) -> Effects:
        effects: Effects = original(self)
        return self.accepted() if effects.force and effects.through is None else effects

    return last_vote


def _commit_list(choose: Callable[[Coordinator, list[Any]], list[Any]]) -> Callable[[Any], Any]:
    return lambda original: lambda self, yes, decided: original(self, choose(self, yes), decided)


def _vote_lost_is_yes(self: Coordinator, number: Any, why: str) -> Effects:
    return self.voted(number, Choice.YES)


def _vote_no_is_yes(original: Any) -> Any:
    def voted(self: Coordinator, number: Any, choice: Choice, *rest: Any) -> Effects:
        effects: Effects = original(self, number, Choice.YES if choice is Choice.NO else choice, *rest)
        return effects

    return voted


def _tell_only(*standings: Standing) -> Callable[[Coordinator], list[Send]]:
    def to_abort(self: Coordinator) -> list[Send]:
        return [
            Send(What.ABORT, one.number)
            for one in self.branches.values()
            if one.standing in standings or (one.number == self.decider and one.standing is Standing.WORKING)
        ]

    return to_abort


def _decider_is_not_told(self: Coordinator) -> list[Send]:
    told = (Standing.YES, Standing.UNKNOWN)
    return [Send(What.ABORT, one.number) for one in self.branches.values() if one.standing in told]


def _end_at_once(original: Any) -> Any:
    def last_answer(self: Coordinator) -> Effects:
        from_here = self.state is State.COMMITTING
        effects: Effects = original(self)
        return Effects(lazily=(End(**key_fields(self.key)),)) if from_here else effects

    return last_answer


def _retry_is_an_answer(original: Any) -> Any:
    def note(self: Coordinator, branch: Any, answer: Answer) -> None:
        original(self, branch, answer)
        branch.standing = Standing.ENDED

    return note


def _lost_one_phase_is(answer: Answer) -> Callable[[Any], Any]:
    def mutate(original: Any) -> Any:
        return lambda self, said: original(self, answer if said is Answer.RETRY else said)

    return mutate


def _no_record_for_an_id(original: Any) -> Any:
    def commit(self: Coordinator, writers: Any, decided: Any, **rest: Any) -> Effects:
        effects: Effects = original(self, writers, Decided(at_ms=decided.at_ms), **rest)
        return effects

    return commit


def _decider_votes_first(original: Any) -> Any:
    """The decision does not wait for the votes (O45)."""

    def commit(self: Coordinator, writers: Any, decided: Any, **rest: Any) -> Effects:
        effects: Effects = original(self, writers, decided, **rest)
        if self.decider is None or self.state is not State.PREPARING:
            return effects
        record = self._commit_record([], decided)
        self._move(Input.LAST_VOTE_COMMIT)
        self._mark([Send(What.DECIDE, self.decider)], Standing.DECIDING)
        return Effects(force=(record,), through=self.decider)

    return commit


def _abort_of_another_attempt(self: Coordinator) -> Effects:
    self._move(Input.FORCE_LOST)
    fields = key_fields(self.key)
    return Effects(force=(Abort(transaction=fields["transaction"], attempt=fields["attempt"] + 1),))


def _refused_is_accepted(self: Coordinator, why: str) -> Effects:
    return self.accepted()


def _result_ignores_heuristics(self: Coordinator) -> judgement.Result:
    final = {State.COMMITTED: judgement.Result.COMMITTED, State.ABORTED: judgement.Result.ABORTED}
    return final.get(self.state, judgement.Result.PENDING)


COORDINATOR = [
    Mutant(
        "commit is sent before the record is forced",
        "C-I1: nothing is sent before the decision is durable",
        method(Coordinator, "_last_vote", _send_before_force),
        True,
    ),
    Mutant(
        "a lost verdict reads as a refusal",
        "O46: an append whose reply was lost is settled by Abort, never assumed",
        method(Coordinator, "force_lost", instead(lambda self: self.refused("lost"))),
        True,
    ),
    Mutant(
        "a lost verdict reads as accepted",
        "O46: an append whose reply was lost is settled by Abort, never assumed",
        method(Coordinator, "force_lost", instead(lambda self: self.accepted())),
        True,
    ),
    Mutant(
        "the Abort that settles a verdict goes under another key",
        "O46: under the same key",
        method(Coordinator, "force_lost", instead(_abort_of_another_attempt)),
        True,
    ),
    Mutant(
        "a lost vote counts as yes",
        "O16: a vote that is unknown counts as no",
        method(Coordinator, "vote_lost", instead(_vote_lost_is_yes)),
        True,
    ),
    Mutant(
        "a vote of no counts as yes",
        "A9: if any participant cannot prepare, all are told to abort",
        method(Coordinator, "voted", _vote_no_is_yes),
        True,
    ),
    Mutant(
        "a branch whose vote was lost is not told",
        "O16: it is rolled back, now or when it reappears",
        method(Coordinator, "_to_abort", instead(_tell_only(Standing.YES))),
        True,
    ),
    Mutant(
        "a branch that voted no is told to abort",
        "C-I2, O15: no second rollback to that branch",
        method(Coordinator, "_to_abort", instead(_tell_only(Standing.YES, Standing.UNKNOWN, Standing.NO))),
        True,
    ),
    Mutant(
        "the decision does not wait for the last vote",
        "C-I3: decided after all votes",
        method(Coordinator, "_waiting", instead(lambda self: False)),
        True,
    ),
    Mutant(
        "the record lists the branches that did not vote yes too",
        "C-I4: the record lists exactly the yes voters",
        method(Coordinator, "_commit_record", _commit_list(lambda self, yes: list(self.branches.values()))),
        True,
    ),
    Mutant(
        "the record forgets its last branch",
        "C-I4: the record lists exactly the yes voters",
        method(Coordinator, "_commit_record", _commit_list(lambda self, yes: yes[:-1])),
        True,
    ),
    Mutant(
        "a refused record commits all the same",
        "O47: first writer wins, the other obeys",
        method(Coordinator, "refused", instead(_refused_is_accepted)),
        True,
    ),
    Mutant(
        "the record is ended while a branch has not answered",
        "O18: the record is kept until every branch has acknowledged",
        method(Coordinator, "_last_answer", _end_at_once),
        True,
        scope="decider",
    ),
    Mutant(
        "no answer counts as an answer",
        "O18: a branch that did not answer is pending",
        method(Coordinator, "_note", _retry_is_an_answer),
        scope="an id, one writer",
    ),
    Mutant(
        "a lost one-phase commit reads as aborted",
        "O20: the evidence decides",
        method(Coordinator, "_one_answered", _lost_one_phase_is(Answer.ABORTED)),
        True,
    ),
    Mutant(
        "a lost one-phase commit reads as committed",
        "O20: the evidence decides",
        method(Coordinator, "_one_answered", _lost_one_phase_is(Answer.COMMITTED)),
        True,
    ),
    Mutant(
        "a transaction with an id is committed without a record",
        "section 3: without a record only if the transaction has no id",
        method(Coordinator, "commit", _no_record_for_an_id),
        True,
    ),
    Mutant(
        "the decider does not wait for the votes",
        "O45: a prepare fails: the journal's branch never commits",
        method(Coordinator, "commit", _decider_votes_first),
        True,
    ),
    Mutant(
        "the decider is not told to abort",
        "A9: all are told to abort",
        method(Coordinator, "_to_abort", instead(_decider_is_not_told)),
    ),
    Mutant(
        "the coordinator's own no is forgotten",
        "A9: withdrawn before the last vote, it aborts",
        method(Coordinator, "withdraw", instead(lambda self, why: None)),
    ),
    Mutant(
        "after a refusal the table goes on to commit",
        "C-I3: a refused record leads to ABORTING",
        entry(coordinator_table.NEXT, (State.DECIDING, Input.REFUSED), State.COMMITTING),
    ),
    Mutant(
        "a lone writer that aborted leads to COMMITTED",
        "O13: one-phase commit answers rolled back: rolled back",
        entry(coordinator_table.NEXT, (State.ONE_PHASE, Input.ONE_ABORTED), State.COMMITTED),
    ),
    Mutant(
        "the caller is not told of heuristic outcomes",
        "O07: HEURISTIC_MIXED or HAZARD",
        method(Coordinator, "result", instead(property(_result_ignores_heuristics))),
    ),
]
