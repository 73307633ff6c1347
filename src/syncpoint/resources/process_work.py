"""What users do on their branch in a resource manager's process: SQL on a database's connection, methods of a work.

Not for: sessions and answers (process_host.py).
"""

from __future__ import annotations

from typing import Any

from syncpoint.errors import NotAllowed
from syncpoint.messages import Message
from syncpoint.resources.process_messages import RESOURCE_VOCABULARY, Execute, Invoke, Rows, Value

__all__ = ["ANSWER_BYTES_MAX", "invoke", "run_sql"]

ANSWER_BYTES_MAX = 8 * 1024 * 1024
"""Well below what a link carries in one message, with its envelopes."""


def run_sql(connection: Any, question: Execute) -> Message:
    """Run a statement, or one for each set of parameters; all its rows. Blocks. Raises the driver's error.

    `connection` is apsw's, or of a driver with DB-API cursors.
    """
    sets = question.parameters if question.many else [question.parameters]
    if not isinstance(sets, list):
        raise TypeError("executemany takes a list of parameters")
    run = _run_apsw if hasattr(connection, "total_changes") else _run_cursor
    columns: tuple[str, ...] = ()
    rows: list[Any] = []
    changed = 0
    for parameters in sets:
        columns, rows, one = run(connection, question.sql, parameters)
        changed = -1 if one < 0 or changed < 0 else changed + one
    return _sendable(Rows(columns=columns, rows=() if question.many else tuple(rows), changed=changed))


Result = tuple[tuple[str, ...], list[Any], int]


def _run_apsw(connection: Any, sql: str, parameters: Any) -> Result:
    """apsw describes a statement only as it begins."""
    seen: list[tuple[str, ...]] = []

    def look(cursor: Any, _sql: str, _bindings: Any) -> bool:
        seen.append(tuple(str(one[0]) for one in cursor.get_description()))
        return True

    before = connection.total_changes()
    cursor = connection.cursor()
    cursor.exec_trace = look
    try:
        cursor.execute(sql, _bound(parameters))
        rows = [tuple(row) for row in cursor.fetchall()]
    finally:
        cursor.exec_trace = None
        cursor.close(True)
    columns = next((one for one in reversed(seen) if one), ())
    changed = connection.changes() if connection.total_changes() != before else 0
    return columns, rows, -1 if columns and not changed else changed


def _run_cursor(connection: Any, sql: str, parameters: Any) -> Result:
    cursor = connection.cursor()
    try:
        cursor.execute(sql, _bound(parameters)) if parameters is not None else cursor.execute(sql)
        columns = tuple(str(one[0]) for one in cursor.description or ())
        return columns, [tuple(row) for row in cursor.fetchall()] if columns else [], int(cursor.rowcount)
    finally:
        cursor.close()


def _bound(parameters: Any) -> Any:
    return tuple(parameters) if isinstance(parameters, list) else parameters or ()


def invoke(work: Any, question: Invoke) -> Message:
    """Call a method of a work's object; an attribute that is no method is its value. Blocks. Raises what it raises."""
    if question.method.startswith("_"):
        raise NotAllowed(f"{question.method} is not for users of this resource.", advice="Call its public methods.")
    found = getattr(work, question.method)
    value = found(*question.arguments, **question.named) if callable(found) else found
    return _sendable(Value(value=value))


def _sendable(answer: Message) -> Message:
    """The answer, if it can be sent; else TypeError, now, while the caller can still be told why."""
    try:
        size_bytes = len(RESOURCE_VOCABULARY.encode(answer))
    except (TypeError, OverflowError, ValueError) as error:
        raise TypeError(f"it was done, but what it returned cannot be sent to the caller: {error}") from error
    if size_bytes > ANSWER_BYTES_MAX:
        raise ValueError(
            f"it was done, but what it returned has {size_bytes} bytes, and at most {ANSWER_BYTES_MAX} can be sent; "
            "ask for less at once"
        )
    return answer
