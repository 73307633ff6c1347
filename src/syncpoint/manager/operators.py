"""What operators ask and do: in-doubt, show, outcome, resolve, forget, adopt, recover.

Every action that changes something is in the journal before it is done, with a reason and who did it.
Not for: printing (cli/), or automatic recovery (recovery.py).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from syncpoint.errors import ConfigurationError, SyncpointError, TransactionRunning
from syncpoint.ids import Guid, Identifier, Incarnation, Key, TransactionId
from syncpoint.journal.base import Story, View
from syncpoint.manager import promises, recovery
from syncpoint.manager.handle import ResourceHandle
from syncpoint.manager.reports import (
    BranchReport,
    HeuristicEntry,
    InDoubtBranch,
    Outcome,
    OutcomeState,
    RecoveryReport,
    ResolvedBranch,
    TimelineEvent,
    TransactionReport,
)
from syncpoint.manager.results import decode_result
from syncpoint.protocol.recovery import Fate, fate_of
from syncpoint.protocol.words import Answer
from syncpoint.records import (
    Abort,
    AnyRecord,
    Commit,
    CoordinatorKnown,
    End,
    Forgotten,
    Heuristic,
    KeyedRecord,
    Prepared,
    Resolved,
    key_fields,
)
from syncpoint.steps import Done, Gather, Script, Sleep

if TYPE_CHECKING:
    from syncpoint.manager.core import Core

LOOK_S_MAX = 10.0
DRAIN_PAUSE_S = 0.1


# --- which transaction is meant ---------------------------------------------------------------------------


def transaction_named(core: Core, text: str) -> Script[TransactionId]:
    """The user's id, or the 32 hexadecimal digits of a transaction id; the user's id is tried first."""
    by_id = TransactionId.from_user_id(core.scope, text)
    try:
        by_digits = TransactionId.parse(text)
    except ValueError:
        return by_id
    story = yield from core.journal.story(by_id)
    return by_id if story.records or any(key.transaction == by_id for key in core.live) else by_digits


def outcome(core: Core, text: str) -> Script[Outcome]:
    """What became of a transaction (O50). "aborted-or-unknown" means that it may run (again)."""
    core.check_journal()
    transaction = yield from transaction_named(core, text)
    name = str(transaction)
    if any(work.key.transaction == transaction and not work.told for work in list(core.live.values())):
        return Outcome(name, OutcomeState.RUNNING)
    if transaction in core.settled:
        state = OutcomeState.COMMITTED if core.settled[transaction] else OutcomeState.ABORTED_OR_UNKNOWN
        return Outcome(name, state)
    if any(key.transaction == transaction for key in list(core.deciding)):
        return Outcome(name, OutcomeState.PENDING)
    if any(identifier.transaction == transaction for identifier in core.unsettled):
        return Outcome(name, OutcomeState.PENDING)
    # A claim tells running elsewhere from unknown; it is given back at once.
    claim = yield from core.journal.claim(transaction)
    if claim.running:
        return Outcome(name, OutcomeState.RUNNING)
    if claim.mine:
        core.journal.release(transaction)
    commit = claim.committed or (yield from core.journal.find(transaction))
    heuristics = yield from _heuristics_of(core, transaction)
    if commit is None and not heuristics:
        return Outcome(name, OutcomeState.ABORTED_OR_UNKNOWN)
    view = yield from core.look()
    pending = tuple(
        entry.resource
        for key, decision in view.decisions.items()
        if key.transaction == transaction
        for entry in decision.branches
        if entry.read_identifier() not in core.acknowledged.get(key, ())
    )
    return Outcome(
        name,
        OutcomeState.HEURISTIC if heuristics else OutcomeState.COMMITTED,
        result=decode_result(commit.result, transaction=text) if commit is not None else None,
        user_id=commit.user_id if commit is not None else None,
        pending=pending,
        heuristic=", ".join(f"{one.resource}: {one.outcome}" for one in heuristics),
    )


# --- looking ----------------------------------------------------------------------------------------------------


def in_doubt(core: Core) -> Script[list[InDoubtBranch]]:
    """Every prepared branch, and every decided branch not yet acknowledged. Changes nothing in any database."""
    handles = list(core.handles.values())
    deadline = core.clock.monotonic() + LOOK_S_MAX
    scans = yield Gather([recovery.scan(handle, deadline) for handle in handles], "scan every resource")
    _, view, facts = yield from recovery.look_around(core)
    names = {key: commit.user_id for key, commit in view.decisions.items()}
    entries: list[InDoubtBranch] = []
    seen: set[Identifier] = set()
    reached: set[str] = set()
    for handle, scanned in zip(handles, scans, strict=True):
        if not isinstance(scanned, Done):
            entries.append(_unreachable(handle.name, str(scanned.error)))
            continue
        reached.add(handle.name)
        for branch in scanned.value:
            fate = Fate.FOREIGN
            if branch.identifier is not None:
                fate, _ = yield from recovery.judge_found(core, branch.identifier, facts)
            entry = recovery.describe(handle, branch, fate, core, promises.waiting_for(core, view))
            if branch.identifier is not None:
                if branch.identifier in seen:
                    continue  # two names for one server: its branches are listed once
                seen.add(branch.identifier)
                entry = _with_user_id(entry, names.get(branch.identifier.key))
            entries.append(entry)
    entries += _decided_but_unseen(core, view, seen)
    return entries


def _decided_but_unseen(core: Core, view: View, seen: set[Identifier]) -> list[InDoubtBranch]:
    return [
        InDoubtBranch(
            transaction=str(key.transaction),
            attempt=str(key.attempt),
            resource=entry.resource,
            branch=str(entry.read_identifier()),
            status="decided-commit",
            explanation="Its decision is commit, and its resource has not acknowledged yet"
            + ("." if entry.resource in core.handles else "; no resource of that name is configured here."),
            coordinator=str(entry.read_identifier().coordinator),
            age_ms=max(0, core.clock.wall_ms() - commit.at_ms),
            user_id=commit.user_id,
        )
        for key, commit in view.decisions.items()
        if key not in core.live
        for entry in commit.branches
        if entry.read_identifier() not in seen and entry.read_identifier() not in core.acknowledged.get(key, ())
    ]


def _unreachable(resource: str, why: str) -> InDoubtBranch:
    return InDoubtBranch("", "", resource, "", "unreachable", f"It could not be asked: {why}")


def _with_user_id(entry: InDoubtBranch, user_id: str | None) -> InDoubtBranch:
    if user_id is None:
        return entry
    fields = {name: getattr(entry, name) for name in entry.__dataclass_fields__}
    return InDoubtBranch(**{**fields, "user_id": user_id})


def heuristics(core: Core) -> Script[list[HeuristicEntry]]:
    """Heuristic outcomes, until forgotten."""
    records = yield from core.journal.heuristics()
    entries = []
    for record in records:
        commit = yield from core.journal.find(record.key.transaction)
        entries.append(_heuristic_entry(record, commit.user_id if commit is not None else None))
    return entries


def _heuristic_entry(record: Heuristic, user_id: str | None) -> HeuristicEntry:
    return HeuristicEntry(
        transaction=str(record.key.transaction),
        resource=record.resource,
        outcome=record.outcome,
        decided=record.decided,
        detail=record.detail,
        at_ms=record.at_ms,
        user_id=user_id,
    )


def _heuristics_of(core: Core, transaction: TransactionId) -> Script[list[HeuristicEntry]]:
    entries = yield from heuristics(core)
    return [entry for entry in entries if entry.transaction == str(transaction)]


def show(core: Core, text: str) -> Script[TransactionReport]:
    """All that is known about one transaction: its branches with the evidence, and a timeline."""
    transaction = yield from transaction_named(core, text)
    told = yield from outcome(core, text)
    story = yield from core.journal.story(transaction)
    branches = yield from _branches_of(core, transaction)
    reports = yield from _branch_reports(core, branches, _acknowledged(story))
    entries = yield from _heuristics_of(core, transaction)
    return TransactionReport(
        transaction=str(transaction),
        state=told.state,
        user_id=told.user_id,
        branches=tuple(reports),
        timeline=_in_order(
            [_event(record, f"journal, process {incarnation}") for incarnation, record in story.records]
        ),
        heuristics=tuple(entries),
    )


def _branches_of(core: Core, transaction: TransactionId) -> Script[dict[Identifier, str]]:
    """Identifier to resource name: from the scans, and from the records."""
    found: dict[Identifier, str] = {}
    deadline = core.clock.monotonic() + LOOK_S_MAX
    for handle in core.handles.values():
        try:
            scanned = yield from recovery.scan(handle, deadline)
        except SyncpointError:
            continue  # reported as unreachable by _branch_reports, if a record names it
        for branch in scanned:
            if branch.identifier is not None and branch.identifier.transaction == transaction:
                found.setdefault(branch.identifier, handle.name)
    story = yield from core.journal.story(transaction)
    for _, record in story.records:
        if isinstance(record, Commit):
            for entry in record.branches:
                found[entry.read_identifier()] = entry.resource
    return dict(sorted(found.items()))


def _acknowledged(story: Story) -> frozenset[Identifier]:
    """Branches whose Commit record has ended: their evidence is dropped some time after."""
    ended = {record.key for _, record in story.records if isinstance(record, End)}
    commits = [record for _, record in story.records if isinstance(record, Commit) and record.key in ended]
    return frozenset(entry.read_identifier() for commit in commits for entry in commit.branches)


def _branch_reports(
    core: Core, branches: dict[Identifier, str], acknowledged: frozenset[Identifier]
) -> Script[list[BranchReport]]:
    reports = []
    for identifier, name in branches.items():
        handle = core.handles.get(name)
        if handle is None:
            detail = "no resource of that name is configured here"
            reports.append(BranchReport(name, str(identifier), "unreachable", "unreachable", detail))
        else:
            report = yield from _branch_report(core, handle, identifier)
            if identifier in acknowledged and (report.state, report.evidence) == ("not-prepared", "absent"):
                report = replace(report, detail="it has acknowledged; its evidence is kept no longer")
            reports.append(report)
    return reports


def _branch_report(core: Core, handle: ResourceHandle, identifier: Identifier) -> Script[BranchReport]:
    deadline = core.clock.monotonic() + LOOK_S_MAX
    try:
        scanned = yield from recovery.scan(handle, deadline)
        session = yield from handle.service.acquire(deadline)
    except SyncpointError as error:
        return BranchReport(handle.name, str(identifier), "unreachable", "unreachable", str(error))
    try:
        prepared = any(branch.identifier == identifier for branch in scanned)
        evidence = yield from handle.resource.evidence(session, identifier)
        state = "prepared" if prepared else "not-prepared"
        return BranchReport(handle.name, str(identifier), state, evidence.name.lower())
    except SyncpointError as error:
        session.broken = True
        return BranchReport(handle.name, str(identifier), "unreachable", "unreachable", str(error))
    finally:
        yield from handle.service.release(session)


def _event(record: AnyRecord | KeyedRecord, where: str) -> TimelineEvent:
    match record:
        case Commit():
            names = ", ".join(entry.resource for entry in record.branches) or "no branches"
            names += f"; in the commit of {record.decided_at}" if record.decided_at else ""
            return TimelineEvent(record.at_ms, "decided: commit", where, f"attempt {record.key.attempt}; {names}")
        case Abort():
            return TimelineEvent(None, "decided: abort", where, record.why)
        case Prepared():
            return TimelineEvent(None, "voted yes under a superior", where, str(Guid(record.superior)))
        case End():
            return TimelineEvent(None, "ended: every branch has acknowledged", where)
        case Resolved():
            wish = "commit" if record.commit else "abort"
            return TimelineEvent(record.at_ms, f"forced by {record.who}: {wish}", record.resource, record.reason)
        case Heuristic():
            detail = f"decided {record.decided}; {record.detail}"
            return TimelineEvent(record.at_ms, record.outcome, record.resource, detail)
        case Forgotten():
            return TimelineEvent(record.at_ms, f"forgotten by {record.who}", where)
    return TimelineEvent(None, type(record).__name__, where)


def _in_order(events: list[TimelineEvent]) -> tuple[TimelineEvent, ...]:
    """By time; one without a time stays behind the one before it."""
    placed, at_ms = [], 0
    for event in events:
        at_ms = at_ms if event.at_ms is None else event.at_ms
        placed.append((at_ms, event))
    return tuple(event for _, event in sorted(placed, key=lambda one: one[0]))


# --- acting ---------------------------------------------------------------------------------------------------------


def resolve(
    core: Core, text: str, *, commit: bool, reason: str, who: str, resource: str | None = None
) -> Script[list[ResolvedBranch]]:
    """Force the branches of one transaction. Forced into the journal before it is done; what differs from the
    decision is a heuristic outcome, listed until forgotten.

    Raises TransactionRunning while a living process works on it, ConfigurationError without a reason.
    """
    if not reason.strip():
        raise ConfigurationError("Forcing a branch needs a reason.", advice='Give one with --reason "…".')
    transaction = yield from transaction_named(core, text)
    told = yield from outcome(core, text)
    branches = yield from _branches_of(core, transaction)
    ceiling, view, facts = yield from recovery.look_around(core)
    chosen = {one: name for one, name in branches.items() if resource is None or name == resource}
    if told.state is OutcomeState.RUNNING or any(fate_of(one, facts) is Fate.LIVE for one in chosen):
        raise TransactionRunning(
            f"Transaction {text!r} is being worked on by a living process; nothing was forced.",
            transaction=text,
            advice="Stop that process first, or wait for its timeout.",
        )
    resolved = []
    for identifier, name in chosen.items():
        resolved.append(
            (
                yield from _resolve_branch(
                    core,
                    view,
                    identifier,
                    name,
                    commit=commit,
                    reason=reason,
                    who=who,
                    keeper=ceiling.incarnation,
                )
            )
        )
    recovery.end_what_is_done(core, view)
    yield from core.journal.force(())
    return resolved


def _resolve_branch(
    core: Core,
    view: View,
    identifier: Identifier,
    name: str,
    *,
    commit: bool,
    reason: str,
    who: str,
    keeper: Incarnation,
) -> Script[ResolvedBranch]:
    key = identifier.key
    decided = yield from _is_decided(core, identifier)
    forced = Resolved(
        **key_fields(key),
        resource=name,
        identifier=identifier.to_bytes(),
        commit=commit,
        reason=reason,
        who=who,
        at_ms=core.clock.wall_ms(),
    )
    hazard = _heuristic(core, forced, Answer.HEURISTIC_HAZARD.name, decided=decided)
    # Against the decision: listed before it is done, or nobody would be told if this process died in between.
    yield from core.journal.force((forced, hazard) if commit != decided else (forced,))
    handle = core.handles.get(name)
    answer = Answer.RETRY
    if handle is not None:
        answer = yield from handle.finish(
            identifier,
            commit=commit,
            state=recovery.state_of(view, identifier),
            deadline=core.clock.monotonic() + LOOK_S_MAX,
            keeper=keeper,
        )
    outcome_name = _heuristic_name(answer, decided=decided, commit=commit)
    if outcome_name:
        yield from core.journal.force((_heuristic(core, forced, outcome_name, decided=decided),))
    if decided:
        core.acknowledged.setdefault(key, set()).add(identifier)
    return ResolvedBranch(name, str(identifier), "UNREACHABLE" if answer is Answer.RETRY else answer.name)


def _is_decided(core: Core, identifier: Identifier) -> Script[bool]:
    """Whether a Commit record lists it, an ended one included."""
    record = yield from core.journal.find(identifier.transaction)
    if record is None or record.key != identifier.key:
        return False
    return any(entry.read_identifier() == identifier for entry in record.branches)


def _heuristic(core: Core, forced: Resolved, outcome_name: str, *, decided: bool) -> Heuristic:
    return Heuristic(
        **key_fields(forced.key),
        resource=forced.resource,
        identifier=forced.identifier,
        outcome=outcome_name,
        decided="commit" if decided else "abort",
        detail=f"forced to {'commit' if forced.commit else 'abort'} by {forced.who}: {forced.reason}",
        at_ms=core.clock.wall_ms(),
    )


def _heuristic_name(answer: Answer, *, decided: bool, commit: bool) -> str:
    """How a forced branch differs from its decision; empty when it does not."""
    if answer is Answer.RETRY:
        return Answer.HEURISTIC_HAZARD.name if decided or commit else ""
    if answer not in (Answer.COMMITTED, Answer.ABORTED):
        return answer.name
    committed = answer is Answer.COMMITTED
    if committed == decided == commit:
        return ""
    return Answer.HEURISTIC_COMMIT.name if committed else Answer.HEURISTIC_ROLLBACK.name


def forget(core: Core, text: str, *, who: str) -> Script[int]:
    """Acknowledge the heuristic outcome of one transaction; returns how many entries went off the list."""
    transaction = yield from transaction_named(core, text)
    records = yield from core.journal.heuristics()
    resolved = yield from core.journal.resolutions()
    mine = [one for one in records if one.key.transaction == transaction]
    keys: set[Key] = {one.key for one in mine} | {one.key for one in resolved if one.key.transaction == transaction}
    for key in sorted(keys):
        yield from core.journal.force((Forgotten(**key_fields(key), who=who, at_ms=core.clock.wall_ms()),))
    return len(mine)


def adopt(core: Core, guid: str, *, address: str, who: str) -> Script[None]:
    """Answer from now on for another journal's coordinator: its branches without a record here are aborted.

    Only for a journal that is lost for good: a branch that journal had decided to commit would be rolled back.
    """
    try:
        coordinator = Guid.parse(guid)
    except ValueError as error:
        raise ConfigurationError(
            f"{guid!r} is not a coordinator's GUID: {error}.", advice="`syncpoint in-doubt` prints it."
        ) from None
    entry = CoordinatorKnown(
        guid=coordinator.raw,
        address=address or f"adopted by {who}",
        adopted=True,
        at_ms=core.clock.wall_ms(),
    )
    yield from core.journal.force((entry,))


def recover(core: Core, wait_s: float) -> Script[RecoveryReport]:
    """Passes over all resources until nothing of ours is in doubt, or `wait_s` seconds are over (O44)."""
    deadline = core.clock.monotonic() + wait_s
    committed = aborted = 0
    while True:
        results = yield from recovery.recover_all(core)
        committed += sum(result.committed for result in results.values())
        aborted += sum(result.aborted for result in results.values())
        left = tuple(branch for result in results.values() for branch in result.left)
        unreachable = {name: result.error for name, result in results.items() if result.error}
        view = yield from core.look()
        left += tuple(_unconfigured(core, view))
        if not (left or unreachable or core.deciding) or core.clock.monotonic() >= deadline:
            break
        yield Sleep(DRAIN_PAUSE_S)
    yield from core.journal.force(())
    entries = yield from heuristics(core)
    return RecoveryReport(
        committed=committed,
        aborted=aborted,
        left=left,
        foreign=sum(result.foreign for result in results.values()),
        unknown_coordinators=tuple(
            sorted({str(guid) for result in results.values() for guid in result.unknown_coordinators})
        ),
        unreachable=unreachable,
        heuristics=tuple(entries),
    )


def _unconfigured(core: Core, view: View) -> list[InDoubtBranch]:
    """Decided branches of resources that are not configured here: nobody else will tell of them."""
    return [one for one in _decided_but_unseen(core, view, set()) if one.resource not in core.handles]
