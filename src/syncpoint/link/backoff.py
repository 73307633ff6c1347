"""How long to wait before dialling again, and how often to say the same thing. Pure.

Not for: clocks; time and chance are arguments.
"""

from __future__ import annotations


class BackOff:
    """Exponential, jittered: the n-th pause is a random time between half of `base_s * 2**n` and all of it.

    Parameters: `base_s`, the first pause at most, in seconds; `max_s`, what no pause exceeds.
    """

    def __init__(self, base_s: float, max_s: float) -> None:
        assert 0 < base_s <= max_s
        self._base_s = base_s
        self._max_s = max_s
        self.failures = 0

    def __repr__(self) -> str:
        return f"<BackOff after {self.failures} failures>"

    def next_pause_s(self, fraction: float) -> float:
        """One more failure: seconds to wait now. `fraction` in [0, 1) is chance (`ports.Random.fraction`)."""
        whole_s = self._max_s
        if self.failures < 64:  # beyond, 2**n is no longer a sensible float
            whole_s = min(self._max_s, self._base_s * 2.0**self.failures)
        self.failures += 1
        return whole_s * (0.5 + fraction / 2)

    def reset(self) -> None:
        """It worked for a while: begin small again."""
        self.failures = 0


class Complaints:
    """Which log lines are written: the first few of a kind in a period, then only how many were left out.

    Strangers must not be able to fill a disk with our log. Parameter: `period_s`, in seconds.
    """

    KINDS_MAX = 1000

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._kinds: dict[str, tuple[float, int]] = {}

    def __repr__(self) -> str:
        return f"<Complaints {len(self._kinds)} kinds>"

    def may_say(self, kind: str, *, now_s: float, burst: int = 1) -> tuple[bool, int]:
        """(whether to write it, how many of this kind were left out before). `burst`: how many in a period."""
        begun_at_s, number = self._kinds.get(kind, (now_s, 0))
        if number and now_s - begun_at_s < self._period_s:
            self._kinds[kind] = (begun_at_s, number + 1)
            return number < burst, 0
        if len(self._kinds) >= self.KINDS_MAX:
            self._kinds.clear()
        self._kinds[kind] = (now_s, 1)
        return True, max(0, number - burst)

    def forget(self, kind: str) -> None:
        """It is over: the next one is news again."""
        self._kinds.pop(kind, None)
