"""Metrics for Prometheus: what a manager does, and what is in doubt in its databases.

Needs `pip install 'syncpoint[prometheus]'`.

    from syncpoint.integrations import prometheus

    prometheus.enable(manager)                      # before `open`, to miss nothing
    prometheus_client.start_http_server(9000)       # or however the application is scraped

Names and labels are stable: `docs/metrics.md` lists them. Several managers of one
process share the metrics and are told apart by the label `manager`, which is empty unless `name` is given. Works in
prometheus_client's multiprocess mode: nothing is computed at the scrape. Not for: serving the metrics, or spans
(opentelemetry.py).
"""

from __future__ import annotations

from collections import defaultdict
from typing import ClassVar
from weakref import WeakKeyDictionary, WeakSet

from syncpoint.errors import ConfigurationError
from syncpoint.manager.aio import AsyncTransactionManager
from syncpoint.manager.observer import (
    BranchRecovered,
    BranchTold,
    EndedAs,
    Event,
    HeuristicsListed,
    ManagerStarted,
    ManagerStopped,
    PassEnded,
    PhaseEnded,
    ResendAnswer,
    Resent,
    TookOver,
    TransactionBegun,
    TransactionEnded,
)
from syncpoint.manager.sync import TransactionManager

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
except ImportError as error:
    raise ConfigurationError(
        "Metrics need the Prometheus client, which is not installed.", advice="pip install 'syncpoint[prometheus]'"
    ) from error

__all__ = ["STATUSES", "PrometheusObserver", "enable"]

BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
STATUSES = ("live", "in-doubt", "decided-commit", "presumed-abort", "elsewhere", "unknown-coordinator", "foreign")
"""Why a branch is in doubt, in the words of `syncpoint in-doubt`."""
OUTCOMES = (*EndedAs, "aborted_retryable")


def enable(
    manager: TransactionManager | AsyncTransactionManager, registry: CollectorRegistry = REGISTRY, *, name: str = ""
) -> PrometheusObserver:
    """Have a manager counted in `registry`.

    Parameters: `name` becomes the label `manager`, for processes with several. Call it once for each manager.
    """
    observer = PrometheusObserver(registry, name=name)
    manager.add_observer(observer)
    return observer


class PrometheusObserver:
    """Counts what one manager tells: for `TransactionManager(observers=[…])`. See `enable` for the parameters."""

    def __init__(self, registry: CollectorRegistry = REGISTRY, *, name: str = "") -> None:
        self._families = _Families.of(registry)
        self._name = name
        self.running: set[object] = set()
        """Keys of the transactions that run now."""
        self._families.observers[name].add(self)
        for outcome in OUTCOMES:
            self._families.transactions.labels(name, outcome)
        for answer in ResendAnswer:
            self._families.resends.labels(name, answer)

    def __repr__(self) -> str:
        return f"<PrometheusObserver {self._name or 'without a name'}>"

    def observe(self, event: Event, /) -> None:
        """Count one event."""
        families, name = self._families, self._name
        match event:
            case PhaseEnded():
                families.phases.labels(name, event.phase).observe(event.seconds)
            case BranchTold():
                families.branches.labels(name, event.resource, event.step).observe(event.seconds)
            case TransactionBegun():
                self.running.add(event.key)
                families.count_running(name)
            case TransactionEnded():
                self._ended(event)
            case PassEnded():
                self._passed(event)
            case BranchRecovered():
                answer = "heuristic" if event.is_heuristic else "committed" if event.commit else "aborted"
                families.recovered.labels(name, event.resource, answer).inc()
            case HeuristicsListed():
                families.list_heuristics(name, event)
            case Resent():
                families.resends.labels(name, event.answer).inc()
            case TookOver():
                families.takeovers.labels(name).inc(len(event.incarnations))
            case ManagerStarted():
                self._started(event)
            case ManagerStopped():
                families.manager_up.labels(name).set(0)

    def _started(self, event: ManagerStarted) -> None:
        families, name = self._families, self._name
        self.running.clear()  # in a forked child: they are its parent's
        families.count_running(name)
        families.manager_up.labels(name).set(1)
        families.takeovers.labels(name)
        for resource in event.resources:
            families.left_pending.labels(name, resource)
            for result in ("ok", "failed"):
                families.passes.labels(name, resource, result)
            for answer in ("committed", "aborted", "heuristic"):
                families.recovered.labels(name, resource, answer)

    def _ended(self, event: TransactionEnded) -> None:
        families, name = self._families, self._name
        self.running.discard(event.key)
        families.count_running(name)
        families.transactions.labels(name, "aborted_retryable" if event.retryable else event.outcome).inc()
        for resource in event.pending:
            families.left_pending.labels(name, resource).inc()

    def _passed(self, event: PassEnded) -> None:
        families, name = self._families, self._name
        families.passes.labels(name, event.resource, "failed" if event.error else "ok").inc()
        families.resource_up.labels(name, event.resource).set(0 if event.error else 1)
        families.oldest.labels(name, event.resource).set(event.oldest_s or 0)
        for status in STATUSES:
            families.in_doubt.labels(name, event.resource, status).set(event.in_doubt.get(status, 0))


class _Families:
    """The metrics of one registry, made once, whoever counts in them."""

    _made: ClassVar[WeakKeyDictionary[CollectorRegistry, _Families]] = WeakKeyDictionary()

    @classmethod
    def of(cls, registry: CollectorRegistry) -> _Families:
        """Those of this registry."""
        if registry not in cls._made:
            cls._made[registry] = cls(registry)
        return cls._made[registry]

    def __init__(self, registry: CollectorRegistry) -> None:
        self.observers: defaultdict[str, WeakSet[PrometheusObserver]] = defaultdict(WeakSet)
        self._listed: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"syncpoint_{name}", text, ("manager", *labels), registry=registry)

        def histogram(name: str, text: str, *labels: str) -> Histogram:
            return Histogram(f"syncpoint_{name}", text, ("manager", *labels), registry=registry, buckets=BUCKETS_S)

        def gauge(name: str, text: str, *labels: str, most: bool = True) -> Gauge:
            # Of several processes that say the same of one database, believe the worst of those that live.
            mode = "livemax" if most else "livemin"
            return Gauge(
                f"syncpoint_{name}",
                text,
                ("manager", *labels),
                registry=registry,
                multiprocess_mode="livesum" if name == "transactions_running" else mode,  # type: ignore[arg-type]
            )

        self.transactions = counter("transactions_total", "Transactions that ended, by outcome.", "outcome")
        self.running = gauge("transactions_running", "Transactions that run now in this process.")
        self.phases = histogram("phase_seconds", "How long a phase of a transaction took.", "phase")
        self.branches = histogram("branch_seconds", "How long one database took for its part.", "resource", "step")
        self.resends = counter("resends_total", "Ids sent again that were answered and not run.", "answer")
        self.left_pending = counter(
            "branches_left_pending_total", "Decided branches that did not answer, left to recovery.", "resource"
        )
        self.in_doubt = gauge(
            "branches_in_doubt", "Branches in doubt in this database after the last pass.", "resource", "status"
        )
        self.oldest = gauge(
            "oldest_in_doubt_seconds", "For how long the oldest has been in doubt; 0 when there is none.", "resource"
        )
        self.heuristics = gauge(
            "heuristics", "Heuristic outcomes in the journal that nobody has forgotten.", "resource", "outcome"
        )
        self.passes = counter("recovery_passes_total", "Recovery passes over a database.", "resource", "result")
        self.recovered = counter("recovered_branches_total", "Branches that recovery finished.", "resource", "answer")
        self.resource_up = gauge(
            "resource_up", "1 when the last recovery pass over this database went well.", "resource", most=False
        )
        self.takeovers = counter("takeovers_total", "Dead processes of this journal whose work was taken over.")
        self.manager_up = gauge("manager_up", "0 when the manager stopped because its journal failed.", most=False)

    def count_running(self, name: str) -> None:
        """Set, not counted up and down: a forked child begins at 0 again."""
        self.running.labels(name).set(sum(len(one.running) for one in list(self.observers[name])))

    def list_heuristics(self, name: str, event: HeuristicsListed) -> None:
        """What is not listed any more goes to 0."""
        for resource, outcome in self._listed[name] - event.counts.keys():
            self.heuristics.labels(name, resource, outcome).set(0)
        for (resource, outcome), number in event.counts.items():
            self.heuristics.labels(name, resource, outcome).set(number)
        self._listed[name] |= event.counts.keys()
