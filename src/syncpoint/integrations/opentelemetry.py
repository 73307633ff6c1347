"""Spans for OpenTelemetry: a transaction with its phases, and what recovery finishes.

Needs `pip install 'syncpoint[opentelemetry]'`, and an SDK and an exporter that the application sets up.

    from syncpoint.integrations import opentelemetry

    opentelemetry.enable(manager)                   # before `open`, to miss nothing

    syncpoint.transaction                           the parent is whatever span was current when it began
    ├── (spans of drivers, of your code …)          in the block it is the current span
    ├── syncpoint.prepare
    │   ├── PREPARE bank                            one for each database that was asked
    │   └── PREPARE ledger
    ├── syncpoint.decide
    └── syncpoint.commit
        └── …

    syncpoint.recovery                              a trace of its own, when a pass finished something, or failed
    └── syncpoint.recover                           each branch, linked to its transaction's span if that is known

Names and attributes are stable; `docs/metrics.md` lists them. The user's id and texts of errors can hold your data:
they are recorded only with `details=True`. Not for: metrics (prometheus.py).
"""

from __future__ import annotations

import time
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from contextvars import Token
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from syncpoint.errors import ConfigurationError
from syncpoint.ids import Key
from syncpoint.manager.aio import AsyncTransactionManager
from syncpoint.manager.observer import (
    BlockEntered,
    BlockLeft,
    BranchRecovered,
    BranchTold,
    EndedAs,
    Event,
    PassEnded,
    Phase,
    PhaseBegan,
    PhaseEnded,
    TransactionBegun,
    TransactionEnded,
)
from syncpoint.manager.sync import TransactionManager

try:
    from opentelemetry import context, trace
    from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode, TracerProvider
except ImportError as error:
    raise ConfigurationError(
        "Spans need the OpenTelemetry API, which is not installed.", advice="pip install 'syncpoint[opentelemetry]'"
    ) from error

__all__ = ["OpenTelemetryObserver", "enable"]

REMEMBERED_MAX = 1000
"""Transactions left to recovery whose spans are remembered for its links."""
_OPERATIONS = {
    Phase.PREPARE: "PREPARE",
    Phase.COMMIT: "COMMIT",
    Phase.ONE_PHASE: "COMMIT",
    Phase.ABORT: "ROLLBACK",
    Phase.RELEASE: "ROLLBACK",
}


def enable(
    manager: TransactionManager | AsyncTransactionManager,
    tracer_provider: TracerProvider | None = None,
    *,
    details: bool = False,
) -> OpenTelemetryObserver:
    """Have a manager traced.

    Parameters: `tracer_provider` instead of the global one. `details`: record the user's id, and texts of errors.
    """
    observer = OpenTelemetryObserver(tracer_provider, details=details)
    manager.add_observer(observer)
    return observer


@dataclass(slots=True)
class _Open:
    """A transaction that runs: its span, the phase it is in, and what its block replaced as the current span."""

    span: Span
    phase: Span | None = None
    token: Token[context.Context] | None = None


class OpenTelemetryObserver:
    """Makes spans of what one manager tells: for `TransactionManager(observers=[…])`. See `enable`."""

    def __init__(self, tracer_provider: TracerProvider | None = None, *, details: bool = False) -> None:
        self._tracer = trace.get_tracer("syncpoint", _version(), tracer_provider=tracer_provider)
        self._details = details
        self._open: dict[Key, _Open] = {}
        self._left: OrderedDict[Key, SpanContext] = OrderedDict()
        """Spans of transactions that were left to recovery, oldest first."""
        self._recovered: defaultdict[str, list[tuple[int, BranchRecovered]]] = defaultdict(list)
        """What the pass under way has finished: resource to (when, what)."""
        self._trouble: dict[str, str] = {}
        """Why the last pass over a resource failed: said once, not every few seconds."""

    def __repr__(self) -> str:
        return f"<OpenTelemetryObserver {len(self._open)} transactions>"

    def observe(self, event: Event, /) -> None:
        """Begin or end the spans that an event speaks of."""
        match event:
            case TransactionBegun():
                self._begun(event)
            case BlockEntered() | BlockLeft():
                self._block(event)
            case PhaseBegan() | PhaseEnded() if event.phase is not Phase.WORK:
                self._phase(event)
            case BranchTold():
                self._told(event)
            case TransactionEnded():
                self._ended(event)
            case BranchRecovered():
                self._recovered[event.resource].append((time.time_ns(), event))
            case PassEnded():
                self._passed(event)

    # --- a transaction ------------------------------------------------------------------------------------------

    def _begun(self, event: TransactionBegun) -> None:
        span = self._tracer.start_span("syncpoint.transaction", attributes=_names(event.key))
        if self._details and event.user_id is not None:
            span.set_attribute("syncpoint.user_id", event.user_id)
        self._open[event.key] = _Open(span)

    def _block(self, event: BlockEntered | BlockLeft) -> None:
        running = self._open.get(event.key)
        if running is None:
            return
        if isinstance(event, BlockEntered):
            running.token = context.attach(trace.set_span_in_context(running.span))
        elif running.token is not None:
            context.detach(running.token)
            running.token = None

    def _phase(self, event: PhaseBegan | PhaseEnded) -> None:
        running = self._open.get(event.key)
        if running is None:
            return
        if isinstance(event, PhaseBegan):
            running.phase = self._tracer.start_span(
                f"syncpoint.{event.phase}",
                trace.set_span_in_context(running.span),
                attributes={**_names(event.key), "syncpoint.phase": event.phase.value},
            )
        elif running.phase is not None:
            if event.error:
                running.phase.set_attribute("error.type", event.error)
                running.phase.set_status(Status(StatusCode.ERROR))
            running.phase.end()
            running.phase = None

    def _told(self, event: BranchTold) -> None:
        running = self._open.get(event.key)
        if running is None:
            return
        now = time.time_ns()
        self._tracer.start_span(
            f"{_OPERATIONS[event.step]} {event.resource}",
            trace.set_span_in_context(running.phase or running.span),
            kind=SpanKind.CLIENT,
            start_time=now - int(event.seconds * 1e9),
            attributes={
                **_names(event.key),
                "syncpoint.resource": event.resource,
                "db.system.name": event.system,
                "db.operation.name": _OPERATIONS[event.step],
            },
        ).end(now)

    def _ended(self, event: TransactionEnded) -> None:
        running = self._open.pop(event.key, None)
        if running is None:
            return
        span = running.span
        span.set_attribute("syncpoint.outcome", event.outcome.value)
        span.set_attribute("syncpoint.resources", event.resources)
        if event.pending:
            span.set_attribute("syncpoint.pending", sorted(event.pending))
        if event.outcome is EndedAs.ABORTED:
            span.set_attribute("syncpoint.retryable", event.retryable)
        if event.outcome is not EndedAs.COMMITTED:
            span.set_status(Status(StatusCode.ERROR, event.why if self._details else event.outcome.value))
        if event.pending or event.outcome is EndedAs.OUTCOME_PENDING:
            self._remember(event.key, span.get_span_context())
        span.end()

    def _remember(self, key: Key, span_context: SpanContext) -> None:
        self._left[key] = span_context
        while len(self._left) > REMEMBERED_MAX:
            self._left.popitem(last=False)

    # --- recovery -------------------------------------------------------------------------------------------------

    def _passed(self, event: PassEnded) -> None:
        branches = self._recovered.pop(event.resource, [])
        is_news = bool(event.error) and not self._trouble.get(event.resource)
        self._trouble[event.resource] = event.error
        if not branches and not is_news:
            return
        now = time.time_ns()
        span = self._tracer.start_span(
            "syncpoint.recovery",
            context.Context(),  # the background may have been started within some request's span
            start_time=now - int(event.seconds * 1e9),
            attributes={
                "syncpoint.resource": event.resource,
                "syncpoint.recovery.committed": event.committed,
                "syncpoint.recovery.aborted": event.aborted,
                "syncpoint.recovery.in_doubt": sum(event.in_doubt.values()),
            },
        )
        if event.error:
            span.set_status(Status(StatusCode.ERROR, event.error if self._details else None))
        for when, branch in branches:
            self._recover(span, when, branch)
        span.end(now)

    def _recover(self, parent: Span, when: int, branch: BranchRecovered) -> None:
        self._tracer.start_span(
            "syncpoint.recover",
            trace.set_span_in_context(parent, context.Context()),
            links=list(self._links(branch.identifier.key)),
            start_time=when,
            attributes={
                **_names(branch.identifier.key),
                "syncpoint.resource": branch.resource,
                "syncpoint.decision": "commit" if branch.commit else "abort",
                "syncpoint.answer": branch.answer,
            },
        ).end(when)

    def _links(self, key: Key) -> Iterator[Link]:
        known = self._left.get(key)
        if known is not None:
            yield Link(known)


def _version() -> str:
    try:
        return version("syncpoint")
    except PackageNotFoundError:  # a checkout that was never installed
        return ""


def _names(key: Key) -> dict[str, str]:
    return {"syncpoint.transaction.id": str(key.transaction), "syncpoint.attempt": str(key.attempt)}
