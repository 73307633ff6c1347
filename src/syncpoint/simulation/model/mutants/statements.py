"""Deliberate bugs in the rules that production has as SQL (journal/statements.py), and the model as functions.

They show that the model would see such a bug; they are no proof about the SQL, which has tests of its own.
Not for: `protocol/`.
"""

from __future__ import annotations

from typing import Any

from syncpoint.simulation.model import journal
from syncpoint.simulation.model.mutants.patch import Mutant, function, instead


def _living_or_not(original: Any) -> Any:
    def is_forsaken(rows: Any, own: int, one: int, silent: frozenset[int]) -> bool:
        return one != own and rows.keeper(one) not in (own, journal.GONE)

    return is_forsaken


STATEMENTS = [
    Mutant(
        "the fence is forgotten",
        "O56: a Commit is let in only while its incarnation keeps itself",
        function(journal, "may_decide", instead(lambda rows, incarnation: True)),
        True,
        scope="two attempts",
    ),
    Mutant(
        "who was taken over ends records all the same",
        "only its keeper ends a record",
        function(journal, "may_end", instead(lambda rows, incarnation, own: True)),
        scope="three processes, taken for dead",
    ),
    Mutant(
        "what somebody alive keeps is taken from him",
        "what somebody else keeps is taken only after that keeper was",
        function(journal, "is_forsaken", _living_or_not),
        scope="three processes, taken for dead",
    ),
    Mutant(
        "an Abort is removed while its Commit can still come",
        "O54: Aborts are deleted only for fenced incarnations",
        function(journal, "may_drop_abort", instead(lambda rows, incarnation: True)),
        True,
        scope="taken for dead, verdict lost",
    ),
]
