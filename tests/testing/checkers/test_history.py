"""Histories: what an operation may be, recording one, and files of them; and running all checkers that fit.

Not for: what each checker finds.
"""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncpoint.errors import FormatTooNew, OutcomePending, TransactionAborted
from syncpoint.testing.checkers import (
    CHECKERS,
    Append,
    BadHistory,
    History,
    HistoryWriter,
    Kind,
    Operation,
    Outcome,
    Read,
    Recorder,
    check_history,
    read_history,
    workloads_of,
    write_history,
)
from syncpoint.testing.checkers.files import decode_history, encode_history
from syncpoint.testing.checkers.history import AnyAction
from tests.testing.checkers import (
    test_atomicity,
    test_authority,
    test_bank,
    test_counter,
    test_exactly_once,
    test_list_append,
    test_sets,
)
from tests.testing.checkers.histories import append, of, ok, open_ended, patient, read

ROOT = Path(__file__).parents[3]

# --- operations ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", [Outcome.OK, Outcome.FAIL])
def test_what_is_certain_has_an_end(outcome: Outcome) -> None:
    with pytest.raises(ValueError, match="no completed_at"):
        Operation(id=1, invoked_at=0, outcome=outcome)


def test_nothing_ends_before_it_begins() -> None:
    with pytest.raises(ValueError, match="completed at 3, before 5"):
        ok(1, 5, 3)


def test_an_id_is_one_operations() -> None:
    with pytest.raises(ValueError, match="two operations have the id 1"):
        of(ok(1, 0, 1), ok(2, 0, 1), ok(1, 2, 3))


def test_what_is_indeterminate_precedes_nothing() -> None:
    """It may happen later, whenever its caller gave up."""
    later = ok(2, 5, 6)
    assert ok(1, 0, 4).precedes(later)
    assert not ok(1, 0, 5).precedes(later)
    assert not open_ended(1, 0, end=4).precedes(later)


# --- recording -----------------------------------------------------------------------------------------------


def recorder() -> Recorder:
    return Recorder(itertools.count().__next__)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, Outcome.OK),
        (TransactionAborted("no", transaction="t", retryable=True), Outcome.FAIL),
        (KeyError("no row"), Outcome.FAIL),
        (OutcomePending("who knows", transaction="t"), Outcome.INDETERMINATE),
        (ValueError("in the user's code"), Outcome.INDETERMINATE),
        (KeyboardInterrupt(), Outcome.INDETERMINATE),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_the_end_of_the_block_says_what_became_of_it(error: BaseException | None, outcome: Outcome) -> None:
    made = recorder()
    raised = pytest.raises(type(error)) if error is not None else contextlib.nullcontext()
    with raised, made.operation("p", append("x", 1), fails_on=KeyError) as op:
        op.did(read("x", 1))
        if error is not None:
            raise error
    expected = Operation(
        id=1, process="p", invoked_at=0, completed_at=1, outcome=outcome, actions=(append("x", 1), read("x", 1))
    )
    assert made.history() == of(expected)


def test_what_has_not_ended_is_indeterminate() -> None:
    made = recorder()
    op = made.operation()
    op.will(append("x", 1))
    assert made.history() == of(Operation(id=1, invoked_at=0, actions=(append("x", 1),)))
    op.fail()
    op.ok()  # too late
    [found] = made.history()
    assert (found.outcome, found.completed_at) == (Outcome.FAIL, 1)


def test_names_and_looks() -> None:
    made = Recorder(itertools.count().__next__, prefix="w3-")
    with made.operation(settled=True):
        pass
    [found] = made.history()
    assert (str(found), found.settled) == ("w3-1", True)
    assert (repr(made), repr(made.operation())) == ("<Recorder 1 operations>", "<Recording w3-2 under way 0 actions>")


# --- files ---------------------------------------------------------------------------------------------------

HISTORY = of(ok(1, 0, 1, append("x", 1)), open_ended("b", 2, read("x", 1, 7), Read(resource="a", key="y")))

LINES = (
    '{"format":"syncpoint-history","version":1}\n'
    '{"id":1,"process":1,"invoked_at":0,"completed_at":1,"outcome":"ok",'
    '"actions":[{"do":"append","resource":"a","key":"x","value":1}]}\n'
    '{"id":"b","process":"b","invoked_at":2,'
    '"actions":[{"do":"read","resource":"a","key":"x","values":[1,7]},'
    '{"do":"read","resource":"a","key":"y","values":null}]}\n'
)


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_history(tmp_path / "h.jsonl", HISTORY)
    assert (tmp_path / "h.jsonl").read_text() == LINES
    assert read_history(tmp_path / "h.jsonl") == HISTORY


def test_every_kind_of_action_comes_back() -> None:
    for module in (
        test_atomicity, test_authority, test_bank, test_counter, test_exactly_once, test_list_append, test_sets
    ):  # fmt: skip
        for _, operations in module.WRONG.values():
            assert decode_history(encode_history(of(*operations))) == of(*operations)


def test_the_last_line_of_an_id_counts(tmp_path: Path) -> None:
    """A killed process has written what it was about to do, and not what became of it."""
    path = tmp_path / "h.jsonl"
    with HistoryWriter(path) as writer:
        made = Recorder(itertools.count().__next__, sink=writer)
        with made.operation("p", append("x", 1)) as op:
            op.did(read("x", 1))
        made.operation("p", append("x", 2))  # and here it is killed
        assert read_history(path) == made.history()
    with pytest.raises(FileExistsError):
        HistoryWriter(path)


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_last_line_that_was_cut_short_is_left_out(cut: int) -> None:
    raw = encode_history(HISTORY)
    assert decode_history(raw[:-cut]) == (of(HISTORY.operations[0]) if cut > 1 else HISTORY)


def test_a_number_that_was_cut_short_is_left_out() -> None:
    raw = encode_history(of(*HISTORY, ok(3, 0, 1)))
    for end in range(len(raw) - 60, len(raw) - 2):
        decode_history(raw[:end])
    assert decode_history(LINES.encode() + b'{"id":5,"invoked_at":-') == HISTORY


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "its first line is not the header"),
        ("hello\n", "its first line is not the header"),
        ('{"format":"other","version":1}\n', "its first line is not the header"),
        (LINES + "{}\n", "Line 4 of the history is no operation.*id"),
        (LINES + "{}", "Line 4 of the history is no operation.*id"),
        (LINES + "hello\n", "Line 4 of the history is no operation"),
        (LINES + '{"id":2,"invoked_at":5,"outcome":"ok"}\n', "operation 2 is ok but has no completed_at"),
        (LINES + '{"id":2,"invoked_at":5,"actions":[{"do":"sing"}]}\n', "sing"),
        (LINES + '{"id":2,"invoked_at":5,"outcome":"perhaps"}\n', "perhaps"),
        (LINES + "[" * 100_000 + "\n", "Line 4"),
    ],
)
def test_what_is_no_history_is_refused(text: str, says: str) -> None:
    with pytest.raises(BadHistory, match=says):
        decode_history(text.encode())


def test_a_later_format_is_refused() -> None:
    with pytest.raises(FormatTooNew, match="history has format version 2"):
        decode_history(b'{"format":"syncpoint-history","version":2}\n')


@patient(100)
@given(st.binary(max_size=60) | st.integers(0, len(LINES)).map(lambda at: LINES.encode()[:at] + b"\xff{" + b"]" * 3))
def test_garbage_is_read_or_refused(raw: bytes) -> None:
    with contextlib.suppress(BadHistory, FormatTooNew):
        decode_history(raw)


def test_several_files_are_one_history(tmp_path: Path) -> None:
    one, two = tmp_path / "1.jsonl", tmp_path / "2.jsonl"
    write_history(one, of(HISTORY.operations[0]))
    write_history(two, of(HISTORY.operations[1]))
    assert read_history(one, two) == HISTORY
    with pytest.raises(BadHistory, match="prefix of its own"):
        read_history(one, one)
    with pytest.raises(BadHistory, match="cannot be read"):
        read_history(tmp_path / "none.jsonl")


# --- all checkers --------------------------------------------------------------------------------------------

MIXED: list[AnyAction] = [append("x", 1), test_counter.up(), test_sets.add(1)]


def test_those_that_find_something_are_run() -> None:
    history = of(ok(1, 0, 1, *MIXED), ok(2, 2, 3, read("x"), test_counter.value(0), test_sets.found()))
    assert workloads_of(history) == ["list-append", "set", "counter"]
    assert [one.workload for one in check_history(history)] == ["list-append", "set", "counter"]
    assert [one.workload for one in check_history(history, ["set"])] == ["set"]
    assert check_history(history, stale_reads=True) == []


def test_to_check_nothing_is_an_error() -> None:
    with pytest.raises(BadHistory, match="an empty one proves nothing"):
        check_history(of())
    with pytest.raises(BadHistory, match=r"no action that the checker 'bank' reads \(Open, Move, ReadBalance\)"):
        check_history(of(ok(1, 0, 1, *MIXED)), ["bank"])
    with pytest.raises(BadHistory, match="no checker 'banks'"):
        check_history(of(ok(1, 0, 1, *MIXED)), ["banks"])


def test_every_kind_is_found_by_some_test_and_explained_in_the_manual() -> None:
    modules = (
        test_atomicity, test_authority, test_bank, test_counter, test_exactly_once, test_list_append, test_sets
    )  # fmt: skip
    tested = {kind for module in modules for kinds, _ in module.WRONG.values() for kind in kinds}
    assert tested == {kind.value for kind in Kind}
    assert all(len(module.WRONG) >= 10 for module in modules)
    manual = (ROOT / "docs" / "checkers.md").read_text(encoding="utf-8")
    assert [kind.value for kind in Kind if f"`{kind.value}`" not in manual] == []
    assert [name for name in CHECKERS if f"`{name}`" not in manual] == []
    assert Append(resource="a", key="k", value=1).place == ("a", "k")
    assert len(History()) == 0
