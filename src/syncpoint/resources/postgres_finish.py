"""Ending a prepared PostgreSQL branch by its name, on whatever session.

Not for: becoming its owner first (postgres_owner.py), what became of a branch that is not found (postgres_evidence.py),
or when to end one (postgres.py).
"""

from __future__ import annotations

from syncpoint.errors import SyncpointError
from syncpoint.protocol.words import Answer
from syncpoint.resources import postgres_errors as errors
from syncpoint.resources.postgres_driver import Driver, PostgresSession, Reply
from syncpoint.resources.postgres_owner import finish_as_owner
from syncpoint.steps import Script


def finish_by_gid(driver: Driver, session: PostgresSession, gid: str, *, commit: bool) -> Script[Answer]:
    """Commit or roll back a prepared branch. NOT_FOUND says only that. Raises what no later try can mend."""
    verb = "COMMIT PREPARED" if commit else "ROLLBACK PREPARED"
    reply: Reply = yield driver.ask(session, f"{verb} '{gid}'", verb)
    if reply.code == errors.DENIED:
        as_owner = yield from finish_as_owner(driver, session, gid, verb, reply)
        if as_owner is None:
            return Answer.NOT_FOUND
        reply = as_owner
    if reply.error is None:
        assert reply.tag == verb.encode(), f"{verb} answered {reply!r}"
        return Answer.COMMITTED if commit else Answer.ABORTED
    if reply.code == errors.UNKNOWN_GID:
        return Answer.NOT_FOUND
    if reply.code in errors.BUSY:
        return Answer.RETRY
    if reply.code == errors.OTHER_DATABASE:
        raise SyncpointError(
            f"The branch {gid} is prepared in another database of the server of {driver.name!r}.",
            advice=f"Point the URL of {driver.name!r} at that database.",
        ) from reply.error
    raise reply.error
