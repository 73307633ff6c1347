"""`Recorder`: write down what a test does, while it does it, as a `History`.

    recorder = Recorder()
    with recorder.operation(process=1) as op, manager.transaction() as tx:
        op.will(Append(resource="bank", key="x", value=7))     # before it is done: it may happen
        ...
        op.did(Read(resource="bank", key="y", values=(1, 2)))  # when the answer is there
    history = recorder.history()

The operation's block is the outer one, so that it ends with what the transaction's end answered. Not for: judging.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from syncpoint.errors import TransactionAborted
from syncpoint.testing.checkers.history import AnyAction, History, Name, Operation, Outcome

Sink = Callable[[Operation], None]
"""Gets an operation when it begins, again whenever an action that may happen is added, and when it has ended."""


class Recorder:
    """Collects operations; any number of threads or tasks may use one.

    Parameters: `now` gives positions on the clock that all operations share (default: the machine's monotonic
    clock in nanoseconds, the same for all processes of one machine; a simulator gives its own, or a counter).
    `prefix`: put before the number to make an operation's id; each of several recorders needs its own.
    `sink`: told of everything before it is done (`files.HistoryWriter`), so that what a killed process did is known.
    """

    def __init__(
        self, now: Callable[[], int] = time.monotonic_ns, *, prefix: str = "", sink: Sink | None = None
    ) -> None:
        self.now = now
        self.sink = sink
        self._prefix = prefix
        self._numbers = itertools.count(1)
        self._begun: list[Recording] = []

    def __repr__(self) -> str:
        return f"<Recorder {len(self._begun)} operations>"

    def operation(
        self,
        process: Name = 0,
        *actions: AnyAction,
        settled: bool = False,
        fails_on: type[Exception] | tuple[type[Exception], ...] = (),
    ) -> Recording:
        """Begin an operation now. `fails_on`: exceptions which prove that nothing happened, besides TransactionAborted:
        a driver's serialization failure, say, when it leaves the transaction's block."""
        number = next(self._numbers)
        name: Name = f"{self._prefix}{number}" if self._prefix else number
        recording = Recording(self, name, process, settled=settled, fails_on=fails_on)
        self._begun.append(recording)
        recording.will(*actions)
        return recording

    def history(self) -> History:
        """All that was recorded; what has not ended is INDETERMINATE."""
        return History(tuple(recording.as_operation() for recording in tuple(self._begun)))


class Recording:
    """One operation under way. A context manager: a normal exit is OK, TransactionAborted (and `fails_on`) is FAIL,
    any other exception INDETERMINATE; or call `ok`, `fail` or `indeterminate`. What is said first counts."""

    def __init__(
        self,
        recorder: Recorder,
        name: Name,
        process: Name,
        *,
        settled: bool,
        fails_on: type[Exception] | tuple[type[Exception], ...],
    ) -> None:
        self._recorder = recorder
        self._name = name
        self._process = process
        self._settled = settled
        self._fails_on = fails_on if isinstance(fails_on, tuple) else (fails_on,)
        self._actions: list[AnyAction] = []
        self._invoked_at = recorder.now()
        self._completed_at: int | None = None
        self._outcome: Outcome | None = None

    def __repr__(self) -> str:
        return f"<Recording {self.as_operation()} {self._outcome or 'under way'} {len(self._actions)} actions>"

    def will(self, *actions: AnyAction) -> None:
        """Note what may happen from now on: call it before doing it."""
        self._actions.extend(actions)
        self._tell()

    def did(self, *actions: AnyAction) -> None:
        """Note what was read: it changes nothing, so afterwards is early enough."""
        self._actions.extend(actions)

    def ok(self) -> None:
        """It happened."""
        self._end(Outcome.OK)

    def fail(self) -> None:
        """It did not happen, and never will."""
        self._end(Outcome.FAIL)

    def indeterminate(self) -> None:
        """Nobody knows."""
        self._end(Outcome.INDETERMINATE)

    def as_operation(self) -> Operation:
        """What is known now."""
        return Operation(
            id=self._name,
            process=self._process,
            invoked_at=self._invoked_at,
            completed_at=self._completed_at,
            outcome=self._outcome or Outcome.INDETERMINATE,
            settled=self._settled,
            actions=tuple(self._actions),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.ok()
        elif isinstance(error, (TransactionAborted, *self._fails_on)):
            self.fail()
        else:
            self.indeterminate()

    def _end(self, outcome: Outcome) -> None:
        if self._outcome is None:
            self._completed_at = self._recorder.now()
            self._outcome = outcome
            self._tell()

    def _tell(self) -> None:
        if self._recorder.sink is not None:
            self._recorder.sink(self.as_operation())
