"""SIGKILL in the middle of a block's end: another process makes it all or nothing, and the id runs exactly once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import dataclass

import pytest

from syncpoint.errors import AlreadyCommitted
from tests.django.world import World


@dataclass(frozen=True)
class Death:
    """Right before, or right after, a step of the block's end. `survives`: the decision was made before."""

    what: str
    survives: bool
    after: bool = False
    pair: str = "mariadb"

    def __str__(self) -> str:
        return f"{'after' if self.after else 'before'} {self.what} ({self.pair})"


DEATHS = (
    Death("evidence and PREPARE TRANSACTION", survives=False, after=True),
    Death("XA PREPARE", survives=False),
    Death("XA PREPARE", survives=False, after=True),
    Death("journal force", survives=False),
    Death("journal force", survives=True, after=True),
    Death("COMMIT PREPARED", survives=True),
    Death("XA COMMIT", survives=True),
    Death("XA COMMIT", survives=True, after=True),
    Death("journal force", survives=False, pair="postgresql"),
    Death("COMMIT PREPARED", survives=True, after=True, pair="postgresql"),
)


@pytest.mark.parametrize("death", DEATHS, ids=str)
def test_a_killed_block_is_everywhere_or_nowhere(death: Death, request: pytest.FixtureRequest) -> None:
    from syncpoint.django import atomic, manager

    world: World = request.getfixturevalue("mariadb" if death.pair == "mariadb" else "postgres")
    before = world.in_doubt()  # XA RECOVER lists a whole server
    order = {
        "urls": world.urls,
        "using": world.using,
        "journal": world.journal,
        "what": death.what,
        "nth": 1,
        "after": death.after,
    }
    child = subprocess.run(
        [sys.executable, "-m", "tests.django.child", json.dumps(order)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert child.returncode == -signal.SIGKILL, f"it was to die {death}:\n{child.stderr}"

    manager().recover(wait_seconds=30)
    assert world.everywhere() == (["Ada"] if death.survives else [])
    assert [one for one in world.in_doubt() if one not in before] == []

    def resend() -> None:
        with atomic(using=world.using, id="order-1"):
            world.work("Ada")

    if death.survives:
        with pytest.raises(AlreadyCommitted):
            resend()
    else:
        resend()
    assert world.everywhere() == ["Ada"]
