"""Histories for the checkers' tests: written out by hand in few words, or generated as some execution left them.

Not for: judging them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from syncpoint.testing.checkers import Append, Finding, History, Operation, Outcome, Read
from syncpoint.testing.checkers.history import AnyAction, Name

A, B = "a", "b"


def ok(id: Name, begin: int, end: int, *actions: AnyAction, settled: bool = False) -> Operation:
    return _operation(id, begin, end, actions, Outcome.OK, settled=settled)


def fail(id: Name, begin: int, end: int, *actions: AnyAction) -> Operation:
    return _operation(id, begin, end, actions, Outcome.FAIL)


def open_ended(id: Name, begin: int, *actions: AnyAction, end: int | None = None) -> Operation:
    return _operation(id, begin, end, actions, Outcome.INDETERMINATE)


def _operation(
    id: Name, begin: int, end: int | None, actions: tuple[AnyAction, ...], outcome: Outcome, *, settled: bool = False
) -> Operation:
    return Operation(
        id=id, process=id, invoked_at=begin, completed_at=end, outcome=outcome, settled=settled, actions=actions
    )


def append(key: str, value: Name, resource: str = A) -> Append:
    return Append(resource=resource, key=key, value=value)


def read(key: str, *values: Name, resource: str = A) -> Read:
    return Read(resource=resource, key=key, values=values)


def of(*operations: Operation) -> History:
    return History(operations)


def kinds(findings: Iterable[Finding]) -> set[str]:
    """What was found; each finding says so in one sentence that names its operations."""
    found = set()
    for finding in findings:
        assert finding.sentence.endswith("."), finding
        assert "\n" not in finding.sentence
        assert finding.operations, finding
        assert all(str(one) in finding.sentence for one in finding.operations[:2]), finding
        found.add(finding.kind.value)
    return found


def replaced(history: History, at: int, actions: Iterable[AnyAction]) -> History:
    """The history with other actions in one operation."""
    operations = list(history.operations)
    operations[at] = msgspec.structs.replace(operations[at], actions=tuple(actions))
    return History(tuple(operations))


def patient(examples: int) -> settings:
    """So many examples, however busy the machine is."""
    return settings(max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow])


# --- generated -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Slot:
    """When an operation began, took effect if it did (`point`, in the order of a list of slots) and ended."""

    begin: int
    end: int | None
    outcome: Outcome
    has_effect: bool

    def operation(self, id: int, *actions: AnyAction, settled: bool = False) -> Operation:
        return Operation(
            id=id,
            process=id % 3,
            invoked_at=self.begin,
            completed_at=self.end,
            outcome=self.outcome,
            settled=settled,
            actions=actions,
        )


@st.composite
def slots(draw: st.DrawFn, *, most: int = 12, certain: bool = False) -> list[Slot]:
    """Operations that take effect one after the other, at 100, 200, …; they begin before and end after that, so they
    overlap. Some fail, and some are indeterminate: with their effect, without, or with it long after they had ended.
    With `certain` all are OK, and none overlaps another."""
    made = []
    for number in range(draw(st.integers(1, most))):
        point = 100 * (number + 1)
        early, late = (10, 10) if certain else (draw(st.integers(0, 350)), draw(st.integers(0, 350)))
        kind = "ok" if certain else draw(st.sampled_from(["ok", "ok", "ok", "fail", "done", "not done", "late"]))
        begin, end = point - early, point + late
        match kind:
            case "ok":
                made.append(Slot(begin, end, Outcome.OK, True))
            case "fail":
                made.append(Slot(begin, end, Outcome.FAIL, False))
            case "late":
                made.append(Slot(begin, begin + early // 2, Outcome.INDETERMINATE, True))
            case _:
                ended = draw(st.sampled_from([None, end]))
                made.append(Slot(begin, ended, Outcome.INDETERMINATE, kind == "done"))
    return made
