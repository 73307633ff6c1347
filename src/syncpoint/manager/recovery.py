"""Recovery: finish what was decided, roll back what was not, leave alone what lives (DESIGN section 3).

One pass over one resource, in this order: scan the prepared branches, then read who is live, then the records.
A scan that failed decides nothing (O35); every branch is finished on its own, so that one that cannot be holds
up no other (O39); finishing is idempotent, so any number of passes in any number of processes are safe (O38).
Not for: the rules themselves (protocol/recovery.py), or operators' wishes (operators.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from syncpoint.errors import JournalError, JournalUnavailable, JournalUncertain, SyncpointError
from syncpoint.ids import Attempt, Guid, Identifier, Incarnation, Key
from syncpoint.journal.base import View
from syncpoint.manager import deciding, promises
from syncpoint.manager.handle import ResourceHandle
from syncpoint.manager.reports import InDoubtBranch
from syncpoint.marks import sometimes
from syncpoint.protocol.recovery import Facts, Fate, evidence_can_go, fate_of
from syncpoint.protocol.words import HEURISTICS, Answer, Decision
from syncpoint.records import BranchEntry, Commit, End, Heuristic, key_fields
from syncpoint.resources.base import Found, Ruling
from syncpoint.steps import Done, Gather, Script

if TYPE_CHECKING:
    from syncpoint.manager.core import Core

PASS_S_MAX = 30.0
EVIDENCE_BATCH = 500

EXPLANATIONS = {
    Fate.FOREIGN: ("foreign", "Not one of Syncpoint's: it is left alone."),
    Fate.UNKNOWN_COORDINATOR: (
        "unknown-coordinator",
        "It belongs to another journal: start an application with that journal, or `syncpoint adopt {coordinator}`.",
    ),
    Fate.LIVE: ("live", "A living process is working on it."),
    Fate.ELSEWHERE: ("elsewhere", "Decided; another living process is finishing it."),
    Fate.COMMIT: ("decided-commit", "Its decision is commit; recovery finishes it."),
    Fate.PROMISED: ("in-doubt", "It has voted yes under a superior, which decides."),
    Fate.ABORT: ("presumed-abort", "No decision exists and none can appear: recovery rolls it back."),
}


@dataclass(slots=True)
class PassResult:
    """What one pass over one resource did."""

    committed: int = 0
    aborted: int = 0
    foreign: int = 0
    left: list[InDoubtBranch] = field(default_factory=list)
    unknown_coordinators: set[Guid] = field(default_factory=set)
    error: str = ""


def recover_all(core: Core) -> Script[dict[str, PassResult]]:
    """Ask superiors for what is promised to them, then one pass over every resource, side by side."""
    if core.tree is not None:
        yield from promises.settle(core)
    handles = list(core.handles.values())
    outcomes = yield Gather([recover_resource(core, handle) for handle in handles], "recover every resource")
    results: dict[str, PassResult] = {}
    for handle, outcome in zip(handles, outcomes, strict=True):
        results[handle.name] = outcome.value if isinstance(outcome, Done) else PassResult(error=str(outcome.error))
    return results


def recover_resource(core: Core, handle: ResourceHandle) -> Script[PassResult]:
    """One pass. Never raises for the database's sake: `error` says why it decided nothing."""
    result = PassResult()
    deadline = core.clock.monotonic() + PASS_S_MAX
    try:
        yield from handle.recovery_gate.acquire(deadline)
    except SyncpointError as error:
        result.error = str(error)
        return result
    try:
        yield from deciding.settle_left(core)
        yield from _pass(core, handle, result, deadline)
    except JournalError as error:
        if not isinstance(error, JournalUncertain | JournalUnavailable):  # those say nothing of a disk: try again
            core.stop(error)
        result.error = str(error)
    except Exception as error:
        result.error = f"{type(error).__name__}: {error}"
    finally:
        handle.recovery_gate.release()
        ours = any(branch.status in ("decided-commit", "presumed-abort") for branch in result.left)
        handle.passed(trouble=result.error, unfinished=ours)
        core.watch.passed(handle, result, deadline - PASS_S_MAX)
    return result


def _pass(core: Core, handle: ResourceHandle, result: PassResult, deadline: float) -> Script[None]:
    guid = yield from handle.ensure_ready(deadline)
    found = yield from scan(handle, deadline)
    ceiling, view, facts = yield from look_around(core)
    for branch in found:
        yield from _finish_found(core, handle, branch, view, facts, result, deadline, ceiling.incarnation)
    seen = {branch.identifier for branch in found}
    for key, commit in view.decisions.items():
        if key in facts.live_keys:
            continue
        for entry in commit.branches:
            if entry.guid == guid.raw and entry.read_identifier() not in seen:
                yield from _finish_decided(core, handle, key, entry, result, deadline, ceiling.incarnation)
    end_what_is_done(core, view)
    yield from _settle_one_phase(core, handle, deadline)
    low_water = core.oldest_unfinished(ceiling, {*facts.live_keys, *view.decisions, *view.elsewhere})
    yield from _clean_evidence(core, handle, low_water, deadline)
    yield from core.watch.list_heuristics(core.journal)


def scan(handle: ResourceHandle, deadline: float) -> Script[list[Found]]:
    """All prepared branches, or an error: never a part of them (O35)."""
    return (yield from handle.ask(deadline, handle.resource.scan))


def look_around(core: Core) -> Script[tuple[Attempt, View, Facts]]:
    """Who is live, then what is recorded: to be read after the scan, in this order (DESIGN section 3).

    A transaction that was live before the records were read is left alone, even if it has ended since: it may have
    been decided after they were read. One that is live now is left alone too: it finishes its own decision. And one
    that began here meanwhile is none of this pass's business: its attempt is above the one that is returned.

    The incarnation of that attempt keeps what is found here: as long as the journal confirms it, nobody else has taken
    any of it over.
    """
    ceiling = core.journal.next_attempt()
    live_before = core.live_keys()
    acknowledged = set(core.acknowledged)
    view = yield from core.look()
    core.forget_acknowledged(acknowledged - view.decisions.keys())
    own = {ceiling.incarnation, core.journal.incarnation}
    older = {
        key: commit
        for key, commit in view.decisions.items()
        if key.attempt < ceiling or key.attempt.incarnation not in own
    }
    view = replace(view, decisions=older)
    resolved = yield from core.journal.resolutions()
    facts = Facts(
        coordinators=view.coordinators | {core.journal.coordinator},
        live_incarnations=view.live,
        live_keys=live_before | core.live_keys(),
        elsewhere=view.elsewhere,
        decisions=listed(view.decisions),
        forced={Identifier.from_bytes(record.identifier): record.commit for record in resolved},
        promised={*view.promised, *view.promised_elsewhere},
    )
    return ceiling, view, facts


def listed(decisions: Mapping[Key, Commit]) -> dict[Key, frozenset[Identifier]]:
    """Key to the identifiers that its Commit record lists."""
    return {key: frozenset(entry.read_identifier() for entry in commit.branches) for key, commit in decisions.items()}


def _finish_found(
    core: Core,
    handle: ResourceHandle,
    branch: Found,
    view: View,
    facts: Facts,
    result: PassResult,
    deadline: float,
    keeper: Incarnation,
) -> Script[None]:
    identifier = branch.identifier
    if identifier is None:
        result.foreign += 1
        return
    fate, kept = yield from judge_found(core, identifier, facts)
    if fate is Fate.UNKNOWN_COORDINATOR:
        result.unknown_coordinators.add(identifier.coordinator)
    if fate is Fate.LIVE:
        sometimes("recovery left a living transaction alone")
    if fate not in (Fate.COMMIT, Fate.ABORT):
        result.left.append(describe(handle, branch, fate, core, promises.waiting_for(core, view)))
        return
    commit = fate is Fate.COMMIT
    answer = yield from handle.finish(
        identifier,
        commit=commit,
        state=state_of(view, identifier) if kept is None else _state_in(kept, identifier),
        deadline=deadline,
        keeper=keeper,
        ask_evidence=commit and kept is None,  # what has ended may have been finished since, and cleaned up
        recorded=identifier.key in view.decisions,
    )
    yield from _took(core, handle, identifier, answer, commit=commit, result=result)
    if answer is Answer.RETRY:
        result.left.append(describe(handle, branch, fate, core))


def judge_found(core: Core, identifier: Identifier, facts: Facts) -> Script[tuple[Fate, Commit | None]]:
    """What becomes of a branch that is found prepared, and its Commit record if that has ended already.

    That is so after its database was restored to an earlier time: the branch is there again, decided long ago.
    """
    fate = fate_of(identifier, facts)
    if fate is not Fate.ABORT or identifier in facts.forced:
        return fate, None
    commit = yield from core.journal.find(identifier.transaction)
    if commit is None:
        return fate, None
    return fate_of(identifier, replace(facts, decisions=listed({commit.key: commit}))), commit


def _finish_decided(
    core: Core,
    handle: ResourceHandle,
    key: Key,
    entry: BranchEntry,
    result: PassResult,
    deadline: float,
    keeper: Incarnation,
) -> Script[None]:
    """A decided branch that the scan did not show: finished already, or lost; the evidence decides (O19)."""
    identifier = entry.read_identifier()
    if identifier in core.acknowledged.get(key, ()):
        return
    sometimes("a decided branch was not in the scan")
    answer = yield from handle.finish(
        identifier, commit=True, state=entry.state, deadline=deadline, keeper=keeper, recorded=True
    )
    yield from _took(core, handle, identifier, answer, commit=True, result=result)
    if answer is Answer.RETRY:
        found = Found(identifier=identifier, name=str(identifier), note=handle.trouble)
        result.left.append(describe(handle, found, Fate.COMMIT, core))


def _took(
    core: Core, handle: ResourceHandle, identifier: Identifier, answer: Answer, *, commit: bool, result: PassResult
) -> Script[None]:
    """Count an answer; a heuristic one is recorded before the branch counts as done."""
    if answer is Answer.RETRY:
        return
    if answer in HEURISTICS and not (commit and answer is Answer.HEURISTIC_COMMIT):  # O14
        yield from _write_heuristic(core, handle, identifier, answer, commit=commit)
    core.watch.recovered(handle, identifier, answer, commit=commit)
    if commit:
        sometimes("recovery committed a branch")
        result.committed += 1
        core.acknowledged.setdefault(identifier.key, set()).add(identifier)
    else:
        sometimes("recovery rolled a branch back")
        result.aborted += 1


def _write_heuristic(
    core: Core, handle: ResourceHandle, identifier: Identifier, answer: Answer, *, commit: bool
) -> Script[None]:
    record = Heuristic(
        **key_fields(identifier.key),
        resource=handle.name,
        identifier=identifier.to_bytes(),
        outcome=answer.name,
        decided="commit" if commit else "abort",
        detail="found by recovery",
        at_ms=core.clock.wall_ms(),
    )
    yield from core.journal.force((record,))


def end_what_is_done(core: Core, view: View) -> None:
    """A record ends when every branch it lists has acknowledged (O28)."""
    live = core.live_keys()
    for key, identifiers in listed(view.decisions).items():
        if key not in live and identifiers <= core.acknowledged.get(key, set()):
            core.journal.note((End(**key_fields(key)),))
            core.acknowledged.pop(key, None)


def state_of(view: View, identifier: Identifier) -> bytes:
    """The state information that the Commit record holds for a branch (B3)."""
    commit = view.decisions.get(identifier.key)
    return b"" if commit is None else _state_in(commit, identifier)


def _state_in(commit: Commit, identifier: Identifier) -> bytes:
    raw = identifier.to_bytes()
    return next((entry.state for entry in commit.branches if entry.identifier == raw), b"")


def describe(
    handle: ResourceHandle, branch: Found, fate: Fate, core: Core, waiting: Mapping[Key, str] | None = None
) -> InDoubtBranch:
    """One line of `syncpoint in-doubt`. `waiting` says for whom those wait that are in doubt under a superior."""
    status, explanation = EXPLANATIONS[fate]
    identifier = branch.identifier
    if identifier is not None and waiting and identifier.key in waiting and fate in (Fate.PROMISED, Fate.LIVE):
        status, explanation = EXPLANATIONS[Fate.PROMISED][0], waiting[identifier.key]
    age = None if branch.prepared_at_ms is None else max(0, core.clock.wall_ms() - branch.prepared_at_ms)
    return InDoubtBranch(
        transaction=str(identifier.transaction) if identifier else "",
        attempt=str(identifier.attempt) if identifier else "",
        resource=handle.name,
        branch=branch.name,
        status=status,
        explanation=explanation.format(coordinator=identifier.coordinator if identifier else "")
        + (f" ({branch.note})" if branch.note else ""),
        coordinator=str(identifier.coordinator) if identifier else "",
        age_ms=age,
    )


# --- asked by identifier --------------------------------------------------------------------------------------


def ruling(core: Core, identifier: Identifier) -> Script[Ruling]:
    """Tell a participant in doubt what became of its branch (A6, O29). UNKNOWN: its coordinator has not said yet."""
    _, view, facts = yield from look_around(core)
    fate, kept = yield from judge_found(core, identifier, facts)
    if fate is Fate.COMMIT:
        state = state_of(view, identifier) if kept is None else _state_in(kept, identifier)
        return Ruling(Decision.COMMIT, state)
    if fate is Fate.ABORT:
        return Ruling(Decision.ABORT)
    return Ruling(Decision.UNKNOWN)


# --- what else a pass does -----------------------------------------------------------------------------------------


def _settle_one_phase(core: Core, handle: ResourceHandle, deadline: float) -> Script[None]:
    """Find out about one-phase commits whose reply was lost (O20)."""
    for identifier in [one for one, name in list(core.unsettled.items()) if name == handle.name]:
        answer = yield from handle.settle(identifier, deadline)
        if answer in HEURISTICS:
            yield from _write_heuristic(core, handle, identifier, answer, commit=True)
        if answer is not Answer.RETRY:
            sometimes("recovery settled a one-phase commit")
            core.settle(identifier, answer)


def _clean_evidence(core: Core, handle: ResourceHandle, low_water: Attempt, deadline: float) -> Script[None]:
    """Delete evidence that nobody can ask for any more, in small batches.

    What has ended must have ended *durably*: a lost End would bring the record back, and its evidence gone would
    read as a heuristic rollback. So whatever was written lazily is forced first; and if this process was taken for
    dead meanwhile, its records are another's, and nothing is deleted.
    """
    own = low_water.incarnation
    yield from core.journal.force(())
    if not (yield from core.journal.confirm(own)):
        return
    session = yield from handle.service.acquire(deadline)
    try:
        for after in (Attempt(Incarnation(0), 0), Attempt(own, 0)):
            while core.clock.monotonic() < deadline:
                attempts = yield from handle.resource.evidence_attempts(
                    session, core.journal.coordinator, after, EVIDENCE_BATCH
                )
                ended = yield from core.journal.ended_incarnations({attempt.incarnation for attempt in attempts})
                ended -= core.at_work(ended)
                droppable = [
                    attempt
                    for attempt in attempts
                    if evidence_can_go(attempt, own=own, oldest_unfinished=low_water, ended=ended)
                ]
                if not droppable:
                    break
                yield from handle.resource.drop_evidence(session, core.journal.coordinator, droppable)
                if len(attempts) < EVIDENCE_BATCH:
                    break
    except BaseException:
        session.broken = True
        raise
    finally:
        yield from handle.service.release(session)
