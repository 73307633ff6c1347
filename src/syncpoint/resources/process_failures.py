"""Errors of a resource manager's process as its callers see them: from an exception to a `Failure`, and back.

An error of Syncpoint's comes out as what it was; a driver's own or a user's becomes a `RemoteError` of its name, which
is an instance of Python's own class too where it was one of those. Not for: answers that are expected (those are
messages of their own).
"""

from __future__ import annotations

import builtins
import functools

import syncpoint.errors as errors
from syncpoint.errors import ConnectionLost, RemoteError, SyncpointError
from syncpoint.resources.process_messages import Failure

__all__ = ["CONNECTION_LOST", "error_of", "failure_of"]

CONNECTION_LOST = ConnectionLost.__name__
TEXT_CHARS_MAX = 9_000


def failure_of(error: BaseException, *, retryable: bool) -> Failure:
    """What is said of an exception that a question met."""
    kind = type(error)
    if isinstance(error, SyncpointError):
        message, advice = error.message, error.advice
    else:
        message, advice = str(error), ""
    name = kind.__name__ if kind.__module__ in ("builtins", errors.__name__) else f"{kind.__module__}.{kind.__name__}"
    notes = "".join(f" {note}" for note in getattr(error, "__notes__", ()))
    return Failure(
        kind=name[-200:],
        message=(message + notes)[:TEXT_CHARS_MAX],
        advice=advice[:TEXT_CHARS_MAX],
        retryable=retryable,
    )


def error_of(failure: Failure) -> SyncpointError:
    """The exception to raise for it."""
    known = getattr(errors, failure.kind, None)
    if isinstance(known, type) and issubclass(known, SyncpointError) and known.__init__ is SyncpointError.__init__:
        return known(failure.message, advice=failure.advice)
    message = failure.message or failure.kind
    try:
        return _class_for(failure.kind)(message, kind=failure.kind, retryable=failure.retryable, advice=failure.advice)
    except TypeError:  # one of Python's own that wants other arguments
        return RemoteError(message, kind=failure.kind, retryable=failure.retryable, advice=failure.advice)


@functools.cache
def _class_for(kind: str) -> type[RemoteError]:
    native = getattr(builtins, kind, None)
    if not (isinstance(native, type) and issubclass(native, Exception)):
        return RemoteError
    try:
        return type(kind, (RemoteError, native), {"__module__": __name__})
    except TypeError:  # its instances cannot be of two kinds
        return RemoteError
