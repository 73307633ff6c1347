"""Every deliberate bug in the protocol is refuted by the model alone, and none stays behind.

By what, and where: refuted.json, in which each mutant has the smallest scope that shows it. Written anew by
`python -m syncpoint.simulation.model --mutants-only --json`, whose `table` it is; that tries all small scopes.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from syncpoint.protocol import coordinator, participant, recovery
from syncpoint.protocol.coordinator import Coordinator
from syncpoint.simulation.model import recovering
from syncpoint.simulation.model.mutants import MUTANTS, Mutant
from syncpoint.simulation.model.refute import refute
from syncpoint.simulation.model.report import figures_of
from syncpoint.simulation.model.scopes import scope_named
from syncpoint.simulation.model.transcript import play

TABLE = json.loads((Path(__file__).parent / "refuted.json").read_text(encoding="utf-8"))
EXPECTED = {row["mutant"]: row for row in TABLE}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_mutant_is_refuted(mutant: Mutant) -> None:
    expected = EXPECTED[mutant.name]
    refutation = refute(mutant, [scope_named(expected["scope"])], rounds=(None,))
    assert refutation.counterexample is not None, "the model stays green without this rule: it is too small"
    assert refutation.counterexample.rule == expected["refuted_by"]


def test_there_are_enough_and_half_of_them_come_from_the_design() -> None:
    in_protocol = [one for one in MUTANTS if one.name in EXPECTED]
    assert len(in_protocol) >= 25
    assert sum(one.from_the_design for one in MUTANTS) * 2 >= len(MUTANTS)
    assert len({one.name for one in MUTANTS}) == len(MUTANTS)
    assert {one.name for one in MUTANTS} == set(EXPECTED)


def test_nothing_of_a_mutant_stays_behind() -> None:
    def all_that_is_patched() -> list[object]:
        methods = [Coordinator.__dict__[name] for name in ("force_lost", "refused", "_to_abort", "commit", "result")]
        tables = [dict(coordinator.NEXT), dict(participant.NEXT)]
        return [*methods, *tables, recovery.fate_of, recovering.fate_of, recovering.evidence_can_go]

    before = all_that_is_patched()
    for mutant in MUTANTS:
        with mutant.applied():
            pass
        with pytest.raises(KeyError), mutant.applied():
            raise KeyError
    assert all_that_is_patched() == before


def test_a_function_is_patched_wherever_it_was_imported() -> None:
    (mutant,) = [one for one in MUTANTS if one.name == "commit is presumed"]
    with mutant.applied():
        assert recovering.fate_of is recovery.fate_of
        changed = recovery.fate_of
    assert recovering.fate_of is recovery.fate_of is not changed


@pytest.mark.parametrize(
    "name",
    [
        "a lost verdict reads as a refusal",
        "a Commit record speaks for all attempts",
        "a subordinate's recovery rolls back what was promised",
    ],
)
def test_a_counterexample_is_a_transcript_that_can_be_played(name: str) -> None:
    (mutant,) = [one for one in MUTANTS if one.name == name]
    scope = scope_named(EXPECTED[name]["scope"])
    transcript = figures_of(refute(mutant, [scope])).transcript
    assert transcript.startswith(f"# {EXPECTED[name]['refuted_by']}: ")
    assert f"# mutant: {name}" in transcript
    with mutant.applied():
        assert play(transcript, scope) == transcript
    assert "\nbroken: " in transcript.split("\n\n")[-1]
