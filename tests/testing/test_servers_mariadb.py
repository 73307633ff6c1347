"""The private MariaDB server: starts, survives SIGKILL with its data, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from syncpoint.testing.servers import mariadb
from syncpoint.testing.servers.mariadb import MariadbServer

pytestmark = pytest.mark.skipif(not MariadbServer.available(), reason="mariadbd is not installed")


def process_exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until(condition: Callable[[], bool], seconds_max: float = 20.0) -> None:
    deadline = time.monotonic() + seconds_max
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def test_a_server_without_all_its_programs_is_not_available(monkeypatch: pytest.MonkeyPatch) -> None:
    """`mariadb-install-db` calls `my_print_defaults`, which Debian has moved to another package."""
    monkeypatch.setattr(mariadb, "_program", lambda name: None if name == "my_print_defaults" else f"/bin/{name}")
    assert not MariadbServer.available()


def test_committed_and_prepared_work_survives_a_kill_and_a_restart() -> None:
    with MariadbServer() as server:
        assert server.port < 32768
        server.create_database("bank")
        with contextlib.closing(server.connect("bank")) as root, root.cursor() as cursor:
            cursor.execute("CREATE TABLE account (id INT PRIMARY KEY)")
            cursor.execute("INSERT INTO account VALUES (1)")
            cursor.execute("XA START 'a','b',7")
            cursor.execute("INSERT INTO account VALUES (2)")
            cursor.execute("XA END 'a','b',7")
            cursor.execute("XA PREPARE 'a','b',7")
            server.kill()
        server.start()
        assert server.prepared() == ["'a','b',7"]
        server.restart()
        assert server.prepared() == ["'a','b',7"]
        with contextlib.closing(server.connect("bank")) as root, root.cursor() as cursor:
            cursor.execute("SELECT id FROM account")
            assert cursor.fetchall() == ((1,),)
        pid, folder = server.pid, server.folder
    assert not process_exists(pid)
    assert not folder.exists()


def test_a_given_folder_stays_and_can_be_started_again(tmp_path: Path) -> None:
    with MariadbServer(tmp_path / "data") as server:
        server.create_database("bank")
        server.stop()
        assert not server.running
    with MariadbServer(tmp_path / "data") as server, contextlib.closing(server.connect("bank")):
        assert server.running


def test_the_server_dies_with_the_process_that_started_it() -> None:
    program = (
        "import sys, time\n"
        "from syncpoint.testing.servers.mariadb import MariadbServer\n"
        "server = MariadbServer(sys.argv[1]); server.start(); print(server.pid, flush=True); time.sleep(600)\n"
    )
    with MariadbServer() as other:
        folder = str(other.folder / "second")
        starter = subprocess.Popen([sys.executable, "-c", program, folder], stdout=subprocess.PIPE)
        assert starter.stdout is not None
        with starter, starter.stdout:
            pid = int(starter.stdout.readline())
            assert process_exists(pid)
            starter.send_signal(signal.SIGKILL)
        wait_until(lambda: not process_exists(pid))
