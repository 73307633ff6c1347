"""The pool hands out clean sessions, first come, first served, and never loses a slot; the turn likewise."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncpoint.errors import ConfigurationError, ManagerClosed, ResourceUnavailable
from syncpoint.ids import Attempt, BranchNumber, Guid, Identifier, Incarnation, TransactionId
from syncpoint.resources import pool as pool_module
from syncpoint.resources.base import Session
from syncpoint.resources.memory import MemoryResource, MemoryServer
from syncpoint.resources.pool import Pool, Turn
from syncpoint.runners.aio import AsyncRunner
from syncpoint.runners.threads import ThreadRunner
from syncpoint.steps import Local, Script, Step, Wait
from syncpoint.system import SystemRandom

BOUND_S = 10.0
BRANCH = Identifier(Guid(b"c" * 16), TransactionId(b"t" * 16), Attempt(Incarnation(1), 1), BranchNumber(1))


class SettableClock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def wall_ms(self) -> int:
        return 0


class CountingResource(MemoryResource):
    """Counts what it opens and closes."""

    def __init__(self, name: str, url: str, options: Mapping[str, str], **ports: Any) -> None:
        super().__init__(name, url, options, **ports)
        self.opened: list[Session] = []
        self.closed: list[Session] = []
        self.abandoned: list[Session] = []

    def open(self) -> Script[Session]:
        session = yield from super().open()
        self.opened.append(session)
        return session

    def close(self, session: Session) -> Script[None]:
        yield from super().close(session)
        self.closed.append(session)

    def abandon(self, session: Session) -> None:
        self.abandoned.append(session)


class World:
    """A pool over a resource in memory, on threads."""

    def __init__(self, runtime: Any, **options: Any) -> None:
        MemoryServer.remove("pool")
        self.clock = SettableClock()
        self.resource = CountingResource(
            "bank", "memory://pool", {}, mode="sync", clock=self.clock, random=SystemRandom()
        )
        self.pool = Pool(self.resource, runtime, self.clock, **options)
        self.soon = self.clock.now
        self.late = self.clock.now + BOUND_S

    def open_now(self) -> int:
        return len(self.resource.opened) - len(self.resource.closed)


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + BOUND_S
    while not holds():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.001)


def test_a_released_session_is_used_again_and_the_repr_tells() -> None:
    runner = ThreadRunner()
    world = World(runner)
    one = runner.run(world.pool.acquire(world.soon))
    two = runner.run(world.pool.acquire(world.soon))
    assert repr(world.pool) == "<Pool bank 0 idle 2 busy of 32>"
    runner.run(world.pool.release(one))
    assert repr(world.pool) == "<Pool bank 1 idle 1 busy of 32>"
    assert runner.run(world.pool.acquire(world.soon)) is one
    runner.run(world.pool.release(one))
    runner.run(world.pool.release(one))  # a second release changes nothing
    runner.run(world.pool.release(two))
    assert repr(world.pool) == "<Pool bank 2 idle 0 busy of 32>"
    assert runner.run(world.pool.acquire(world.soon)) is two  # the last used first: the others may grow old
    assert world.open_now() == 2


@pytest.mark.parametrize("fault", ["broken", "branch", "both"])
def test_a_session_with_a_branch_or_in_an_unknown_state_is_closed(fault: str) -> None:
    runner = ThreadRunner()
    world = World(runner)
    session = runner.run(world.pool.acquire(world.soon))
    session.broken = fault != "branch"
    session.identifier = BRANCH if fault != "broken" else None
    runner.run(world.pool.release(session))
    assert world.resource.closed == [session]
    assert runner.run(world.pool.acquire(world.soon)) is not session


def test_a_session_that_went_bad_while_idle_is_replaced() -> None:
    runner = ThreadRunner()
    world = World(runner, size_max=1)
    session = runner.run(world.pool.acquire(world.soon))
    runner.run(world.pool.release(session))
    session.broken = True
    assert runner.run(world.pool.acquire(world.soon)) is not session
    assert world.resource.closed == [session]


def test_idle_sessions_grow_old() -> None:
    runner = ThreadRunner()
    world = World(runner, idle_s_max=300.0)
    sessions = [runner.run(world.pool.acquire(world.soon)) for _ in range(3)]
    for session in sessions:
        runner.run(world.pool.release(session))
    world.clock.now += 200.0
    kept = runner.run(world.pool.acquire(world.clock.now))
    world.clock.now += 200.0
    runner.run(world.pool.release(kept))
    assert world.resource.closed == [sessions[0]]  # one at each release
    assert runner.run(world.pool.acquire(world.clock.now)) is kept
    fresh = runner.run(world.pool.acquire(world.clock.now))
    assert fresh not in sessions
    assert world.resource.closed == [sessions[0], sessions[1]]


def test_an_exhausted_pool_says_so() -> None:
    runner = ThreadRunner()
    world = World(runner, size_max=2)
    for _ in range(2):
        runner.run(world.pool.acquire(world.soon))
    with pytest.raises(ResourceUnavailable, match=r"'bank'.*exhausted.*all 2 .*pool_size_max \(now 2\)"):
        runner.run(world.pool.acquire(world.soon))
    assert repr(world.pool) == "<Pool bank 0 idle 2 busy of 2>"
    with pytest.raises(ConfigurationError, match="pool_size_max"):
        World(runner, size_max=0)


def test_waiters_are_served_first_come_first_served() -> None:
    runner = ThreadRunner()
    world = World(runner, size_max=1)
    session = runner.run(world.pool.acquire(world.soon))
    served: list[int] = []

    def use(number: int) -> Script[None]:
        mine = yield from world.pool.acquire(world.late)
        served.append(number)
        mine.broken = number == 2  # then the next one opens another
        yield from world.pool.release(mine)

    waiters = []
    for number in range(5):
        waiters.append(threading.Thread(target=lambda n=number: runner.run(use(n))))
        waiters[-1].start()
        eventually(lambda number=number: len(world.pool._line) == number + 1)
    assert repr(world.pool) == "<Pool bank 0 idle 1 busy of 1, 5 waiting>"
    runner.run(world.pool.release(session))
    for waiter in waiters:
        waiter.join(BOUND_S)
    assert served == [0, 1, 2, 3, 4]
    assert repr(world.pool) == "<Pool bank 1 idle 0 busy of 1>"
    assert world.open_now() == 1


def test_a_failed_open_gives_its_slot_to_the_next() -> None:
    runner = ThreadRunner()
    world = World(runner, size_max=1)
    world.resource.server.down = True
    for _ in range(3):
        with pytest.raises(ResourceUnavailable, match="cannot be reached"):
            runner.run(world.pool.acquire(world.soon))
    assert repr(world.pool) == "<Pool bank 0 idle 0 busy of 1>"
    world.resource.server.down = False
    runner.run(world.pool.acquire(world.soon))


def test_close_sends_waiters_away_and_closes_what_is_idle() -> None:
    runner = ThreadRunner()
    world = World(runner, size_max=2)
    one, two = (runner.run(world.pool.acquire(world.soon)) for _ in range(2))
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            runner.run(world.pool.acquire(world.late))
        except ManagerClosed as error:
            errors.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    eventually(lambda: len(world.pool._line) == 1)
    runner.run(world.pool.close())
    waiter.join(BOUND_S)
    assert len(errors) == 1
    runner.run(world.pool.release(one))
    runner.run(world.pool.discard(two))
    with pytest.raises(ManagerClosed):
        runner.run(world.pool.acquire(world.soon))
    assert world.open_now() == 0
    assert repr(world.pool) == "<Pool bank 0 idle 0 busy of 2, closed>"


def test_a_forked_childs_pool_forgets_every_session_without_io() -> None:
    runner = ThreadRunner()
    world = World(runner)
    busy, idle = (runner.run(world.pool.acquire(world.soon)) for _ in range(2))
    runner.run(world.pool.release(idle))
    world.pool.abandon()
    assert {id(session) for session in world.resource.abandoned} == {id(busy), id(idle)}
    assert any(sessions == [idle, busy] for sessions, _ in pool_module._abandoned[-1:])
    runner.run(world.pool.release(busy))
    assert world.resource.closed == []
    assert repr(world.pool) == "<Pool bank 0 idle 0 busy of 32>"
    assert runner.run(world.pool.acquire(world.soon)) not in (busy, idle)


# --- cancellation, anywhere ----------------------------------------------------------------------------------


class Cancelled(BaseException):
    pass


class HandRuntime:
    """Drives scripts step by step, in whatever order a test wants: a Wait ends when its signal is set."""

    class Flag:
        def __init__(self) -> None:
            self.value = False

        def set(self) -> None:
            self.value = True

        def clear(self) -> None:
            self.value = False

        def is_set(self) -> bool:
            return self.value

    def mutex(self) -> Any:
        return contextlib.nullcontext()

    def signal(self) -> Flag:
        return self.Flag()


class Client:
    """One script of the pool's under way, and the session it got."""

    def __init__(self) -> None:
        self.script: Script[Any] | None = None
        self.step: Step | None = None
        self.session: Session | None = None

    def begin(self, script: Script[Any]) -> None:
        self.script = script
        self._go(lambda: script.send(None))

    def can_go_on(self) -> bool:
        return self.script is not None and (not isinstance(self.step, Wait) or self.step.signal.is_set())

    def go_on(self, *, late: bool = False) -> None:
        script, step = self.script, self.step
        assert script is not None
        if isinstance(step, Wait):
            self._go(lambda: script.send(not late))
        else:
            assert isinstance(step, Local)
            try:
                value = step.run()
            except Exception as error:
                raised = error
                self._go(lambda: script.throw(raised))
            else:
                self._go(lambda: script.send(value))

    def cancel(self) -> None:
        script = self.script
        assert script is not None
        self._go(lambda: script.throw(Cancelled()))

    def _go(self, resume: Callable[[], Step]) -> None:
        try:
            self.step = resume()
        except StopIteration as stop:
            self.script = self.step = None
            if stop.value is not None:
                self.session = stop.value
        except (Cancelled, ResourceUnavailable):
            self.script = self.step = None


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["begin", "go on", "go on", "late", "cancel", "break", "down", "up"]), st.integers(0, 4)),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(ACTIONS)
def test_no_order_of_events_loses_a_slot(actions: list[tuple[str, int]]) -> None:
    world = World(HandRuntime(), size_max=2)
    clients = [Client() for _ in range(5)]
    for action, number in actions:
        act(world, clients[number], action)
        sessions = [client.session for client in clients if client.session is not None]
        assert len({id(session) for session in sessions}) == len(sessions)  # nobody shares one
        assert world.pool._size() <= 2
    finish(world, clients)
    # Everybody has ended: both slots are free again, and nothing is open but what is idle.
    assert world.pool._size() == len(world.pool._idle)
    takers = [Client(), Client()]
    for taker in takers:
        taker.begin(world.pool.acquire(world.soon))
        while taker.script is not None:
            taker.go_on()
        assert taker.session is not None


def act(world: World, client: Client, action: str) -> None:
    if action in ("down", "up"):
        world.resource.server.down = action == "down"
    elif client.script is None:
        if action == "begin" and client.session is None:
            client.begin(world.pool.acquire(world.late))
        elif client.session is not None:
            session, client.session = client.session, None
            session.broken = action == "break"
            client.begin(world.pool.release(session))
    elif action == "cancel":
        client.cancel()
    elif action == "late" and isinstance(client.step, Wait):
        client.go_on(late=True)
    elif client.can_go_on():
        client.go_on()


def finish(world: World, clients: list[Client]) -> None:
    world.resource.server.down = False
    for _ in range(100):
        for client in clients:
            act(world, client, "go on")
        if all(client.script is None and client.session is None for client in clients):
            return
    raise AssertionError(f"somebody waits for ever: {world.pool!r}")


def test_cancelled_tasks_lose_no_slot() -> None:
    async def main() -> None:
        runner = AsyncRunner()
        world = World(runner, size_max=2)

        async def use(number: int) -> None:
            session = await runner.run(world.pool.acquire(world.late))
            try:
                await asyncio.sleep(0.001)
            finally:
                await runner.run_shielded(world.pool.release(session))

        tasks = [asyncio.ensure_future(use(number)) for number in range(40)]
        for number, task in enumerate(tasks):
            await asyncio.sleep(0.0005)
            if number % 3 == 0:
                task.cancel()
        await asyncio.wait(tasks)
        assert world.pool._size() == len(world.pool._idle) <= 2
        await runner.run(world.pool.close())
        assert world.open_now() == 0
        await runner.close()

    asyncio.run(main())


# --- the turn ----------------------------------------------------------------------------------------------------


def test_the_turn_goes_round_in_order() -> None:
    runner = ThreadRunner()
    clock = SettableClock()
    turn = Turn(runner, clock, "audit")
    runner.run(turn.acquire(clock.now, "t0"))
    order: list[str] = []

    def write(name: str) -> Script[None]:
        yield from turn.acquire(clock.now + BOUND_S, name)
        assert turn.holder == name
        order.append(name)
        turn.release()

    writers = []
    for number in range(1, 5):
        writers.append(threading.Thread(target=lambda n=number: runner.run(write(f"t{n}"))))
        writers[-1].start()
        eventually(lambda number=number: len(turn._line) == number)
    assert repr(turn) == "<Turn audit held by t0, 4 waiting>"
    with pytest.raises(ResourceUnavailable, match=r"'audit' did not come in time: t0 held it and 4 others wait"):
        runner.run(turn.acquire(clock.now, "t9"))
    turn.release()
    for writer in writers:
        writer.join(BOUND_S)
    assert order == ["t1", "t2", "t3", "t4"]
    assert repr(turn) == "<Turn audit free>"


def test_a_cancelled_writer_passes_the_turn_on() -> None:
    runtime: Any = HandRuntime()
    turn = Turn(runtime, SettableClock(), "audit")
    clients = [Client() for _ in range(3)]
    for number, client in enumerate(clients):
        client.begin(turn.acquire(200.0, f"t{number}"))
    turn.release()
    assert turn.holder == "t1"
    clients[1].cancel()  # it has the turn, but has not heard of it
    assert turn.holder == "t2"
    clients[2].go_on()
    assert clients[2].script is None
    turn.release()
    assert repr(turn) == "<Turn audit free>"


def test_a_closed_turn_sends_waiters_away() -> None:
    clock = SettableClock()
    runner = ThreadRunner()
    turn = Turn(runner, clock, "audit")
    runner.run(turn.acquire(clock.now, "t0"))
    turn.close()
    with pytest.raises(ManagerClosed):
        runner.run(turn.acquire(clock.now, "t1"))
    turn.abandon()
    assert repr(turn) == "<Turn audit free>"
