"""One transaction as a client of the simulator runs it, and what it then knows of it: ok, failed, or unknown.

It does what the facades do (manager/sync.py): begin, the user's work, and then commit, or abort after an error.
Not for: what the transaction does (workloads/).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from syncpoint.errors import (
    AlreadyCommitted,
    ConnectionLost,
    HeuristicHazard,
    HeuristicOutcome,
    JournalError,
    ManagerClosed,
    OutcomePending,
    SyncpointError,
    TransactionAborted,
    TransactionRunning,
)
from syncpoint.manager import commit, operators
from syncpoint.manager.reports import OutcomeState
from syncpoint.manager.results import decode_result, encode_result
from syncpoint.manager.transaction import Work
from syncpoint.resources.memory import MemoryConnection, RowLocked
from syncpoint.simulation.host import Application
from syncpoint.steps import Script, Sleep

ASK_S = 1.0
ASK_TIMES = 60


class Known(Enum):
    """What a client knows of a transaction."""

    OK = auto()
    FAILED = auto()
    """Certainly not done."""
    UNKNOWN = auto()


@dataclass(frozen=True, slots=True)
class Reply:
    """What a client was told."""

    known: Known
    value: Any = None
    why: str = ""
    again: bool = False
    """It was the stored result of an earlier try."""


Body = Callable[[Work], Script[Any]]


def connect(work: Work, resource: str, *, read_only: bool = False) -> Script[MemoryConnection]:
    """The connection of a transaction to a resource."""
    branch = yield from work.branch(resource, read_only=read_only)
    assert branch.session is not None
    connection: MemoryConnection = branch.handle.resource.connection(branch.session)
    return connection


def transact(
    application: Application, body: Body, *, name: str, user_id: str | None = None, wait_applied: bool = True
) -> Script[Reply]:
    """One transaction with `body`, whose result is stored with its id, if it has one. `name` is for the timeline."""
    core, world = application.core, application.world
    assert core is not None
    try:
        work = yield from core.begin(user_id=user_id, timeout_s=None, wait_applied=wait_applied)
    except AlreadyCommitted as error:
        return Reply(Known.OK, error.result, again=True)
    except (TransactionRunning, JournalError, ManagerClosed, ConnectionLost) as error:
        return Reply(Known.FAILED, why=f"not begun: {error}")
    if application.journals is not None and user_id is not None:
        application.journals.claimed(user_id, application, work)
    world.note(
        application.process_name, f"{name} is transaction {str(work.key.transaction)[:8]}, attempt {work.key.attempt}"
    )
    try:
        value = yield from body(work)
        if user_id is not None:
            work.result = encode_result(value, transaction=work.name)
    except Exception as error:
        if not isinstance(error, SyncpointError | RowLocked):
            world.violation(f"{work!r} failed with {error!r}")
        yield from commit.abort(work, f"{type(error).__name__} in the block: {error}", error)
        return Reply(Known.FAILED, why=f"{error}")
    return (yield from _commit(application, work, value))


def _commit(application: Application, work: Work, value: Any) -> Script[Reply]:
    world = application.world
    try:
        yield from commit.commit(work)
    except TransactionAborted as error:
        return Reply(Known.FAILED, why=str(error))
    except (OutcomePending, ManagerClosed, JournalError) as error:
        return (yield from _ask(application, work, str(error)))
    except HeuristicOutcome as error:
        if _may_be_hazard(application, work, error):
            world.count("one-phase commits that can never be told")
            return Reply(Known.UNKNOWN, why=str(error))
        world.violation(f"nobody decided alone, and yet: {error}")
        return Reply(Known.UNKNOWN, why=str(error))
    return Reply(Known.OK, value if work.result is None else decode_result(work.result, transaction=work.name))


def _ask(application: Application, work: Work, why: str) -> Script[Reply]:
    """What became of it, as the errors advise (O50). The journal keeps nothing of a transaction without an id once it
    has ended, so "not known" says something only of one that needed no record."""
    core = application.core
    assert core is not None
    for _ in range(ASK_TIMES):
        yield Sleep(ASK_S)
        try:
            found = yield from operators.outcome(core, str(work.key.transaction))
        except SyncpointError as error:
            return Reply(Known.UNKNOWN, why=f"{why}; {error}")
        if found.state is OutcomeState.COMMITTED:
            return Reply(Known.OK, found.result)  # perhaps of another attempt under the same id
        if found.state is OutcomeState.ABORTED_OR_UNKNOWN:
            was_alone = work.coordinator.lone_writer is not None
            return Reply(Known.FAILED if was_alone else Known.UNKNOWN, why=f"{why}; then: {found.state}")
    return Reply(Known.UNKNOWN, why=why)


def _may_be_hazard(application: Application, work: Work, error: HeuristicOutcome) -> bool:
    """A commit in one phase whose reply was lost, of a process that was taken for dead: its evidence is not there, and
    whoever took over may have cleaned it up. Nobody can tell any more, and the manager says so (`judge_settled`). That
    is the only heuristic outcome that is nobody's fault, and only where death is guessed. (OutcomePending, which a
    process taken for dead may say too, is an answer that every client must expect.)"""
    journals, is_lone = application.journals, work.coordinator.lone_writer is not None
    if journals is None or not is_lone or not isinstance(error, HeuristicHazard):
        return False
    return journals.is_taken_over(work.key.attempt.incarnation)
