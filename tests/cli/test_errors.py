"""Every mistake and misfortune of docs/errors.md that a command can meet: one clear paragraph, exit code 1, no secret.

Not for: errors that only a program meets (manager/), or what the adapters check (resources/).
"""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from syncpoint import errors
from tests.cli.conftest import Command, FakeManager, Ran

DOCS = Path(__file__).parents[2] / "docs"
SECRET = "tr0ub4dor"
CLASSES = [
    name
    for name, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, errors.SyncpointError) and kind is not errors.SyncpointError
]


@pytest.mark.parametrize("name", CLASSES)
def test_every_error_is_documented(name: str) -> None:
    assert f"`{name}`" in (DOCS / "errors.md").read_text(encoding="utf-8")


def test_no_error_is_documented_that_is_not_there() -> None:
    rows = re.findall(r"^\| `([A-Za-z]+)` \|", (DOCS / "errors.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(set(rows) - set(CLASSES)) == []


def refused(ran: Ran, *parts: str) -> None:
    """Exit code 1, nothing on stdout, one paragraph on stderr with these parts, and no secret."""
    assert (ran.exit_code, ran.stdout) == (1, "")
    assert ran.stderr.startswith("syncpoint: ")
    assert ran.stderr.count("\n") == 1, "one paragraph"
    for part in parts:
        assert part in ran.stderr
    assert SECRET not in ran.stderr


# --- configuration ----------------------------------------------------------------------------------------


def test_unknown_url_scheme(command: Command) -> None:
    refused(
        command("doctor", f"oracle://app:{SECRET}@host/db"), "oracle://", "Known schemes: files, mariadb, memory, postg"
    )


def test_mysql_is_not_claimed(command: Command) -> None:
    refused(command("doctor", f"mysql://app:{SECRET}@host/db"), "MySQL 8 is not claimed", "write mariadb://")


def test_not_a_url(command: Command) -> None:
    refused(command("doctor", "bank"), "'bank' is neither a URL nor a configured resource.")
    refused(command("doctor", f"{SECRET}@host"), "What is given is neither a URL nor a configured resource.")
    refused(command("in-doubt", "--journal", ".", "--resource", f"app:{SECRET}@host"), "is not of the form name=url")


def test_unknown_config_key(command: Command, manager: FakeManager) -> None:
    Path("syncpoint.toml").write_text("[syncpoint]\njurnal = 'x'", encoding="utf-8")
    refused(command("in-doubt"), "syncpoint.toml", "syncpoint.jurnal", "Did you mean syncpoint.journal?")


def test_missing_variable(command: Command, manager: FakeManager) -> None:
    Path("syncpoint.toml").write_text(f"[resources]\nbank = 'mariadb://a:{SECRET}@${{NO_SUCH}}/b'", encoding="utf-8")
    refused(command("doctor"), "resources.bank needs the environment variable NO_SUCH")


def test_missing_configuration(command: Command) -> None:
    refused(command("doctor", "--config", "no.toml"), "There is no configuration file no.toml.")
    refused(command("doctor"), "There is no database to look at")
    refused(command("in-doubt"), "No journal is named (there is no configuration file).", "--journal")
    refused(command("in-doubt", "--journal", "."), "No resource is configured", "--resource name=url")


def test_the_variable_names_the_configuration(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNCPOINT_CONFIG", "elsewhere.toml")
    refused(command("in-doubt"), "There is no configuration file elsewhere.toml.")


# --- the journal -----------------------------------------------------------------------------------------


def test_no_journal_there(command: Command) -> None:
    refused(command("in-doubt", "--journal", "typo", "--resource", "a=memory://a"), "There is no journal at typo.")
    assert not Path("typo").exists(), "a command begins no journal"


# --- demonstrations ---------------------------------------------------------------------------------------


def test_a_demonstration_without_its_packages(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "syncpoint.demo.transfer", raising=False)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    for module in ("syncpoint.testing.servers.postgres", "syncpoint.demo.bank", "syncpoint.demo.chaos"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    refused(command("demo", "transfer"), "psycopg", "pip install 'syncpoint[demo]'")


# --- the command itself ------------------------------------------------------------------------------------------


def test_as_a_process_there_is_no_traceback(tmp_path: Path) -> None:
    ran = subprocess.run(
        [Path(sys.executable).with_name("syncpoint"), "doctor", f"oracle://app:{SECRET}@host/db"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
        check=False,
    )
    refused(Ran(ran.returncode, ran.stdout, ran.stderr), "oracle://")


def test_without_the_commands_packages_it_says_what_to_install(tmp_path: Path) -> None:
    program = "import sys; sys.modules['typer'] = None; from syncpoint.cli import main; main()"
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False
    )
    assert ran.returncode == 1
    assert ran.stderr == "The command needs the Python package typer. Run: pip install 'syncpoint[cli]'\n"


def test_version(command: Command) -> None:
    assert command("version").stdout.startswith("syncpoint ")
    assert set(command("version", "--json").json) == {"syncpoint", "identifier_format", "record_format", "python"}


@pytest.mark.parametrize(
    "name", ["doctor", "init", "in-doubt", "show", "outcome", "recover", "resolve", "forget", "adopt", "version"]
)
def test_every_command_explains_itself(command: Command, name: str) -> None:
    ran = command(name, "--help")
    assert ran.exit_code == 0
    assert "--json" in ran.stdout
    assert f"syncpoint {name}" in (DOCS / "commands.md").read_text(encoding="utf-8")
