"""What nodes of a tree do for each other in one transaction: services that join, work, and call further services.

    visit(root) -> act there -> export a context -> call the next node, which joins, visits, and leaves its block

A request travels like any message: lost, late, doubled. What a user's application may do is done here too: it works
before, after or while others do, and now and then it answers before its block has ended. Not for: what is read and
written (`act`, given by workloads/trees.py and by tests), or messages between managers (wires.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from syncpoint.errors import ConnectionLost
from syncpoint.manager import exporting, joining
from syncpoint.manager.transaction import Work
from syncpoint.manager.tree import Part
from syncpoint.simulation.host import Application
from syncpoint.simulation.process import Process
from syncpoint.simulation.runtime import Outcome, Promise
from syncpoint.simulation.wires import Wires
from syncpoint.steps import Call, Failed, Gather, Script, Sleep

CALL_S = 4.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What one transaction does: at which node it works, and to whom it goes on from there."""

    node: str
    under: tuple[Plan, ...] = ()
    writes: bool = True
    number: int = 0
    """Its place among all of the transaction."""
    acts_last: bool = False
    """It works after it has called the others."""
    at_once: bool = False
    """It calls the others side by side."""
    lingers_s: float = 0.0
    """It answers so long before it works, and its block ends."""

    def parts(self) -> list[Plan]:
        return [self, *(part for one in self.under for part in one.parts())]

    def nodes(self) -> list[str]:
        return [part.node for part in self.parts()]

    def writers(self) -> list[str]:
        return [part.node for part in self.parts() if part.writes]


Act = Callable[[Application, Plan, Work], Script[None]]
"""What a node does itself in a transaction."""


@dataclass(slots=True)
class Services:
    """The applications of a tree, by their nodes."""

    wires: Wires
    applications: Mapping[str, Application] = field(repr=False)

    def visit(self, application: Application, plan: Plan, work: Work, act: Act) -> Script[None]:
        """What a node does in a transaction, and whom it calls."""
        if not plan.acts_last:
            yield from act(application, plan, work)
        calls = [self._go_on(application, below, work, act) for below in plan.under]
        if plan.at_once and len(calls) > 1:
            for outcome in (yield Gather(calls, "call services")):
                if isinstance(outcome, Failed):
                    raise outcome.error
        else:
            for call in calls:
                yield from call
        if plan.acts_last:
            yield from act(application, plan, work)

    def _go_on(self, application: Application, below: Plan, work: Work, act: Act) -> Script[None]:
        token = exporting.export(work).token
        assert application.process is not None
        yield from self.call(application.process, below.node, partial(self.serve, below, token, act))

    def serve(self, plan: Plan, token: str, act: Act, application: Application) -> Script[None]:
        """The service that a node offers: it joins, works, and leaves."""
        core = application.core
        assert core is not None
        part = yield from joining.join(core, token, authenticated=False)
        if plan.lingers_s:
            application.runtime.begin(
                self._late(application, plan, part, act), "a block that ends late", lambda _: None
            )
        else:
            yield from self._block(application, plan, part, act)

    def _block(self, application: Application, plan: Plan, part: Part, act: Act) -> Script[None]:
        assert application.core is not None
        try:
            yield from self.visit(application, plan, part.work, act)
        except Exception as error:
            yield from joining.leave(application.core, part, error)
            raise
        yield from joining.leave(application.core, part, None)

    def _late(self, application: Application, plan: Plan, part: Part, act: Act) -> Script[None]:
        yield Sleep(plan.lingers_s)
        yield from self._block(application, plan, part, act)

    # --- requests -------------------------------------------------------------------------------------------------

    def call(self, caller: Process, node: str, service: Callable[[Application], Script[Any]]) -> Script[Any]:
        """A request from one application to another: `service` runs there. Raises ConnectionLost."""
        return (yield Call(lambda: self._call(caller, node, service), f"call {node}"))

    def _call(self, caller: Process, node: str, service: Callable[[Application], Script[Any]]) -> Promise:
        promise, wires = Promise(), self.wires
        lost = Failed(ConnectionLost(f"{node} did not answer."))
        caller.after(CALL_S, lambda: promise.keep(lost))
        wires.world.note(caller.name, "request", node)
        for _ in range(wires.copies(caller.name, node)):
            wires.world.after(wires.latency_s(), partial(self._arrive, caller, node, service, promise))
        return promise

    def _arrive(
        self, caller: Process, node: str, service: Callable[[Application], Script[Any]], promise: Promise
    ) -> None:
        application, world = self.applications[node], self.wires.world
        process = application.process
        lost = Failed(ConnectionLost(f"{node} broke off."))

        def broken() -> None:
            world.after(0.001, lambda: promise.keep(lost))

        if process is None or not process.alive or not application.is_serving:
            broken()
            return
        process.on_death.append(broken)

        def done(outcome: Outcome) -> None:
            for _ in range(self.wires.copies(node, caller.name)):
                world.after(self.wires.latency_s(), lambda: promise.keep(outcome))

        def begin() -> None:
            application.runtime.begin(service(application), "service", done)

        process.now(begin)
