"""From a URL to the Resource that speaks to it: the URL's scheme names the adapter; or a table's `class` does.

Adapters register under the entry point group `syncpoint.resources`, the scheme as the entry point's name, this
package's own and anybody else's alike. Our own are found without an entry point too, so that a checkout that was
never installed works. Not for: reading URLs beyond the scheme (each adapter reads its own), or connecting.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points

from syncpoint.errors import ConfigurationError
from syncpoint.ports import Clock, Random
from syncpoint.resources.base import Mode, Resource
from syncpoint.resources.classes import as_resource, load_class

__all__ = ["ENTRY_POINT_GROUP", "NAME_SIZE_CHARS_MAX", "check_name", "check_options", "known_schemes", "make_resource"]

ENTRY_POINT_GROUP = "syncpoint.resources"
NAME_SIZE_CHARS_MAX = 64
POOL_SIZE_MAX = "pool_size_max"
"""An option that every resource has; the manager's pool reads it."""
BACKUPS = "backups"
"""Another: whether the database has standbys that may be promoted, and lag; the manager reads it."""
CLASS = "class"
"""And another: `module:Class` instead of a URL's scheme, for a resource manager of the user's own."""
BACKUP_KINDS = ("none", "synchronous", "asynchronous")

_MANAGERS = frozenset((POOL_SIZE_MAX, BACKUPS))
_OWN = {
    "files": "syncpoint.resources.file_directory:FileDirectory",
    "mariadb": "syncpoint.resources.mariadb:MariadbResource",
    "memory": "syncpoint.resources.memory:MemoryResource",
    "process": "syncpoint.resources.process:ProcessResource",
    "postgresql": "syncpoint.resources.postgres:PostgresResource",
    "sqlite": "syncpoint.resources.sqlite:SqliteResource",
}
_EXTRAS = {"files": "sqlite", "mariadb": "mariadb", "postgresql": "postgresql", "sqlite": "sqlite"}
_HINTS = {
    "mysql": "MySQL 8 is not claimed until it is tested; for a MariaDB server write mariadb://",
    "postgres": "Write postgresql://",
    "pgsql": "Write postgresql://",
    "sqlite3": "Write sqlite://",
    "file": "Write sqlite:///path for a SQLite database, files:///path for a directory of files",
}
_NAME = re.compile(rf"[A-Za-z0-9_-]{{1,{NAME_SIZE_CHARS_MAX}}}\Z")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")


def make_resource(
    name: str, url_or_table: str | Mapping[str, object], *, mode: Mode, clock: Clock, random: Random
) -> Resource:
    """Make the resource that a URL names; touches no database.

    Parameters: `name` by which transactions know it; `url_or_table`, a URL, or a table of `url` (or `class`, or both)
    and the adapter's options; `mode`, "sync" or "async", the driver's half; `clock` and `random`, the ports it may use.

    Raises ConfigurationError: a bad name, an unknown scheme or option, an adapter or a driver that cannot be loaded.
    """
    check_name(name)
    url, options = _split(name, url_or_table)
    _check_text(name, url, options)
    check_options(name, url, options)
    for one in _MANAGERS:  # not the adapter's
        options.pop(one, None)
    named = options.pop(CLASS, None)
    if named is not None:
        return load_class(name, named)(name, url, options, mode=mode, clock=clock, random=random)
    scheme = _scheme(name, url)
    adapter = _load(scheme)
    try:
        return adapter(name, url, options, mode=mode, clock=clock, random=random)
    except ImportError as error:
        raise _driver_missing(scheme, error) from error


def check_name(name: str) -> None:
    """Raises ConfigurationError unless `name` is 1 to 64 letters, digits, `_` or `-` (it stands in every record)."""
    if not _NAME.match(name):
        raise ConfigurationError(
            f"{name[: NAME_SIZE_CHARS_MAX + 1]!r} cannot be a resource's name.",
            advice=f"Use 1 to {NAME_SIZE_CHARS_MAX} letters, digits, _ or -.",
        )


def _check_text(name: str, url: str, options: Mapping[str, str]) -> None:
    """No driver takes anything else; what stands in the text is not shown, for it may be a password."""
    for text in (url, *options, *options.values()):
        if "\0" in text or any("\ud800" <= one <= "\udfff" for one in text):
            raise ConfigurationError(
                f"What is given for the resource {name!r} holds a NUL, or bytes that are no UTF-8 text.",
                advice="Write such characters of a name or a password as %XX.",
            )


def check_options(name: str, url: str, options: Mapping[str, str]) -> None:
    """Raises ConfigurationError on an option that the adapter of this URL does not know; loads it only to ask."""
    size = options.get(POOL_SIZE_MAX)
    if size is not None and not (size.isascii() and size.isdigit() and len(size) < 10 and int(size) > 0):
        raise ConfigurationError(
            f"{POOL_SIZE_MAX} of the resource {name!r} must be a whole number above 0.",
            advice=f"Write for example: {POOL_SIZE_MAX} = 10",
        )
    if options.get(BACKUPS, "none") not in BACKUP_KINDS:
        raise ConfigurationError(
            f"{BACKUPS} of the resource {name!r} is {options[BACKUPS]!r}.",
            advice=f"Write one of {', '.join(BACKUP_KINDS)}.",
        )
    named = options.get(CLASS)
    if named is None and not set(options) - _MANAGERS:
        return
    adapter = _load(_scheme(name, url)) if named is None else load_class(name, named)
    known = adapter.option_names | _MANAGERS | ({CLASS} if named is not None else set())
    for option in options:
        if option not in known:
            near = difflib.get_close_matches(option, sorted(known), n=1)
            raise ConfigurationError(
                f"The resource {name!r} has an unknown option {option!r}.",
                advice=f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(sorted(known))}.",
            )


def known_schemes() -> list[str]:
    """Every URL scheme that some adapter answers to, sorted."""
    return sorted({*_OWN, *(point.name for point in entry_points(group=ENTRY_POINT_GROUP))})


def _split(name: str, url_or_table: str | Mapping[str, object]) -> tuple[str, dict[str, str]]:
    if isinstance(url_or_table, str):
        return url_or_table, {}
    options = {key: _text(value) for key, value in url_or_table.items()}
    url = options.pop("url", None)
    if not url and CLASS not in options:
        raise ConfigurationError(
            f"The resource {name!r} has no url.",
            advice='Give a URL, or a table such as {"url": …, "pool_size_max": …} or {"class": "module:Class", …}.',
        )
    return url or "", options


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _scheme(name: str, url: str) -> str:
    match = _SCHEME.match(url)
    if match is None:
        # The text is not shown: without a scheme it cannot be told where in it a password stands.
        raise ConfigurationError(
            f"What is given for the resource {name!r} is not a URL: it does not begin with a scheme.",
            advice=f"Known schemes: {', '.join(known_schemes())}; for example sqlite:///audit.db",
        )
    return match.group(1).lower()


def _load(scheme: str) -> type[Resource]:
    points = {point.value: point for point in entry_points(group=ENTRY_POINT_GROUP, name=scheme)}
    if not points and scheme in _OWN:
        points = {_OWN[scheme]: EntryPoint(scheme, _OWN[scheme], ENTRY_POINT_GROUP)}
    if not points:
        raise _unknown(scheme)
    if len(points) > 1:
        raise ConfigurationError(
            f"Several adapters answer to {scheme}://: {', '.join(sorted(points))}.",
            advice="Uninstall all but one of the packages that bring them.",
        )
    return _load_point(next(iter(points.values())))


def _load_point(point: EntryPoint) -> type[Resource]:
    where = f"The adapter for {point.name}:// ({point.value})"
    try:
        adapter = point.load()
    except ImportError as error:
        raise _driver_missing(point.name, error) from error
    except Exception as error:
        # Somebody else's module runs here: whatever it raises, the user must learn which adapter it was.
        raise ConfigurationError(
            f"{where} cannot be loaded: {type(error).__name__}: {error}.",
            advice="Update or uninstall the package that brings it.",
        ) from error
    try:
        return as_resource(adapter, where, "Update or uninstall the package that brings it.")
    except ImportError as error:
        raise _driver_missing("sqlite", error) from error  # its ledger's


def _unknown(scheme: str) -> ConfigurationError:
    known = known_schemes()
    base = scheme.partition("+")[0]
    if base in known:  # "postgresql+asyncpg", as SQLAlchemy writes it
        hint = f"Write {base}://; Syncpoint chooses the driver. "
    elif scheme in _HINTS:
        hint = f"{_HINTS[scheme]}. "
    else:
        near = difflib.get_close_matches(scheme, known, n=1)
        hint = f"Did you mean {near[0]}://? " if near else ""
    return ConfigurationError(
        f"No adapter answers to the URL scheme {scheme}://.", advice=f"{hint}Known schemes: {', '.join(known)}."
    )


def _driver_missing(scheme: str, error: ImportError) -> ConfigurationError:
    module = error.name or str(error)
    extra = _EXTRAS.get(scheme)
    if extra is not None and not (error.name or "").startswith("syncpoint"):
        advice = f"Run: pip install 'syncpoint[{extra}]'"
    else:
        advice = "Install what it needs, or update or uninstall the package that brings the adapter."
    return ConfigurationError(f"For {scheme}:// the Python module {module} is missing.", advice=advice)
