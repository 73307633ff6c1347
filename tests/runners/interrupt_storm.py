"""A storm of Ctrl-C over a script, as a program of its own: `python interrupt_storm.py SEED ROUNDS`.

Prints nothing and exits with 0 when every script that was begun has ended. Alone in its process because test
frameworks and coverage do not survive interrupts in the middle of their own locks.
"""

from __future__ import annotations

import contextlib
import inspect
import random
import signal
import sys
from collections.abc import Generator
from types import FrameType
from typing import Any

from syncpoint.runners.threads import ThreadRunner
from syncpoint.steps import Batch, Gather, Local, Script, Sleep, Step, Wait


def one(step: Step) -> Script[Any]:
    return (yield step)


def work(runner: ThreadRunner, batcher: Any, armed: Any) -> Generator[Step, Any, None]:
    for _ in range(1000):
        yield Gather([one(Local(lambda: None, "a")), one(Local(lambda: None, "b"))], "two")
        yield Batch(batcher, 1, "force")
        yield Wait(armed, 1.0)
        yield Sleep(0.0001)


def interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(seed: int, rounds: int) -> None:
    chance = random.Random(seed)
    runner = ThreadRunner()
    batcher = runner.batcher(lambda items: items, "journal")
    armed = runner.signal()
    armed.set()
    signal.signal(signal.SIGALRM, interrupt)
    for _ in range(rounds):
        script = work(runner, batcher, armed)
        with contextlib.suppress(KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.0001, 0.005))
            runner.run(script)
        signal.setitimer(signal.ITIMER_REAL, 0)
        state = inspect.getgeneratorstate(script)
        assert state in (inspect.GEN_CREATED, inspect.GEN_CLOSED), f"a script was left half-way: {state}"
    assert runner.run(one(Batch(batcher, 7, "force"))) == 7
    runner.close()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
