"""From a URL to its adapter: built-in, from another package, unknown, broken. Not for: the adapters themselves."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncpoint.errors import ConfigurationError
from syncpoint.resources.base import Resource
from syncpoint.resources.registry import check_name, known_schemes, make_resource

ADAPTERS = """
from syncpoint.resources.base import Resource

class Nice(Resource):
    scheme = "nice"
    option_names = frozenset({"colour"})
    safe_url = "nice://***"

    def __init__(self, name, url, options, *, mode, clock, random):
        super().__init__(name, url, options, mode=mode, clock=clock, random=random)
        self.url, self.options = url, options

Nice.__abstractmethods__ = frozenset()

class NeedsDriver(Nice):
    def __init__(self, *positional, **named):
        import driver_that_nobody_has

NotAResource = dict

import syncpoint

class Own(syncpoint.ResourceManager):
    option_names = frozenset({"colour"})
    begin = prepare = commit = abort = None

    def place(self):
        return "/somewhere"
"""


class FixedClock:
    def monotonic(self) -> float:
        return 0.0

    def wall_ms(self) -> int:
        return 0


class FixedRandom:
    def bytes(self, size_bytes: int) -> bytes:
        return bytes(size_bytes)

    def fraction(self) -> float:
        return 0.0


def make(url_or_table: str | dict[str, object], name: str = "bank") -> Resource:
    return make_resource(name, url_or_table, mode="sync", clock=FixedClock(), random=FixedRandom())


@pytest.fixture
def third_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Another package with adapters, installed as packages are: a module and its metadata on the path."""
    (tmp_path / "other_adapters.py").write_text(ADAPTERS, encoding="utf-8")
    (tmp_path / "broken_adapter.py").write_text("1 / 0", encoding="utf-8")
    for package, points in {
        "other": [
            "nice = other_adapters:Nice",
            "needs = other_adapters:NeedsDriver",
            "own = other_adapters:Own",
            "notone = other_adapters:NotAResource",
            "gone = other_adapters:Gone",
            "broken = broken_adapter:Any",
            "missing = module_that_nobody_has:Any",
            "twice = other_adapters:Nice",
        ],
        "another": ["twice = other_adapters:NeedsDriver"],
    }.items():
        metadata = tmp_path / f"{package}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n", encoding="utf-8")
        (metadata / "entry_points.txt").write_text("\n".join(["[syncpoint.resources]", *points]), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for module in ("other_adapters", "broken_adapter"):
        sys.modules.pop(module, None)


def refusal(url_or_table: str | dict[str, object], name: str = "bank") -> str:
    with pytest.raises(ConfigurationError) as caught:
        make(url_or_table, name)
    return str(caught.value)


@pytest.mark.parametrize(
    "url", ["sqlite:///audit.db", "postgresql://localhost/bank", "mariadb://localhost/bank", "memory://x"]
)
def test_the_scheme_names_the_adapter(url: str) -> None:
    resource = make(url)
    assert resource.scheme == url.partition(":")[0]
    assert resource.name == "bank"


def test_the_scheme_is_told_in_any_case() -> None:
    assert make("SQLite:///audit.db").scheme == "sqlite"


def test_ours_are_found_without_an_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncpoint.resources.registry.entry_points", lambda **_: ())
    assert make("memory://x").scheme == "memory"
    assert known_schemes() == ["files", "mariadb", "memory", "postgresql", "process", "sqlite"]


@pytest.mark.usefixtures("third_party")
def test_another_packages_adapter() -> None:
    resource = make({"url": "nice://x", "colour": "red", "pool_size_max": 3})
    assert vars(resource)["url"] == "nice://x"
    assert vars(resource)["options"] == {"colour": "red"}, "pool_size_max is the manager's"
    assert "nice" in known_schemes()


@pytest.mark.usefixtures("third_party")
def test_another_packages_resource_manager() -> None:
    resource = make({"url": "own://x", "colour": "red"})
    assert repr(resource) == "<OwnResource bank other_adapters:Own at /somewhere>"
    assert vars(resource)["author"].url == "own://x"
    assert "Did you mean 'colour'?" in refusal({"url": "own://x", "color": "red"})


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("mysql://localhost/bank", "MySQL 8 is not claimed until it is tested; for a MariaDB server write mariadb://"),
        ("postgres://localhost/bank", "Write postgresql://"),
        ("postgresql+asyncpg://localhost/bank", "Write postgresql://; Syncpoint chooses the driver."),
        ("mariabd://localhost/bank", "Did you mean mariadb://?"),
        ("oracle://localhost/bank", ""),
    ],
)
def test_an_unknown_scheme_lists_those_known(url: str, hint: str) -> None:
    message = refusal(url)
    assert f"No adapter answers to the URL scheme {url.partition(':')[0]}://." in message
    assert hint in message
    assert "Known schemes: files, mariadb, memory, postgresql, process, sqlite" in message


def test_what_is_no_url_is_not_repeated() -> None:
    message = refusal("app:tr0ub4dor@localhost/bank".replace("app:", "//app:"))
    assert "does not begin with a scheme" in message
    assert "tr0ub4dor" not in message


@pytest.mark.parametrize("name", ["", "a b", "a" * 65, "bänk", "a.b", "bank\n"])
def test_a_bad_name(name: str) -> None:
    assert "cannot be a resource's name" in refusal("memory://x", name)


def test_a_good_name() -> None:
    check_name("Bank_2-" + "a" * 57)


def test_a_table_needs_a_url() -> None:
    assert "The resource 'bank' has no url." in refusal({"pool_size_max": "3"})


@pytest.mark.usefixtures("third_party")
@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"color": "red"}, "has an unknown option 'color'. Did you mean 'colour'?"),
        ({"zzz": "red"}, "has an unknown option 'zzz'. Known: backups, colour, pool_size_max."),
        ({"pool_size_max": "0"}, "must be a whole number above 0."),
        ({"pool_size_max": "many"}, "must be a whole number above 0."),
    ],
)
def test_an_unknown_option(table: dict[str, str], expected: str) -> None:
    assert expected in refusal({"url": "nice://x", **table})


@pytest.mark.usefixtures("third_party")
@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        ("needs", "For needs:// the Python module driver_that_nobody_has is missing."),
        ("missing", "For missing:// the Python module module_that_nobody_has is missing."),
        (
            "notone",
            "(other_adapters:NotAResource) is a subclass of neither syncpoint.Resource nor syncpoint.ResourceManager.",
        ),
        ("gone", "The adapter for gone:// (other_adapters:Gone) cannot be loaded: AttributeError"),
        ("broken", "The adapter for broken:// (broken_adapter:Any) cannot be loaded: ZeroDivisionError"),
        ("twice", "Several adapters answer to twice://: other_adapters:NeedsDriver, other_adapters:Nice."),
    ],
)
def test_a_broken_adapter_says_which_one_it_is(scheme: str, expected: str) -> None:
    assert expected in refusal(f"{scheme}://x")


@pytest.mark.parametrize(
    ("url", "driver", "extra"),
    [
        ("postgresql://localhost/bank", "psycopg", "postgresql"),
        ("mariadb://localhost/bank", "pymysql", "mariadb"),
        ("sqlite:///audit.db", "apsw", "sqlite"),
    ],
)
def test_a_missing_driver_names_the_extra(url: str, driver: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.split(".")[0] == driver]:
        monkeypatch.delitem(sys.modules, module)
    for module in [name for name in sys.modules if name.startswith("syncpoint.resources.") and "base" not in name]:
        if "registry" not in module:
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, driver, None)
    message = refusal(url)
    assert driver in message.lower()
    assert f"syncpoint[{extra}]" in message
