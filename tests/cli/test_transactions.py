"""in-doubt, show, outcome, recover, resolve, forget, adopt: what they ask a manager, and how they print its answer."""

from __future__ import annotations

import pytest

from syncpoint.errors import JournalRefused, TransactionRunning
from syncpoint.manager.reports import InDoubtBranch, OutcomeState, RecoveryReport
from tests.cli.conftest import AT_MS, BRANCH, COORDINATOR, HEURISTIC, TRANSACTION, Command, FakeManager

ALL = [
    ["in-doubt"],
    ["show", "order-4711"],
    ["outcome", "order-4711"],
    ["recover"],
    ["resolve", "order-4711", "--commit", "--reason", "lost", "--yes"],
    ["forget", "order-4711"],
    ["adopt", COORDINATOR, "--yes"],
]


# --- in-doubt ------------------------------------------------------------------------------------------


def test_in_doubt_lists_branches(command: Command, manager: FakeManager) -> None:
    ran = command("in-doubt")
    assert ran.exit_code == 0
    line = next(line for line in ran.stdout.splitlines() if "bank" in line)
    for part in (f"order-4711 ({TRANSACTION})", "decided-commit", "1.5 min", COORDINATOR, "recovery will commit it"):
        assert part in line
    assert "Heuristic" not in ran.stdout


def test_in_doubt_as_json(command: Command, manager: FakeManager) -> None:
    manager.heuristic_entries = [HEURISTIC]
    assert command("in-doubt", "--json").json == {
        "branches": [
            {
                "transaction": TRANSACTION,
                "attempt": "3.1",
                "resource": "bank",
                "branch": "syncpoint_0123",
                "status": "decided-commit",
                "explanation": "Its decision is commit; recovery will commit it.",
                "coordinator": COORDINATOR,
                "age_ms": 90_000,
                "user_id": "order-4711",
            }
        ],
        "heuristics": [
            {
                "transaction": TRANSACTION,
                "resource": "ledger",
                "outcome": "HEURISTIC_ROLLBACK",
                "decided": "commit",
                "detail": "forced to abort by ann: [bold]disk[/bold] lost",
                "at_ms": AT_MS,
                "user_id": None,
            }
        ],
    }


def test_nothing_in_doubt(command: Command, manager: FakeManager) -> None:
    manager.branches = []
    assert command("in-doubt").stdout.strip() == "Nothing is in doubt."
    assert command("in-doubt", "--json").json == {"branches": [], "heuristics": []}


def test_a_list_that_may_lack_branches_is_no_success(command: Command, manager: FakeManager) -> None:
    manager.branches = [InDoubtBranch("", "", "bank", "", "unreachable", "It could not be asked: refused")]
    ran = command("in-doubt")
    assert ran.exit_code == 1
    assert "It could not be asked" in ran.stdout
    assert "Nothing is in doubt." not in ran.stdout


def test_heuristic_outcomes_are_listed_as_they_were_written(command: Command, manager: FakeManager) -> None:
    manager.heuristic_entries = [HEURISTIC]
    shown = command("in-doubt").stdout
    assert "2023-11-14 22:13:20.123Z" in shown
    assert "[bold]disk[/bold] lost" in shown, "text of users is no markup"


# --- show, outcome ----------------------------------------------------------------------------------------


def test_show_has_branches_evidence_and_a_timeline(command: Command, manager: FakeManager) -> None:
    shown = command("show", "order-4711").stdout
    assert manager.calls == [("show", "order-4711")]
    assert f"Transaction order-4711 ({TRANSACTION}): committed" in shown
    for part in ("prepared", "absent", "2023-11-14 22:13:20.123Z", "decided: commit", "attempt 3.1; bank"):
        assert part in shown
    assert shown.index("decided: commit") < shown.index("(no time kept)")


def test_show_as_json(command: Command, manager: FakeManager) -> None:
    document = command("show", TRANSACTION, "--json").json
    assert document["state"] == "committed"
    assert document["branches"] == [
        {
            "resource": "bank",
            "identifier": f"{TRANSACTION}/3.1#0",
            "state": "prepared",
            "evidence": "absent",
            "detail": "",
        }
    ]
    assert [event["at_ms"] for event in document["timeline"]] == [AT_MS, None]
    assert set(document) == {"transaction", "state", "user_id", "branches", "timeline", "heuristics"}


def test_outcome(command: Command, manager: FakeManager) -> None:
    manager.result = {"balance": 90}
    shown = command("outcome", "order-4711").stdout
    assert f"order-4711 ({TRANSACTION}): committed" in shown
    assert 'result: {"balance": 90}' in shown
    assert "not acknowledged yet by: ledger" in shown
    assert command("outcome", "order-4711", "--json").json == {
        "transaction": TRANSACTION,
        "state": "committed",
        "result": {"balance": 90},
        "user_id": "order-4711",
        "pending": ["ledger"],
        "heuristic": "",
    }


def test_a_result_of_bytes_has_a_json_form(command: Command, manager: FakeManager) -> None:
    manager.result = [b"\x00\xff", {1: "ä"}]
    assert command("outcome", "order-4711", "--json").json["result"] == ["00ff", {"1": "ä"}]


# --- recover ------------------------------------------------------------------------------------------------


def test_recover_to_the_end(command: Command, manager: FakeManager) -> None:
    manager.report = RecoveryReport(committed=2, aborted=1)
    ran = command("recover", "--wait", "1.5")
    assert manager.calls == [("recover", 1.5)]
    assert ran.exit_code == 0
    assert "Committed 2, aborted 1, redone 0." in ran.stdout
    assert "Nothing of ours is in doubt." in ran.stdout


def test_o44_recover_says_what_is_left(command: Command, manager: FakeManager) -> None:
    manager.report = RecoveryReport(
        left=(BRANCH,), foreign=3, unknown_coordinators=(COORDINATOR,), unreachable={"ledger": "connection refused"}
    )
    ran = command("recover")
    assert ran.exit_code == 1
    for part in ("Still in doubt", "order-4711", "3", f"syncpoint adopt {COORDINATOR}", "connection refused"):
        assert part in ran.stdout
    assert "Nothing of ours is in doubt." not in ran.stdout
    document = command("recover", "--json").json
    assert document["unreachable"] == {"ledger": "connection refused"}
    assert document["left"][0]["transaction"] == TRANSACTION


# --- resolve --------------------------------------------------------------------------------------------------


RESOLVE = ("resolve", "order-4711", "--reason", "the journal is lost")


def test_resolve_shows_the_evidence_and_asks(command: Command, manager: FakeManager) -> None:
    ran = command(*RESOLVE, "--commit", "--who", "ann", input="y\n")
    assert ran.exit_code == 0
    assert manager.calls == [
        ("show", "order-4711"),
        ("resolve", "order-4711", True, "the journal is lost", "ann", None),
    ]
    assert ran.stdout.index("evidence") < ran.stdout.index("answer")
    assert "COMMITTED" in ran.stdout


@pytest.mark.parametrize("answer", ["n\n", "", "\n"])
def test_resolve_does_nothing_unless_told_yes(command: Command, manager: FakeManager, answer: str) -> None:
    ran = command(*RESOLVE, "--commit", input=answer)
    assert ran.exit_code == 1
    assert [call[0] for call in manager.calls] == ["show"]


def test_resolve_with_yes_does_not_ask(command: Command, manager: FakeManager) -> None:
    manager.answer = "ABORTED"
    ran = command(*RESOLVE, "--abort", "--yes", "--resource-name", "bank")
    assert ran.exit_code == 0
    assert manager.calls[1] == ("resolve", "order-4711", False, "the journal is lost", "", "bank")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["resolve", "x", "--commit", "--yes"], "--reason"),
        (["resolve", "x", "--commit", "--yes", "--reason", " "], "A reason is needed"),
        (["resolve", "x", "--yes", "--reason", "r"], "Give exactly one of --commit and --abort."),
        (["resolve", "x", "--commit", "--abort", "--yes", "--reason", "r"], "Give exactly one of --commit and"),
        (["resolve", "x", "--commit", "--reason", "r", "--json"], "With --json nothing can be asked"),
        (["adopt", COORDINATOR, "--json"], "With --json nothing can be asked"),
        (["recover", "--wait", "-1"], "--wait"),
        (["show"], "ID"),
        (["no-such-command"], "No such command"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_asks_nothing(
    command: Command, manager: FakeManager, arguments: list[str], expected: str
) -> None:
    ran = command(*arguments)
    assert ran.exit_code == 2
    assert expected in ran.stderr
    assert ran.stdout == ""
    assert manager.calls == []


@pytest.mark.parametrize(
    ("flag", "state", "evidence", "expected"),
    [
        ("--abort", OutcomeState.COMMITTED, "absent", "its decision is commit"),
        ("--abort", OutcomeState.ABORTED_OR_UNKNOWN, "committed", "the database proves that it is committed at bank"),
        ("--commit", OutcomeState.ABORTED_OR_UNKNOWN, "absent", "no decision to commit is known here"),
    ],
)
def test_resolve_warns_of_a_contradiction(
    command: Command, manager: FakeManager, flag: str, state: OutcomeState, evidence: str, expected: str
) -> None:
    manager.state, manager.evidence = state, evidence
    ran = command(*RESOLVE, flag, "--yes")
    assert f"Warning: {expected}" in ran.stderr
    assert expected in command(*RESOLVE, flag, "--yes", "--json").json["warning"]


def test_resolve_as_decided_warns_of_nothing(command: Command, manager: FakeManager) -> None:
    ran = command(*RESOLVE, "--commit", "--yes", "--json")
    assert ran.stderr == ""
    assert ran.json["warning"] == ""
    assert ran.json["before"]["state"] == "committed"
    assert ran.json["resolved"] == [{"resource": "bank", "identifier": f"{TRANSACTION}/3.1#0", "answer": "COMMITTED"}]


def test_resolve_at_a_resource_without_a_branch(command: Command, manager: FakeManager) -> None:
    ran = command(*RESOLVE, "--commit", "--yes", "--resource-name", "bnak")
    assert ran.exit_code == 1
    assert "order-4711 has no branch at a resource 'bnak'; nothing was forced. It has branches at: bank." in ran.stderr
    assert [call[0] for call in manager.calls] == ["show"]


@pytest.mark.parametrize(
    ("wish", "answer", "exit_code"),
    [
        ("--commit", "UNREACHABLE", 1),
        ("--commit", "HEURISTIC_ROLLBACK", 1),
        ("--commit", "ABORTED", 1),
        ("--commit", "HEURISTIC_COMMIT", 0),
        ("--abort", "HEURISTIC_COMMIT", 1),
        ("--abort", "HEURISTIC_HAZARD", 1),
        ("--abort", "HEURISTIC_ROLLBACK", 0),
        ("--abort", "ABORTED", 0),
    ],
)
def test_resolve_of_a_branch_that_did_not_end_as_forced_is_no_success(
    command: Command, manager: FakeManager, wish: str, answer: str, exit_code: int
) -> None:
    manager.answer = answer
    assert command(*RESOLVE, wish, "--yes").exit_code == exit_code


# --- forget, adopt ----------------------------------------------------------------------------------------------


def test_forget(command: Command, manager: FakeManager) -> None:
    manager.heuristic_entries = [HEURISTIC]
    assert command("forget", "order-4711", "--who", "ann").stdout.strip() == "Forgotten: 1."
    assert manager.calls == [("forget", "order-4711", "ann")]
    assert command("forget", "order-4711", "--json").json == {"id": "order-4711", "forgotten": 1}


def test_forget_what_is_not_listed(command: Command, manager: FakeManager) -> None:
    ran = command("forget", "order-4711")
    assert ran.exit_code == 0
    assert "nothing was changed" in ran.stdout


def test_adopt_warns_and_asks(command: Command, manager: FakeManager) -> None:
    refused = command("adopt", COORDINATOR, input="n\n")
    assert refused.exit_code == 1
    assert manager.calls == []
    assert "will be rolled back" in refused.stderr
    assert command("adopt", COORDINATOR, "--address", "old site", "--who", "ann", input="y\n").exit_code == 0
    assert manager.calls == [("adopt", COORDINATOR, "old site", "ann")]


# --- all of them ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", ALL, ids=lambda arguments: arguments[0])
def test_an_error_is_one_paragraph_and_exit_code_1(
    command: Command, manager: FakeManager, arguments: list[str]
) -> None:
    manager.raises = JournalRefused(
        "The journal at postgresql://app:tr0ub4dor@host/db cannot be used.", advice="Do this."
    )
    ran = command(*arguments)
    assert (ran.exit_code, ran.stdout) == (1, "")
    assert ran.stderr == "syncpoint: The journal at postgresql://app:***@host/db cannot be used. Do this.\n"


@pytest.mark.parametrize("arguments", ALL, ids=lambda arguments: arguments[0])
def test_an_error_is_a_document_with_json(command: Command, manager: FakeManager, arguments: list[str]) -> None:
    manager.raises = TransactionRunning("It runs.", transaction="t", advice="Wait.")
    ran = command(*arguments, "--json")
    assert ran.exit_code == 1
    assert ran.json == {"error": {"kind": "TransactionRunning", "message": "It runs.", "advice": "Wait."}}
    assert ran.stderr == "syncpoint: It runs. Wait.\n"


@pytest.mark.parametrize("arguments", ALL, ids=lambda arguments: arguments[0])
def test_options_go_over_the_configuration(command: Command, manager: FakeManager, arguments: list[str]) -> None:
    assert command(*arguments, "--journal", ".", "--resource", "audit=memory://audit").exit_code == 0
    assert manager.settings is not None
    assert manager.settings.journal == "."
    assert list(manager.settings.resources) == ["bank", "audit"]
    assert manager.settings.scope == "shop"


def test_the_scope_is_an_option_where_there_is_an_id(command: Command, manager: FakeManager) -> None:
    command("show", "order-4711", "--scope", "other")
    assert manager.settings is not None
    assert manager.settings.scope == "other"
