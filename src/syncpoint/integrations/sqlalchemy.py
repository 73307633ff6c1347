"""`tx.sqlalchemy("bank")`: SQLAlchemy inside a transaction's branch, blocking and asyncio.

    with manager.transaction() as tx, Session(tx.sqlalchemy("bank")) as session:
        session.add(Account(owner="Ada"))
        session.commit()                   # releases a savepoint; the block's end commits everywhere

One Engine for each resource of a manager holds what SQLAlchemy knows about the server, and compiled statements; one
Connection for each branch. Not for: what they do (sqlalchemy_connection.py, sqlalchemy_dialects.py).
"""

from __future__ import annotations

import weakref
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from syncpoint.errors import ConfigurationError, NotAllowed

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, Engine
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from syncpoint.integrations.sqlalchemy_connection import BranchConnection
    from syncpoint.manager.aio import AsyncTransaction
    from syncpoint.manager.base import BaseTransaction
    from syncpoint.manager.sync import Transaction
    from syncpoint.manager.transaction import Work
    from syncpoint.resources.base import Resource

_DIALECTS = {
    "mariadb": ("syncpoint.integrations.sqlalchemy_dialects", "MariadbDialect"),
    "postgresql": ("syncpoint.integrations.sqlalchemy_dialects", "PostgresDialect"),
    "sqlite": ("syncpoint.integrations.sqlalchemy_sqlite", "SqliteDialect"),
}

_engines: weakref.WeakKeyDictionary[Resource, Any] = weakref.WeakKeyDictionary()
_connections: weakref.WeakKeyDictionary[BaseTransaction, dict[str, Any]] = weakref.WeakKeyDictionary()
_handed_out: ContextVar[Any] = ContextVar("syncpoint_branch_connection", default=None)
"""The branch's connection, while an engine's pool asks for one."""


def connection_of(tx: Transaction, resource: str) -> Connection:
    """The SQLAlchemy Connection inside `tx`'s branch at `resource`, begun at the first call; always the same one.

    Raises ConfigurationError when SQLAlchemy is missing or does not know this kind of database, and what
    `tx.connect` raises.
    """
    _require_sqlalchemy()
    known = _connections.get(tx, {}).get(resource)
    if known is not None:
        tx.work.check_active()
        return known  # type: ignore[no-any-return]
    of_branch = tx.connect(resource)
    engine: Engine = _engine_of(tx.work, resource, is_async=False)
    return _keep(tx, resource, _connection_over(engine, of_branch, tx.work, resource))  # type: ignore[no-any-return]


async def async_connection_of(tx: AsyncTransaction, resource: str) -> AsyncConnection:
    """The SQLAlchemy AsyncConnection inside `tx`'s branch at `resource`. As `connection_of`."""
    _require_sqlalchemy()
    from sqlalchemy.util import greenlet_spawn

    from syncpoint.integrations.sqlalchemy_aio import AsyncBranchConnection

    known = _connections.get(tx, {}).get(resource)
    if known is not None:
        tx.work.check_active()
        return known  # type: ignore[no-any-return]
    of_branch = await tx.connect(resource)
    engine: AsyncEngine = _engine_of(tx.work, resource, is_async=True)
    connection = await greenlet_spawn(_connection_over, engine.sync_engine, of_branch, tx.work, resource)
    return _keep(tx, resource, AsyncBranchConnection(engine, connection))  # type: ignore[no-any-return]


def _require_sqlalchemy() -> None:
    try:
        import sqlalchemy.ext.asyncio  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(
            f"SQLAlchemy cannot be loaded: {error}.", advice="Install it with: pip install 'syncpoint[sqlalchemy]'"
        ) from error


# --- connections -----------------------------------------------------------------------------------------------


def _connection_over(engine: Engine, of_branch: Any, work: Work, resource: str) -> BranchConnection:
    from syncpoint.integrations.sqlalchemy_connection import BranchConnection

    token = _handed_out.set(_as_driver_connection(of_branch, engine, work.core.handle(resource).resource.scheme))
    try:
        return BranchConnection(engine, work, resource)
    finally:
        _handed_out.reset(token)


def _as_driver_connection(of_branch: Any, engine: Engine, scheme: str) -> Any:
    if scheme == "postgresql":
        from syncpoint.integrations.sqlalchemy_dialects import own_postgres_connection

        return own_postgres_connection(of_branch, engine.dialect)
    if scheme == "sqlite":
        from syncpoint.integrations import apsw_dbapi
        from syncpoint.integrations.sqlalchemy_sqlite import AwaitedConnection

        return AwaitedConnection(of_branch) if engine.dialect.is_async else apsw_dbapi.Connection(of_branch)
    return of_branch


def _keep(tx: BaseTransaction, resource: str, connection: Any) -> Any:
    """Remember it; of two made at once, the first."""
    with tx.work.core.mutex:
        known = _connections.get(tx)
        if known is None:
            known = _connections[tx] = {}
            tx.work.checks.append(lambda: _unfinished(known))
        return known.setdefault(resource, connection)


def _unfinished(connections: dict[str, Any]) -> str:
    """What a Session holds back from a transaction that is about to commit; empty when nothing."""
    for resource, connection in connections.items():
        left = getattr(connection, "sync_connection", connection).unfinished()
        if left:
            return f"a Session at {resource!r} still holds {left}; call Session.commit() before the block ends"
    return ""


# --- engines ---------------------------------------------------------------------------------------------------


def _engine_of(work: Work, name: str, *, is_async: bool) -> Any:
    resource = work.core.handle(name).resource
    with work.core.mutex:
        engine = _engines.get(resource)
        if engine is None:
            engine = _engines[resource] = _make_engine(resource, is_async=is_async)
        return engine


def _make_engine(resource: Resource, *, is_async: bool) -> Any:
    """Touches nothing: SQLAlchemy asks about the server on the first branch's connection."""
    from sqlalchemy import create_engine
    from sqlalchemy.dialects import registry
    from sqlalchemy.ext.asyncio import create_async_engine
    from sqlalchemy.pool import NullPool

    if resource.scheme not in _DIALECTS:
        raise ConfigurationError(
            f"SQLAlchemy has no dialect for the resource {resource.name!r} ({resource.scheme}).",
            advice=f"It works with {', '.join(sorted(_DIALECTS))}; use tx.connect({resource.name!r}) here.",
        )
    registry.register(f"{resource.scheme}.syncpoint", *_DIALECTS[resource.scheme])
    url = f"{resource.scheme}+syncpoint://"
    if not is_async:
        return create_engine(url, creator=_hand_out, poolclass=NullPool, pool_reset_on_return=None)
    if resource.scheme == "sqlite":
        return create_async_engine(url, creator=_hand_out, poolclass=NullPool, pool_reset_on_return=None)
    return create_async_engine(url, async_creator=_async_hand_out, poolclass=NullPool, pool_reset_on_return=None)


def _hand_out() -> Any:
    connection = _handed_out.get()
    if connection is None:
        raise NotAllowed(
            "This engine makes no connections of its own: it belongs to a transaction's branch.",
            advice="Use the connection that tx.sqlalchemy(...) returned, or an engine of your own outside.",
        )
    return connection


async def _async_hand_out() -> Any:
    return _hand_out()
