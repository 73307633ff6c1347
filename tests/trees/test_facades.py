"""Trees as users write them: `export` and `join`, blocking and asyncio; what is refused, and what is said then."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable

import pytest

import syncpoint
from syncpoint import ConfigurationError, ContextRefused, ResourceUnavailable, TransactionAborted
from syncpoint.errors import JournalUnavailable, NotAllowed, SyncpointError
from syncpoint.manager.contexts import HEADER, Context
from syncpoint.messages import Message
from syncpoint.resources.base import Choice, Vote
from syncpoint.resources.subordinate_messages import Prepare, Tell
from syncpoint.testing.in_process import Fate
from syncpoint.testing.servers.base import wait_until
from tests.manager.conftest import JumpingClock
from tests.trees.conftest import KEY, Town

Send = Callable[[Context], object]


@pytest.mark.parametrize(
    "send",
    [lambda context: context, lambda context: context.token, lambda context: json.loads(json.dumps(context.as_dict()))],
    ids=["context", "text", "dict"],
)
def test_a_transaction_crosses_two_services(town: Town, send: Send) -> None:
    orders, _ = town.manager("orders"), town.manager("stock")
    with orders.transaction() as tx:
        tx.connect("db").put("x", 1)
        town.work_at("stock", send(tx.export()))  # type: ignore[arg-type]
        assert town.server("stock").locked().keys() == {"x"}  # its block has ended, and nothing is committed
    assert town.rows("orders", "stock") == [{"x": b"1"}] * 2
    assert town.quiet("orders", "stock")
    assert tx.pending == frozenset()


def test_headers_of_any_case_and_an_export_of_the_current_transaction(town: Town) -> None:
    orders, stock = town.manager("orders"), town.manager("stock")
    with orders.transaction() as tx:
        headers = {"content-type": "text/plain", HEADER.lower(): orders.export().headers[HEADER]}
        with stock.join(headers) as part:
            assert syncpoint.current() is part
            with stock.transaction() as nested:  # a savepoint, as in any transaction
                nested.connect("db").put("x", 1)
        assert syncpoint.current() is tx
    assert town.rows("stock") == [{"x": b"1"}]


def three_deep(town: Town, key: str, *, refused: bool = False) -> None:
    a, b, c = (town.managers[name] for name in "abc")
    with a.transaction() as at_a:
        at_a.connect("db").put(key, 1)
        with b.join(at_a.export()) as at_b:
            at_b.connect("db").put(key, 1)
            with c.join(at_b.export()) as at_c:
                at_c.connect("db").put(key, 1)
            if refused:
                town.server("c").answers["prepare"].append(Vote(Choice.NO, reason="the stock is empty"))


def test_three_services_deep_and_one_of_them_refuses(town: Town) -> None:  # A9
    for name in "abc":
        town.manager(name)
    three_deep(town, "x")
    with pytest.raises(TransactionAborted, match=r"at b: .* at c: .*the stock is empty"):
        three_deep(town, "y", refused=True)
    assert town.rows("a", "b", "c") == [{"x": b"1"}] * 3
    assert town.quiet("a", "b", "c")


def test_an_error_in_the_service_aborts_everything(town: Town) -> None:
    orders, stock = town.manager("orders"), town.manager("stock")
    block = orders.transaction()
    tx = block.__enter__()
    tx.connect("db").put("x", 1)
    with contextlib.suppress(ZeroDivisionError), stock.join(tx.export()) as part:
        part.connect("db").put("x", 1)
        raise ZeroDivisionError
    assert town.quiet("stock")  # at once
    with pytest.raises(TransactionAborted, match="voted no"):
        block.__exit__(None, None, None)
    assert town.rows("orders", "stock") == [{}, {}]
    assert town.quiet("orders")


def test_the_root_aborts_and_its_subordinate_is_told(town: Town) -> None:
    orders, _ = town.manager("orders"), town.manager("stock")
    with contextlib.suppress(ZeroDivisionError), orders.transaction() as tx:
        town.work_at("stock", tx.export())
        raise ZeroDivisionError
    assert town.rows("stock") == [{}]
    assert town.quiet("stock")
    assert ("orders", "stock", "Tell") in town.hall.asked


def test_a_block_that_has_not_ended_votes_no(town: Town) -> None:
    orders, stock = town.manager("orders"), town.manager("stock")
    block = orders.transaction()
    part = stock.join(block.__enter__().export())
    part.__enter__().connect("db").put("x", 1)
    with pytest.raises(TransactionAborted, match="at stock: its block has not ended"):
        block.__exit__(None, None, None)
    with pytest.raises(TransactionAborted, match="before this block had ended"):
        part.__exit__(None, None, None)
    assert town.quiet("stock")


def test_one_service_joins_twice(town: Town) -> None:
    """Two requests to the same service are two branches there, and one transaction."""
    orders, _ = town.manager("orders"), town.manager("stock")
    with orders.transaction() as tx:
        town.work_at("stock", tx.export(), "x")
        town.work_at("stock", tx.export(), "y")
    assert town.rows("stock") == [{"x": b"1", "y": b"1"}]


def test_asyncio_managers(town: Town) -> None:
    async def main() -> None:
        async with manager("orders") as orders, manager("stock") as stock:
            async with orders.transaction() as tx:
                await (await tx.connect("db")).put("x", 1)
                async with stock.join(tx.export()) as part:
                    await (await part.connect("db")).put("x", 1)
            with pytest.raises(ContextRefused):
                async with stock.join(tx_context(orders)):
                    pass

    def tx_context(_: object) -> str:
        return "v1.nonsense.nonsense"

    def manager(name: str) -> syncpoint.AsyncTransactionManager:
        journal, resources, more = town.options(name)
        return syncpoint.AsyncTransactionManager(journal, resources, **more)

    asyncio.run(main())
    assert town.rows("orders", "stock") == [{"x": b"1"}] * 2


# --- lost and doubled messages ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Prepare, Tell])
def test_messages_that_come_twice_change_nothing_more(town: Town, kind: type[Message]) -> None:  # O48
    orders, _ = town.manager("orders"), town.manager("stock")
    town.hall.rules.append(lambda *asked: Fate.TWICE if isinstance(asked[2], kind) else None)
    with orders.transaction() as tx:
        town.work_at("stock", tx.export())
    assert town.rows("stock") == [{"x": b"1"}]
    assert town.quiet("stock")


@pytest.mark.parametrize("fate", [Fate.LOST, Fate.UNANSWERED])
def test_a_decision_that_does_not_arrive_is_finished_later(town: Town, fate: Fate) -> None:  # O18
    orders, _ = town.manager("orders"), town.manager("stock")
    lossy = lambda *asked: fate if isinstance(asked[2], Tell) else None  # noqa: E731
    town.hall.rules.append(lossy)
    with orders.transaction() as tx:
        tx.connect("db").put("x", 1)
        town.work_at("stock", tx.export())
    assert len(tx.pending) == 1
    assert town.rows("orders") == [{"x": b"1"}]
    town.hall.rules.clear()
    assert orders.recover(wait_seconds=5.0).left == ()
    assert town.rows("stock") == [{"x": b"1"}]
    assert town.quiet("stock")


# --- refused ------------------------------------------------------------------------------------------------------


def test_a_context_is_good_for_one_join(town: Town) -> None:
    orders, stock = town.manager("orders"), town.manager("stock")
    with orders.transaction() as tx:
        context = tx.export()
        town.work_at("stock", context)
        with pytest.raises(ContextRefused, match="used before"), stock.join(context):
            pytest.fail("it joined twice")
    with pytest.raises(ContextRefused, match="has ended"), stock.join(context):
        pytest.fail("it joined an ended transaction")
    assert town.rows("stock") == [{"x": b"1"}]
    assert town.quiet("stock")


def _changed(token: str) -> str:
    head, payload, signature = token.split(".")
    return f"{head}.{payload[:-2]}{'A' if payload[-2] != 'A' else 'B'}{payload[-1]}.{signature}"


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (_changed, "its signature is wrong"),
        (lambda token: token.rpartition(".")[0] + ".", "is not signed"),
        (lambda token: "v9" + token[2:], "its signature is wrong"),
        (lambda _: "", "there is none"),
        (lambda _: "nonsense", "its signature is wrong"),
        (lambda _: "a.b.c", "is damaged"),
        (lambda token: token + "\u00e9", "is damaged"),
        (lambda token: token + "A" * 3000, "is damaged"),
    ],
)
def test_a_forged_context_is_refused(town: Town, spoil: Callable[[str], str], why: str) -> None:
    orders, stock = town.manager("orders"), town.manager("stock")
    with orders.transaction() as tx:
        token = tx.export().token
        with pytest.raises(ContextRefused, match=why) as caught, stock.join(spoil(token)):
            pytest.fail("it joined")
        assert token.split(".")[1] not in str(caught.value)
    assert [asked for asked in town.hall.asked if asked[0] == "stock"] == []  # nobody was asked, nothing was done


def test_without_the_header_or_the_key(town: Town) -> None:
    orders, stock = town.manager("orders"), town.manager("stock", keys=[b"another key of 32 bytes, or more"])
    bare = town.manager("bare", keys=[])
    with orders.transaction() as tx:
        for manager, sent, why in (
            (stock, tx.export(), "made with another key"),
            (stock, {"Host": "stock"}, "there is none"),
            (bare, tx.export(), "has no key"),
        ):
            with pytest.raises(ContextRefused, match=why), manager.join(sent):
                pytest.fail("it joined")


def test_keys_can_be_changed(town: Town) -> None:
    orders, _ = town.manager("orders"), town.manager("stock", keys=[b"the new key, which has 32 bytes.", KEY])
    with orders.transaction() as tx:
        town.work_at("stock", tx.export())
    assert town.rows("stock") == [{"x": b"1"}]


def test_unsigned_contexts_only_over_authenticated_links(town: Town) -> None:
    orders, stock = town.manager("orders", keys=[]), town.manager("stock", keys=[])
    with orders.transaction() as tx:
        context = tx.export()
        with pytest.raises(ContextRefused, match="authenticated link"), stock.join(context):
            pytest.fail("it joined")
        with stock.join(context, authenticated=True) as part:
            part.connect("db").put("x", 1)
    assert town.rows("stock") == [{"x": b"1"}]


def test_a_context_expires(town: Town) -> None:
    orders, _ = town.manager("orders"), town.manager("stock", clock=LateClock())
    with orders.transaction() as tx:
        context = tx.export()
        with pytest.raises(ContextRefused, match="has expired"):
            town.work_at("stock", context)


class LateClock(JumpingClock):
    def wall_ms(self) -> int:
        return super().wall_ms() + 61_000


def test_a_superior_that_nobody_knows(town: Town) -> None:
    orders, stock = town.manager("orders"), town.manager("stock")
    with orders.transaction() as tx:
        context = tx.export()
        orders._core.tree.exchange.close()  # type: ignore[union-attr]
        with pytest.raises(ResourceUnavailable, match="cannot be reached"), stock.join(context):
            pytest.fail("it joined")
    assert town.quiet("stock")
    assert stock._core.live == {}


def test_a_manager_does_not_join_itself(town: Town) -> None:
    orders = town.manager("orders")
    with orders.transaction() as tx, pytest.raises(ContextRefused, match="this very manager"), orders.join(tx.export()):
        pytest.fail("it joined")


def test_outside_a_tree(town: Town) -> None:
    alone = syncpoint.TransactionManager(str(town.folder / "alone"), {"db": f"memory://alone-{town.mark}"})
    orders = town.manager("orders")
    with alone, orders.transaction() as tx:
        with pytest.raises(ConfigurationError, match="is in no tree"), alone.join(tx.export()):
            pytest.fail("it joined")
        with pytest.raises(ConfigurationError, match="no running transaction"):
            alone.export()
        with alone.transaction() as other, pytest.raises(ConfigurationError, match="is in no tree"):
            other.export()
    with pytest.raises(ConfigurationError, match="at least 16"):
        syncpoint.Tree(exchange=town.hall.exchange("x"), keys=[b"short"])
    with pytest.raises(ConfigurationError, match="is no time"):
        syncpoint.Tree(exchange=town.hall.exchange("x"), context_lifetime_s=0)


def test_what_a_part_cannot_do(town: Town) -> None:
    orders, stock = town.manager("orders"), town.manager("stock")
    with orders.transaction() as tx, stock.join(tx.export()) as part, pytest.raises(NotAllowed):
        part.after_commit(lambda: None)


def nested(town: Town) -> None:
    orders = town.managers["orders"]
    with orders.transaction() as tx, contextlib.suppress(ZeroDivisionError), orders.transaction():
        town.work_at("stock", tx.export())
        raise ZeroDivisionError


def test_a_nested_block_around_a_join_cannot_be_rolled_back_alone(town: Town) -> None:
    for name in ("orders", "stock"):
        town.manager(name)
    with pytest.raises(TransactionAborted, match="nested block"):
        nested(town)
    assert town.rows("stock") == [{}]
    assert town.quiet("stock")


def test_errors_say_what_to_do(town: Town) -> None:
    stock = town.manager("stock")
    with pytest.raises(SyncpointError) as caught, stock.join("nonsense"):
        pytest.fail("it joined")
    assert "Nothing was done" in str(caught.value)
    assert "export a new one" in str(caught.value)


def test_a_journal_that_is_away_for_a_while_stops_no_manager(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """What looks after promises tries again, as recovery does: a node that restarts says nothing of a disk (R5)."""
    orders, stock = town.manager("orders"), town.manager("stock", background=True)
    tried = []

    def away() -> object:
        tried.append(1)
        raise JournalUnavailable("The node is away.")

    with monkeypatch.context() as patch:
        patch.setattr(stock._core, "look", away)
        wait_until(lambda: bool(tried), "it looks after promises")
    with orders.transaction() as tx:
        tx.connect("db").put("x", 1)
        town.work_at("stock", tx.export())
    assert town.rows("orders", "stock") == [{"x": b"1"}] * 2
