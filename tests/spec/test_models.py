"""The specification, checked: the small models here, all of them with `make spec`."""

from __future__ import annotations

import pytest

from tests.spec.liveness import LIVENESS
from tests.spec.rules import MODELS, QUICK, QUICK_MODELS, RULES, Model, Rule


@pytest.mark.parametrize("model", [*QUICK_MODELS, *LIVENESS], ids=lambda model: model.name)
def test_a_model_is_as_it_must_be(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    """Invariants, and that it refines atomic commit; nothing in doubt for ever, and that this could fail."""
    result = model.check()
    with capsys.disabled():
        print(f"\n{model.name}: {result.distinct_states} states", end=" ")
    assert (result.violated or "green") == "green" if model.expected == "green" else result.violated, result.output
    assert result.distinct_states > 40


def test_the_quick_models_are_models() -> None:
    assert {model.name for model in QUICK_MODELS} == set(QUICK)
    assert len(MODELS) > len(QUICK_MODELS)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.module}-{rule.name}")
def test_without_a_rule_there_is_a_counterexample(rule: Rule) -> None:
    """A model that stays green without a rule is too small, or checks too little."""
    result = rule.check()
    assert result.is_counterexample, f"green without {rule.name} ({rule.page})"
