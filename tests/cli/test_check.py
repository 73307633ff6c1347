"""`syncpoint check`: a recorded history, judged from the command line.

Not for: what each checker finds (tests/testing/checkers).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from syncpoint.testing.checkers import History, write_history
from tests.cli.conftest import Command
from tests.testing.checkers.histories import append, of, ok, read
from tests.testing.checkers.test_counter import up, value

RIGHT = of(ok(1, 0, 1, append("x", 1)), ok(2, 2, 3, read("x", 1)))
SKEWED = of(ok(1, 0, 9, read("y"), append("x", 1)), ok(2, 0, 9, read("x"), append("y", 2)))
STALE = of(ok(1, 0, 1, up(), append("x", 1)), ok(2, 2, 3, value(0), read("x")))


def written(history: History, name: str = "h.jsonl") -> str:
    write_history(name, history)
    return name


def test_a_right_history(command: Command) -> None:
    ran = command("check", written(RIGHT))
    assert (ran.exit_code, ran.stdout) == (0, "2 operations, checked as list-append: nothing is wrong.\n")
    assert command("check", "h.jsonl", "--json").json == {
        "ok": True,
        "operations": 2,
        "workloads": ["list-append"],
        "findings": [],
    }


def test_a_wrong_history_is_explained_and_fails(command: Command) -> None:
    ran = command("check", written(SKEWED))
    assert ran.exit_code == 1
    first, *chain, last = ran.stdout.splitlines()
    assert first.startswith("G2: no order explains what T1 and T2 saw: T1 comes before T2, because")
    assert chain == [
        "    T1 --rw-> T2: T1 read a/y = [] without the 2 that T2 appended",
        "    T2 --rw-> T1: T2 read a/x = [] without the 1 that T1 appended",
    ]
    assert last == "2 operations, checked as list-append: 1 violation."


def test_the_document_of_a_wrong_history(command: Command) -> None:
    ran = command("check", written(SKEWED), "--json")
    assert (ran.exit_code, ran.stderr) == (1, "")
    [finding] = ran.json["findings"]
    assert not ran.json["ok"]
    assert (finding["workload"], finding["kind"], finding["operations"]) == ("list-append", "G2", [1, 2])
    assert finding["chain"][0] == {
        "before": 1,
        "after": 2,
        "kind": "rw",
        "reason": "T1 read a/y = [] without the 2 that T2 appended",
    }


def test_one_checker_or_several_or_lenient(command: Command) -> None:
    file = written(STALE)
    assert command("check", file, "--json").json["workloads"] == ["list-append", "counter"]
    ran = command("check", file, "--workload", "counter")
    assert ran.exit_code == 1
    assert ran.stdout.splitlines() == [
        "too-low: T2 found 0 in a/n, but what was acknowledged before makes at least 1.",
        "2 operations, checked as counter: 1 violation.",
    ]
    assert command("check", file, "--stale-reads").exit_code == 0


def test_several_files_are_one_history(command: Command) -> None:
    one, two = written(of(RIGHT.operations[0]), "1.jsonl"), written(of(RIGHT.operations[1]), "2.jsonl")
    assert command("check", one, two, "--json").json["operations"] == 2


def test_only_some_of_very_many_are_printed(command: Command) -> None:
    ran = command("check", written(of(*(ok(n, n, n, value(5)) for n in range(40)))))
    assert "… and 15 more: --json has them all.\n40 operations, checked as counter: 40 violations.\n" in ran.stdout


@pytest.mark.parametrize(
    ("text", "arguments", "says"),
    [
        (None, (), "The history h.jsonl cannot be read: No such file or directory."),
        ("hello\n", (), "There is no history in h.jsonl: its first line is not the header."),
        ('{"format":"syncpoint-history","version":1}\n{"id":1}\n', (), "Line 2 of h.jsonl is no operation"),
        ('{"format":"syncpoint-history","version":1}\n', (), "an empty one proves nothing"),
        ('{"format":"syncpoint-history","version":9}\n', (), "reads up to version 1"),
        (
            '{"format":"syncpoint-history","version":1}\n{"id":1,"invoked_at":0}\n',
            ("--workload", "bank"),
            "no action that the checker 'bank' reads",
        ),
    ],
)
def test_what_cannot_be_judged_is_an_error(
    command: Command, text: str | None, arguments: tuple[str, ...], says: str
) -> None:
    if text is not None:
        Path("h.jsonl").write_text(text, encoding="utf-8")
    ran = command("check", "h.jsonl", *arguments, "--json")
    assert ran.exit_code == 1
    assert says in ran.stderr
    assert ran.json["error"]["kind"] in ("BadHistory", "FormatTooNew")


def test_an_unknown_checker_is_wrong_usage(command: Command) -> None:
    ran = command("check", written(RIGHT), "--workload", "banks")
    assert ran.exit_code == 2
    assert "list-append" in ran.stderr
