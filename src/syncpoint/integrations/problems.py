"""What a client is told when there is no reply to give it: problem+json (RFC 9457), one table.

The texts are fixed: what a database said goes to the log, not to the client. Not for: deciding when (asgi.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from syncpoint.errors import (
    HeuristicOutcome,
    JournalError,
    ManagerClosed,
    OutcomePending,
    ResourceUnavailable,
    ResultNotStorable,
    TransactionAborted,
    TransactionTimeout,
)
from syncpoint.integrations.idempotency import Reply

TYPE_PREFIX = "urn:syncpoint:problem:"
RETRY_AFTER_S = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One kind of trouble. `may_resend`: the same request with the same key may succeed; it gets a Retry-After."""

    status: int
    code: str
    title: str
    detail: str
    may_resend: bool = False

    def to_reply(self, transaction: str | None = None) -> Reply:
        """The response. `transaction` is the id by which operators find it."""
        members = {
            "type": TYPE_PREFIX + self.code,
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            **({} if transaction is None else {"transaction": transaction}),
        }
        body = msgspec.json.encode(members)
        headers = [
            (b"content-type", b"application/problem+json"),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
        ]
        if self.may_resend:
            headers.append((b"retry-after", str(RETRY_AFTER_S).encode()))
        return Reply(status=self.status, headers=headers, body=body)


KEY_MISSING = Problem(
    status=400,
    code="key-missing",
    title="Idempotency-Key is missing",
    detail="This request needs an Idempotency-Key header: a new unique value for each new request, the same value for "
    "each resend of it. Nothing was done.",
)
KEY_REUSED = Problem(
    status=422,
    code="key-reused",
    title="Idempotency-Key was used for another request",
    detail="This key was used before for a request with another query, body, content type or credentials. Nothing was "
    "done. Use a new key for a new request.",
)
RUNNING = Problem(
    status=409,
    code="running",
    title="This request is running now",
    detail="A request with this Idempotency-Key is being processed; it was not run a second time. Send it again later "
    "with the same key to get its reply.",
    may_resend=True,
)
BODY_TOO_LARGE = Problem(
    status=413,
    code="body-too-large",
    title="The request is too large for an Idempotency-Key",
    detail="The body is larger than this service accepts with an Idempotency-Key. Nothing was done.",
)
REPLY_TOO_LARGE = Problem(
    status=500,
    code="reply-too-large",
    title="The reply is too large to be kept",
    detail="The reply is larger than can be kept for a resend; the work was rolled back.",
)
INCOMPLETE = Problem(
    status=500,
    code="reply-incomplete",
    title="The application did not finish its reply",
    detail="The application ended before its reply was complete; the work was rolled back.",
)
UNREADABLE = Problem(
    status=500,
    code="reply-unreadable",
    title="The kept reply cannot be read",
    detail="The request with this key was carried out before, and was not run again; its reply cannot be read.",
)
ABORTED = Problem(
    status=503,
    code="aborted",
    title="The work was rolled back",
    detail="Nothing of it was done. Send it again with the same key.",
    may_resend=True,
)
TIMED_OUT = Problem(
    status=503,
    code="timed-out",
    title="The work took too long and was rolled back",
    detail="Nothing of it was done. Send it again with the same key.",
    may_resend=True,
)
REFUSED = Problem(
    status=500,
    code="refused",
    title="The work could not be committed and was rolled back",
    detail="Nothing of it was done, and it would fail the same way again.",
)
PENDING = Problem(
    status=503,
    code="outcome-pending",
    title="Whether the work was done is not known yet",
    detail="It will be found out without you. Send it again with the same key, and with no other: it will not be done "
    "twice.",
    may_resend=True,
)
MIXED = Problem(
    status=500,
    code="mixed-outcome",
    title="The work did not end the same way everywhere",
    detail="Part of it was decided by hand; an operator must look at this transaction. Do not send it again with "
    "another key.",
)
UNAVAILABLE = Problem(
    status=503,
    code="unavailable",
    title="The service cannot do this now",
    detail="A database or the journal cannot be reached. Nothing of it was done. Send it again with the same key.",
    may_resend=True,
)


def malformed_key(why: str) -> Problem:
    """The header holds no key."""
    return Problem(
        status=400, code="key-malformed", title="Idempotency-Key is malformed", detail=f"{why} Nothing was done."
    )


def problem_at_the_end(error: BaseException) -> Problem | None:
    """What the end of the request's own transaction raised; None for what is nobody's answer, but a bug."""
    match error:
        case OutcomePending():
            return PENDING
        case HeuristicOutcome():
            return MIXED
        case ResultNotStorable():
            return REPLY_TOO_LARGE
        case JournalError() | ManagerClosed():
            return UNAVAILABLE
    return problem_in_the_work(error)


def problem_in_the_work(error: BaseException) -> Problem | None:
    """What escaped the application, whose transaction was rolled back; None for errors that are its own."""
    match error:
        case TransactionTimeout():
            return TIMED_OUT
        case TransactionAborted():
            return ABORTED if error.retryable else REFUSED
        case ResourceUnavailable():
            return UNAVAILABLE
    return None
