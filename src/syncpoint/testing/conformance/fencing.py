"""Checks of incarnations in the data: who serves them under a lower one changes nothing any more (B7).

For adapters whose data a process of their own can serve (`Resource.serve_as`); others are skipped. Not for: who is
given which incarnation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from syncpoint.errors import ConfigurationError, Fenced
from syncpoint.resources.base import Answer, BranchStart, Choice, Evidence, Resource
from syncpoint.steps import Script
from syncpoint.testing.conformance.bench import PLENTY_MS, Bench


class Fencing:
    """Row B7."""

    def _serve(self, bench: Bench, resource: Resource, incarnation: int) -> None:
        try:
            bench.run(self._on_session(resource, lambda session: resource.serve_as(session, incarnation)))
        except ConfigurationError as error:
            pytest.skip(f"serve_as: {error.message}")

    def _on_session(self, resource: Resource, work: Callable[[Any], Script[Any]]) -> Script[Any]:
        session = yield from resource.open()
        try:
            return (yield from work(session))
        finally:
            yield from resource.close(session)

    def test_b7_the_highest_incarnation_works_and_is_seen_by_all(self, bench: Bench) -> None:
        key = bench.key()
        self._serve(bench, bench.resource, 3)
        self._serve(bench, bench.resource, 3)
        other = bench.make()
        for resource in (bench.resource, other):
            script = self._on_session(resource, lambda session, one=resource: one.served_as(session))  # type: ignore[misc]
            seen = bench.run(script)
            bench.expect(seen == 3, "B7", "`served_as` is the highest that the data have seen: 3", seen)
            script = self._on_session(resource, lambda session, one=resource: one.data_guid(session))  # type: ignore[misc]
            guid = bench.run(script)
            bench.expect(guid == bench.guid, "B7", "`data_guid` is the GUID that `contact` returns", guid)
        branch = bench.voted(key)
        answer = bench.run(bench.resource.commit(branch.session))
        bench.expect(answer is Answer.COMMITTED, "B7", "the incarnation that counts commits", answer)
        bench.expect_row(key, 1, "B7", "the incarnation that counts has written")

    def test_b7_a_lower_incarnation_cannot_begin_to_serve(self, bench: Bench) -> None:
        self._serve(bench, bench.resource, 2)
        other = bench.make()
        error = bench.attempt(
            lambda: bench.runner.run(self._on_session(other, lambda session: other.serve_as(session, 1)))
        )
        bench.expect(isinstance(error, Fenced), "B7", "`serve_as` a lower incarnation is refused (Fenced)", error)
        self._serve(bench, bench.resource, 2)

    @pytest.mark.parametrize("lower", [0, 1], ids=["no_process", "lower"])
    def test_b7_a_lower_incarnation_changes_nothing(self, bench: Bench, lower: int) -> None:
        """It had open connections; it wakes, and is told everything that changes something."""
        old, key, mine = bench.resource, bench.key(), bench.key()
        if lower:
            self._serve(bench, old, lower)
        done, ready = bench.committed(mine), bench.voted(key)
        bench.run(old.abort(ready.session))
        session = bench.open()
        new = bench.make()
        self._serve(bench, new, 2)
        bench.resource = new
        late = bench.voted(bench.key())
        bench.run(new.commit(late.session))
        before = bench.rows()
        changes: dict[str, Callable[[], Script[Any]]] = {
            "begin": lambda: old.begin(session, BranchStart(bench.identifier(), PLENTY_MS)),
            "contact": lambda: old.contact(session, bench.contact(5)),
            "finish": lambda: old.finish(session, ready.identifier, commit=True, state=ready.state),
            "redo": lambda: old.redo(session, ready.identifier, ready.state),
            "drop_evidence": lambda: old.drop_evidence(session, bench.coordinator, [done.identifier.attempt]),
        }
        for what, script in changes.items():
            error = bench.attempt(lambda script=script: bench.runner.run(script()))  # type: ignore[misc]
            bench.expect(isinstance(error, Fenced), "B7", f"`{what}` of a lower incarnation raises Fenced", error)
        bench.expect(bench.rows() == before, "B7", "a lower incarnation changes no row", bench.rows())
        seen = bench.evidence(done)
        bench.expect(seen is Evidence.COMMITTED, "B7", "a lower incarnation deletes no evidence", seen)
        seen = bench.evidence(ready)
        bench.expect(seen is Evidence.ABSENT, "B7", "a lower incarnation leaves no evidence", seen)
        stale = bench.run(self._on_session(new, lambda one: new.contact(one, bench.contact(4))))
        bench.expect(stale == bench.guid, "B7", "a lower incarnation leaves no contact", stale)
        vote = bench.prepare(bench.wrote(bench.key()))
        bench.expect(vote.choice is Choice.YES, "B7", "the one that counts goes on", vote)
