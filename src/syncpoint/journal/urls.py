"""From a URL, or a resource's table, to the journal in that database; its options are part of the URL's query.

    journal="postgresql://app@host/bank?cluster=shop&retention_s=86400"     journal="bank?dead_after_s=10"

Not for: folders (folder.py), or connecting.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from syncpoint.errors import ConfigurationError
from syncpoint.journal.database import DatabaseJournal, Options
from syncpoint.journal.store import Store
from syncpoint.ports import Clock, Random
from syncpoint.resources.base import Mode, Resource
from syncpoint.resources.registry import make_resource

OPTION_NAMES = frozenset(one.name for one in fields(Options))
CLUSTER_SIZE_CHARS_MAX = 64
SESSIONS_MIN = 2  # one for decisions, one for signs of life


def _postgres(resource: Resource) -> Store:
    from syncpoint.journal.postgres_store import PostgresStore
    from syncpoint.resources.postgres import PostgresResource

    assert isinstance(resource, PostgresResource)
    return PostgresStore(resource)


def _mariadb(resource: Resource) -> Store:
    from syncpoint.journal.mariadb_store import MariadbStore
    from syncpoint.resources.mariadb import MariadbResource

    assert isinstance(resource, MariadbResource)
    return MariadbStore(resource)


_STORES: Mapping[str, Callable[[Resource], Store]] = {"postgresql": _postgres, "mariadb": _mariadb}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a journal in a database is."""

    store: Store
    options: Options


def is_database(journal: str, resources: Container[str]) -> bool:
    """Whether this names a database: by URL, or as a configured resource. Everything else is a folder."""
    return split_query(journal)[0] in resources or (not journal.startswith("file://") and "://" in journal)


def split_query(journal: str) -> tuple[str, str]:
    """What stands before the options, and the options. A password may hold a `?`."""
    scheme, separator, rest = journal.partition("://") if "://" in journal else ("", "", journal)
    user = re.match(r"[^@/]*@", rest) if separator else None
    start = user.end() if user else 0
    place, _, query = rest[start:].partition("?")
    return f"{scheme}{separator}{rest[:start]}{place}", query


def database_place(
    journal: str, resources: Mapping[str, str | Mapping[str, Any]], *, mode: Mode, clock: Clock, random: Random
) -> Place:
    """The database that `journal`, a URL or a resource's name, with options behind `?`, names; touches nothing.

    Raises ConfigurationError.
    """
    name, query = split_query(journal)
    spec = resources.get(name, name)
    table = dict(spec) if isinstance(spec, Mapping) else {"url": spec}
    table.pop("pool_size_max", None)
    options, others = split_options(query)
    url = str(table.get("url", ""))
    joint = "&" if split_query(url)[1] else "?"
    table["url"] = f"{url}{joint}{'&'.join(others)}" if others else url
    scheme = url.partition("://")[0]
    if scheme not in _STORES or "class" in table:
        raise ConfigurationError(
            f"A journal cannot live {f'at {scheme}://' if scheme else f'in the resource {name!r}'}.",
            advice='Give a folder, journal="./syncpoint-journal", or a database: postgresql://… or mariadb://….',
        )
    label = name if name in resources else "journal"
    return Place(_STORES[scheme](make_resource(label, table, mode=mode, clock=clock, random=random)), options)


def database_journal(
    journal: str, resources: Mapping[str, str | Mapping[str, Any]], *, mode: Mode, clock: Clock, random: Random
) -> DatabaseJournal:
    """The journal in that database. Raises ConfigurationError."""
    place = database_place(journal, resources, mode=mode, clock=clock, random=random)
    process = f"{socket.gethostname()}, process {os.getpid()}"
    return DatabaseJournal(place.store, clock=clock, random=random, process=process, options=place.options)


def split_options(query: str) -> tuple[Options, list[str]]:
    """The journal's own options, and the rest of the query. Raises ConfigurationError."""
    options, others = Options(), []
    for part in filter(None, query.split("&")):
        key, _, value = part.partition("=")
        if key in OPTION_NAMES:
            options = replace(options, **{key: _value(key, value)})
        else:
            others.append(part)
    if not options.heartbeat_s < options.dead_after_s:
        raise ConfigurationError(
            f"The journal's heartbeat_s={options.heartbeat_s:g} is not below dead_after_s={options.dead_after_s:g}.",
            advice="Leave room for several signs of life, for example heartbeat_s=0.5 and dead_after_s=3.",
        )
    return options, others


def _value(key: str, value: str) -> Any:
    if key == "cluster":
        if len(value) > CLUSTER_SIZE_CHARS_MAX:
            raise ConfigurationError(
                f"The journal's cluster name has {len(value)} characters.", advice=f"At most {CLUSTER_SIZE_CHARS_MAX}."
            )
        return value
    kind, least = (int, SESSIONS_MIN) if key == "sessions_max" else (float, 0)
    try:
        number = kind(value)
    except ValueError:
        number = -1
    if not least <= number < float("inf") or number == 0:
        raise ConfigurationError(
            f"The journal's {key}={value!r} is no number {f'from {least} on' if least else 'above 0'}.",
            advice="Give such a number.",
        )
    return number


def address_of(journal: str) -> str:
    """What may be shown and written down of where a journal is: no user's secrets, no options."""
    place, _ = split_query(journal)
    scheme, separator, rest = place.partition("://")
    if not separator:
        return journal
    user, at, host = rest.rpartition("@")
    return f"{scheme}://{user.partition(':')[0]}{at}{host}"
