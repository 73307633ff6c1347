"""The journal in a database under the simulator: the reduced form of `syncpoint simulate`, and what it has found.

Not for: many seeds and all mutants (`syncpoint simulate`), or the tables' server (test_journal_rows.py).
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from syncpoint.journal.database import DatabaseJournal, Options
from syncpoint.simulation import network
from syncpoint.simulation.database import Habits, SimDatabase, SimResource
from syncpoint.simulation.journal_rows import Habits as RowHabits
from syncpoint.simulation.journal_store import SimStore
from syncpoint.simulation.mutants_database_journal import MUTANTS
from syncpoint.simulation.network import Network
from syncpoint.simulation.process import Process
from syncpoint.simulation.run import Options as SeedOptions
from syncpoint.simulation.run import run_seed
from syncpoint.simulation.runtime import SimRuntime
from syncpoint.simulation.world import SimRandom, World
from syncpoint.steps import Done, Script, Sleep

DEAD_AFTER_S = 1.0
OUTAGE_S = 2.0
QUICKLY_CAUGHT = ("commit-sent-again", "lost-reply-is-no")


@pytest.mark.parametrize("journal", ["database", "bank"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_seed_ends_well(journal: str, seed: int) -> None:
    outcome = run_seed(seed, SeedOptions(journal=journal))
    assert outcome.violations == ()
    assert outcome.virtual_s >= 60
    assert outcome.counts["transactions ok"] > 20


def test_the_same_seed_gives_the_same_hash_again_and_in_every_process() -> None:
    code = (
        "from syncpoint.simulation.run import Options, run_seed\n"
        "for journal in ('database', 'bank', 'database'): print(run_seed(2, Options(journal=journal)).digest)"
    )
    fixed = {**os.environ, "PYTHONHASHSEED": "0"}
    digests = [
        subprocess.run([sys.executable, "-c", code], env=fixed, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert digests[0] == digests[1]
    first, other, again = digests[0].split()
    assert first == again != other


@pytest.mark.parametrize("name", QUICKLY_CAUGHT)
def test_a_deliberate_bug_is_caught(name: str) -> None:
    (mutant,) = (one for one in MUTANTS if one.name == name)
    with mutant.patch():
        assert any(run_seed(seed, SeedOptions(journal=mutant.journal)).violations for seed in range(1, 20))


# --- found by it ------------------------------------------------------------------------------------------------------


class Twosome:
    """Two processes, on a machine each, and the server of their journal."""

    def __init__(self) -> None:
        self.world = World(1)
        self.network = Network(self.world)
        self.server = SimDatabase(self.world, self.network, "journal", Habits())
        self.rows = self.server.keep_journal(RowHabits())
        self.processes: list[Process] = []
        self.journals = [self._process(f"host{number}/app") for number in range(2)]
        self.world.run(5.0)
        self.first, self.second = (journal.incarnation for journal in self.journals)

    def _process(self, name: str) -> DatabaseJournal:
        process = Process(self.world, name)
        self.processes.append(process)
        random = SimRandom(self.world.stream(name))
        resource = SimResource("journal", self.server, process, self.network, process.clock, random)
        options = Options(heartbeat_s=0.2, dead_after_s=DEAD_AFTER_S)
        journal = DatabaseJournal(SimStore(resource), clock=process.clock, random=random, process=name, options=options)
        runtime = SimRuntime(process, lambda: 0.0)
        runtime.begin(self._live(journal, runtime), "live", lambda outcome: None)
        return journal

    def _live(self, journal: DatabaseJournal, runtime: SimRuntime) -> Script[None]:
        yield from journal.open(runtime)
        while True:
            yield Sleep(0.25)
            runtime.begin(journal.watch(), "watch", lambda outcome: isinstance(outcome, Done))


def test_nobody_judges_after_an_outage_by_a_sign_of_life_that_was_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """O34. It was sent before the outage and answered after it: so it says nothing of how long all has been well."""
    monkeypatch.setattr(network, "ANSWER_S", (OUTAGE_S + 0.2, OUTAGE_S + 0.3))
    both = Twosome()
    assert both.rows.lives(both.first)
    assert both.rows.lives(both.second)
    both.network.cut("journal", "host0")  # the reply to a sign of life of the first one's
    both.world.run(5.25)
    both.network.mend("journal", "host0")
    both.server.crash()
    both.processes[1].pause()  # it comes back a little later
    both.world.run(5.25 + OUTAGE_S)
    both.server.start()
    both.world.run(5.25 + OUTAGE_S + 0.65 * DEAD_AFTER_S)
    both.processes[1].wake()
    both.world.run(30.0)
    assert (both.first in both.rows.taken, both.second in both.rows.taken) == (False, False)
