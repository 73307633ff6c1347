"""The scopes that are explored: the small ones by the tests too, all of them by the command.

Each has a subject, and only what that subject needs: what is not there cannot multiply with the rest.
Not for: what the words of a scope mean (scope.py).
"""

from __future__ import annotations

from syncpoint.protocol.words import Choice
from syncpoint.simulation.model.rules import AnyScope
from syncpoint.simulation.model.scope import Scope
from syncpoint.simulation.model.tree.scope import TreeScope

YES = (Choice.YES,)
YES_NO = (Choice.YES, Choice.NO)

SCOPES: list[AnyScope] = [
    # --- one branch, or none -------------------------------------------------------------------------------
    Scope("one phase", writers=(1,), caller_gives_up=True),
    Scope("one phase, taken for dead", writers=(1,), caller_gives_up=True, cleaning=True, wrong_guess=True),
    Scope("an id, nothing written", writers=(), has_id=True),
    Scope("an id, one writer", writers=(2,), has_id=True, alone=True, restarts=False),
    # --- the decision in a branch ----------------------------------------------------------------------------
    Scope("decider", decider=1),
    Scope("decider, the only writer", decider=2, writers=(2,), has_id=True, votes=YES),
    Scope("decider, taken for dead", decider=2, votes=YES, wrong_guess=True, cleaning=True, small=False),
    # --- two phases ------------------------------------------------------------------------------------------
    Scope("folder", own_disk=True, restarts=False, votes=YES_NO),
    Scope("folder, power cuts", own_disk=True, journal_crashes=True, votes=YES, restarts=False, cleaning=True),
    Scope("database", votes=YES_NO, restarts=False, caller_gives_up=True),
    Scope("every vote", crashes=False, out_of_time=True, own_disk=True),
    Scope("decided alone", alone=True, votes=YES, crashes=False, restarts=False),
    Scope("messages twice", remembers=True, duplicates=True, own_disk=True, crashes=False, votes=YES_NO),
    Scope("messages twice, decided alone", remembers=True, alone=True, own_disk=True, crashes=False, restarts=False),
    Scope("replica", replica=True, votes=YES, own_disk=True, restarts=False, connections_lost=False),
    Scope(
        "replica with redo",
        replica=True,
        has_redo=True,
        votes=YES,
        own_disk=True,
        restarts=False,
        connections_lost=False,
    ),
    Scope(
        "taken for dead",
        wrong_guess=True,
        recoverers=(1,),
        votes=YES,
        restarts=False,
        crashes=False,
        cleaning=True,
        replies_of_journal_lost=False,
    ),
    Scope(
        "taken for dead, verdict lost",
        wrong_guess=True,
        recoverers=(1,),
        votes=YES,
        restarts=False,
        crashes=False,
        connections_lost=False,
        cleaning=True,
        caller_gives_up=True,
    ),
    Scope(
        "two attempts",
        has_id=True,
        runners=2,
        recoverers=(1,),
        attempts_max=2,
        votes=YES,
        wrong_guess=True,
        restarts=False,
        crashes=False,
        connections_lost=False,
        replies_of_journal_lost=False,
    ),
    Scope(
        "two attempts of one writer, verdict lost",
        has_id=True,
        writers=(1,),
        runners=2,
        recoverers=(1,),
        attempts_max=2,
        votes=YES,
        wrong_guess=True,
        restarts=False,
        crashes=False,
        connections_lost=False,
    ),
    Scope(
        "a claim is lost",
        has_id=True,
        writers=(1,),
        runners=2,
        attempts_max=2,
        votes=YES,
        restarts=False,
        journal_crashes=True,
        crashes=False,
        connections_lost=False,
        replies_of_journal_lost=False,
    ),
    Scope(
        "a second recoverer",
        processes=3,
        incarnations_max=3,
        votes=YES,
        restarts=False,
        connections_lost=False,
        replies_of_journal_lost=False,
    ),
    Scope(
        "three processes, taken for dead",
        managers=1,
        writers=(1,),
        has_id=True,
        processes=3,
        incarnations_max=3,
        recoverers=(1, 2),
        suspects=(0,),
        passes_max=2,
        votes=YES,
        wrong_guess=True,
        restarts=False,
        crashes=False,
        cleaning=True,
        connections_lost=False,
        replies_of_journal_lost=False,
    ),
    # --- a tree of depth 2 ---------------------------------------------------------------------------------------
    TreeScope("a tree, the subordinate dies", starts_max=(1, 2), connections_lost=False),
    TreeScope("a tree, the superior dies", starts_max=(2, 1), connections_lost=False),
    TreeScope("a tree, connections lost", starts_max=(1, 1), votes=YES_NO, out_of_time=True, restarts=True),
    TreeScope("a tree, records not taken", starts_max=(1, 2), connections_lost=False, refusals=True),
    # --- the full command only ----------------------------------------------------------------------------------
    Scope("full: folder", own_disk=True, passes_max=2, out_of_time=True, incarnations_max=3, small=False),
    Scope("full: database", passes_max=2, cleaning=True, votes=YES_NO, small=False),
    Scope("full: journal's database dies", journal_crashes=True, cleaning=True, votes=YES_NO, small=False),
    Scope("full: decided alone", alone=True, votes=YES_NO, small=False),
    Scope("full: operator", operator=True, votes=YES_NO, small=False),
    Scope("full: messages twice", remembers=True, duplicates=True, small=False),
    Scope("full: replica with redo", replica=True, has_redo=True, votes=YES, small=False),
    Scope(
        "full: taken for dead",
        wrong_guess=True,
        incarnations_max=3,
        votes=YES,
        restarts=False,
        cleaning=True,
        caller_gives_up=True,
        small=False,
    ),
    Scope(
        "full: three processes, taken for dead",
        processes=3,
        incarnations_max=3,
        recoverers=(1, 2),
        votes=YES,
        wrong_guess=True,
        restarts=False,
        crashes=False,
        cleaning=True,
        connections_lost=False,
        replies_of_journal_lost=False,
        small=False,
    ),
    Scope(
        "full: three processes, one taken for dead",
        processes=3,
        incarnations_max=3,
        recoverers=(1, 2),
        suspects=(0,),
        votes=YES,
        wrong_guess=True,
        restarts=False,
        crashes=False,
        cleaning=True,
        connections_lost=False,
        replies_of_journal_lost=False,
        passes_max=2,
        small=False,
    ),
    Scope(
        "full: two attempts",
        has_id=True,
        runners=2,
        attempts_max=2,
        votes=YES,
        wrong_guess=True,
        restarts=False,
        connections_lost=False,
        small=False,
    ),
    Scope("full: three RMs", managers=3, writers=(1, 2, 3), own_disk=True, votes=YES_NO, restarts=False, small=False),
    TreeScope("full: a tree", small=False),
    TreeScope("full: a tree of three RMs", branches=2, votes=YES_NO, connections_lost=False, small=False),
]


def scope_named(name: str) -> AnyScope:
    """Raises KeyError."""
    return {scope.name: scope for scope in SCOPES}[name]
