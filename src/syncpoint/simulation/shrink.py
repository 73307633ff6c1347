"""Make a failure smaller: take faults out of a seed's plan as long as it still fails.

The way of Zeller's delta debugging: halves first, then single faults. Every try is a whole run of the seed. Not for:
finding failures (sweep.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from syncpoint.simulation.run import Options, Outcome, run_seed

TRIES_MAX = 80


def shrink(seed: int, options: Options, progress: Callable[[int, int], None] = lambda left, tries: None) -> Outcome:
    """The outcome of the seed with as few faults as can be, still failing. `progress` gets how many faults are left
    and how many tries were made. Raises ValueError when the seed does not fail at all."""
    best = run_seed(seed, options)
    if not best.violations:
        raise ValueError(f"seed {seed} does not fail")
    numbers = [fault.number for fault in best.plan]
    size, tries = max(1, len(numbers) // 2), 0
    while numbers and size and tries < TRIES_MAX:
        before = len(numbers)
        for start in range(0, before, size):
            left = [number for number in numbers if number not in numbers[start : start + size]]
            tries += 1
            outcome = run_seed(seed, replace(options, only=tuple(left)))
            if outcome.violations:
                best, numbers = outcome, left
                progress(len(numbers), tries)
                break
        else:
            size //= 2
            continue
        size = min(size, max(1, len(numbers) // 2))
    return best
