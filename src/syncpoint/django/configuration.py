"""From Django's settings to this process's TransactionManager: which aliases are resources, and where they are.

    SYNCPOINT = {
        "journal": "/var/lib/shop/journal",   # as TransactionManager's: a folder, a URL, or an alias's name
        "databases": ["default", "ledger"],   # aliases that may take part; all PostgreSQL and MariaDB ones if left out
        "resources": {"audit": "sqlite:///audit.db"},   # others; or another URL for an alias
        "scope": "", "timeout": 30,
    }

A resource bears its alias's name. Its URL, for Syncpoint's own connections (first contact, recovery), is made from
the same entry of DATABASES. Not for: Django's connections (loans.py).
"""

from __future__ import annotations

import atexit
import difflib
import os
import threading
from collections.abc import Collection, Iterable, Mapping
from typing import Any
from urllib.parse import quote

from django.conf import settings
from django.core.signals import setting_changed
from django.db import connections
from django.utils.connection import ConnectionDoesNotExist

from syncpoint.errors import ConfigurationError, UnknownResource
from syncpoint.manager.sync import TransactionManager

SETTING = "SYNCPOINT"
_KEYS = ("journal", "databases", "resources", "scope", "timeout")
_SCHEMES = {"postgresql": "postgresql", "mysql": "mariadb"}
"""Django's vendor, and Syncpoint's scheme."""

_lock = threading.RLock()
_manager: TransactionManager | None = None


# --- the manager -------------------------------------------------------------------------------------------------


def manager() -> TransactionManager:
    """This process's manager, opened at the first call; closed when the process ends. A forked child's is its own.

    Raises ConfigurationError for the settings, and what `TransactionManager.open` raises.
    """
    global _manager
    with _lock:
        if _manager is None:
            made = _make()
            made.open()
            _manager = made
        return _manager


def close() -> None:
    """Close this process's manager, if there is one; the next call of `manager` opens a new one."""
    global _manager
    with _lock:
        closing, _manager = _manager, None
    if closing is not None:
        closing.close()


def _make() -> TransactionManager:
    table = _settings()
    resources = {alias: resource_of(alias) for alias in _aliases(table)}
    resources.update(table.get("resources", {}))
    return TransactionManager(
        os.fspath(table["journal"]),
        resources,
        scope=str(table.get("scope", "")),
        timeout=float(table.get("timeout", 30.0)),
    )


def _forget_lock() -> None:
    """In a forked child: whoever held it in the parent does not exist here."""
    global _lock
    _lock = threading.RLock()


def _changed(*, setting: str, **_: Any) -> None:
    """A test has changed the settings."""
    if setting in (SETTING, "DATABASES"):
        close()


os.register_at_fork(after_in_child=_forget_lock)
atexit.register(close)
setting_changed.connect(_changed, dispatch_uid="syncpoint.django")


# --- settings ----------------------------------------------------------------------------------------------------


def _settings() -> Mapping[str, Any]:
    table = getattr(settings, SETTING, None)
    if not isinstance(table, Mapping) or not table.get("journal"):
        raise ConfigurationError(
            "Django's settings do not say where decisions are durable.",
            advice=f'Add to them: {SETTING} = {{"journal": "/var/lib/…/journal"}}.',
        )
    for key in table:
        if key not in _KEYS:
            near = difflib.get_close_matches(str(key), _KEYS, n=1)
            raise ConfigurationError(
                f"The setting {SETTING} has an unknown key {key!r}.",
                advice=f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(_KEYS)}.",
            )
    return table


def _aliases(table: Mapping[str, Any]) -> list[str]:
    """The aliases that are resources."""
    if "databases" not in table:
        return [alias for alias in connections if connections[alias].vendor in _SCHEMES]
    aliases = list(table["databases"])
    for alias in aliases:
        check_alias(alias)
    return aliases


def check_alias(alias: str) -> None:
    """Raises UnknownResource for an alias that DATABASES does not have, ConfigurationError for one that cannot take
    part, with the reason. Connects to nothing."""
    try:
        vendor = connections[alias].vendor
    except ConnectionDoesNotExist:
        known = ", ".join(connections)
        raise UnknownResource(
            f"No database has the alias {alias!r}.", advice=f"DATABASES has: {known}. Correct the name."
        ) from None
    if vendor == "sqlite":
        raise ConfigurationError(
            f"The database {alias!r} is SQLite, whose driver in Django cannot take part in a transaction.",
            advice="Use PostgreSQL or MariaDB, or name the file as a resource of its own in "
            f'{SETTING}["resources"] and work in it with tx.connect(…).',
        )
    if vendor not in _SCHEMES:
        raise ConfigurationError(
            f"The database {alias!r} is {connections[alias].display_name}, which cannot take part in a transaction.",
            advice="PostgreSQL and MariaDB can.",
        )


def check_configured(aliases: Iterable[str], known: Collection[str]) -> None:
    """Raises UnknownResource for an alias that the settings leave out."""
    for alias in aliases:
        if alias not in known:
            raise UnknownResource(
                f'The database {alias!r} is not among {SETTING}["databases"].',
                advice=f"Configured are: {', '.join(sorted(known))}. Add it there.",
            )


# --- addresses ---------------------------------------------------------------------------------------------------


def resource_of(alias: str) -> dict[str, Any]:
    """What TransactionManager takes for an alias: a URL and options, from its entry of DATABASES."""
    wrapper = connections[alias]
    table: Mapping[str, Any] = wrapper.settings_dict
    return _postgres(table) if wrapper.vendor == "postgresql" else _mariadb(table)


def _postgres(table: Mapping[str, Any]) -> dict[str, Any]:
    from syncpoint.resources.postgres_driver import LIBPQ_OPTIONS  # loads psycopg

    options = {key: value for key, value in table["OPTIONS"].items() if key in LIBPQ_OPTIONS}
    named = {"dbname": "NAME", "user": "USER", "password": "PASSWORD", "host": "HOST", "port": "PORT"}
    return {"url": "postgresql://", **options, **{key: table[name] for key, name in named.items() if table[name]}}


def _mariadb(table: Mapping[str, Any]) -> dict[str, Any]:
    given = table["OPTIONS"]
    user = given.get("user", table["USER"])
    password = given.get("password", given.get("passwd", table["PASSWORD"]))
    name = given.get("database", given.get("db", table["NAME"]))
    host, port = str(given.get("host", table["HOST"]) or ""), given.get("port", table["PORT"])
    options = {key: given[key] for key in ("charset", "connect_timeout", "unix_socket") if key in given}
    if host.startswith("/"):
        options["unix_socket"], host = host, ""
    where = f"[{host}]" if ":" in host else host or "localhost"
    account = f"{quote(str(user), safe='')}:{quote(str(password), safe='')}@" if user else ""
    url = f"mariadb://{account}{where}{f':{port}' if port else ''}/{quote(str(name), safe='')}"
    return {"url": url, **options, **_tls(given)}


def _tls(given: Mapping[str, Any]) -> dict[str, str]:
    """mysqlclient's words for TLS in Syncpoint's."""
    mode, files = str(given.get("ssl_mode", "")).upper(), given.get("ssl")
    options: dict[str, str] = {}
    if isinstance(files, Mapping):
        options = {f"ssl_{key}": str(files[key]) for key in ("ca", "cert", "key") if files.get(key)}
    if mode == "DISABLED":
        return {"ssl": "false"}
    if mode == "REQUIRED" or files is True:
        return {"ssl": "true", "ssl_verify": "false", **options}
    return {"ssl": "true", **options} if mode.startswith("VERIFY") or options else {}
