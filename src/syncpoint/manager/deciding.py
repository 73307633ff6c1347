"""Decisions whose reply was lost: whether the Commit record is there is settled by proof, never assumed (O46, R5).

    reply lost -> write Abort under the same key -> refused: committed | accepted: aborted | lost too: again, later
                                                                  (until the caller's time is over, then recovery's)

First writer wins, so exactly one of the two records exists in the end. An accepted Abort proves nothing to a process
that was taken for dead: whoever took over may have finished the Commit and removed its record.
Not for: what follows from the outcome (commit.py, recovery.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from syncpoint.errors import JournalUnavailable, JournalUncertain, ManagerClosed
from syncpoint.journal.base import Verdict
from syncpoint.protocol.recovery import Settled, judge_abort
from syncpoint.records import Abort, key_fields
from syncpoint.steps import Script, Wait

if TYPE_CHECKING:
    from syncpoint.manager.core import Core
    from syncpoint.manager.transaction import Work

SETTLE_S_MAX = 10.0
"""How long the caller waits for a journal that does not answer, before recovery goes on with it."""
PAUSE_S_MIN = 0.05
PAUSE_S_MAX = 1.0


def settle(work: Work, record: Abort) -> Script[Settled | None]:
    """Write Abort until the journal answers, at most until the transaction's time is over; None: it did not."""
    core = work.core
    limit = min(work.deadline, core.clock.monotonic() + SETTLE_S_MAX)
    pause_s = PAUSE_S_MIN
    while True:
        is_last = core.shutdown.is_set()
        settled = yield from _try(core, record)
        left_s = limit - core.clock.monotonic()
        if settled is not None or is_last or left_s <= 0:
            return settled
        yield Wait(core.shutdown, min(left_s, pause_s * (0.5 + core.random.fraction() / 2)))
        pause_s = min(2 * pause_s, PAUSE_S_MAX)


def _try(core: Core, record: Abort) -> Script[Settled | None]:
    """Once. None: the journal did not answer. Raises JournalFailed (a local disk, R5)."""
    try:
        (verdict,) = yield from core.journal.force((record,))
        accepted = verdict is Verdict.ACCEPTED
        confirmed = accepted and (yield from core.journal.confirm(record.key.attempt.incarnation))
    except (JournalUncertain, JournalUnavailable, ManagerClosed):
        return None
    return judge_abort(accepted=accepted, confirmed=confirmed)


def settle_left(core: Core) -> Script[None]:
    """For recovery: try once more to settle what was handed over, and to write what the journal could not take.

    A journal that does not answer leaves it all as it is. Raises JournalFailed.
    """
    for key in list(core.deciding):
        settled = yield from _try(core, Abort(**key_fields(key), why="the reply to its Commit record was lost"))
        if settled is None:
            return
        core.decided(key)
    with core.mutex:
        owed, core.owed = core.owed, []
    if owed:
        try:
            yield from core.journal.force(owed)
        except BaseException as error:
            with core.mutex:
                core.owed = owed + core.owed
            if not isinstance(error, JournalUncertain | JournalUnavailable | ManagerClosed):
                raise
