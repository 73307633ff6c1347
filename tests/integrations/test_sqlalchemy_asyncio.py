"""SQLAlchemy in a branch, asyncio: AsyncSession as it is, on each of the three databases, seen from outside."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import exc, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import selectinload

import syncpoint
from syncpoint.errors import NotAllowed, TransactionEnded
from tests.integrations.bank import PLACES, RESOURCES, Account, Entry, World

each_resource = pytest.mark.parametrize("name", RESOURCES)


def run(world: World, work: Callable[[syncpoint.AsyncTransactionManager], Awaitable[None]]) -> None:
    """`work` with an open manager, on an event loop of its own."""

    async def main() -> None:
        async with syncpoint.AsyncTransactionManager(world.journal, world.urls) as manager:
            await work(manager)

    asyncio.run(main())


@each_resource
def test_orm_code_runs_unchanged(world: World, name: str) -> None:
    async def work(manager: syncpoint.AsyncTransactionManager) -> None:
        async with manager.transaction() as tx, AsyncSession(await tx.sqlalchemy(name)) as session:
            session.add(Account(owner="Ada", balance=10, entries=[Entry(amount=4), Entry(amount=6)]))
            session.add_all([Account(owner=f"Owner {number:02}") for number in range(20)])
            await session.commit()
            found = await session.scalars(
                select(Account).options(selectinload(Account.entries)).where(Account.owner == "Ada")
            )
            ada = found.one()
            assert [entry.amount for entry in ada.entries] == [4, 6]
            ada.balance += 1
            await session.commit()
            session.add(Account(owner="Ada"))
            with pytest.raises(exc.IntegrityError):
                await session.commit()
            await session.rollback()
            matched = await session.execute(update(Account).where(Account.owner == "Ada").values(balance=11))
            assert matched.rowcount == 1  # type: ignore[attr-defined]
            await session.commit()
            session.add(Account(owner="undone"))
            await session.flush()
            await session.rollback()
            stream = await session.stream_scalars(select(Account.owner).order_by(Account.owner))
            assert len([owner async for owner in stream]) == 21

    run(world, work)
    assert len(world.owners(name)) == 21
    assert world.balance(name, "Ada") == 11


def test_one_session_over_three_resources(world: World) -> None:
    async def add(manager: syncpoint.AsyncTransactionManager, owner: str, error: Exception | None) -> None:
        async with manager.transaction() as tx:
            binds: dict[Any, Any] = {PLACES[name]: await tx.sqlalchemy(name) for name in RESOURCES}
            async with async_sessionmaker(binds=binds)() as session:
                session.add_all([PLACES[name](owner=owner) for name in RESOURCES])
                await session.commit()
            if error is not None:
                raise error

    async def work(manager: syncpoint.AsyncTransactionManager) -> None:
        await add(manager, "Ada", None)
        with pytest.raises(ZeroDivisionError):
            await add(manager, "Bob", ZeroDivisionError())

    run(world, work)
    assert {name: world.owners(name) for name in RESOURCES} == {name: ["Ada"] for name in RESOURCES}
    assert world.in_doubt() == []


@each_resource
def test_many_tasks_at_once_each_in_a_transaction_of_its_own(world: World, name: str) -> None:
    async def one(manager: syncpoint.AsyncTransactionManager, number: int) -> None:
        async with manager.transaction() as tx, AsyncSession(await tx.sqlalchemy(name)) as session:
            session.add(Account(owner=f"Owner {number}"))
            await session.commit()

    async def work(manager: syncpoint.AsyncTransactionManager) -> None:
        await asyncio.wait_for(asyncio.gather(*(one(manager, number) for number in range(8))), 60)

    run(world, work)
    assert world.owners(name) == [f"Owner {number}" for number in range(8)]


@each_resource
def test_core_nested_blocks_and_refusals(world: World, name: str) -> None:
    async def fail(manager: syncpoint.AsyncTransactionManager) -> None:
        async with manager.transaction() as inner, AsyncSession(await inner.sqlalchemy(name)) as session:
            session.add(Account(owner="undone"))
            await session.commit()
            raise ZeroDivisionError

    async def work(manager: syncpoint.AsyncTransactionManager) -> None:
        async with manager.transaction() as tx:
            connection = await tx.sqlalchemy(name)
            assert connection is await tx.sqlalchemy(name)
            await connection.execute(insert(Account).values(owner="Core", balance=0, version=1))
            with pytest.raises(ZeroDivisionError):
                await fail(manager)
            async with connection.begin_nested():
                await connection.execute(text("UPDATE account SET balance = 3"))
            allowed = []
            for what, call in {
                "commit": connection.commit,
                "rollback": connection.rollback,
                "close": connection.close,
                "begin": lambda: connection.begin().start(),
                "async with": connection.__aenter__,
                "invalidate": connection.invalidate,
                "isolation": lambda: connection.execution_options(isolation_level="SERIALIZABLE"),
                "engine": lambda: connection.engine.connect().start(),
            }.items():
                try:
                    await call()
                    allowed.append(what)
                except NotAllowed:
                    pass
            assert allowed == []
            await connection.run_sync(lambda sync: sync.execute(text("UPDATE account SET version = 2")))
        with pytest.raises(TransactionEnded):
            await connection.execute(text("DELETE FROM account"))
        del tx
        gc.collect()

    run(world, work)
    assert world.outside(name, "SELECT owner, balance, version FROM account") in ([("Core", 3, 2)], [["Core", 3, 2]])
