"""The node over real links in one process: both managers, TLS, strangers, garbage, wrong configuration, health."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest
from typer.testing import CliRunner

import syncpoint
from syncpoint import config
from syncpoint.cli.app import app
from syncpoint.config import NodeSettings
from syncpoint.errors import ConfigurationError, JournalRefused, JournalUnavailable
from syncpoint.link.settings import TlsFiles
from syncpoint.node import health, logs
from syncpoint.node.server import Node
from syncpoint.testing.servers.base import wait_until
from tests.link.world import Authority

COUNT = "SELECT count(*) FROM item"


class World:
    """A node, and two SQLite files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = f"unix://{folder}/node.sock"
        self.journal = f"node://{self.address}"
        self.resources = {name: f"sqlite:///{folder}/{name}.db" for name in "ab"}
        for name in "ab":
            with closing(apsw.Connection(f"{folder}/{name}.db")) as connection:
                connection.execute("CREATE TABLE item (id INTEGER PRIMARY KEY)")

    def settings(self, **more: Any) -> NodeSettings:
        return NodeSettings(**{"listen": (self.address,), "journal": f"{self.folder}/journal", **more})

    def node(self, **more: Any) -> Node:
        return Node(self.settings(**more), resources=self.resources)

    def write(self, text: str) -> str:
        file = self.folder / "syncpoint.toml"
        file.write_text(text)
        return str(file)

    def counts(self) -> list[int]:
        found = []
        for name in "ab":
            with closing(apsw.Connection(f"{self.folder}/{name}.db")) as connection:
                found.append(connection.execute(COUNT).get)
        return found


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever does not reach the node at once gives up."""
    monkeypatch.setattr("syncpoint.journal.node.OPEN_S_MAX", 0.0)


def transact(manager: syncpoint.TransactionManager, number: int) -> None:
    with manager.transaction() as tx:
        for name in "ab":
            tx.connect(name).execute(f"INSERT INTO item VALUES ({number})")


def test_both_managers_work_with_a_journal_at_a_node(world: World) -> None:
    async def use() -> None:
        async with syncpoint.AsyncTransactionManager(world.journal, world.resources) as manager:
            async with manager.transaction(id="order-2") as tx:
                for name in "ab":
                    (await tx.connect(name)).execute("INSERT INTO item VALUES (2)")
            with pytest.raises(syncpoint.AlreadyCommitted):
                async with manager.transaction(id="order-2"):
                    pass

    with world.node() as node:
        with syncpoint.TransactionManager(world.journal, world.resources) as manager:
            transact(manager, 1)
            assert node.status().ready
            assert node.sessions() == list(node.status().applications)
        asyncio.run(use())
        assert world.counts() == [2, 2]
        assert not node.sessions()


def test_over_tls_a_certificate_tells_who_it_is(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority(world.folder / "ca")
    server, client, wrong = (authority.issue(name) for name in ("node", "shop", "stranger"))
    with world.node(listen=("tls://127.0.0.1:0",), tls=server, tls_peers=("shop",)) as node:
        [address] = node.listening_at

        def journal(files: TlsFiles) -> str:
            paths = f"certificate={files.certificate}&key={files.key}&authorities={files.authorities}"
            return f"node://{address}?{paths}"

        with syncpoint.TransactionManager(journal(client), world.resources) as manager:
            transact(manager, 1)
        monkeypatch.setattr("syncpoint.journal.node.OPEN_S_MAX", 0.0)
        with pytest.raises(JournalUnavailable), syncpoint.TransactionManager(journal(wrong), world.resources):
            pass
    assert world.counts() == [1, 1]


def test_garbage_and_strangers_change_nothing(world: World, caplog: pytest.LogCaptureFixture, impatient: None) -> None:
    with world.node(), syncpoint.TransactionManager(world.journal, world.resources) as manager:
        for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 5000, b""):
            with socket.socket(socket.AF_UNIX) as stranger:
                stranger.connect(f"{world.folder}/node.sock")
                stranger.sendall(garbage)
        for wrong in (f"{world.journal}?cluster=other", f"{world.journal}?name=another"):
            with pytest.raises(JournalUnavailable), syncpoint.TransactionManager(wrong, world.resources):
                pass
        transact(manager, 1)
    assert world.counts() == [1, 1]
    assert any("belongs to the cluster 'other'" in record.getMessage() for record in caplog.records)


def test_nobody_there_is_said_with_what_to_do(world: World, impatient: None) -> None:
    with (
        pytest.raises(JournalUnavailable, match="Is `syncpoint node` running there"),
        syncpoint.TransactionManager(world.journal, world.resources),
    ):
        pass


@pytest.mark.parametrize(
    ("journal", "words"),
    [
        ("node://", "names no address"),
        ("node://unix://relative.sock", "three slashes"),
        ("node://unix:///n.sock?nmae=x", "Did you mean 'name'"),
        ("node://tls://host:1", "no certificate and no key and no authorities"),
        ("node://unix:///n.sock?user=root", "numeric user id"),
    ],
)
def test_a_wrong_url_is_refused(world: World, journal: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words), syncpoint.TransactionManager(journal, world.resources):
        pass


# --- two nodes, used addresses ---------------------------------------------------------------------------------------


def test_one_folder_has_one_node(world: World) -> None:
    with world.node(), pytest.raises(JournalRefused, match="Another node is working"):
        world.node(listen=(f"unix://{world.folder}/other.sock",)).open()


def test_an_address_in_use_is_refused_and_the_first_goes_on(world: World) -> None:
    with world.node():
        with pytest.raises(ConfigurationError, match=r"node\.sock"):
            world.node(journal=f"{world.folder}/journal-2").open()
        with syncpoint.TransactionManager(world.journal, world.resources) as manager:
            transact(manager, 1)


def test_a_node_can_be_opened_again_after_a_refusal(world: World) -> None:
    (world.folder / "journal").write_text("a file is in the way")
    with pytest.raises(JournalRefused):
        world.node().open()
    (world.folder / "journal").unlink()
    with world.node() as node:
        assert node.status().ready


# --- health ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def endpoint(world: World) -> Iterator[tuple[Node, str]]:
    node = world.node()
    made = health.Health("127.0.0.1:0", node.status)
    with node:
        yield node, f"http://127.0.0.1:{made.port}"
    made.close()


def get(url: str) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            raw = error.read()
        return error.code, json.loads(raw) if raw.startswith(b"{") else {}


def test_health_and_readiness(endpoint: tuple[Node, str]) -> None:
    node, url = endpoint
    code, document = get(f"{url}/ready")
    assert (code, document["ready"], document["incarnation"]) == (200, True, 1)
    assert get(f"{url}/live")[0] == 200
    assert get(f"{url}/other")[0] == 404
    node._failed(JournalRefused("The disk is broken."))
    assert get(f"{url}/ready") == (503, {**document, "ready": False, "failed": True, "why": "The disk is broken."})
    assert get(f"{url}/live")[0] == 503


def test_systemd_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"{world.folder}/notify")
        monkeypatch.setenv("NOTIFY_SOCKET", f"{world.folder}/notify")
        health.notify_systemd("READY=1")
        assert systemd.recv(100) == b"READY=1"
    health.notify_systemd("STOPPING=1")  # nobody listens any more
    monkeypatch.setenv("WATCHDOG_USEC", "3000000")
    assert health.watchdog_period_s() == 1.5
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert health.watchdog_period_s() is None


def test_a_line_of_the_log_is_one_json_object() -> None:
    try:
        raise ValueError("x")
    except ValueError as error:
        record = logging.LogRecord("syncpoint.node", logging.ERROR, "", 1, "a\n%s", ("b",), (ValueError, error, None))
    line = logs.JsonLines().format(record)
    assert "\n" not in line
    read = json.loads(line)
    assert (read["level"], read["logger"], read["message"]) == ("error", "syncpoint.node", "a\nb")
    assert "ValueError: x" in read["error"]


# --- the command -----------------------------------------------------------------------------------------------------


def test_check_asks_the_running_node(world: World) -> None:
    file = world.write(f'[node]\nlisten = ["{world.address}"]\njournal = "{world.folder}/journal"\n')
    command = ["node", "--config", file, "--check", "--json"]
    ran = CliRunner().invoke(app, command)
    assert ran.exit_code == 1
    assert "no node node answers at" in json.loads(ran.stdout)["error"]["message"]
    with world.node():
        ran = CliRunner().invoke(app, command)
        assert (ran.exit_code, json.loads(ran.stdout)["ready"]) == (0, True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[syncpoint]\n", "there is no [node]"),
        ('[node]\nlisten = ["unix:///n"]\n', "node.journal is missing"),
        ('[node]\nlisten = ["unix:///n"]\njournal = "postgresql://x/y"\n', "node.journal must be a folder"),
        ('[node]\nlisten = ["unix:///n"]\njournal = "j"\nlissen = 1\n', "Did you mean node.listen?"),
        ('[node]\nlisten = ["tls://h:1"]\njournal = "j"\n', "there is no [node.tls]"),
        ('[node]\nlisten = ["n"]\njournal = "j"\n', "no address of a link"),
        ('[node]\nlisten = []\njournal = "j"\n', "must be a list of texts"),
        ('[node]\nlisten = ["unix:///n"]\njournal = "j"\nname = "a b"\n', "node.name cannot be"),
        ('[node]\nlisten = ["unix:///n"]\njournal = "j"\nhealth = "0.0.0.0:80"\n', "no port on loopback"),
        ('[node]\nlisten = ["unix:///n"]\njournal = "j"\nusers = ["www"]\n', "numeric user ids"),
        ('[node]\nlisten = ["unix:///n"]\njournal = "j"\nresume_s = 0\n', "node.resume_s must be"),
        ('[node]\nlisten = ["unix:///n"]\njournal = "j"\n[node.tls]\nkey = "k"\n', "node.tls.certificate is missing"),
        ('[resources.a]\nurl = "sqlite:///a"\nprocess = "yes"\n', "resources.a.process must be true or false"),
    ],
)
def test_a_wrong_configuration_is_refused_with_the_key(world: World, text: str, words: str) -> None:
    ran = CliRunner().invoke(app, ["node", "--config", world.write(text)])
    assert ran.exit_code == 1
    assert words in ran.stderr


def test_a_whole_section_is_read(world: World) -> None:
    file = world.write(
        '[node]\nname = "site-a"\ncluster = "shop"\nlisten = ["unix:///n", "tls://127.0.0.1:7420"]\njournal = "j"\n'
        'dead_after_s = 6\nresume_s = 2\nhealth = "127.0.0.1:8920"\nusers = [1000]\n'
        '[node.tls]\ncertificate = "c"\nkey = "k"\nauthorities = "a"\npeers = ["shop"]\n'
        '[resources.audit]\nurl = "sqlite:///a.db"\nprocess = true\nbackup = "restart"\n'
    )
    read = config.load(file, {})
    assert read.node == NodeSettings(
        name="site-a",
        cluster="shop",
        listen=("unix:///n", "tls://127.0.0.1:7420"),
        journal="j",
        dead_after_s=6,
        resume_s=2,
        health="127.0.0.1:8920",
        users=(1000,),
        tls=TlsFiles(certificate="c", key="k", authorities="a"),
        tls_peers=("shop",),
    )
    audit = read.resources["audit"]
    assert (audit.process, audit.backup, audit.table()) == (True, "restart", "sqlite:///a.db")


def test_what_the_dead_left_in_a_prepared_branch_is_finished_by_the_node(world: World) -> None:
    """The node's own manager has the resources of its configuration."""
    with world.node() as node:
        wait_until(lambda: all(handle.guid is not None for handle in node.core.handles.values()), "first contact")
        assert sorted(node.core.handles) == ["a", "b"]
