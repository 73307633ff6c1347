"""The units in deploy/ and the page in docs/ name what there is."""

from __future__ import annotations

import re
import tomllib
from configparser import ConfigParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from syncpoint import config
from syncpoint.cli.app import app
from syncpoint.manager import at_node

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "node.md").read_text(encoding="utf-8")


def unit(name: str) -> ConfigParser:
    read = ConfigParser(strict=True, interpolation=None)
    read.optionxform = str  # type: ignore[assignment, method-assign]
    read.read(ROOT / "deploy" / name)
    return read


@pytest.mark.parametrize("name", ["syncpoint-node.service", "syncpoint-resource@.service"])
def test_a_unit_is_started_anew_and_has_few_rights(name: str) -> None:
    service = unit(name)["Service"]
    assert service["Restart"] == "always"
    assert service["NoNewPrivileges"] == "true"
    assert service["User"] == "syncpoint"


def test_the_nodes_unit_runs_a_command_that_there_is() -> None:
    service = unit("syncpoint-node.service")["Service"]
    assert service["Type"] == "notify"
    command = service["ExecStart"].split()
    assert command[0].endswith("/syncpoint")
    helped = CliRunner().invoke(app, [command[1], "--help"], env={"COLUMNS": "200"}).stdout
    assert all(option in helped for option in command[2:] if option.startswith("--"))


def test_the_page_names_every_key_and_option() -> None:
    for key in (*config._NODE_KEYS, *config._TLS_KEYS, *at_node._OPTIONS):
        assert f"`{key}`" in PAGE or f"`[node.{key}]`" in PAGE, key


def test_the_pages_configuration_is_right(tmp_path: Path) -> None:
    text = re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert text is not None
    assert "node" in tomllib.loads(text[1])
    file = tmp_path / "syncpoint.toml"
    file.write_text(text[1])
    read = config.load(str(file), {})
    assert read.node is not None
    state = unit("syncpoint-node.service")["Service"]["StateDirectory"]
    assert read.node.journal == f"/var/lib/{state}/journal"
