"""Every small scope, completely: no order of anything breaks a rule. And an exploration that can see nothing fails.

Not for: the large scopes (`python -m syncpoint.simulation.model`), or deliberate bugs (test_mutants.py).
"""

from __future__ import annotations

import pytest

from syncpoint.simulation.model.explore import Exploration, Explorer, explore
from syncpoint.simulation.model.scope import Scope
from syncpoint.simulation.model.scopes import SCOPES
from syncpoint.simulation.model.transcript import write
from syncpoint.simulation.model.world import STEPS

SMALL = [scope for scope in SCOPES if scope.small]


def explored(scope: Scope) -> Exploration:
    result = explore(scope)
    if result.counterexample is not None:
        pytest.fail(write(result.counterexample))
    return result


@pytest.mark.parametrize("scope", SMALL, ids=lambda scope: scope.name)
def test_no_order_breaks_a_rule(scope: Scope, capsys: pytest.CaptureFixture[str]) -> None:
    result = explored(scope)
    with capsys.disabled():
        print(f"\n{scope.name}: {result.states} states ({scope.bounds()})", end=" ")
    assert result.is_complete
    assert result.states > 400


def test_the_same_scope_has_the_same_states_every_time() -> None:
    first, second = explored(SCOPES[0]), explored(SCOPES[0])
    assert (first.states, first.transitions, first.depth) == (second.states, second.transitions, second.depth)


def test_every_step_of_the_model_can_happen_in_some_scope() -> None:
    """A step that no scope takes would be checked by nobody. The last are deep, or of futures."""
    seen: set[str] = set()
    for scope in SCOPES:
        seen |= Explorer(scope, states_max=600).explore().steps_taken
    late = {
        "begin_anew",
        "lose_all",
        "judge_missing_branch",
        "drop_finished",
        "drop_aborts",
        "drop_evidence",
        "act_lost",
        "tree_acknowledged",
        "tree_answered",
    }
    assert set(STEPS) - seen <= late | {"hang_up", "settle_left", "decide_left", "look_at_evidence", "end"}


def test_names_of_scopes_are_their_own() -> None:
    assert len({scope.name for scope in SCOPES}) == len(SCOPES)
