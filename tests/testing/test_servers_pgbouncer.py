"""The private PgBouncer: shares server connections, survives SIGKILL of itself and of its server, leaves nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from syncpoint.testing.servers.base import ServerFailed, wait_until
from syncpoint.testing.servers.pgbouncer import PgBouncerServer
from syncpoint.testing.servers.postgres import PostgresServer
from tests.testing.test_servers_postgres import process_exists

pytestmark = pytest.mark.skipif(not PgBouncerServer.available(), reason="pgbouncer is not installed")


def answers(url: str) -> bool:
    try:
        with closing(psycopg.connect(url, autocommit=True)) as client:
            return client.execute("SELECT 1").fetchone() == (1,)
    except psycopg.OperationalError:
        return False


def test_clients_share_server_connections_in_transaction_mode(
    pgbouncer: PgBouncerServer, postgres_server: PostgresServer, postgres_url: str
) -> None:
    assert pgbouncer.port < 32768
    database = postgres_url.rpartition("/")[2]
    clients = [psycopg.connect(pgbouncer.url(database), autocommit=True) for _ in range(12)]
    try:
        pids = {client.execute("SELECT pg_backend_pid()").fetchone() for client in clients}
        assert 1 <= len(pids) <= 4
        (pool,) = [row for row in pgbouncer.show("POOLS") if row["database"] == database]
        assert (pool["cl_active"], pool["pool_mode"]) == (12, "transaction")
        row = clients[0].execute("SELECT current_user").fetchone()
        assert row == ("postgres",)
    finally:
        for client in clients:
            client.close()


def test_whoever_the_server_knows_may_come(pgbouncer: PgBouncerServer, postgres_server: PostgresServer) -> None:
    role = f"visitor_{pgbouncer.port}"
    with postgres_server.connect() as observer:
        observer.execute(f"CREATE ROLE {role} LOGIN".encode())
    with closing(psycopg.connect(pgbouncer.url("postgres", role), autocommit=True)) as client:
        assert client.execute("SELECT current_user").fetchone() == (role,)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(pgbouncer.url("postgres", "nobody_there"))


def test_killed_and_restarted_it_serves_again_and_its_server_may_restart_behind_it() -> None:
    with PostgresServer() as server, PgBouncerServer(server.url("postgres")) as bouncer:
        with closing(psycopg.connect(bouncer.url("postgres"), autocommit=True)) as client:
            client.execute("BEGIN")
            bouncer.kill()
            assert not answers(bouncer.url("postgres"))
            with pytest.raises(psycopg.OperationalError):
                client.execute("SELECT 1")
        bouncer.start()
        assert answers(bouncer.url("postgres"))
        server.kill()
        server.start()
        wait_until(lambda: answers(bouncer.url("postgres")), "PgBouncer has found its server again")
        pid, folder = bouncer.pid, bouncer.folder
        assert "running" in repr(bouncer)
    assert not process_exists(pid)
    assert not folder.exists()
    assert "stopped" in repr(bouncer)


def test_it_dies_with_the_process_that_started_it() -> None:
    program = (
        "import time\n"
        "from syncpoint.testing.servers.pgbouncer import PgBouncerServer\n"
        "server = PgBouncerServer('postgresql://127.0.0.1:1/x'); server.start()\n"
        "print(server.pid, server.folder, flush=True); time.sleep(600)\n"
    )
    starter = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    with starter, starter.stdout:
        pid, folder = starter.stdout.readline().split()
        assert process_exists(int(pid))
        starter.send_signal(signal.SIGKILL)
    wait_until(lambda: not process_exists(int(pid)), "PgBouncer ends")
    subprocess.run(["/bin/rm", "-rf", folder], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root borrows another account")
def test_as_root_a_folder_nobody_can_reach_is_refused_in_plain_words(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with (
        pytest.raises(ServerFailed, match="may not enter"),
        PgBouncerServer("postgresql://127.0.0.1/x", folder=closed / "f"),
    ):
        pass


def test_one_that_cannot_start_says_why() -> None:
    server = PgBouncerServer("postgresql://127.0.0.1/x", settings={"pool_mode": "nonsense"})
    with pytest.raises(ServerFailed, match="pool_mode"), server:
        pass
