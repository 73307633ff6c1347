"""Deliberate bugs in `protocol/`, each of one line, patched in by name; the model alone must refute every one.

A mutant replaces a method of a class, an entry of a transition table, or a function, for the time of a `with`. Nothing
in production has a switch for this. Half of them (`from_the_design`) were written from the design alone, before any
test of the protocol was read. Not for: running them (refute.py).
"""

from __future__ import annotations

from syncpoint.simulation.model.mutants.answering import ADMISSION, JUDGEMENT, PARTICIPANT
from syncpoint.simulation.model.mutants.committing import COORDINATOR
from syncpoint.simulation.model.mutants.patch import Mutant
from syncpoint.simulation.model.mutants.recovering import RECOVERY
from syncpoint.simulation.model.mutants.statements import STATEMENTS
from syncpoint.simulation.model.mutants.trees import TREES

__all__ = ["MUTANTS", "Mutant"]

MUTANTS: list[Mutant] = [*COORDINATOR, *PARTICIPANT, *ADMISSION, *RECOVERY, *JUDGEMENT, *STATEMENTS, *TREES]
