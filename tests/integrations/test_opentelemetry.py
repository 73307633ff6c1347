"""Spans, as an exporter gets them: their tree, their attributes, what is current in the block, and recovery's links."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

import syncpoint
from syncpoint.integrations import opentelemetry
from syncpoint.resources.base import Answer
from tests.conformance.conftest import raises
from tests.manager.conftest import AsyncBench

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "metrics.md"


@dataclass
class Traces:
    """A provider of this test's own, and the spans it has exported."""

    provider: TracerProvider
    exporter: InMemorySpanExporter

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.named(name)
        return span

    def tree(self, span: ReadableSpan) -> dict[str, Any]:
        """The names below a span, in the order they began."""
        assert span.context is not None
        below = [one for one in self.spans if one.parent is not None and one.parent.span_id == span.context.span_id]
        return {one.name: self.tree(one) for one in sorted(below, key=lambda one: (one.start_time or 0, one.name))}


@pytest.fixture
def traces() -> Iterator[Traces]:
    made = Traces(TracerProvider(), InMemorySpanExporter())
    made.provider.add_span_processor(SimpleSpanProcessor(made.exporter))
    yield made
    made.provider.shutdown()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[AsyncBench]:
    made = AsyncBench(tmp_path)
    yield made
    made.close()


TREE = {
    "your work": {},
    "syncpoint.prepare": {"PREPARE a": {}, "PREPARE b": {}},
    "syncpoint.decide": {},
    "syncpoint.commit": {"COMMIT a": {}, "COMMIT b": {}},
}


def work_in(traces: Traces, manager: syncpoint.TransactionManager) -> syncpoint.Transaction:
    tracer = traces.provider.get_tracer("test")
    with tracer.start_as_current_span("request"):
        with manager.transaction(id="order-1") as tx:
            with tracer.start_as_current_span("your work"):
                tx.connect("a").put("k", 1)
            tx.connect("b").put("k", 1)
        assert trace.get_current_span().name == "request"  # type: ignore[attr-defined]
    return tx


async def work_in_async(traces: Traces, bench: AsyncBench) -> syncpoint.AsyncTransaction:
    tracer = traces.provider.get_tracer("test")
    async with bench.running() as manager:
        opentelemetry.enable(manager, traces.provider)
        with tracer.start_as_current_span("request"):
            async with manager.transaction(id="order-1") as tx:
                with tracer.start_as_current_span("your work"):
                    await bench.write(tx)
            assert trace.get_current_span().name == "request"  # type: ignore[attr-defined]
    return tx


@pytest.mark.parametrize("facade", ["threads", "asyncio"])
def test_a_transaction_is_a_span_with_its_phases_below(bench: AsyncBench, traces: Traces, facade: str) -> None:
    tx: Any
    if facade == "threads":
        manager = bench.manager()
        opentelemetry.enable(manager, traces.provider)
        tx = work_in(traces, manager)
    else:
        tx = asyncio.run(work_in_async(traces, bench))
    root = traces.one("request")
    tree = traces.tree(root)
    for phase in ("syncpoint.prepare", "syncpoint.commit"):  # side by side: either may begin first
        tree["syncpoint.transaction"][phase] = dict(sorted(tree["syncpoint.transaction"][phase].items()))
    assert tree == {"syncpoint.transaction": TREE}
    assert list(tree["syncpoint.transaction"]) == list(TREE)
    span = traces.one("syncpoint.transaction")
    assert span.attributes == {
        "syncpoint.transaction.id": tx.transaction,
        "syncpoint.attempt": tx.attempt,
        "syncpoint.outcome": "committed",
        "syncpoint.resources": ("a", "b"),
    }
    assert span.status.status_code is StatusCode.UNSET
    branch = traces.one("PREPARE a")
    assert branch.kind is SpanKind.CLIENT
    assert branch.attributes == {
        "syncpoint.transaction.id": tx.transaction,
        "syncpoint.attempt": tx.attempt,
        "syncpoint.resource": "a",
        "db.system.name": "memory",
        "db.operation.name": "PREPARE",
    }
    inside(span, root)
    for name in ("syncpoint.prepare", "syncpoint.decide", "syncpoint.commit"):
        inside(traces.one(name), span)


def inside(inner: ReadableSpan, outer: ReadableSpan) -> None:
    times = [outer.start_time, inner.start_time, inner.end_time, outer.end_time]
    assert None not in times
    assert times == sorted(times, key=lambda one: one or 0), f"{inner.name} is not inside {outer.name}"


def test_an_abort_says_whether_to_try_again_and_shows_no_data(bench: AsyncBench, traces: Traces) -> None:
    manager = bench.manager()
    opentelemetry.enable(manager, traces.provider)
    with raises(ValueError), manager.transaction(id="secret-id") as tx:
        bench.put(tx)
        raise ValueError("secret text")
    span = traces.one("syncpoint.transaction")
    assert span.attributes is not None
    assert (span.attributes["syncpoint.outcome"], span.attributes["syncpoint.retryable"]) == ("aborted", False)
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "aborted")
    assert list(traces.tree(span)) == ["syncpoint.abort"]
    assert "secret" not in "".join(one.to_json() for one in traces.spans)


def test_with_details_it_says_who_and_why(bench: AsyncBench, traces: Traces) -> None:
    manager = bench.manager()
    opentelemetry.enable(manager, traces.provider, details=True)
    with raises(ValueError), manager.transaction(id="order-1") as tx:
        bench.put(tx)
        raise ValueError("no such account")
    span = traces.one("syncpoint.transaction")
    assert span.attributes is not None
    assert span.attributes["syncpoint.user_id"] == "order-1"
    assert span.status.description == "ValueError in the block: no such account"


def test_recovery_is_linked_to_what_it_finishes(bench: AsyncBench, traces: Traces) -> None:
    manager = bench.manager()
    opentelemetry.enable(manager, traces.provider)
    bench.b.answers["commit"].append(Answer.RETRY)
    bench.b.answers["finish"].append(Answer.RETRY)
    with traces.provider.get_tracer("test").start_as_current_span("request"), manager.transaction() as tx:
        bench.put(tx)
    assert tx.pending == {"b"}
    transaction = traces.one("syncpoint.transaction")
    assert transaction.attributes is not None
    assert transaction.attributes["syncpoint.pending"] == ("b",)
    manager.recover()
    assert bench.rows() == "ab"
    # The pass over the other resource may have begun before this one ended, and have asked for its branch once more.
    (root,) = at("b", traces.named("syncpoint.recovery"))
    assert root.parent is None
    assert root.attributes is not None
    assert root.attributes["syncpoint.recovery.committed"] == 1
    assert list(traces.tree(root)) == ["syncpoint.recover"]
    (branch,) = at("b", traces.named("syncpoint.recover"))
    assert [link.context.span_id for link in branch.links] == [transaction.context.span_id]  # type: ignore[union-attr]
    assert branch.attributes == {
        "syncpoint.transaction.id": tx.transaction,
        "syncpoint.attempt": tx.attempt,
        "syncpoint.resource": "b",
        "syncpoint.decision": "commit",
        "syncpoint.answer": "COMMITTED",
    }


def at(resource: str, spans: list[ReadableSpan]) -> list[ReadableSpan]:
    return [span for span in spans if (span.attributes or {}).get("syncpoint.resource") == resource]


def test_passes_that_did_nothing_make_no_span_and_trouble_makes_one(bench: AsyncBench, traces: Traces) -> None:
    manager = bench.manager()
    opentelemetry.enable(manager, traces.provider)
    manager.recover()
    assert traces.spans == []
    bench.a.down = True
    manager.recover()
    manager.recover()
    (span,) = traces.spans
    assert (span.name, span.status.status_code) == ("syncpoint.recovery", StatusCode.ERROR)


def test_every_name_and_attribute_is_documented(bench: AsyncBench, traces: Traces) -> None:
    manager = bench.manager()
    opentelemetry.enable(manager, traces.provider, details=True)
    bench.b.answers["commit"].append(Answer.RETRY)
    bench.b.answers["finish"].append(Answer.RETRY)
    with manager.transaction(id="one") as tx:
        bench.put(tx)
    with raises(ValueError), manager.transaction() as tx:
        bench.put(tx, "a")
        raise ValueError
    manager.recover()
    text = DOCUMENT.read_text(encoding="utf-8")
    ours = {span.name for span in traces.spans if span.name.startswith("syncpoint.")}
    used = ours | {name for span in traces.spans for name in span.attributes or ()}
    assert {"syncpoint.transaction", "syncpoint.recover", "syncpoint.pending", "syncpoint.retryable"} <= used
    assert [name for name in sorted(used) if f"`{name}`" not in text] == []
