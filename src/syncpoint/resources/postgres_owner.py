"""Finishing a branch that another role has prepared (trap 11).

Only the role that prepared a branch, or a superuser, may finish it; a member of that role may take it first, with SET
ROLE. COMMIT PREPARED runs in no transaction, so neither SET LOCAL ROLE nor a packet of several statements will do:
it takes three packets, on one server connection. A pooler promises that to nobody. It might run SET ROLE on one
server connection and COMMIT PREPARED on another, and leave to a stranger a connection with a role that is not his.
So behind a pooler a branch of another role is refused, by name, before anything is changed.
Not for: branches of one's own (postgres_finish.py).
"""

from __future__ import annotations

from syncpoint.errors import SyncpointError
from syncpoint.resources.postgres_driver import Driver, PostgresSession, Reply
from syncpoint.resources.postgres_pooler import PID, stands_between
from syncpoint.steps import Script


def finish_as_owner(
    driver: Driver, session: PostgresSession, gid: str, verb: str, denied: Reply
) -> Script[Reply | None]:
    """After `verb` (COMMIT PREPARED, ROLLBACK PREPARED) was `denied`. None: the branch is gone.

    Raises SyncpointError, which says what to do, when this role may not or cannot safely become the owner.
    """
    reply: Reply = yield driver.ask(session, _who(gid), "ask who prepared it")
    reply.check()
    if not reply.rows(0):
        return None
    owner, user, member, pid = reply.rows(0)[0]
    if member != "t":
        raise SyncpointError(
            f"The branch {gid} in the resource {driver.name!r} was prepared by the role {owner}; "
            f"{user} may not finish it.",
            advice=f"Run once, as somebody who may: GRANT {owner} TO {user};",
        ) from denied.error
    if stands_between(session, pid):
        raise SyncpointError(
            f"The branch {gid} in the resource {driver.name!r} was prepared by the role {owner}; {user} could finish "
            "it only after SET ROLE, which is not safe through the pooler in between: its server connections are "
            "shared.",
            advice=f"Give {driver.name!r} a URL with the user {owner}, or one that leads to the server itself, where "
            "recovery runs; `syncpoint recover --resource` takes one for once.",
        ) from denied.error
    reply = yield driver.query(session, f"SET ROLE {owner}", "SET ROLE")
    reply.check()
    answer: Reply = yield driver.query(session, f"{verb} '{gid}'", f"{verb} as its owner")
    reply = yield driver.query(session, "RESET ROLE", "RESET ROLE")
    session.broken = session.broken or reply.error is not None
    return answer


def _who(gid: str) -> str:
    """Who prepared a branch, who we are, whether we may become that role, and which process says so."""
    return (
        "SELECT pg_catalog.quote_ident(owner::text), pg_catalog.quote_ident(current_user::text), "
        f"pg_catalog.pg_has_role(owner, 'MEMBER'), {PID} FROM pg_catalog.pg_prepared_xacts "
        f"WHERE gid = '{gid}' AND database = pg_catalog.current_database()"
    )
