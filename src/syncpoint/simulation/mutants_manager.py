"""Deliberate bugs in `manager/` and `resources/`, for the simulator to catch.

Not for: the rules themselves (protocol/); those mutants are the model's (model/mutants.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from syncpoint.ids import Attempt, Identifier
from syncpoint.journal.base import View
from syncpoint.manager import commit, recovery
from syncpoint.manager.branch import Branch
from syncpoint.manager.core import Core
from syncpoint.manager.handle import ResourceHandle
from syncpoint.manager.transaction import Work
from syncpoint.protocol.coordinator import Decided, Effects
from syncpoint.protocol.recovery import Facts, fate_of
from syncpoint.protocol.words import Answer, Choice, Evidence
from syncpoint.records import End, Record, key_fields
from syncpoint.resources.base import Found, Session, Vote
from syncpoint.resources.memory import MemoryResource
from syncpoint.resources.memory_server import MemoryServer, MemorySession
from syncpoint.resources.pool import Pool
from syncpoint.simulation.mutant import Mutant, put
from syncpoint.steps import Gather, Script

# --- the end of a transaction ---------------------------------------------------------------------------------------


def _answer_for_granted(work: Work, records: tuple[Record, ...]) -> Script[Effects]:
    """The decision goes to the journal, and nobody waits for it to be forced."""
    work.core.runtime.spawn(work.core.journal.force(records), "force, later")
    return work.coordinator.accepted()
    yield from ()


def _no_force(work: Work, records: tuple[Record, ...]) -> Script[Effects]:
    """The decision is never written."""
    return work.coordinator.accepted()
    yield from ()


_prepare = Branch.prepare


def _lost_vote_is_yes(self: Branch) -> Script[Vote]:
    try:
        return (yield from _prepare(self))
    except Exception:
        return Vote(Choice.YES)


_one_phase = Branch.commit_one_phase


def _lost_one_phase(answer: Answer, self: Branch) -> Script[Answer | Vote]:
    """A one-phase commit whose reply is lost is taken for this."""
    try:
        assert self.session is not None
        return (yield from self.handle.resource.commit_one_phase(self.session))
    except Exception:
        return answer
    finally:
        yield from self._discard_session()


def _commit_at_once(self: Branch) -> Script[Vote]:
    """The branch commits instead of voting."""
    assert self.session is not None
    vote = yield from _prepare(self)
    if vote.choice is Choice.YES and self.session is not None:
        yield from self.handle.resource.commit(self.session)
    return vote


def _drop_phase_two(work: Work, left: Effects) -> Script[None]:
    """With wait="decided" nobody tells the branches."""
    return
    yield from ()


def _forget_result(work: Work) -> Decided:
    return replace(_decided(work), result=None)


_decided = commit._decided


def _only_first_writer(work: Work) -> Script[list[Any]]:
    """Of several writers only the first is asked to vote; the others are let go."""
    return (yield from _writers(work))[:1]


_writers = commit._writers

# --- recovery ---------------------------------------------------------------------------------------------------------


def _with_facts(change: dict[str, Any], core: Core) -> Script[tuple[Attempt, View, Facts]]:
    ceiling, view, facts = yield from _look_around(core)
    return ceiling, view, replace(facts, **change)


_look_around = recovery.look_around


def _presume_abort(core: Core, identifier: Identifier, facts: Facts) -> Script[tuple[Any, None]]:
    """Whatever is found prepared, and is nobody's, is rolled back."""
    return fate_of(identifier, replace(facts, decisions={})), None
    yield from ()


def _pass_with_old_records(
    core: Core, handle: ResourceHandle, result: recovery.PassResult, deadline: float
) -> Script[None]:
    """The records are read before the branches are scanned."""
    yield from handle.ensure_ready(deadline)
    ceiling, view, facts = yield from _look_around(core)
    found = yield from recovery.scan(handle, deadline)
    for branch in found:
        yield from recovery._finish_found(core, handle, branch, view, facts, result, deadline, ceiling.incarnation)
    yield from _pass(core, handle, result, deadline)


_pass = recovery._pass


def _half_a_scan(handle: ResourceHandle, deadline: float) -> Script[list[Found]]:
    """A scan that failed is taken for an empty one."""
    try:
        found = yield from handle.ask(deadline, handle.resource.scan)
    except Exception:
        return []
    return found[:0]


def _end_at_once(core: Core, view: View) -> None:
    """A record ends with its first acknowledgement."""
    live = core.live_keys()
    for key in view.decisions:
        if key not in live and core.acknowledged.get(key):
            core.journal.note((End(**key_fields(key)),))


def _end_unasked(core: Core, view: View) -> None:
    """A record ends whether or not anybody has acknowledged."""
    live = core.live_keys()
    for key in view.decisions:
        if key not in live:
            core.journal.note((End(**key_fields(key)),))


def _everything_is_old(self: Core, ceiling: Attempt, unfinished: Any) -> Attempt:
    return ceiling


def _nothing_to_tend(self: Core) -> None:
    """No recovery after the start."""
    self._tasks.append(self.runtime.spawn(self._watch(), "watch for dead processes"))


def _go_on(self: Core, error: Any) -> None:
    """A journal that has failed is no reason to stop (R5, forgotten)."""


def _missing_is_done(*args: Any, **kwargs: Any) -> Script[Answer]:
    """ "Not found" is taken for rolled back by somebody."""
    return Answer.HEURISTIC_ROLLBACK
    yield from ()


def _forget_unsettled(self: Core, work: Work) -> None:
    """Nobody finds out about a lost one-phase commit."""


def _first_handle_only(core: Core) -> Script[dict[str, recovery.PassResult]]:
    handles = list(core.handles.values())[:1]
    yield Gather([recovery.recover_resource(core, handle) for handle in handles], "recover the first")
    return {}


# --- resources ----------------------------------------------------------------------------------------------------


_server_prepare = MemoryServer.prepare


def _yes_whatever(self: MemoryServer, session: MemorySession) -> Vote:
    """PREPARE of a transaction that is gone returns normally, and is believed."""
    return Vote(Choice.YES) if session.work is None else _server_prepare(self, session)


def _wrote_nothing(self: MemoryResource, session: Session) -> Script[bool | None]:
    """A branch that is gone is said to have written nothing."""
    assert isinstance(session, MemorySession)
    return session.work is not None and bool(session.work.writes)
    yield from ()


def _settle_by_looking(self: MemoryServer, identifier: Identifier) -> Evidence:
    """The late commit's key is not taken."""
    return self.evidence(identifier)


def _leave_no_evidence(self: MemoryServer, work: Any, *, evidence: bool) -> None:
    _apply(self, work, evidence=False)


_apply = MemoryServer._apply


def _restart_empty(self: MemoryServer) -> None:
    """What was prepared is lost in a restart: the vote was not durable (A3, A7)."""
    self._prepared.clear()
    _restart(self)


_restart = MemoryServer.restart


def _clean_whatever(self: Pool, session: Session) -> bool:
    """A session whose state is unknown is used again."""
    session.broken = False
    return True


def _drop_all_evidence(self: MemoryServer, coordinator: Any, attempts: Sequence[Attempt]) -> int:
    """Evidence of every attempt goes, also of those not asked for."""
    doomed = self._committed(coordinator)
    for row in doomed:
        del self._evidence[row]
    return len(doomed)


def _abort_is_enough(self: MemoryServer, session: MemorySession) -> None:
    """The server forgets to roll back what a lost connection had under way."""


M = partial(Mutant, where="manager/commit.py")
R = partial(Mutant, where="manager/recovery.py")
S = partial(Mutant, where="resources/memory_server.py")
_NETWORK = ("loss", "cut-replies", "database-restart", "lose-a-reply", "delay-a-request")

MUTANTS: tuple[Mutant, ...] = (
    M("answer before the force", "force before send", patch=lambda: put(commit, "_force", _answer_for_granted)),
    M("decide without a record", "the record is the decision", patch=lambda: put(commit, "_force", _no_force)),
    M("drop phase two", "a decided transaction is finished", patch=lambda: put(commit, "_phase_two", _drop_phase_two)),
    M(
        "forget the result",
        "a resend gets the first reply (C8)",
        patch=lambda: put(commit, "_decided", _forget_result),
        workload="resends",
    ),
    M(
        "ask only one writer",
        "every branch that wrote votes",
        patch=lambda: put(commit, "_writers", _only_first_writer),
    ),
    Mutant(
        "a lost vote is a yes",
        "a lost reply is no vote (O16)",
        "manager/branch.py",
        lambda: put(Branch, "prepare", _lost_vote_is_yes),
    ),
    Mutant(
        "a lost one-phase commit has aborted",
        "a lost reply is settled by evidence (O20)",
        "manager/branch.py",
        lambda: put(Branch, "commit_one_phase", lambda self: _lost_one_phase(Answer.ABORTED, self)),
        kinds=_NETWORK,
    ),
    Mutant(
        "a lost one-phase commit has committed",
        "a lost reply is settled by evidence (O20)",
        "manager/branch.py",
        lambda: put(Branch, "commit_one_phase", lambda self: _lost_one_phase(Answer.COMMITTED, self)),
        kinds=_NETWORK,
    ),
    Mutant(
        "commit instead of voting",
        "no commit before the decision",
        "manager/branch.py",
        lambda: put(Branch, "prepare", _commit_at_once),
    ),
    R(
        "recover what this process works on",
        "a pass leaves live transactions alone (O36)",
        patch=lambda: put(recovery, "look_around", partial(_with_facts, {"live_keys": frozenset()})),
    ),
    R(
        "recover what living processes work on",
        "the living are left alone (O34)",
        patch=lambda: put(recovery, "look_around", partial(_with_facts, {"live_incarnations": frozenset()})),
    ),
    R(
        "read no records",
        "a Commit record says commit (O27)",
        patch=lambda: put(recovery, "judge_found", _presume_abort),
    ),
    R(
        "records before the scan",
        "scan, then who is live, then the records",
        patch=lambda: put(recovery, "_pass", _pass_with_old_records),
    ),
    R(
        "see no prepared branch",
        "a scan is complete or nothing (O35)",
        patch=lambda: put(recovery, "scan", _half_a_scan),
    ),
    R(
        "end with the first acknowledgement",
        "a record ends when all have acknowledged (O28)",
        patch=lambda: put(recovery, "end_what_is_done", _end_at_once),
    ),
    R(
        "end without acknowledgement",
        "a record ends when all have acknowledged (O28)",
        patch=lambda: put(recovery, "end_what_is_done", _end_unasked),
    ),
    Mutant(
        "clean evidence that may be asked for",
        "evidence outlives its record",
        "manager/core.py",
        lambda: put(Core, "oldest_unfinished", _everything_is_old),
    ),
    Mutant(
        "recover only at the start",
        "recovery goes on",
        "manager/core.py",
        lambda: put(Core, "_spawn_background", _nothing_to_tend),
    ),
    Mutant(
        "go on after the journal failed",
        "a failed force stops the manager (R5)",
        "manager/core.py",
        lambda: put(Core, "stop", _go_on),
        kinds=("force-fails", "disk-full", "power-cut"),
    ),
    Mutant(
        "not found is an answer",
        "not found is a question (O19)",
        "manager/handle.py",
        lambda: put(ResourceHandle, "_missing", _missing_is_done),
    ),
    Mutant(
        "forget lost one-phase commits",
        "an uncertain transaction is settled",
        "manager/core.py",
        lambda: put(Core, "leave_unsettled", _forget_unsettled),
        kinds=_NETWORK,
        workload="bank",
    ),
    S(
        "vote yes for lost work",
        "a yes means the work is there (O21)",
        patch=lambda: put(MemoryServer, "prepare", _yes_whatever),
    ),
    Mutant(
        "lost work wrote nothing",
        "only the vote tells of a branch that is gone",
        "resources/memory.py",
        lambda: put(MemoryResource, "wrote", _wrote_nothing),
    ),
    S(
        "settle without taking the key",
        "a very late commit fails (O20)",
        patch=lambda: put(MemoryServer, "settle", _settle_by_looking),
        kinds=("delay-a-request", "lose-a-reply"),
        workload="bank",
    ),
    S(
        "leave no evidence",
        "evidence in the same commit",
        patch=lambda: put(MemoryServer, "_apply", _leave_no_evidence),
    ),
    S(
        "lose votes in a restart",
        "a vote is durable (A3, A7)",
        patch=lambda: put(MemoryServer, "restart", _restart_empty),
    ),
    S(
        "drop all evidence",
        "only the evidence asked for goes",
        patch=lambda: put(MemoryServer, "drop_evidence", _drop_all_evidence),
    ),
    S(
        "keep what a lost connection did",
        "locks go with their connection",
        patch=lambda: put(MemoryServer, "drop_active", _abort_is_enough),
    ),
    Mutant(
        "use broken sessions again",
        "a session of unknown state is closed",
        "resources/pool.py",
        lambda: put(Pool, "_is_clean", _clean_whatever),
    ),
)
