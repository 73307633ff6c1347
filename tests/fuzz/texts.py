"""Decoders of text: identifiers in PostgreSQL and MariaDB, ids on a command line, URLs, and `syncpoint.toml`.

Not for: bytes (codecs.py) or whole folders (files.py).
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from syncpoint import config
from syncpoint.errors import ConfigurationError, FormatTooNew
from syncpoint.ids import Guid, Identifier, NotOurs, TransactionId
from syncpoint.journal import urls
from syncpoint.journal.format import SegmentName
from syncpoint.resources import mariadb_sql, postgres_evidence
from syncpoint.resources.base import Resource
from syncpoint.resources.mariadb import MariadbResource
from syncpoint.resources.memory import MemoryResource
from syncpoint.resources.postgres import PostgresResource
from syncpoint.resources.registry import make_resource
from syncpoint.resources.sqlite import SqliteResource
from tests.fuzz.codecs import IDENTIFIER
from tests.fuzz.decoder import Decoder, as_text
from tests.journal.support import ManualClock, SeededRandom

_WITH_PASSWORD = re.compile(r"[a-z+]+://[^@/?#:]*:s3cret@[^@]*\Z")
ENVIRONMENT = {"PASSWORD": "secret", "EMPTY": ""}

# --- names -------------------------------------------------------------------------------------------------------


def gid(raw: bytes) -> None:
    text = as_text(raw)
    assert Identifier.from_gid(text).to_gid() == text


def postgres_row(raw: bytes) -> None:
    """A row of pg_prepared_xacts: whoever prepared it, the scan goes on."""
    found = postgres_evidence.found((as_text(raw), "owner", "5"))
    assert found.identifier is None or found.identifier.to_gid() == as_text(raw)


def mariadb_row(raw: bytes) -> None:
    """A row of XA RECOVER FORMAT='SQL': whoever prepared it, the scan goes on."""
    found = mariadb_sql.found(as_text(raw))
    assert found.identifier is None or mariadb_sql.read_xid(as_text(raw))[1:] == found.identifier.to_xid()


def name_on_the_command_line(raw: bytes) -> None:
    """What `show`, `outcome`, `resolve`, `forget` and `adopt` take: one text, one name."""
    text = as_text(raw)
    with suppress(ConfigurationError):
        TransactionId.from_user_id("shop", text)
    for kind in (Guid, TransactionId):
        with suppress(ValueError):  # the documented one; a subclass that tells of our own trouble is not
            try:
                assert str(kind.parse(text)) == text.lower()
            except UnicodeError as error:
                raise AssertionError(str(error)) from error


def segment_name(raw: bytes) -> None:
    text = as_text(raw)
    name = SegmentName.parse(text)
    assert name is None or (str(name) == text and name.incarnation < 1 << 64 and name.number < 1 << 32)


# --- URLs --------------------------------------------------------------------------------------------------------


def journal_url(raw: bytes) -> None:
    text = as_text(raw)
    assert isinstance(urls.is_database(text, {"bank"}), bool)
    shown = urls.address_of(text)
    assert ":s3cret@" not in shown or not _WITH_PASSWORD.match(text)  # else a folder of that name
    place = urls.database_place(
        text, {"bank": "postgresql://localhost/bank"}, mode="sync", clock=ManualClock(), random=SeededRandom()
    )
    assert place.options.heartbeat_s < place.options.dead_after_s
    _is_usable(place.store.resource)


def resource_url(adapter: type[Resource]) -> Callable[[bytes], None]:
    """The adapter alone, behind the scheme and the registry's look at the text."""

    def read(raw: bytes) -> None:
        url = f"{adapter.scheme}:{raw.replace(bytes(1), b'').decode('utf-8', 'replace')}"
        _is_usable(adapter("bank", url, {}, mode="sync", clock=ManualClock(), random=SeededRandom()))

    return read


def any_url(raw: bytes) -> None:
    _is_usable(make_resource("bank", as_text(raw), mode="sync", clock=ManualClock(), random=SeededRandom()))


def _is_usable(made: Resource) -> None:
    """What is done with every address sooner or later: shown, printed, written into a record."""
    assert isinstance(made.safe_url, str)
    made.safe_url.encode()
    repr(made)


def resource_table(raw: bytes) -> None:
    """Options of a resource, `key=value` a line, as a configuration's table gives them."""
    table = dict(line.partition("=")[::2] for line in as_text(raw).split("\n"))
    make_resource("bank", table, mode="sync", clock=ManualClock(), random=SeededRandom())


def resource_option(raw: bytes) -> None:
    found = config.parse_resource_option(as_text(raw))
    assert f"{found.name}={found.url}" == as_text(raw)


def hidden(raw: bytes) -> None:
    text = as_text(raw)
    shown = config.hide_secrets(f"postgresql://app:{text}@localhost/bank")
    assert len(text) < 4 or text in "postgresql://app:***@localhost/bank" or text not in shown


# --- configuration -----------------------------------------------------------------------------------------------

_TOML = b"""[syncpoint]
journal = "./syncpoint-journal"
scope = "shop"
timeout_s = 30
[resources]
audit = "sqlite:///audit.db"
[resources.bank]
url = "postgresql://app:${PASSWORD}@localhost/bank"
pool_size_max = 10
"""


def configuration(raw: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "syncpoint.toml")
        file.write_bytes(raw)
        settings = config.load(os.fspath(file), ENVIRONMENT)
        assert 0 < settings.timeout_s < float("inf")
        well_written = all(f"://app:{ENVIRONMENT['PASSWORD']}@" in one.url for one in settings.resources.values())
        assert not well_written or "secret" not in repr(list(settings.resources.values()))
        assert all(name == one.name for name, one in settings.resources.items())


TEXTS = (
    Decoder("gid", gid, (NotOurs, FormatTooNew), (IDENTIFIER.to_gid().encode(), b"pgjdbc_1")),
    Decoder("postgres-scan", postgres_row, (), (IDENTIFIER.to_gid().encode(), b"")),
    Decoder(
        "mariadb-scan",
        mariadb_row,
        (),
        (b"X'%s',X'%s',1397769265" % tuple(p.hex().encode() for p in IDENTIFIER.to_xid()), b"'a','b',1", b"'it''s'"),
    ),
    Decoder("name", name_on_the_command_line, (), (b"order-4711", b"0f" * 16, b"0F" * 16, b"00 " * 16)),
    Decoder("segment-name", segment_name, (), (b"0000000007-000003.log", b"99999999999-1000000.log")),
    Decoder(
        "journal-url",
        journal_url,
        (ConfigurationError,),
        (
            b"postgresql://app:s3cret@localhost:5432/bank?cluster=shop&retention_s=86400&sessions_max=3",
            b"bank?dead_after_s=10&heartbeat_s=0.5",
            b"mariadb://app@localhost/bank?recovery_patience_s=3",
            b"./folder",
        ),
    ),
    Decoder(
        "postgresql-url",
        resource_url(PostgresResource),
        (ConfigurationError,),
        (b"//app:p%40ss@[::1]:5432/bank?sslmode=require&connect_timeout=5", b"//%2Ftmp/bank"),
    ),
    Decoder(
        "mariadb-url",
        resource_url(MariadbResource),
        (ConfigurationError,),
        (b"//app:p%40ss@localhost:3306/bank?ssl=true&read_timeout=5&charset=utf8mb4&unix_socket=/tmp/x",),
    ),
    Decoder(
        "sqlite-url",
        resource_url(SqliteResource),
        (ConfigurationError,),
        (b"///audit.db?mode=rwc&journal_mode=wal&synchronous=full&foreign_keys=on", b"////tmp/audit%20.db"),
    ),
    Decoder("memory-url", resource_url(MemoryResource), (ConfigurationError,), (b"//bank",)),
    Decoder(
        "any-url",
        any_url,
        (ConfigurationError,),
        (b"sqlite:///a.db", b"postgres://x", b"postgresql+psycopg://x", b"x:"),
    ),
    Decoder(
        "resource-table",
        resource_table,
        (ConfigurationError,),
        (b"url=postgresql://localhost/bank\npool_size_max=10\nbackups=none", b"url=sqlite:///a.db\nmode=rw"),
    ),
    Decoder("resource-option", resource_option, (ConfigurationError,), (b"bank=postgresql://localhost/bank",)),
    Decoder("hide-secrets", hidden, (), (b"p4ss", b"p@ss", b"p/ss?x#y")),
    Decoder("configuration", configuration, (ConfigurationError,), (_TOML, b"timeout_s = 1e400\n")),
)
