"""The mutation tool, small: it plants bugs in one file, its tests notice them, and what survives is explained.

The long form is `make mutants`. Not for: what the long form found (survivors.toml).
"""

from __future__ import annotations

import ast
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.mutation.parts import PARTS
from tests.mutation.run import KILLED, ROOT, results, run, survivor, undecorated
from tests.mutation.survivors import Explanation, Survivor, explain, explanations, is_case_of_sql

NAMED = {
    "O08": "if Answer.HEURISTIC_HAZARD not in seen:",
    "O09": "if Answer.HEURISTIC_MIXED not in seen:",
    "O11": "return Result.HEURISTIC_HAZARD if (pending) and False else Result.HEURISTIC_MIXED",
    "O12": "if seen == {Answer.HEURISTIC_ROLLBACK} or not recorded:",
    "O14": "if Answer.HEURISTIC_ROLLBACK in seen:",
}
"""The row that each of these bugs breaks."""


def test_planted_bugs_are_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "smoke"
    figures = run("smoke", folder)
    assert figures["mutants"] == figures["killed"] + figures["survived"] > 10
    assert figures["unexplained"] == []
    assert figures["killed_percent"] > 90
    assert list(figures["by_file"]) == ["protocol/judgement.py"]
    found = [(survivor(folder, mutant), result) for mutant, result in results(folder)]
    killed = [one.became for one, result in found if result == KILLED]
    assert [row for row, bug in NAMED.items() if not any(one.startswith(bug) for one in killed)] == []


def test_what_is_explained_exists_and_says_why() -> None:
    for one in explanations():
        tree = ast.parse((ROOT / "src" / "syncpoint" / one.file).read_text())
        names = {
            f"{owner.name}.{node.name}" if isinstance(owner, ast.ClassDef) else node.name
            for owner in ast.walk(tree)
            for node in ast.iter_child_nodes(owner)
            if isinstance(node, ast.FunctionDef)
        }
        assert one.function in names, one
        assert len(one.why) > 20, one
        assert one.became, one


def test_an_explanation_covers_its_own_mutants_only() -> None:
    known = Explanation("a.py", "f", "x < 1", ("x <= 1",), "why")
    assert known.covers(Survivor("a.py", "f", "if x < 1:", "if x <= 1:"))
    assert not known.covers(Survivor("a.py", "f", "if x < 1:", "if x > 1:"))
    assert not known.covers(Survivor("a.py", "g", "if x < 1:", "if x <= 1:"))
    assert not known.covers(Survivor("b.py", "f", "if x < 1:", "if x <= 1:"))
    strange = Survivor("no.py", "f", "a", "b")
    assert explain([strange]) == ([], [strange])
    assert str(strange) == "no.py f: a  ->  b"


def test_sql_in_other_letters_is_no_bug() -> None:
    was = 'return f"SELECT keeper FROM syncpoint.incarnation WHERE incarnation = {incarnation}"'
    for became, expected in (
        (was.replace("SELECT keeper FROM", "select keeper from"), True),
        (was.replace("keeper", "keepers"), False),
        (was.replace("SELECT", "XXSELECT"), False),
    ):
        strange = Survivor("journal/statements.py", "Statements.keeper", was, became)
        assert is_case_of_sql(strange) is expected
        assert explain([strange]) == (([strange], []) if expected else ([], [strange]))
    assert not is_case_of_sql(Survivor("a.py", "f", 'raise Illegal("told twice")', 'raise Illegal("TOLD TWICE")'))


def test_properties_become_functions_that_can_be_mutated() -> None:
    code = """
class A:
    @property
    def one(self) -> int:
        return 1

    @staticmethod
    def two() -> int:
        return 2

@contextmanager
def three():
    yield 3
"""
    plain = undecorated(code)
    assert "@property" not in plain
    assert "@staticmethod" in plain
    found: dict[str, Any] = {"contextmanager": contextmanager}
    exec(plain, found)  # noqa: S102
    with found["three"]() as three:
        assert (found["A"]().one, found["A"].two(), three) == (1, 2, 3)


@pytest.mark.parametrize("name", sorted(PARTS))
def test_the_parts_name_files_and_tests_that_are_there(name: str) -> None:
    for file in PARTS[name].files:
        assert list((ROOT / "src" / "syncpoint").glob(file)), file
    for test in PARTS[name].tests:
        assert (ROOT / "tests" / test).exists(), test


def test_every_file_of_both_folders_is_in_a_part() -> None:
    package = ROOT / "src" / "syncpoint"
    covered = {path for part in PARTS.values() for pattern in part.files for path in package.glob(pattern)}
    left_out = {"__init__.py"}
    expected = {path for folder in ("protocol", "journal") for path in (package / folder).glob("*.py")}
    assert {path for path in expected if path.name not in left_out} <= covered
