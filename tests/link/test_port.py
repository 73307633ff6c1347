"""The contract of the port `Link`: one script, which asks until it is answered, over a real link and a simulated one.

R4: what stands above a link runs on both. Connections break meanwhile; every question is answered, and counted once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from syncpoint.ports import Arrived, Link, Sent, Signal
from syncpoint.simulation.world import World as SimulatedWorld
from syncpoint.steps import Script, Step, Wait
from tests.link.simulated import SimulatedNetwork
from tests.link.words import WORDS, Note
from tests.link.world import QUICK, break_connection, run, until, world

QUESTIONS = 60
RESEND_S = 0.05


def _ask(link: Link, to: str) -> Script[list[str]]:
    """Each question until its answer is there; late and double answers are told by their number."""
    answers: list[str] = []
    while len(answers) < QUESTIONS:
        if link.send(to, Note(number=len(answers))) is Sent.FULL:
            yield Wait(link.room(to), RESEND_S)
        yield Wait(link.arrived, RESEND_S)
        link.arrived.clear()
        for event in link.take():
            if isinstance(event, Arrived) and isinstance(event.message, Note) and event.message.number == len(answers):
                answers.append(event.message.text)
    return answers


def _answer(link: Link, done: dict[int, int], first_time: Callable[[], None] = lambda: None) -> Script[None]:
    """What is asked again gets the same answer, and nothing is done twice (C8 in small)."""
    while True:
        yield Wait(link.arrived, None)
        link.arrived.clear()
        for event in link.take():
            if isinstance(event, Arrived) and isinstance(event.message, Note):
                number = event.message.number
                if number not in done:
                    done[number] = len(done)
                    first_time()
                order = done[number]
                link.send(event.peer.name, Note(number=number, text=f"{number} was done as {order}"))


RIGHT = [f"{number} was done as {number}" for number in range(QUESTIONS)]


@pytest.mark.parametrize("kind", ["unix", "tls"])
def test_over_real_connections_that_break(tmp_path: Path, kind: str) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            anna, bert = await here.pair(kind, **QUICK)
            done: dict[int, int] = {}
            random = Random(1)

            def break_at_times() -> None:
                if len(done) % 10 == 0:
                    break_connection(random.choice([anna, bert]))

            answering = asyncio.ensure_future(here.runner.run(_answer(bert, done, break_at_times)))
            asking = asyncio.ensure_future(here.runner.run(_ask(anna, "bert")))
            await until(asking.done, "every question is answered")
            assert asking.result() == RIGHT
            assert anna.figures()["lost"] >= 5
            answering.cancel()
            await asyncio.wait((answering,))

    run(main())


class _Flag(Signal):
    def __init__(self) -> None:
        self._flag = False

    def set(self) -> None:
        self._flag = True

    def clear(self) -> None:
        self._flag = False

    def is_set(self) -> bool:
        return self._flag


def _drive(script: Script[list[str]] | Script[None], time: SimulatedWorld, done: list[list[str] | None]) -> None:
    """Run a script that only waits, in virtual time."""

    def go_on(value: object) -> None:
        try:
            step: Step = script.send(value)
        except StopIteration as end:
            done.append(end.value)
            return
        assert isinstance(step, Wait)
        poll(step, time.now_s + (step.seconds if step.seconds is not None else 1e9))

    def poll(step: Wait, until_s: float) -> None:
        if step.signal.is_set() or time.now_s >= until_s:
            time.after(0.0, lambda: go_on(step.signal.is_set()))
        else:
            time.after(0.005, lambda: poll(step, until_s))

    time.after(0.0, lambda: go_on(None))


@pytest.mark.parametrize("seed", range(3))
def test_over_simulated_connections_that_are_cut(seed: int) -> None:
    def simulate() -> tuple[list[str] | None, float, int]:
        time = SimulatedWorld(seed)
        random = time.stream("link")
        network = SimulatedNetwork(time.after, random, WORDS)
        anna, bert = network.link("anna", _Flag), network.link("bert", _Flag)
        done: dict[int, int] = {}
        ended: list[list[str] | None] = []
        cuts = 0

        def connect() -> None:
            if ended:
                return
            cut = network.connect("anna", "bert")
            time.after(random.uniform(0.2, 2.0), lambda: disconnect(cut))

        def disconnect(cut: object) -> None:
            nonlocal cuts
            cuts += 1
            assert callable(cut)
            cut()
            time.after(3.5, connect)

        connect()
        _drive(_answer(bert, done), time, [])
        _drive(_ask(anna, "bert"), time, ended)
        assert time.run(600.0, lambda: bool(ended)), "every question is answered"
        return ended[0], time.now_s, cuts

    answers, seconds, cuts = simulate()
    assert answers == RIGHT
    assert cuts > 2
    assert simulate() == (answers, seconds, cuts), "the same seed, the same run"
