"""The examples of docs/testing.md, the one in examples/, and the plugin: run by a pytest of their own, as a user would.

Not for: what the fixture finds (crash/), or the checks of adapters (conformance/).
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest

from syncpoint.testing import every_point
from syncpoint.testing.crash.story import Points
from syncpoint.testing.plugin import _chosen
from tests.testing.crash.places import roomy_folder

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "testing.md"
EXAMPLE = ROOT / "examples" / "crash_testing"
TORN = """
def transfer(manager):
    with manager.transaction() as tx:
        tx.connect("bank").execute("UPDATE account SET balance = balance - 10")
    with manager.transaction() as tx:
        tx.connect("ledger").execute("UPDATE account SET balance = balance + 10")
"""


def examples() -> dict[str, str]:
    """File name to text, as the guide shows them."""
    blocks = re.findall(r"```python\n# (\S+)\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    return dict(blocks)


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A pytest that knows of this package only by its entry point."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "error", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def test_the_guides_examples_run() -> None:
    """Two transfers, crashed; and an adapter, of whose checks some are run."""
    with roomy_folder() as folder:
        for name, text in examples().items():
            (folder / name).write_text(text)
        quick = "test_transfer or ((a1 or a5 or o01 or o19 or url) and sync)"
        options = ("--syncpoint-points", "4", "--syncpoint-json", "figures.json", "--basetemp", str(folder / "tmp"))
        done = run(folder, "-k", quick, *options)
        assert done.returncode == 0, done.stdout + done.stderr
        assert sorted(examples()) == ["test_mine.py", "test_transfer.py", "test_transfer_async.py"]
        for name in ("test_transfer.py", "test_transfer_async.py"):
            assert re.search(rf"{name}::test_transfer: 4 of \d+ points hit \(kill", done.stdout), done.stdout
        figures = json.loads((folder / "figures.json").read_text())
        assert figures["crash"]["test_transfer.py::test_transfer"]["hit"] == 4
        mine = figures["conformance"]["TestMine"]
        assert mine["passed"] > 5
        assert mine["failed"] == []
        assert mine["skipped"]["test_the_safe_url_shows_no_secret[sync]"].endswith("have no place for a password")


def test_a_torn_transfer_fails_with_the_command_that_repeats_it() -> None:
    with roomy_folder() as folder:
        text = examples()["test_transfer.py"]
        whole = text[text.index("def transfer") : text.index("def test_transfer")]
        (folder / "test_transfer.py").write_text(text.replace(whole, f"{TORN}\n\n"))
        # Between its two transactions, at the second's first step.
        done = run(folder, "test_transfer.py", "--syncpoint-points", "8", "--basetemp", str(folder / "tmp"))
        assert done.returncode == 1, done.stdout + done.stderr
        assert re.search(r"torn: \[90, 100\]", done.stdout), done.stdout
        found = re.search(r"this point only: pytest (\S+) --syncpoint-point '(.+?)'", done.stdout)
        assert found is not None, done.stdout
        again = run(folder, found[1], "--syncpoint-point", found[2], "--basetemp", str(folder / "tmp"))
        assert again.returncode == 1
        assert "1 of 1 points failed" in again.stdout


class Options:
    """What a command line and a configuration file say."""

    def __init__(self, points: str | None = None, keys: tuple[str, ...] = (), configured: str = "") -> None:
        self._options = {"syncpoint_points": points, "syncpoint_point": list(keys)}
        self._configured = configured

    def getoption(self, name: str) -> Any:
        return self._options[name]

    def getini(self, name: str) -> str:
        return self._configured


def chosen(points: Points, *said: Any, **configured: Any) -> Points:
    return _chosen(cast(pytest.Config, Options(*said, **configured)), points)


def test_the_command_line_goes_before_the_test() -> None:
    assert chosen(every_point) == every_point
    assert chosen(every_point, "3") == every_point.sample(3)
    assert chosen(every_point, None, configured="5") == every_point.sample(5)
    assert chosen(every_point, "all", configured="5") == every_point
    assert chosen(every_point.sample(2), "3") == every_point.sample(2)
    assert chosen(every_point.sample(2), "3", ("kill@a.py:1#1",)).keys == ("kill@a.py:1#1",)
    for wrong in ("many", "0", "-1"):
        with pytest.raises(pytest.UsageError, match="give a whole number above 0, or all"):
            chosen(every_point, wrong)


def test_the_example_runs_as_its_readme_says() -> None:
    with roomy_folder() as folder:
        done = run(ROOT, str(EXAMPLE), "--syncpoint-points", "3", "--basetemp", str(folder / "tmp"))
        assert done.returncode == 0, done.stdout + done.stderr
        assert "3 passed" in done.stdout
        assert done.stdout.count("3 of ") == 3


def test_the_package_needs_no_pytest() -> None:
    program = (
        "import sys; sys.modules['pytest'] = None\n"
        "import syncpoint.testing as testing\n"
        "assert testing.every_point and testing.explore and testing.Story and testing.Subject\n"
        "try: testing.ResourceConformance\n"
        "except ImportError: print('only the suite does')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "only the suite does", done.stderr
