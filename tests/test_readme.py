"""The README's example runs as it stands there; only the places are the test's own.

Not for: the claims in its prose (conformance/, crash/).
"""

from __future__ import annotations

import re
from pathlib import Path

import apsw
import psycopg
import pytest

import syncpoint
from syncpoint.testing.servers.mariadb import MariadbServer

README = Path(__file__).parents[1] / "README.md"


def test_the_example_runs_and_once_only(
    postgres_url: str,
    mariadb_url: str,
    mariadb_server: MariadbServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    [example] = re.findall(r"```python\n(import syncpoint\n.*?)```", README.read_text(), re.DOTALL)
    assert len(example.strip().splitlines()) <= 20
    places = {"postgresql://localhost/bank": postgres_url, "mariadb://app@localhost/ledger": mariadb_url}
    for written, ours in places.items():
        assert written in example
        example = example.replace(written, ours)
    ledger = mariadb_url.rpartition("/")[2]
    mariadb_server.execute(f"CREATE TABLE {ledger}.entry (account INT, amount INT)")
    with psycopg.connect(postgres_url, autocommit=True) as bank:
        bank.execute("CREATE TABLE account (id INT PRIMARY KEY, balance INT)")
        bank.execute("INSERT INTO account VALUES (1, 100)")
        audit = apsw.Connection("audit.db")
        audit.execute("CREATE TABLE note (text TEXT PRIMARY KEY)")
        exec(example, {})  # noqa: S102  # what a reader would paste
        with pytest.raises(syncpoint.AlreadyCommitted):
            exec(example, {})  # noqa: S102
        assert bank.execute("SELECT balance FROM account").fetchall() == [(90,)]
        assert mariadb_server.execute(f"SELECT * FROM {ledger}.entry") == [(1, -10)]
        assert audit.execute("SELECT text FROM note").fetchall() == [("order 4711",)]
        audit.close()
