"""Deliberate bugs in trees of managers (B10), for the simulator to catch: superiors, subordinates, and what is between.

Not for: the rules themselves (protocol/subordinate.py); those mutants are the model's.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from syncpoint.errors import ConnectionLost, ResourceUnavailable
from syncpoint.ids import Identifier
from syncpoint.journal import gathering
from syncpoint.journal.base import View
from syncpoint.manager import answering, commit, exporting, joining, promises, recovery
from syncpoint.manager.core import Core
from syncpoint.manager.transaction import Work
from syncpoint.messages import Message
from syncpoint.protocol.coordinator import Effects, State
from syncpoint.protocol.recovery import Fate, fate_of
from syncpoint.protocol.subordinate import Subordinate
from syncpoint.protocol.words import Answer, Decision
from syncpoint.records import Commit, Prepared, Record
from syncpoint.resources.subordinate import SubordinateResource
from syncpoint.resources.subordinate_messages import AskOutcome, Outcome, Prepare
from syncpoint.simulation.mutant import Mutant, put
from syncpoint.steps import Script

_force = commit._force


def _not_forced(kind: type[Record], work: Work, records: tuple[Record, ...]) -> Script[Effects]:
    """A subordinate's record of this kind is written some time, and it goes on at once."""
    if isinstance(records[0], kind) and isinstance(work.coordinator, Subordinate):
        work.core.journal.note(records)
        return work.coordinator.accepted()
    return (yield from _force(work, records))


def _end_alone(core: Core) -> Script[None]:
    """A part whose time is over is aborted although it has voted."""
    yield from _expire(core)
    for part in list(core.place.parts.values()):
        late = core.clock.monotonic() > part.work.deadline
        if late and part.work.coordinator.state is State.IN_DOUBT:
            yield from commit.obey(part.work, commit=False)
            joining._forget(core, part)


_expire = joining.expire


def _forget_promises(*args: Any, **kwargs: Any) -> View:
    return replace(_view(*args, **kwargs), promised={}, promised_elsewhere={})


_view = gathering.view


def _take_silence_for_done(self: SubordinateResource, *args: Any, **kwargs: Any) -> Script[Answer]:
    """A subordinate that does not acknowledge is thought to have: the record ends."""
    try:
        return (yield from _tell(self, *args, **kwargs))
    except (ConnectionLost, ResourceUnavailable):
        return Answer.COMMITTED if kwargs["commit"] else Answer.ABORTED


_tell = SubordinateResource._tell


def _answer_at_once(core: Core, question: AskOutcome) -> Script[Message]:
    """No record means abort, whether or not the transaction is still being decided."""
    identifier = Identifier.from_bytes(question.identifier)
    _, _, facts = yield from recovery.look_around(core)
    fate = fate_of(identifier, replace(facts, live_keys=frozenset()))
    commits = fate is Fate.COMMIT
    return Outcome(decision=(Decision.COMMIT if commits else Decision.ABORT).name)


def _presume_abort(core: Core, identifier: Identifier) -> Script[Decision]:
    """A superior that cannot be asked is thought to have aborted."""
    decision = yield from _ask(core, identifier)
    return Decision.ABORT if decision is Decision.UNKNOWN else decision


_ask = promises.ask


def _vote_in_the_block(core: Core, question: Prepare) -> Script[Message]:
    """The vote does not wait for the end of the user's block."""
    part = core.place.parts.get(Identifier.from_bytes(question.identifier))
    if part is not None:
        part.is_open = False
    return (yield from _prepare(core, question))


_prepare = joining.prepare


def _find_nobody(core: Core, view: View) -> None:
    """A restarted superior does not look for whom it has to tell."""


def _obey_abort_only(core: Core, promise: Prepared, *, commit: bool) -> Script[Answer]:
    """What an earlier process promised is rolled back, whatever the superior says."""
    yield from _record(core, promise, commit=False)
    return Answer.COMMITTED if commit else Answer.ABORTED


_record = promises._record


def _never_ask(core: Core) -> list[Identifier]:
    """A part in doubt waits to be told, and never asks."""
    return []


def _no_own_record(work: Work, *, commit: bool) -> Script[bool]:
    """A subordinate in doubt that is told to abort keeps its branches."""
    if not commit:
        yield from _finish(work)
        return True
    return (yield from _obey(work, commit=commit))


_obey, _finish = commit.obey, commit.finish


J = partial(Mutant, where="manager/joining.py", workload="tree")
E = partial(Mutant, where="manager/exporting.py", workload="tree")
P = partial(Mutant, where="manager/promises.py", workload="tree")
C = partial(Mutant, where="manager/commit.py", workload="tree")

MUTANTS: tuple[Mutant, ...] = (
    C(
        "tree: vote before Prepared is forced",
        "Prepared is forced before the vote (S-I1)",
        patch=lambda: put(commit, "_force", partial(_not_forced, Prepared)),
    ),
    C(
        "tree: acknowledge before Commit is forced",
        "a subordinate's Commit is forced before it answers (S-I3)",
        patch=lambda: put(commit, "_force", partial(_not_forced, Commit)),
    ),
    C(
        "tree: leave branches when told to abort",
        "locks are released by the outcome (A7)",
        patch=lambda: put(commit, "obey", _no_own_record),
    ),
    J(
        "tree: abort alone after the vote",
        "in doubt nobody decides alone (A7, S-I2)",
        patch=lambda: put(joining, "expire", _end_alone),
    ),
    J(
        "tree: vote before the block has ended",
        "nothing is added after the vote",
        patch=lambda: put(joining, "prepare", _vote_in_the_block),
    ),
    E(
        "tree: find no subordinates after a restart",
        "a restarted superior knows whom to tell (A6)",
        patch=lambda: put(exporting, "find_subordinates", _find_nobody),
    ),
    P(
        "tree: forget promises at the restart",
        "a promise outlives its process (A7)",
        where="journal/gathering.py",
        patch=lambda: put(gathering, "view", _forget_promises),
    ),
    P(
        "tree: a superior out of reach has aborted",
        "who cannot ask stays in doubt (O30)",
        patch=lambda: put(promises, "ask", _presume_abort),
    ),
    P(
        "tree: roll back what an earlier process promised",
        "the superior's word counts (A7, O29)",
        patch=lambda: put(promises, "_record", _obey_abort_only),
    ),
    P(
        "tree: never ask a superior",
        "whoever is in doubt asks (A6, O29)",
        patch=lambda: put(promises, "_due_parts", _never_ask),
    ),
    Mutant(
        "tree: silence is an acknowledgement",
        "a record ends when all have acknowledged (O28)",
        "resources/subordinate.py",
        lambda: put(SubordinateResource, "_tell", _take_silence_for_done),
        workload="tree",
    ),
    Mutant(
        "tree: no record, so abort, at once",
        "abort only when no record can still appear (O30)",
        "manager/answering.py",
        lambda: put(answering, "_outcome", _answer_at_once),
        workload="tree",
    ),
)
