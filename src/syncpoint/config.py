"""`syncpoint.toml`, read into frozen values.

    [syncpoint]
    journal = "./syncpoint-journal"
    scope = "shop"
    timeout_s = 30

    [resources]
    audit = "sqlite:///audit.db"

    [resources.bank]
    url = "postgresql://app:${BANK_PASSWORD}@localhost/bank"
    pool_size_max = 10

    [node]                                                # for `syncpoint node`; see docs/node.md
    listen = ["unix:///run/syncpoint/node.sock"]
    journal = "/var/lib/syncpoint/journal"

`${NAME}` in a value is replaced from the environment; `$${NAME}` is the text `${NAME}`. A wrong file is refused with
the key and, for a misspelt one, the nearest key that exists. Values can hold secrets: no message and no `repr`
shows them. Not for: making resources (resources/registry.py) or managers; nothing is connected to here.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from syncpoint.errors import ConfigurationError
from syncpoint.link.addresses import TlsAddress, parse_address
from syncpoint.link.settings import TlsFiles
from syncpoint.messages import NAME_PATTERN, NAME_SIZE_CHARS_MAX
from syncpoint.resources.registry import CLASS, check_name, check_options

__all__ = [
    "CONFIG_VARIABLE",
    "DEFAULT_FILE",
    "NodeSettings",
    "ResourceSettings",
    "Settings",
    "find_file",
    "hide_secrets",
    "load",
    "parse_resource_option",
]

DEFAULT_FILE = "syncpoint.toml"
CONFIG_VARIABLE = "SYNCPOINT_CONFIG"
TIMEOUT_S = 30.0

_SECONDS_MAX = 1e9  # thirty years: more is a slip, and clocks cannot add it
_SECTIONS = ("syncpoint", "resources", "node")
_SYNCPOINT_KEYS = ("journal", "scope", "timeout_s")
_NODE_KEYS = ("name", "cluster", "listen", "journal", "dead_after_s", "resume_s", "health", "users", "tls")
_TLS_KEYS = ("certificate", "key", "authorities", "peers")
_PROCESS_KEYS = ("process", "backup")
_VARIABLE = re.compile(r"\$?\$\{([^}]*)\}")
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_USER_AND_PASSWORD = re.compile(r"(?<=://)([^:@/?#]*):(.*)@", re.DOTALL)
_SECRET_PARAMETER = re.compile(r"(?i)([?&;]|\s|^)([^=&;\s?]*(?:pass|pwd|secret|token|credential)[^=&;\s?]*=)[^&;\s]*")
_HIDDEN = "***"


def hide_secrets(url: str) -> str:
    """The URL as it may be shown: no password, no parameter that sounds like one.

    Rather too much is hidden than too little: with an unescaped `@` or `/` in a password, everything up to the last
    `@` goes.
    """
    return _SECRET_PARAMETER.sub(rf"\1\2{_HIDDEN}", _USER_AND_PASSWORD.sub(rf"\1:{_HIDDEN}@", url))


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ResourceSettings:
    """One resource: its name, its URL (empty when only a `class` is given) and its adapter's options (all text, as the
    adapter's URL would have them)."""

    name: str
    url: str
    options: Mapping[str, str] = field(default_factory=dict)
    process: bool = False
    """A process of its own serves it: `syncpoint resource run NAME`; managers reach it through the node."""
    backup: str = ""
    """What the node does when that process is lost."""

    def __repr__(self) -> str:
        return f"<ResourceSettings {self.name} {self.shown} options={sorted(self.options)}>"

    @property
    def shown(self) -> str:
        """The URL without secrets; or the class, where there is no URL."""
        return hide_secrets(self.url) or self.options.get(CLASS, "")

    def table(self) -> str | dict[str, str]:
        """What `TransactionManager(resources=…)` and `make_resource` take: the URL, or a table that holds it."""
        return {"url": self.url, **self.options} if self.options else self.url


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """What `syncpoint node` is told.

    - `name`, `cluster`: as applications must name it; `listen`: the link's addresses.
    - `journal`: a folder on a local disk, of this node alone.
    - `dead_after_s`: seconds without any sign of life after which a connection is lost.
    - `resume_s`: seconds for which an application whose connection was lost is waited for.
    - `health`: "host:port" of an HTTP endpoint on loopback; empty: none.
    - `users`: ids of the users that may connect over a Unix socket; empty: the node's own.
    - `tls`: for tls:// addresses; `tls_peers`: names of which a peer's certificate must carry one; empty: its own.
    """

    listen: tuple[str, ...]
    journal: str
    name: str = "node"
    cluster: str = "syncpoint"
    dead_after_s: float = 3.0
    resume_s: float = 1.0
    health: str = ""
    users: tuple[int, ...] = ()
    tls: TlsFiles | None = None
    tls_peers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Settings:
    """All that a `syncpoint.toml` can say. `file` is where it was read, None when there was none."""

    journal: str | None = None
    scope: str = ""
    timeout_s: float = TIMEOUT_S
    resources: Mapping[str, ResourceSettings] = field(default_factory=dict)
    file: str | None = None
    node: NodeSettings | None = None

    def __repr__(self) -> str:
        journal = hide_secrets(self.journal) if self.journal else None
        return f"<Settings {self.file or 'no file'} journal={journal} resources={list(self.resources.values())}>"


def find_file(explicit: str | None, environment: Mapping[str, str], folder: str = ".") -> str | None:
    """Which file to read: the one named, else `$SYNCPOINT_CONFIG`, else `./syncpoint.toml` if there, else None."""
    named = explicit or environment.get(CONFIG_VARIABLE)
    if named:
        return named
    default = os.path.join(folder, DEFAULT_FILE)
    return default if os.path.exists(default) else None


def load(file: str | None, environment: Mapping[str, str]) -> Settings:
    """Read a file found by `find_file`. `environment` gives the values of `${NAME}`.

    Raises ConfigurationError: no such file, not TOML, an unknown key, a missing variable, a value of the wrong kind.
    """
    if file is None:
        return Settings()
    return _Reader(file, environment).settings(_parse(file))


def parse_resource_option(text: str) -> ResourceSettings:
    """Read `--resource name=url`. Raises ConfigurationError."""
    name, separator, url = text.partition("=")
    if not separator or not url or "://" in name:
        raise ConfigurationError(
            "What is given for a resource is not of the form name=url.",  # not shown: it may hold a password
            advice="Write for example: --resource bank=postgresql://localhost/bank",
        )
    check_name(name)
    return ResourceSettings(name=name, url=url)


def _parse(file: str) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(file).read_bytes().decode())
    except FileNotFoundError:
        raise ConfigurationError(
            f"There is no configuration file {file}.",
            advice=f"Name another with --config or ${CONFIG_VARIABLE}, or give --journal and --resource.",
        ) from None
    except OSError as error:
        raise ConfigurationError(
            f"The configuration file {file} cannot be read: {error.strerror or error}.",
            advice="It must be a file that this user may read.",
        ) from None
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(
            f"The configuration file {file} is not valid TOML: {_why(error)}.", advice="Mend it there."
        ) from None


def _why(error: ValueError | RecursionError) -> object:
    match error:
        case tomllib.TOMLDecodeError():
            return error
        case UnicodeDecodeError():  # whose text quotes bytes of the file, which may be a secret's
            return "it is not UTF-8 text"
        case RecursionError():
            return "its values are nested too deep"
    return "a number in it has too many digits"


class _Reader:
    """Turns a parsed file into Settings; knows the file's name for messages."""

    def __init__(self, file: str, environment: Mapping[str, str]) -> None:
        self._file = file
        self._environment = environment

    def settings(self, document: Mapping[str, Any]) -> Settings:
        self._only(document, _SECTIONS, "")
        general = self._section(document, "syncpoint")
        self._only(general, _SYNCPOINT_KEYS, "syncpoint.")
        return Settings(
            journal=self._text(general["journal"], "syncpoint.journal") if "journal" in general else None,
            scope=self._text(general["scope"], "syncpoint.scope", empty=True) if "scope" in general else "",
            timeout_s=self._seconds(general.get("timeout_s", TIMEOUT_S), "syncpoint.timeout_s"),
            resources={
                name: self._resource(name, value) for name, value in self._section(document, "resources").items()
            },
            file=self._file,
            node=self._node(self._section(document, "node")) if "node" in document else None,
        )

    def _node(self, table: Mapping[str, Any]) -> NodeSettings:
        self._only(table, _NODE_KEYS, "node.")
        for key in ("listen", "journal"):
            if key not in table:
                raise self._wrong(f"node.{key} is missing.", "See docs/node.md for a whole [node] section.")
        journal = self._text(table["journal"], "node.journal")
        if "://" in journal.removeprefix("file://"):
            raise self._wrong("node.journal must be a folder.", 'Write for example: journal = "./node-journal"')
        tls, tls_peers = self._tls(table["tls"]) if "tls" in table else (None, ())
        listen = self._texts(table["listen"], "node.listen", "unix:///run/syncpoint/node.sock")
        for address in listen:
            try:
                is_tls = isinstance(parse_address(address, may_be_port_0=True), TlsAddress)
            except ConfigurationError as error:
                raise self._wrong(f"node.listen: {error.message}", error.advice) from None
            if is_tls and tls is None:
                raise self._wrong(
                    f"node.listen has {address}, and there is no [node.tls].",
                    "Add [node.tls] with certificate, key and authorities.",
                )
        return NodeSettings(
            listen=listen,
            journal=journal,
            name=self._name(table.get("name", "node"), "node.name"),
            cluster=self._name(table.get("cluster", "syncpoint"), "node.cluster"),
            dead_after_s=self._seconds(table.get("dead_after_s", 3.0), "node.dead_after_s"),
            resume_s=self._seconds(table.get("resume_s", 1.0), "node.resume_s"),
            health=self._health(table["health"]) if "health" in table else "",
            users=self._users(table.get("users", [])),
            tls=tls,
            tls_peers=tls_peers,
        )

    def _tls(self, table: Any) -> tuple[TlsFiles, tuple[str, ...]]:
        if not isinstance(table, dict):
            raise self._wrong("node.tls must be a table.", "Write [node.tls] and its keys below it.")
        self._only(table, _TLS_KEYS, "node.tls.")
        files = {}
        for key in ("certificate", "key", "authorities"):
            if key not in table:
                raise self._wrong(f"node.tls.{key} is missing.", "Give the path of a PEM file.")
            files[key] = self._text(table[key], f"node.tls.{key}")
        peers = self._texts(table["peers"], "node.tls.peers", "app.example") if "peers" in table else ()
        return TlsFiles(**files), peers

    def _texts(self, value: Any, key: str, example: str) -> tuple[str, ...]:
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not values:
            raise self._wrong(f"{key} must be a list of texts.", f'Write for example: ["{example}"]')
        return tuple(self._text(one, key) for one in values)

    def _name(self, value: Any, key: str) -> str:
        text = self._text(value, key)
        if len(text) > NAME_SIZE_CHARS_MAX or not re.search(NAME_PATTERN, text):
            raise self._wrong(
                f"{key} cannot be {text[: NAME_SIZE_CHARS_MAX + 1]!r}.",
                f"Use 1 to {NAME_SIZE_CHARS_MAX} letters and digits, with ., _ or - between them.",
            )
        return text

    def _health(self, value: Any) -> str:
        text = self._text(value, "node.health")
        host, _, port = text.rpartition(":")
        if host not in ("127.0.0.1", "localhost", "[::1]") or not (port.isascii() and port.isdigit()):
            raise self._wrong(
                f"node.health is {text!r}, which is no port on loopback.",
                'Write for example: health = "127.0.0.1:8920"',
            )
        return text

    def _users(self, value: Any) -> tuple[int, ...]:
        good = isinstance(value, list) and all(type(one) is int and 0 <= one < 1 << 32 for one in value)
        if not good:
            raise self._wrong("node.users must be a list of numeric user ids.", "Write for example: users = [1000]")
        return tuple(value)

    def _resource(self, name: str, value: Any) -> ResourceSettings:
        key = f"resources.{name}"
        try:
            check_name(name)
        except ConfigurationError as error:
            raise self._wrong(error.message, error.advice) from None
        if isinstance(value, str):
            return ResourceSettings(name=name, url=self._text(value, key))
        if not isinstance(value, dict):
            raise self._wrong(
                f"{key} must be a URL, or a table with a url.", 'Write for example: url = "sqlite:///a.db"'
            )
        if "url" not in value and CLASS not in value:
            self._only(value, ("url", CLASS), f"{key}.", only_near=True)
            raise self._wrong(f"{key} has no url.", 'Write for example: url = "postgresql://localhost/bank"')
        url = self._text(value["url"], f"{key}.url") if "url" in value else ""
        process = value.get("process", False)
        if not isinstance(process, bool):
            raise self._wrong(f"{key}.process must be true or false.", "Write: process = true")
        backup = self._text(value["backup"], f"{key}.backup") if "backup" in value else ""
        others = {option: given for option, given in value.items() if option not in ("url", *_PROCESS_KEYS)}
        options = {option: self._option(given, f"{key}.{option}") for option, given in others.items()}
        try:
            check_options(name, url, options)
        except ConfigurationError as error:
            raise self._wrong(f"[{key}] {error.message}", error.advice) from None
        return ResourceSettings(name=name, url=url, options=options, process=process, backup=backup)

    def _section(self, document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
        section = document.get(name, {})
        if not isinstance(section, dict):
            raise self._wrong(f"{name} must be a table.", f"Write [{name}] and its keys below it.")
        return section

    def _only(self, found: Iterable[str], known: Iterable[str], prefix: str, *, only_near: bool = False) -> None:
        known = tuple(known)
        for key in found:
            if key in known:
                continue
            near = difflib.get_close_matches(key, known, n=1)
            if near:
                raise self._wrong(f"the key {prefix}{key} is not known.", f"Did you mean {prefix}{near[0]}?")
            if not only_near:
                raise self._wrong(f"the key {prefix}{key} is not known.", f"Known here: {', '.join(sorted(known))}.")

    def _text(self, value: Any, key: str, *, empty: bool = False) -> str:
        if not isinstance(value, str):
            raise self._wrong(f"{key} must be text.", "Put it in quotes.")
        text = _VARIABLE.sub(lambda match: self._variable(match, key), value)
        if not text and not empty:
            raise self._wrong(f"{key} is empty.", "Give a value, or leave the key out.")
        return text

    def _variable(self, match: re.Match[str], key: str) -> str:
        whole, name = match.group(0), match.group(1)
        if whole.startswith("$$"):
            return whole[1:]
        if not _VARIABLE_NAME.match(name):
            raise self._wrong(f"{key} has ${{…}} around something that is no variable's name.", "Write ${NAME}.")
        if name not in self._environment:
            raise self._wrong(
                f"{key} needs the environment variable {name}, which is not set.",
                f"Set {name} before you start, or write the value into the file.",
            )
        return self._environment[name]

    def _option(self, value: Any, key: str) -> str:
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, int | float) and (isinstance(value, float) or abs(value) < 1 << 64):
            return str(value)
        if isinstance(value, str):
            return self._text(value, key, empty=True)
        raise self._wrong(f"{key} must be text, a number of at most 64 bits, true or false.", "Give one plain value.")

    def _seconds(self, value: Any, key: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not (0 < value <= _SECONDS_MAX):
            raise self._wrong(
                f"{key} must be a number of seconds above 0, at most {_SECONDS_MAX:g}.",
                "Write for example: timeout_s = 30",
            )
        return float(value)

    def _wrong(self, what: str, advice: str) -> ConfigurationError:
        return ConfigurationError(f"In {self._file}: {what}", advice=advice)
