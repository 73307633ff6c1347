"""The FastAPI example keeps its promises while its workers are killed, and its audit would notice if it did not."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import psycopg
import pytest

from syncpoint.testing.servers.postgres import PostgresServer

EXAMPLE = Path(__file__).parents[2] / "examples" / "fastapi_transfer"


@pytest.mark.parametrize("journal", ["database", "folder"])
def test_under_load_with_workers_killed(journal: str, tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLE / "run.py"), "--load", "6", "--workers", "2", "--clients", "8", "--json"]
    command += ["--kill-every", "2"]  # with two workers that are slow to start there would be nobody left
    if journal == "folder":
        command += ["--journal", str(tmp_path / "journal")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["acknowledged"] >= 5
    assert report["kills"] >= 1
    assert report["replayed"] >= 1
    assert report["unexpected"] == {}
    assert report["unanswered"] == 0


# --- the audit, on books known to be wrong ----------------------------------------------------------------------


def _module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fastapi_transfer_books", EXAMPLE / "books.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def databases(postgres_server: PostgresServer) -> Any:
    module = _module()
    return module.Books({name: postgres_server.create_database(f"audit_{name}") for name in module.NAMES})


@pytest.fixture
def books(databases: Any) -> Any:
    for url in databases.urls.values():
        with psycopg.connect(url) as connection:
            connection.execute("DROP TABLE IF EXISTS account, transfer")
    databases.make_tables()
    return databases


TRANSFER = "INSERT INTO transfer VALUES ('{receipt}', '{reference}', 7, {delta})"
MOVE = "UPDATE account SET balance = balance + {delta} WHERE id = 7"


@pytest.mark.parametrize(
    ("wrong", "statements"),
    [
        ({}, []),
        ({"lost": 1, "torn": 1}, [("bank", "DELETE FROM transfer"), ("bank", MOVE.format(delta=5))]),
        (
            {"lost": 1},
            [("bank", "UPDATE transfer SET receipt = 'other'"), ("ledger", "UPDATE transfer SET receipt = 'other'")],
        ),
        ({"wrong_balances": 1}, [("ledger", MOVE.format(delta=1))]),
        (
            {"duplicated": 1},
            [
                (name, statement.format(receipt="second", reference="a", delta=delta))
                for name, delta in (("bank", -5), ("ledger", 5))
                for statement in (TRANSFER, MOVE)
            ],
        ),
        (
            {"refused_but_done": 1, "torn": 1},
            [
                ("bank", statement.format(receipt="third", reference="refused", delta=-5))
                for statement in (TRANSFER, MOVE)
            ],
        ),
    ],
)
def test_the_audit_notices(books: Any, wrong: dict[str, int], statements: list[tuple[str, str]]) -> None:
    done = [
        (name, statement.format(receipt="first", reference="a", delta=delta))
        for name, delta in (("bank", -5), ("ledger", 5))
        for statement in (TRANSFER, MOVE)
    ]
    for name, statement in [*done, *statements]:
        with psycopg.connect(books.urls[name]) as connection:
            connection.execute(statement.encode())
    audit = books.audit({"a": "first"}, {"refused"})
    found = dataclasses.asdict(audit)
    found.pop("in_doubt")  # of the whole server, which other tests share
    assert {what: count for what, count in found.items() if count} == wrong
