"""Record what the real code does, as seen through its ports: the journal, the resources and their servers.

A recorder is attached to a manager's journal and resources and to the servers behind them; it changes nothing. What it
notes is one list of events, in the order in which they took effect: a request at the moment its server did it, an
answer at the moment it came back. Passes of recovery are told apart by the script that makes them. Not for: what the
events mean in the specification (histories.py), or making anything happen (simulated.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from syncpoint.ids import Identifier, Key
from syncpoint.journal.base import Journal, Verdict
from syncpoint.manager import commit, recovery
from syncpoint.protocol.coordinator import State
from syncpoint.protocol.participant import State as Unit
from syncpoint.protocol.words import Answer, Choice, Evidence
from syncpoint.records import Abort, Commit, End, Heuristic, Record
from syncpoint.resources.base import Resource, Session, Vote
from syncpoint.resources.memory_server import MemoryServer, MemorySession, Work
from syncpoint.steps import Script

ANSWERED = ("prepare", "commit", "abort", "finish", "evidence", "scan", "decide", "commit_one_phase", "settle")
"""Requests whose effect and answer are told apart."""


@dataclass(eq=False)
class Event:
    """One thing that happened. Which fields mean something depends on `what`."""

    what: str
    process: Journal | None = None
    key: Key | None = None
    resource: str = ""
    in_pass: int = 0
    """Which pass of recovery; 0: none, a coordinator at work."""
    commit: bool = False
    answered: bool = False
    effect: Event | None = None
    """Of a request: what its server did with it, if it arrived."""
    said: str = ""
    keys: frozenset[Key] = frozenset()
    """What a scan found; what a record lists, as resources, is in `names`."""
    names: frozenset[str] = frozenset()


@dataclass(eq=False)
class Request:
    """One request under way: there is at most one on a session."""

    method: str
    process: Journal
    resource: str
    key: Key | None
    in_pass: int
    commit: bool
    asked: Event
    effect: Event | None = None


@dataclass(eq=False)
class Recorder:
    """All that happened, in order."""

    events: list[Event] = field(default_factory=list)
    _requests: dict[int, Request] = field(default_factory=dict)
    _given_up: dict[int, Request] = field(default_factory=dict)
    """Requests to prepare that nobody waits for any more. They may arrive still, and the branch is prepared (O16)."""
    _in_pass: int = 0
    _passes: int = 0
    _doing: Request | None = None
    """What a server does at this moment."""
    _working: dict[tuple[str, Identifier], Work] = field(default_factory=dict)
    """The branch that began last under an identifier: one that could not begin on one connection does on the next."""
    _aborts: dict[tuple[str, Identifier], Event] = field(default_factory=dict)
    _kept: list[Any] = field(default_factory=list)

    def note(self, what: str, process: Journal | None = None, **fields: Any) -> Event:
        event = Event(what, process, **fields)
        self.events.append(event)
        return event

    # --- processes -------------------------------------------------------------------------------------------

    def died(self, process: Journal) -> None:
        self.note("die", process)

    def power_cut(self) -> None:
        self.note("cut")

    # --- the journal -------------------------------------------------------------------------------------------

    def attach_journal(self, journal: Any) -> None:
        """From now on what this process writes to its journal, and what it reads there, is noted."""
        open_, force, note, look = journal.open, journal.force, journal.note, journal.look

        def opened(runtime: Any) -> Script[None]:
            yield from open_(runtime)
            self.note("start", journal)

        def forced(records: Sequence[Record]) -> Script[tuple[Verdict, ...]]:
            for record in records:
                self._record(journal, record)
            verdicts = yield from force(records)
            for record, verdict in zip(records, verdicts, strict=True):
                if isinstance(record, Commit):
                    said = "accepted" if verdict is Verdict.ACCEPTED else "refused"
                    self.note(said, journal, key=record.key)
            return verdicts  # type: ignore[no-any-return]

        def noted(records: Sequence[Record]) -> None:
            note(records)
            for record in records:
                self._record(journal, record)

        def looked(*, inherit: bool = True) -> Script[Any]:
            number = self._in_pass
            if number:
                self.note("looks", journal, in_pass=number)
            view = yield from look(inherit=inherit)
            if number:
                self.note("looked", journal, in_pass=number, keys=frozenset(view.decisions))
            return view

        journal.open, journal.force, journal.note, journal.look = opened, forced, noted, looked

    def _record(self, journal: Journal, record: Record) -> None:
        if isinstance(record, Commit):
            self.note("decide", journal, key=record.key, names=frozenset(entry.resource for entry in record.branches))
        elif isinstance(record, End):
            self.note("end", journal, key=record.key)
        elif isinstance(record, Abort):
            self.note("settle", journal, key=record.key)
        elif isinstance(record, Heuristic):
            self.note("alarm", journal, key=record.key, resource=record.resource)

    # --- resources -------------------------------------------------------------------------------------------

    def attach_resource(self, resource: Resource, journal: Journal) -> None:
        """From now on what this process asks of this resource is noted, and what comes back."""
        for method in (*ANSWERED, "begin", "drop_evidence"):
            setattr(resource, method, self._asked(method, getattr(resource, method), resource.name, journal))

    def _asked(self, method: str, original: Callable[..., Script[Any]], name: str, journal: Journal) -> Any:
        def asked(session: Session, *args: Any, **options: Any) -> Script[Any]:
            identifier = _about(session, args)
            key = None if identifier is None else identifier.key
            commit_ = bool(options.get("commit", method == "commit"))
            event = self.note(f"ask {method}", journal, key=key, resource=name, in_pass=self._in_pass, commit=commit_)
            request = Request(method, journal, name, key, self._in_pass, commit_, event)
            self._requests[id(session)] = request
            self._kept.append(session)
            try:
                result = yield from original(session, *args, **options)
            except BaseException:
                if method == "prepare":
                    self._given_up[id(session)] = request
                raise
            finally:
                self._requests.pop(id(session), None)
            if request.effect is not None:
                request.effect.answered = event.answered = True
                if method == "prepare":
                    self.note("vote", journal, key=key, resource=name, said=request.effect.said)
            return result

        return asked

    # --- servers ---------------------------------------------------------------------------------------------

    def attach_server(self, server: MemoryServer) -> None:
        """From now on what this server does is noted at the moment it does it, asked or not."""
        perform, end, restart, drop = server.perform, server._end, server.restart, server.drop_evidence

        def performed(method: str, session: MemorySession, do: Callable[[], Any]) -> Any:
            request = self._requests.get(id(session))
            if request is None or request.method != method:
                request = self._given_up.pop(id(session), None) if method == "prepare" else None
            if request is None:
                return perform(method, session, do)
            before = session.work
            outer, self._doing = self._doing, request
            try:
                result = perform(method, session, do)
            finally:
                self._doing = outer
            if method == "begin" and session.work is not None and session.work.identifier is not None:
                self._begun(server.name, session.work)
            self._effect(request, before, result)
            return result

        def ended(work: Work, *, commit: bool, evidence: bool = True) -> None:
            end(work, commit=commit, evidence=evidence)
            told = "" if self._doing is None else self._doing.method
            if told not in ("prepare", "commit", "finish"):
                self._ended(server.name, work, commit)

        def restarted() -> None:
            lost = {work for work in server._locks.values() if work.unit.state is Unit.WORKING}
            restart()
            for work in sorted(lost, key=lambda work: work.name):
                self._ended(server.name, work, False)

        def dropped(coordinator: Any, attempts: Any) -> int:
            wanted = set(attempts)
            request = self._doing
            for identifier in server._committed(coordinator):
                if identifier.attempt in wanted:
                    self.note(
                        "clean",
                        request.process if request else None,
                        key=identifier.key,
                        resource=server.name,
                        in_pass=request.in_pass if request else 0,
                    )
            return drop(coordinator, attempts)

        patched: Any = server
        patched.perform, patched._end, patched.restart, patched.drop_evidence = performed, ended, restarted, dropped

    def _begun(self, resource: str, work: Work) -> None:
        assert work.identifier is not None
        self._working[resource, work.identifier] = work
        before = self._aborts.pop((resource, work.identifier), None)
        if before is not None:
            before.what = "void"

    def _ended(self, resource: str, work: Work, commit: bool) -> None:
        """The server is told of a lost connection, and restarts: what was aborted may be aborted again."""
        assert work.identifier is not None
        where = (resource, work.identifier)
        if commit:
            self.note("committed", key=work.identifier.key, resource=resource)
        elif self._working.pop(where, None) is work:
            self._aborts[where] = self.note("aborted", key=work.identifier.key, resource=resource)

    def _effect(self, request: Request, before: Work | None, result: Any) -> None:
        fields: dict[str, Any] = {
            "key": request.key,
            "resource": request.resource,
            "in_pass": request.in_pass,
            "commit": request.commit,
        }
        what = ""
        if request.method == "prepare" and before is not None:
            assert isinstance(result, Vote)
            said = {Choice.YES: "yes", Choice.NO: "no", Choice.READ_ONLY: "readonly"}[result.choice]
            what, fields["said"] = "voted", said
        elif request.method in ("commit", "finish"):
            words = {Answer.COMMITTED: "committed", Answer.ABORTED: "aborted", Answer.NOT_FOUND: "not found"}
            what = words.get(result, "")
        elif request.method == "evidence":
            what = "evidence" if result is Evidence.COMMITTED else ""
        elif request.method == "scan":
            what = "scan"
            fields["keys"] = frozenset(one.identifier.key for one in result if one.identifier is not None)
        if what:
            request.effect = request.asked.effect = self.note(what, request.process, **fields)

    # --- scripts -----------------------------------------------------------------------------------------------

    @contextmanager
    def recording(self) -> Iterator[None]:
        """While this lasts, passes of recovery are told apart, and what callers are told is noted."""
        a_pass, finish = recovery._pass, commit.finish

        def passing(core: Any, handle: Any, *rest: Any) -> Script[Any]:
            self._passes += 1
            number = self._passes
            try:
                return (yield from self._within(number, a_pass(core, handle, *rest)))
            finally:
                self.note("end pass", core.journal, resource=handle.name, in_pass=number)

        def finished(work: Any) -> Script[None]:
            was_ended = work.ended
            if not was_ended:
                said = {State.COMMITTED: "committed", State.ABORTED: "aborted"}.get(work.coordinator.state, "pending")
                self.note("told", work.core.journal, key=work.key, said=said)
            return (yield from finish(work))

        patched_recovery: Any = recovery
        patched_commit: Any = commit
        patched_recovery._pass, patched_commit.finish = passing, finished
        try:
            yield
        finally:
            patched_recovery._pass, patched_commit.finish = a_pass, finish

    def _within(self, number: int, script: Script[Any]) -> Script[Any]:
        """Drive a script so that whatever it does itself is known to be this pass's."""
        value: Any = None
        error: BaseException | None = None
        while True:
            self._in_pass, outer = number, self._in_pass
            try:
                step = script.send(value) if error is None else script.throw(error)
            except StopIteration as stop:
                return stop.value
            finally:
                self._in_pass = outer
            value, error = None, None
            try:
                value = yield step
            except GeneratorExit:
                script.close()
                raise
            except BaseException as raised:
                error = raised


def _about(session: Session, args: Sequence[Any]) -> Identifier | None:
    """Which branch a request is about: what it names, or what is on its session."""
    for argument in args:
        if isinstance(argument, Identifier):
            return argument
        identifier = getattr(argument, "identifier", None)
        if isinstance(identifier, Identifier):
            return identifier
    return session.identifier
