"""What was promised to superiors: ask them, obey, and finish what an earlier process had promised (A6, O29, O30).

    a live part in doubt for a while ........ its superior is asked, and what it says is as if it had told
    a Prepared record without an outcome .... the same, by identifier, at the address in the directory
                commit: the Commit record is forced, with the branches of the Prepared one; recovery finishes them
                abort: Abort is forced; recovery rolls the branches back
    UNKNOWN, or no answer ................... in doubt still, locked (A7); asked again later, ever more seldom

Not for: the rules (protocol/subordinate.py), or finishing branches (recovery.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from syncpoint.errors import (
    ConnectionLost,
    JournalFailed,
    JournalUnavailable,
    JournalUncertain,
    ResourceUnavailable,
    SyncpointError,
)
from syncpoint.ids import Guid, Identifier, Key, TransactionId
from syncpoint.journal.base import Verdict, View
from syncpoint.manager import exporting, joining
from syncpoint.manager.tree import tree_of
from syncpoint.marks import sometimes
from syncpoint.messages import Message
from syncpoint.protocol.coordinator import State
from syncpoint.protocol.subordinate import judge_unknown
from syncpoint.protocol.words import Answer, Decision
from syncpoint.records import Abort, Commit, Prepared, Record, key_fields
from syncpoint.resources.subordinate_messages import AskInDoubt, AskOutcome, InDoubt, Outcome
from syncpoint.steps import Gather, Script, Wait

if TYPE_CHECKING:
    from syncpoint.manager.core import Core

PERIOD_S = 0.5
ASK_S_MAX = 2.0
PAUSE_S_MAX = 5.0


def tend(core: Core) -> Script[None]:
    """See to it for ever."""
    while not (yield Wait(core.shutdown, PERIOD_S)):
        if core.failure is not None:
            return
        try:
            yield from settle(core)
        except (JournalUncertain, JournalUnavailable):
            continue  # these say nothing of a disk: a journal elsewhere is away for a while
        except SyncpointError as error:
            core.stop(error)
            return


def settle(core: Core) -> Script[None]:
    """Ask for every outcome that is due to be asked for. Raises JournalError."""
    yield from joining.expire(core)
    view = yield from core.look()
    exporting.find_subordinates(core, view)
    due = [*_due_parts(core), *_due_records(core, view)]
    for outcome in (yield Gather([_settle_one(core, identifier) for identifier in due], "ask superiors")):
        error = getattr(outcome, "error", None)
        if error is not None and not isinstance(error, SyncpointError):
            raise error
        if isinstance(error, JournalFailed):
            raise error


def _due_parts(core: Core) -> list[Identifier]:
    now = core.clock.monotonic()
    due = [part for part in list(core.place.parts.values()) if part.ask_at <= now]
    for part in due:
        part.ask_at = now + _pause_s(core)
    return [part.superior for part in due]


def _due_records(core: Core, view: View) -> list[Identifier]:
    """Of earlier processes. Each is asked about at once, then ever so often."""
    now, live = core.clock.monotonic(), core.live_keys()
    promised = {one.read_identifier() for key, one in view.promised.items() if key not in live}
    core.place.ask_at = {one: at for one, at in core.place.ask_at.items() if one in promised}
    due = [one for one in promised if core.place.ask_at.get(one, now) <= now]
    for one in due:
        core.place.ask_at[one] = now + _pause_s(core)
    return due


def _pause_s(core: Core) -> float:
    return PAUSE_S_MAX * (0.2 + core.random.fraction() / 2)


def _settle_one(core: Core, identifier: Identifier) -> Script[None]:
    decision = yield from ask(core, identifier)
    if decision is not Decision.UNKNOWN:
        sometimes("a superior was asked for an outcome, and knew it")
        yield from joining.told(core, identifier, commit_it=decision is Decision.COMMIT)


def ask(core: Core, identifier: Identifier) -> Script[Decision]:
    """Ask the superior whose branch this is (A6). UNKNOWN too when it cannot be reached, or its address is not
    known."""
    exchange = tree_of(core).exchange
    address = exporting.address_of(core, identifier.coordinator)
    own = core.journal.coordinator.raw
    question = AskOutcome(identifier=identifier.to_bytes(), guid=own, address=exchange.address)
    if not address:
        return Decision.UNKNOWN
    try:
        answer = yield from exchange.ask(address, question, ASK_S_MAX)
    except (ResourceUnavailable, ConnectionLost):
        sometimes("a superior could not be asked")
        return Decision.UNKNOWN
    return Decision[answer.decision] if isinstance(answer, Outcome) else Decision.UNKNOWN


# --- told about what no live part is ------------------------------------------------------------------------------


def told(core: Core, identifier: Identifier, *, commit: bool) -> Script[Answer]:
    """The superior's word about a branch that no live part is: an earlier process's, or one that has ended."""
    view = yield from core.look()
    promise = _find(view.promised, identifier)
    if promise is not None:
        if promise.key in core.live_keys():
            return Answer.RETRY  # it is just ending
        return (yield from _record(core, promise, commit=commit))
    transaction = TransactionId.under(identifier)
    committed = (yield from core.journal.find(transaction)) is not None
    committed = committed or any(key.transaction == transaction for key in view.elsewhere)
    elsewhere = _find(view.promised_elsewhere, identifier) is not None
    decision = judge_unknown(committed=committed, held_elsewhere=elsewhere, commit=commit)
    return {Decision.COMMIT: Answer.COMMITTED, Decision.ABORT: Answer.ABORTED}.get(decision, Answer.RETRY)


def _find(promised: Mapping[Key, Prepared], identifier: Identifier) -> Prepared | None:
    raw = identifier.to_bytes()
    return next((one for one in promised.values() if one.identifier == raw), None)


def _record(core: Core, promise: Prepared, *, commit: bool) -> Script[Answer]:
    """Make the outcome durable here; from then on it is recovery's, like any other."""
    fields = key_fields(promise.key)
    record: Record = Abort(**fields, why="its superior aborted")
    if commit:
        record = Commit(**fields, branches=promise.branches, at_ms=core.clock.wall_ms(), scope=core.scope)
    (verdict,) = yield from core.journal.force((record,))
    sometimes("an earlier process's promise got its outcome")
    core.wake_all()
    if verdict is Verdict.REFUSED:
        return Answer.RETRY  # told twice at once: the next time it is found to be done
    return Answer.COMMITTED if commit else Answer.ABORTED


def in_doubt_under(core: Core, question: AskInDoubt) -> Script[Message]:
    """A superior asks what it has to tell."""
    view = yield from core.look()
    raw = tuple(one.identifier for one in view.promised.values() if one.superior == question.superior)
    return InDoubt(identifiers=raw)


# --- for people -----------------------------------------------------------------------------------------------------


def waiting_for(core: Core, view: View) -> dict[Key, str]:
    """Key of each transaction in doubt to with whom it waits for what, as one sentence."""
    texts = {}
    for key, promise in {**view.promised_elsewhere, **view.promised}.items():
        work = core.live.get(key)
        if work is not None and work.coordinator.state is not State.IN_DOUBT:
            continue
        identifier = promise.read_identifier()
        address = exporting.address_of(core, Guid(promise.superior)) or "an address that is not known"
        texts[key] = (
            f"It has voted yes and waits for its superior {Guid(promise.superior)} at {address} to decide transaction "
            f"{identifier.transaction}."
        )
    return texts
