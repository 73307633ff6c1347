"""The end of a transaction: carry out what the coordinator says, in the order it says it.

    learn who wrote -> coordinator.commit -> [force, or decide in a branch -> send]* -> what to tell the caller

Force before send, always (habit 2 of the protocol's effects). Once the decision is made there is only forward:
the facades shield this script from cancellation. Not for: rules (protocol/coordinator.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from syncpoint.errors import (
    HeuristicHazard,
    HeuristicMixed,
    JournalFailed,
    JournalUnavailable,
    JournalUncertain,
    OutcomePending,
    TransactionAborted,
)
from syncpoint.ids import BranchNumber
from syncpoint.journal.base import Verdict
from syncpoint.manager import deciding
from syncpoint.manager.branch import Branch
from syncpoint.manager.transaction import Work
from syncpoint.marks import sometimes
from syncpoint.protocol.coordinator import Decided, Effects, Send, Standing, State, What
from syncpoint.protocol.judgement import Result
from syncpoint.protocol.recovery import Settled
from syncpoint.protocol.subordinate import Subordinate
from syncpoint.protocol.words import HEURISTICS, Answer
from syncpoint.records import Abort, Commit, End, Heuristic, Prepared, Record, key_fields
from syncpoint.resources.base import Choice, Vote
from syncpoint.steps import Done, Gather, Script

Event: TypeAlias = Callable[[], Effects]
"""What came back from one branch, as the coordinator's input still to be taken."""


# --- commit and abort -------------------------------------------------------------------------------------


def commit(work: Work) -> Script[None]:
    """Commit the transaction. Raises what the caller must know: see `conclude`."""
    _last_checks(work)
    writers = yield from _writers(work)
    effects = work.coordinator.commit(writers, _decided(work), decider=_decider(work, writers))
    left = yield from _carry_out(work, effects, until_decided=not work.wait_applied)
    if left.then:  # wait="decided": phase two follows in the background
        work.core.told(work)
        work.core.runtime.spawn(_phase_two(work, left), f"phase two of {work.name}")
    else:
        yield from finish(work)
    conclude(work)


def _last_checks(work: Work) -> None:
    """Before anybody is asked for a vote: nobody may join any more, and what speaks against it is the own vote no."""
    with work.core.mutex:
        work.is_closed = True
    if work.core.clock.monotonic() > work.deadline:
        work.cancel("its time was over", work.timeout_error())
    for check in work.checks:
        why = check()
        if why:
            work.retryable = False
            work.cancel(why)
    if work.cancelled:
        work.coordinator.withdraw(work.cancelled)


def abort(work: Work, why: str, error: BaseException | None = None) -> Script[None]:
    """Abort it: nothing of it stays anywhere. Never raises for a database's sake.

    To `error`, if it is that of an expired wait, a note is added that names who held what (DESIGN section 3).
    """
    work.error = work.error or error
    with work.core.mutex:
        work.is_closed = True
    if work.coordinator.state is State.ACTIVE:
        yield from _carry_out(work, work.coordinator.abort(why))
    yield from finish(work)


def vote(work: Work) -> Script[Choice]:
    """Its superior asks a subordinate for its vote: YES only when its Prepared record is forced (S-I1). Until it is
    told the outcome it stays live; after another vote it has ended. Raises OutcomePending when the journal has
    failed: then there is no vote."""
    coordinator = subordinate(work)
    if coordinator.vote is None:
        _last_checks(work)
        writers = yield from _writers(work)
        yield from _carry_out(work, coordinator.prepare(writers, _decided(work)))
        if coordinator.vote is not Choice.YES:
            yield from finish(work)
    assert coordinator.vote is not None, f"{coordinator!r} has no vote"
    return coordinator.vote


def obey(work: Work, *, commit: bool) -> Script[bool]:
    """A subordinate in doubt is told the outcome. Returns whether it is certain to be finished: False when the journal
    did not take its Commit record, and it is in doubt still. Raises OutcomePending when the journal has failed."""
    coordinator = subordinate(work)
    yield from _carry_out(work, coordinator.told(commit=commit))
    if coordinator.state is State.IN_DOUBT:
        return False
    yield from finish(work)
    return True


def subordinate(work: Work) -> Subordinate:
    """The coordinator of a work that has joined."""
    assert isinstance(work.coordinator, Subordinate)
    return work.coordinator


def finish(work: Work) -> Script[None]:
    """Out of the list of live transactions; what is pending is recovery's from here on."""
    if work.ended:
        return
    if work.coordinator.state is State.UNSETTLED:
        work.core.leave_unsettled(work)
    yield from _write_heuristics(work)
    _hand_over(work)
    work.core.ended(work)
    # Not before: a pass that runs while it is live leaves its branches alone, and the next is seconds away.
    for resource in work.coordinator.pending:
        work.core.handle(resource).wake.set()


def _hand_over(work: Work) -> None:
    """To recovery: a decided transaction with a branch that did not answer. What has ended is not asked again."""
    coordinator = work.coordinator
    heuristic = coordinator.heuristic in (Result.HEURISTIC_MIXED, Result.HEURISTIC_HAZARD)
    recorded = coordinator.state is State.COMMITTED and coordinator.lone_writer is None
    if not recorded or not (coordinator.pending or heuristic):
        return
    if not coordinator.pending:
        work.core.journal.note((End(**key_fields(work.key)),))
        return
    ended = {
        coordinator.identifier(view.number)
        for view in coordinator.branches.values()
        if view.standing is Standing.ENDED and view.answer is not None
    }
    with work.core.mutex:
        work.core.acknowledged.setdefault(work.key, set()).update(ended)


def interrupted(work: Work) -> Script[None]:
    """After KeyboardInterrupt in the middle of the end: settle it by proof, then as ever (sync facade only).

    Nobody knows how far the interrupted script came, so every session is given up, and a decision that may be
    on its way to the journal is settled by writing Abort under the same key: first writer wins.
    """
    coordinator = work.coordinator
    if work.ended:
        return
    for branch in work.branches.values():
        if branch.session is not None:
            branch.session.broken = True
        if branch.identifier.branch == coordinator.decider:
            yield from branch.give_up()  # or the Abort would wait for the record that its connection holds
    if coordinator.state is State.DECIDING:
        try:
            yield from _carry_out(work, coordinator.force_lost())
        except OutcomePending:
            return  # recovery goes on with it, or the journal has failed
    for branch in work.branches.values():
        branch.handle.unfinished = True
        yield from branch.give_up()
        branch.handle.wake.set()
    yield from finish(work)


def _phase_two(work: Work, left: Effects) -> Script[None]:
    yield from _carry_out(work, left)
    yield from finish(work)


# --- carrying out ---------------------------------------------------------------------------------------------


def _carry_out(work: Work, effects: Effects, *, until_decided: bool = False) -> Script[Effects]:
    """Do what the effects say, and what follows from it. Returns what is left to send with `until_decided`."""
    while True:
        work.core.journal.note(effects.lazily)
        if effects.through is not None:
            effects = yield from work.core.watch.timed(work, _decide(work, effects.force, effects.through))
        elif effects.force:
            effects = yield from work.core.watch.timed(work, _force(work, effects.force))
        elif effects.then:
            if until_decided and work.coordinator.state is State.COMMITTING:
                return effects
            effects = yield from work.core.watch.timed(work, _send(work, effects.then))
        else:
            return effects


def _force(work: Work, records: tuple[Record, ...]) -> Script[Effects]:
    """Make the record durable: the decision. A lost reply is settled by proof, never assumed (R5)."""
    coordinator = work.coordinator
    (record,) = records
    if isinstance(record, Abort):
        return (yield from _settle(work, record))
    if isinstance(record, Commit | Prepared):
        against = work.core.votes.against(record)
        if against:
            return coordinator.refused(against)
    try:
        (verdict,) = yield from work.core.journal.force(records)
    except JournalUncertain:
        sometimes("the reply to a Commit record was lost")
        return coordinator.force_lost()
    except JournalUnavailable as error:  # nothing was written
        work.error = work.error or error
        return coordinator.refused(f"the journal could not be reached: {error.message}")
    except JournalFailed as error:
        raise _stopped(work, error) from error
    if verdict is Verdict.ACCEPTED:
        if isinstance(record, Commit):
            work.core.votes.forget(coordinator)
        return coordinator.accepted()
    sometimes("a Commit record was refused: another was first")
    return coordinator.refused("another record of this transaction was there first")


def _decide(work: Work, records: tuple[Record, ...], number: BranchNumber) -> Script[Effects]:
    """Have the branch at the journal's own database commit with the record inside: the decision."""
    coordinator = work.coordinator
    (record,) = records
    assert isinstance(record, Commit)
    branch = _by_number(work)[number]
    carrying = branch.decide(work.core.journal.decision(record))
    said = yield from work.core.watch.told(work, What.DECIDE, branch.handle, carrying)
    if said is Answer.COMMITTED:
        return coordinator.accepted()
    if isinstance(said, Vote):
        sometimes("a branch with the decision inside was refused")
        _note_refusal(work, said)
        yield from work.core.journal.refused()
        return coordinator.refused(f"{branch.handle.name} could not commit it: {said.reason}")
    return coordinator.force_lost()


def _settle(work: Work, record: Abort) -> Script[Effects]:
    """The reply to the Commit record was lost: write Abort under the same key (O46). Raises OutcomePending when the
    journal did not answer in time; then recovery goes on with it."""
    try:
        settled = yield from deciding.settle(work, record)
    except JournalFailed as error:
        raise _stopped(work, error) from error
    if settled is Settled.COMMITTED:
        sometimes("a decision whose reply was lost is there")
        work.core.votes.forget(work.coordinator)
        return work.coordinator.accepted()
    if settled is Settled.ABORTED:
        sometimes("a decision whose reply was lost is not there")
        return work.coordinator.refused("the reply to its record was lost, and it was not there")
    for branch in work.branches.values():
        branch.handle.unfinished = True
        yield from branch.give_up()
    if settled is None:
        work.core.leave_deciding(work)
        raise OutcomePending(
            f"Whether transaction {work.name!r} is committed is not known yet: the journal does not answer.",
            transaction=work.name,
            advice="Do not retry it; recovery finds out. Ask manager.outcome(id).",
        )
    work.core.ended(work)
    raise OutcomePending(
        f"This process was taken for dead while transaction {work.name!r} was being decided; another one has settled "
        "it, and whether it is committed can no longer be told from here.",
        transaction=work.name,
        advice="Do not retry it before you have looked at the data. Give transactions an id: then it can be asked for.",
    )


def _stopped(work: Work, error: JournalFailed) -> OutcomePending:
    """The local disk has failed: no further answers from this process (R5)."""
    work.core.stop(error)
    return OutcomePending(
        f"The journal failed while transaction {work.name!r} was being decided: {error.message}",
        transaction=work.name,
        advice="Do not retry it. Restart the process: recovery settles it; then ask manager.outcome(id).",
    )


def _send(work: Work, sends: Sequence[Send]) -> Script[Effects]:
    """Tell branches, side by side, and take what came back."""
    by_number = _by_number(work)
    scripts = [_watched(work, send, by_number[send.branch]) for send in sends]
    events: list[Event] = []
    if len(scripts) == 1:
        events.append((yield from scripts[0]))
    else:
        what = ", ".join(f"{send.what.name} {work.coordinator.branches[send.branch].resource}" for send in sends)
        for outcome in (yield Gather(scripts, what)):
            if not isinstance(outcome, Done):
                raise outcome.error
            events.append(outcome.value)
    if work.coordinator.state is State.PREPARING:
        _last_chance(work)
    return _merge([event() for event in events])


def _by_number(work: Work) -> dict[BranchNumber, Branch]:
    return {branch.identifier.branch: branch for branch in work.branches.values()}


def _last_chance(work: Work) -> None:
    """Cancelled or out of time while votes were collected: the coordinator's own vote is no."""
    if not work.cancelled and work.core.clock.monotonic() > work.deadline:
        work.cancel("its time was over", work.timeout_error())
    if work.cancelled:
        sometimes("cancelled, or out of time, while votes came in")
        work.coordinator.withdraw(work.cancelled)


def _watched(work: Work, send: Send, branch: Branch) -> Script[Event]:
    return work.core.watch.told(work, send.what, branch.handle, _tell(work, send, branch))


def _tell(work: Work, send: Send, branch: Branch) -> Script[Event]:
    """Tell one branch; never raises, so that no other branch is left behind (O17)."""
    number, coordinator = send.branch, work.coordinator
    if send.what is What.PREPARE:
        return (yield from _prepare(work, number, branch))
    if send.what is What.COMMIT_ONE_PHASE:
        said = yield from branch.commit_one_phase()
        answer = _one_phase_answer(work, said)
    elif send.what is What.COMMIT:
        answer = yield from branch.commit()
    elif send.what is What.ABORT:
        answer = yield from branch.abort(work.error)
    else:
        answer = yield from branch.release()
    return lambda: coordinator.answered(number, answer)


def _prepare(work: Work, number: BranchNumber, branch: Branch) -> Script[Event]:
    coordinator = work.coordinator
    try:
        vote = yield from branch.prepare()
    except Exception as error:
        work.error = work.error or error
        why = f"the reply of {branch.handle.name!r} to prepare was lost: {error}"
        sometimes("the reply to a prepare was lost")
        return lambda: coordinator.vote_lost(number, why)
    if vote.choice is Choice.NO:
        _note_refusal(work, vote)
    refused = work.core.votes.take(work, branch, vote)
    if refused:
        return lambda: coordinator.vote_lost(number, refused)
    why = f"{branch.handle.name} voted no: {vote.reason}"
    return lambda: coordinator.voted(number, vote.choice, vote.state, why, incarnation=vote.incarnation)


def _note_refusal(work: Work, vote: Vote) -> None:
    work.error = work.error or vote.error
    work.retryable = work.retryable and vote.retryable


def _one_phase_answer(work: Work, said: Answer | Vote) -> Answer:
    """A vote instead of an answer: it wrote nothing after all, or could not commit."""
    if isinstance(said, Answer):
        return said
    if said.choice is Choice.READ_ONLY:
        return Answer.COMMITTED
    work.error = work.error or said.error
    work.retryable = work.retryable and said.retryable
    work.coordinator.why = work.coordinator.why or said.reason
    return Answer.ABORTED


def _merge(effects: Sequence[Effects]) -> Effects:
    return Effects(
        force=tuple(record for one in effects for record in one.force),
        through=next((one.through for one in effects if one.through is not None), None),
        then=tuple(send for one in effects for send in one.then),
        lazily=tuple(record for one in effects for record in one.lazily),
    )


def _writers(work: Work) -> Script[list[BranchNumber]]:
    """The branches that wrote, or may have. Asked only where the answer can save a prepare (DESIGN section 7)."""
    if work.cancelled:
        return []
    branches = list(work.branches.values())
    if work.user_id is not None and len(branches) == 1:
        return [branches[0].identifier.branch]  # a record is needed anyway, and its vote says read-only
    if len(branches) == 1:
        return [branches[0].identifier.branch] if not branches[0].read_only else []
    outcomes = yield from _ask_all([branch.wrote() for branch in branches])
    return [branch.identifier.branch for branch, wrote in zip(branches, outcomes, strict=True) if wrote is not False]


def _ask_all(scripts: list[Script[Any]]) -> Script[list[Any]]:
    if not scripts:
        return []
    outcomes = yield Gather(scripts, "who wrote?")
    return [outcome.value if isinstance(outcome, Done) else None for outcome in outcomes]


def _decider(work: Work, writers: Sequence[BranchNumber]) -> BranchNumber | None:
    """The branch at the very database that the journal lives in, if it wrote: its commit can be the decision."""
    database = work.core.journal.database
    for branch in work.branches.values():
        is_there = database is not None and branch.handle.guid == database
        if is_there and branch.handle.resource.can_decide and not branch.read_only:
            number = branch.identifier.branch
            if number in writers:
                return number
    return None


def _decided(work: Work) -> Decided:
    return Decided(
        at_ms=work.core.clock.wall_ms(),
        required=work.user_id is not None,
        scope=work.core.scope,
        user_id=work.user_id,
        fingerprint=work.fingerprint,
        result=work.result,
        by_vote=any(branch.handle.resource.needs_vote for branch in work.branches.values()),
    )


# --- what the caller is told ------------------------------------------------------------------------------------


def _write_heuristics(work: Work) -> Script[None]:
    """Somebody decided alone: listed until forgotten."""
    coordinator = work.coordinator
    if coordinator.heuristic not in (Result.HEURISTIC_MIXED, Result.HEURISTIC_HAZARD):
        return
    decided = "abort" if coordinator.state is State.ABORTED else "commit"
    records = [
        Heuristic(
            **key_fields(work.key),
            resource=view.resource,
            identifier=coordinator.identifier(view.number).to_bytes(),
            outcome=view.answer.name,
            decided=decided,
            detail=f"answered {view.answer.name} when told to {decided}",
            at_ms=work.core.clock.wall_ms(),
        )
        for view in coordinator.branches.values()
        if view.answer in HEURISTICS and view.answer is not None
    ]
    try:
        yield from work.core.journal.force(records)
    except (JournalUncertain, JournalUnavailable):
        work.core.owe(records)
    except JournalFailed as error:
        work.core.stop(error)


def conclude(work: Work) -> None:
    """Raise what the caller must know; return when it is committed (DESIGN section 3, answers to the caller)."""
    coordinator = work.coordinator
    if coordinator.state is State.COMMITTING:
        return
    result = coordinator.result
    if result is Result.COMMITTED:
        return
    if result is Result.ABORTED:
        raise aborted_error(work) from work.error
    if result is Result.PENDING:
        raise OutcomePending(
            f"Whether transaction {work.name!r} is committed is not known yet: "
            f"{', '.join(sorted(coordinator.pending))} did not answer.",
            transaction=work.name,
            advice="Do not retry it; recovery finds out. Ask manager.outcome(id).",
        )
    answers = {view.resource: view.answer.name for view in coordinator.branches.values() if view.answer is not None}
    kind = HeuristicMixed if result is Result.HEURISTIC_MIXED else HeuristicHazard
    raise kind(
        f"Transaction {work.name!r} did not end the same way everywhere: "
        + ", ".join(f"{name}: {answer}" for name, answer in sorted(answers.items()))
        + ".",
        transaction=work.name,
        branches=answers,
    )


def aborted_error(work: Work) -> TransactionAborted:
    """What the caller of an aborted transaction gets."""
    if isinstance(work.error, TransactionAborted):
        return work.error
    why = work.coordinator.why or work.cancelled
    return TransactionAborted(
        f"Transaction {work.name!r} was aborted: {why}. Nothing of it stays anywhere.",
        transaction=work.name,
        retryable=work.retryable,
        advice="Run it again." if work.retryable else "Mend the cause before running it again.",
    )
