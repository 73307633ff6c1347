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
from syncpoint.resources.registry import CLASS, check_name, check_options

__all__ = [
    "CONFIG_VARIABLE",
    "DEFAULT_FILE",
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
_SECTIONS = ("syncpoint", "resources")
_SYNCPOINT_KEYS = ("journal", "scope", "timeout_s")
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

    def __repr__(self) -> str:
        return f"<ResourceSettings {self.name} {self.shown} options={sorted(self.options)}>"

    @property
    def shown(self) -> str:
        """The URL without secrets; or the class, where there is no URL."""
        return hide_secrets(self.url) or self.options.get(CLASS, "")

    def table(self) -> str | dict[str, str]:
        """What `TransactionManager(resources=…)` and `make_resource` take: the URL, or a table that holds it."""
        return {"url": self.url, **self.options} if self.options else self.url


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Settings:
    """All that a `syncpoint.toml` can say. `file` is where it was read, None when there was none."""

    journal: str | None = None
    scope: str = ""
    timeout_s: float = TIMEOUT_S
    resources: Mapping[str, ResourceSettings] = field(default_factory=dict)
    file: str | None = None

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
        )

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
        options = {option: self._option(given, f"{key}.{option}") for option, given in value.items() if option != "url"}
        try:
            check_options(name, url, options)
        except ConfigurationError as error:
            raise self._wrong(f"[{key}] {error.message}", error.advice) from None
        return ResourceSettings(name=name, url=url, options=options)

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
