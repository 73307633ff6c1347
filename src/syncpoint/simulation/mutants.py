"""All deliberate bugs that the simulator must catch, by name."""

from __future__ import annotations

from collections.abc import Mapping

from syncpoint.simulation import (
    mutants_database_journal,
    mutants_journal,
    mutants_manager,
    mutants_takeover,
    mutants_tree,
)
from syncpoint.simulation.mutant import Mutant

MUTANTS: Mapping[str, Mutant] = {
    one.name: one
    for one in (
        *mutants_manager.MUTANTS,
        *mutants_journal.MUTANTS,
        *mutants_database_journal.MUTANTS,
        *mutants_tree.MUTANTS,
        *mutants_takeover.MUTANTS,
    )
}
