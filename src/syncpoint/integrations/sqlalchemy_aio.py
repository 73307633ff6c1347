"""SQLAlchemy's `AsyncConnection` over a branch: what an AsyncSession is bound to.

It passes everything on to a BranchConnection, which refuses what would end the branch.
Not for: rules (sqlalchemy_connection.py).
"""

from __future__ import annotations

from typing import NoReturn

from sqlalchemy.ext.asyncio import AsyncConnection

from syncpoint.integrations.sqlalchemy_connection import refusal


class AsyncBranchConnection(AsyncConnection):
    """A SQLAlchemy AsyncConnection inside a transaction's branch; the bind for an AsyncSession."""

    def __repr__(self) -> str:
        return f"<AsyncBranchConnection over {self.sync_connection!r}>"

    async def __aenter__(self) -> NoReturn:
        # `async with connection:` closes it at the end: refuse before any work is done.
        raise refusal("`async with connection:`", getattr(self.sync_connection, "resource", ""))
