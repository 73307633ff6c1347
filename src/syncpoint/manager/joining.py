"""The subordinate's side of a tree: join a superior's transaction, vote, and do as it is told (A1..A7, B10).

    join(context) -> ask the superior to enlist this very work -> the user's block -> leave
    Prepare       -> votes of the own branches -> Prepared forced -> yes             (commit.vote)
    Tell          -> Commit forced, own branches told | aborted -> acknowledged      (commit.obey)

The superior enlists one work for each context, so a context that is sent again does nothing; and it asks for the vote
of that very work, so one that joined anew after a crash cannot vote for what was lost. Everything about one part goes
through its gate, one at a time. Not for: the rules (protocol/subordinate.py), or what a restart finds (promises.py).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from syncpoint.errors import ConfigurationError, ConnectionLost, ResourceUnavailable
from syncpoint.ids import Identifier, Key, TransactionId
from syncpoint.manager import commit, contexts, exporting, promises
from syncpoint.manager.contexts import Context, ContextLike, refused
from syncpoint.manager.transaction import Work
from syncpoint.manager.tree import Part, tree_of
from syncpoint.marks import sometimes
from syncpoint.messages import Message
from syncpoint.protocol.coordinator import Result
from syncpoint.protocol.subordinate import Heard, Subordinate
from syncpoint.protocol.words import Answer, Choice
from syncpoint.resources.pool import Turn
from syncpoint.resources.subordinate_messages import Join, Joined, NotJoined, Prepare, Tell, Told, Voted
from syncpoint.steps import Script

if TYPE_CHECKING:
    from syncpoint.manager.core import Core

log = logging.getLogger("syncpoint")

JOIN_S_MAX = 5.0
GATE_S_MAX = 60.0
ASK_AFTER_S = 1.0
"""How long a vote waits for the outcome before the superior is asked for it."""

_ANSWERS = {
    Result.COMMITTED: Answer.COMMITTED,
    Result.PENDING: Answer.COMMITTED,  # its own recovery finishes it
    Result.ABORTED: Answer.ABORTED,
    Result.HEURISTIC_MIXED: Answer.HEURISTIC_MIXED,
    Result.HEURISTIC_HAZARD: Answer.HEURISTIC_HAZARD,
}


# --- the user's block ---------------------------------------------------------------------------------------


def join(core: Core, context: ContextLike, *, authenticated: bool) -> Script[Part]:
    """Take part in the transaction of a context. `authenticated`: it came over an authenticated link.

    Raises ContextRefused, ResourceUnavailable (the superior cannot be reached), ConfigurationError (in no tree).
    """
    core.check_open()
    tree = tree_of(core)
    if not core.journal.keeps_promises:
        raise ConfigurationError(
            "A manager whose journal is in a database cannot take part under another manager.",
            advice="Give it a journal in a folder, or at a node.",
        )
    read = contexts.read(context, keys=tree.keys, now_ms=core.clock.wall_ms(), authenticated=authenticated)
    if read.superior == core.journal.coordinator:
        raise refused("it was exported by this very manager")
    attempt = core.journal.next_attempt()
    question = Join(
        ticket=read.ticket,
        guid=core.journal.coordinator.raw,
        address=tree.exchange.address,
        attempt=attempt.to_int(),
    )
    answer = yield from _ask_superior(core, read, question)
    identifier = Identifier.from_bytes(answer.identifier)
    if (identifier.coordinator, identifier.transaction) != (read.superior, read.transaction):
        raise refused("its superior is another manager than it says, or speaks of another transaction")
    yield from exporting.learn_address(core, read.superior, read.address)
    return _begin(core, read, identifier, Key(TransactionId.under(identifier), attempt), answer.remaining_ms / 1000)


def _ask_superior(core: Core, context: Context, question: Join) -> Script[Joined]:
    try:
        answer = yield from tree_of(core).exchange.ask(context.address, question, JOIN_S_MAX)
    except (ResourceUnavailable, ConnectionLost) as error:
        raise ResourceUnavailable(
            f"The manager at {context.address}, whose transaction {context.transaction} was to be joined, cannot be "
            f"reached: {error.message} Nothing was done under it.",
            advice="Its transaction aborts; the caller may run it again.",
        ) from error
    if isinstance(answer, Joined):
        return answer
    if isinstance(answer, NotJoined):
        sometimes("a context was refused by its superior")
        raise refused(answer.why)
    raise refused(f"its superior answered with {type(answer).__name__}")


def _begin(core: Core, context: Context, identifier: Identifier, key: Key, timeout_s: float) -> Part:
    work = Work(
        core,
        key,
        user_id=None,
        fingerprint=b"",
        timeout_s=timeout_s,
        wait_applied=True,
        coordinator=Subordinate(key, core.journal.coordinator, identifier),
    )
    part = Part(identifier, context.address, work, Turn(core.runtime, core.clock, f"the part {identifier}"))
    with core.mutex:
        core.place.parts[identifier] = part
    core.enter(work)
    return part


def leave(core: Core, part: Part, error: BaseException | None) -> Script[None]:
    """The user's block has ended: with an error the part is aborted, else it waits to be asked for its vote.

    Raises TransactionAborted when it was aborted meanwhile: it took too long, or its superior has ended it.
    """
    work = part.work
    yield from part.gate.acquire(_gate_deadline(core), "its block's end")
    try:
        part.is_open = False
        if error is None and core.clock.monotonic() > work.deadline:
            work.cancel("its time was over", work.timeout_error())
        if error is not None:
            yield from _drop(core, part, f"{type(error).__name__} in the block: {error}", error)
        elif work.cancelled or work.ended:
            yield from _drop(core, part, work.cancelled)
            raise commit.aborted_error(work)
    finally:
        part.gate.release()


def _drop(core: Core, part: Part, why: str, error: BaseException | None = None) -> Script[None]:
    """Abort it: it has not voted, so nobody needs to be asked."""
    _forget(core, part)
    if not part.work.ended:
        yield from commit.abort(part.work, why, error)


def _forget(core: Core, part: Part) -> None:
    with core.mutex:
        core.place.parts.pop(part.superior, None)


def _gate_deadline(core: Core) -> float:
    return core.clock.monotonic() + GATE_S_MAX


# --- asked and told by the superior ----------------------------------------------------------------------------


def prepare(core: Core, question: Prepare) -> Script[Message]:
    """The vote (A1..A5). Raises OutcomePending when the journal has failed: then there is none."""
    part = core.place.parts.get(Identifier.from_bytes(question.identifier))
    if part is None or part.work.key.attempt.to_int() != question.attempt:
        sometimes("a vote was asked of a work that is lost")
        return _no("it knows no such work: that was lost, or has ended")
    yield from part.gate.acquire(_gate_deadline(core), "its vote")
    try:
        if part.is_open:
            sometimes("a vote was asked before the block had ended")
            part.work.cancel("its superior ended the transaction before this block had ended")
            _forget(core, part)
            return _no("its block has not ended yet")
        choice = yield from commit.vote(part.work)
        if choice is Choice.YES:
            part.ask_at = core.clock.monotonic() + ASK_AFTER_S
        else:
            _forget(core, part)
        why = part.work.coordinator.why if choice is Choice.NO else ""
        return Voted(choice=choice.name, why=why[:1000], retryable=part.work.retryable)
    finally:
        part.gate.release()


def _no(why: str) -> Voted:
    return Voted(choice=Choice.NO.name, why=why, retryable=True)


def tell(core: Core, question: Tell) -> Script[Message]:
    """The outcome. Answered only when it will certainly be finished here."""
    answer = yield from told(core, Identifier.from_bytes(question.identifier), commit_it=question.commit)
    return Told(answer=answer.name)


def told(core: Core, identifier: Identifier, *, commit_it: bool) -> Script[Answer]:
    """The superior's word about a part, however it came. RETRY: not certain; it must be told again."""
    part = core.place.parts.get(identifier)
    if part is None:
        return (yield from promises.told(core, identifier, commit=commit_it))
    yield from part.gate.acquire(_gate_deadline(core), "its outcome")
    try:
        return (yield from _obey(core, part, commit_it=commit_it))
    finally:
        part.gate.release()


def _obey(core: Core, part: Part, *, commit_it: bool) -> Script[Answer]:
    coordinator = commit.subordinate(part.work)
    heard = coordinator.hear(commit=commit_it)
    if heard is Heard.EARLY:
        if part.is_open:  # the user's own code may be using its connections: the end of the block aborts
            part.work.cancel("its superior aborted")
            _forget(core, part)
        else:
            yield from _drop(core, part, "its superior aborted")
        return Answer.ABORTED
    if heard is Heard.WRONG:
        log.error("%r was told commit=%s by its superior at %s: refused.", coordinator, commit_it, part.address)
        return Answer.RETRY
    if heard is Heard.NOW:
        if not (yield from commit.obey(part.work, commit=commit_it)):
            return Answer.RETRY
        _forget(core, part)
    answer = _ANSWERS[coordinator.result]
    if commit_it and answer is Answer.ABORTED:
        return Answer.HEURISTIC_ROLLBACK
    return answer


# --- time ---------------------------------------------------------------------------------------------------------


def expire(core: Core) -> Script[None]:
    """Parts whose time is over without a vote are aborted: the locks go, whatever became of the superior."""
    for part in list(core.place.parts.values()):
        late = core.clock.monotonic() > part.work.deadline
        if late and commit.subordinate(part.work).vote is None:
            if part.is_open:
                part.work.cancel("its time was over", part.work.timeout_error())
                continue
            yield from part.gate.acquire(_gate_deadline(core), "its timeout")
            try:
                if commit.subordinate(part.work).vote is None:
                    sometimes("a part's time was over before it was asked for its vote")
                    yield from _drop(core, part, "its time was over")
            finally:
                part.gate.release()
