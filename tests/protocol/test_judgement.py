"""What the branches' answers add up to: every combination of them, against the rows O07 to O14 written another way."""

from __future__ import annotations

from itertools import product

from syncpoint.ids import BranchNumber
from syncpoint.protocol.judgement import Result, judge
from syncpoint.protocol.words import Answer


def expected_judgement(seen: frozenset[Answer], *, commit: bool, pending: bool, recorded: bool) -> Result | None:
    """O07 to O14 in the order a person would ask."""
    names = {answer.name.removeprefix("HEURISTIC_") for answer in seen if answer.name.startswith("HEURISTIC")}
    against = "ROLLBACK" if commit else "COMMIT"
    if "MIXED" in names:
        return Result.HEURISTIC_MIXED
    if "HAZARD" in names:
        return Result.HEURISTIC_HAZARD
    if against not in names:
        return None
    if pending:
        return Result.HEURISTIC_HAZARD
    everybody = len(seen) == 1
    if commit and everybody and not recorded:
        return Result.ABORTED
    return Result.HEURISTIC_MIXED


def subsets_of_answers() -> list[frozenset[Answer]]:
    answers = [answer for answer in Answer if answer is not Answer.NOT_FOUND]
    return [
        frozenset(answer for answer, chosen in zip(answers, bits, strict=True) if chosen)
        for bits in product((False, True), repeat=len(answers))
    ]


def test_judge_on_all_its_inputs() -> None:
    for seen, commit, pending, recorded in product(subsets_of_answers(), *[(False, True)] * 3):
        if Answer.RETRY in seen and not pending:
            continue  # a branch that says RETRY is pending
        numbered = {BranchNumber(n): answer for n, answer in enumerate(sorted(seen, key=lambda a: a.value), 1)}
        said = judge(numbered, commit=commit, pending=pending, recorded=recorded)
        expected = expected_judgement(seen, commit=commit, pending=pending, recorded=recorded)
        assert said is expected, f"{seen} commit={commit} pending={pending} recorded={recorded}"
