"""What the real code does under faults is what the specification allows; and what is made wrong is not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from syncpoint.errors import ConnectionLost
from syncpoint.ids import Attempt, BranchNumber, Guid, Identifier, Incarnation, TransactionId
from syncpoint.resources.base import BranchStart
from syncpoint.resources.memory import MemoryResource
from syncpoint.resources.memory_server import MemorySession
from syncpoint.runners.threads import ThreadRunner
from syncpoint.simulation.mutants import MUTANTS
from syncpoint.steps import Local
from syncpoint.system import SystemClock, SystemRandom
from tests.spec.corruption import RULES, corrupted
from tests.spec.histories import Action, Trace
from tests.spec.recorder import Recorder
from tests.spec.simulated import record_seed, record_seeds
from tests.spec.tlc import validate

SEEDS = range(1, 6)
TRACES_MIN = 1000
OTHER_SEEDS = range(11, 13)
CORRUPTED_MIN = 100
A = (1, 1)
NAMES = ("a", "b")

BEGIN = (Action("start", p=1), Action("begin", a=A, names=NAMES))


def kinds(traces: Sequence[Trace]) -> Counter[str]:
    return Counter(action.e for trace in traces for action in trace.actions)


def test_recorded_traces_are_accepted() -> None:
    """Every transaction of some seeds: processes that die, power cuts, lost messages, recovery by others."""
    traces = record_seeds(SEEDS)
    verdicts = validate(traces)
    assert not verdicts.rejected, "\n".join(f"at event {event}:\n{trace}" for trace, event in verdicts.rejected)
    assert len(verdicts.accepted) >= TRACES_MIN
    seen = kinds(traces)
    assert {"die", "abort", "missing", "evidence", "finish abort", "end", "clean"} <= seen.keys(), seen


def test_corrupted_traces_are_rejected() -> None:
    """Each is wrong by a rule that says what it breaks; the specification notices every one."""
    broken = list(corrupted(record_seeds(OTHER_SEEDS), each=5))
    verdicts = validate([trace for _, trace in broken])
    assert not verdicts.accepted, "\n".join(map(str, verdicts.accepted))
    assert len(verdicts.rejected) >= CORRUPTED_MIN
    assert len({name for name, _ in broken}) >= len(RULES) - 5, "hardly any rule found a trace to break"


@pytest.mark.parametrize("mutant", ["recover what living processes work on", "end without acknowledgement"])
def test_traces_of_a_mutant_are_rejected(mutant: str) -> None:
    """What is recorded is enough to see a bug of the real code, though nothing came of it in this seed."""
    with MUTANTS[mutant].patch():
        traces = record_seed(1)
    assert validate(traces).rejected


def test_it_is_told_where_a_trace_goes_wrong() -> None:
    votes = [Action(what, a=A, r=name, s="yes") for name in NAMES for what in ("voted", "vote")]
    decide = Action("decide", a=A, names=NAMES)
    good = Trace("good", (*BEGIN, *votes, decide, Action("accepted", a=A)))
    bad = Trace("bad", (*BEGIN, *votes[:-1], decide, Action("accepted", a=A)))
    verdicts = validate([good, bad])
    assert verdicts.accepted == (good,)
    assert verdicts.rejected == ((bad, 6),)


def test_evidence_goes_when_its_process_is_proven_dead_after_the_records_were_read() -> None:
    """Seed 10: it is asked anew whose incarnations have ended, so who died meanwhile is taken over (DESIGN section 3:
    evidence without a record goes once its incarnation has ended). Not while he lives, and not without an End."""
    votes = [Action(what, a=A, r=name, s="yes") for name in NAMES for what in ("voted", "vote")]
    decided = [Action("decide", a=A, names=NAMES), Action("accepted", a=A)]
    finished = [*(Action("phase two", a=A, r=name) for name in NAMES), Action("end", p=1, a=A)]
    told = Action("told", a=A, s="committed")
    looks = [Action(what, p=2, r="a") for what in ("scan", "looks", "looked")]
    dies, cleans = Action("die", p=1), Action("clean", p=2, a=A, r="a")
    before = [BEGIN[0], Action("start", p=2), BEGIN[1], *votes, *decided]
    good = Trace("good", (*before, *finished, told, *looks, dies, cleans))
    alive = Trace("he lives", (*before, *finished, told, *looks, cleans))
    unended = Trace("no End", (*before, *finished[:-1], told, *looks, dies, cleans))
    verdicts = validate([good, alive, unended])
    assert verdicts.accepted == (good,)
    assert verdicts.rejected == ((alive, len(alive.actions)), (unended, len(unended.actions)))


def test_a_prepare_that_arrives_when_nobody_waits_for_it_is_recorded() -> None:
    """Seeds 6 and 7: its reply is given up, the transaction is aborted, and only then the branch is prepared; a scan
    shows it, and recovery rolls it back (O16)."""
    recorder = Recorder()
    resource = MemoryResource("a", "memory://late", {}, mode="sync", clock=SystemClock(), random=SystemRandom())
    server = resource.server
    recorder.attach_server(server)
    journal: Any = object()
    recorder.attach_resource(resource, journal)
    identifier = Identifier(Guid(b"c" * 16), TransactionId(b"t" * 16), Attempt(Incarnation(1), 1), BranchNumber(1))
    session = MemorySession(server.epoch)
    runner = ThreadRunner()
    runner.run(resource.begin(session, BranchStart(identifier, 10_000)))
    resource.connection(session).put("key", 1)
    asking = resource.prepare(session)
    arrives = next(asking)
    assert isinstance(arrives, Local)
    with pytest.raises(ConnectionLost):
        asking.throw(ConnectionLost("no reply"))
    assert "voted" not in [event.what for event in recorder.events]
    arrives.run()
    voted = recorder.events[-1]
    assert (voted.what, voted.said, voted.key, voted.resource) == ("voted", "yes", identifier.key, "a")
    assert server.in_doubt() == [identifier]
