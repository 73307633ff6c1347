"""What Syncpoint keeps in a PostgreSQL database: its schema, first contact, and the look for lying set-ups.

    syncpoint.resource      one row: the database's GUID and the schema's format version
    syncpoint.coordinator   the highest incarnation seen of each coordinator (O53)
    syncpoint.evidence      one row for every branch that wrote, inserted in the branch itself (DESIGN section 3)

An evidence row's `outcome` is 'committed', or 'barred': then it was put there so that a late commit of that branch
fails on the key. Statements that belong together go as one packet, which is one transaction of its own: an error
leaves nothing behind. Not for: branches (postgres.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from syncpoint.errors import ConnectionLost, FormatTooNew, JournalRefused, SetupRefused
from syncpoint.ids import Guid
from syncpoint.resources import postgres_pooler as pooler
from syncpoint.resources.base import Contact, Finding, Severity
from syncpoint.resources.postgres_driver import Driver, PostgresSession, Reply, hexadecimal
from syncpoint.resources.postgres_errors import DENIED, MISSING, READ_ONLY_SERVER
from syncpoint.steps import Script

SCHEMA_FORMAT = 1
VERSION_MIN = 130000  # pg_current_xact_id_if_assigned
VERSION_TESTED_MIN = 150000
LOCK_TIMEOUT_MS = 500

ALONE = (  # the start of a packet that is a transaction of its own
    "SET TRANSACTION ISOLATION LEVEL READ COMMITTED READ WRITE; "
    f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_MS}ms'; SET LOCAL synchronous_commit = on; "
)
_TURN = f"SELECT pg_catalog.pg_advisory_xact_lock({0x53505431})"

STATEMENTS: Sequence[str] = (
    "CREATE SCHEMA IF NOT EXISTS syncpoint",
    """CREATE TABLE IF NOT EXISTS syncpoint.resource (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    guid bytea NOT NULL,
    format integer NOT NULL
)""",
    """CREATE TABLE IF NOT EXISTS syncpoint.coordinator (
    guid bytea PRIMARY KEY,
    incarnation_seen bigint NOT NULL
)""",
    """CREATE TABLE IF NOT EXISTS syncpoint.evidence (
    coordinator bytea,
    incarnation bigint,
    counter bigint,
    transaction bytea,
    branch integer,
    outcome text NOT NULL DEFAULT 'committed',
    at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (coordinator, incarnation, counter, transaction, branch)
)""",
    f"""INSERT INTO syncpoint.resource (guid, format)
    VALUES (uuid_send(gen_random_uuid()), {SCHEMA_FORMAT}) ON CONFLICT DO NOTHING""",
)

GRANTS = """-- for each role that the application uses:
-- GRANT USAGE ON SCHEMA syncpoint TO app_role;
-- GRANT SELECT ON syncpoint.resource TO app_role;
-- GRANT SELECT, INSERT, UPDATE ON syncpoint.coordinator TO app_role;
-- GRANT SELECT, INSERT, DELETE ON syncpoint.evidence TO app_role"""


def _as_typed() -> str:
    return ";\n".join((*STATEMENTS, GRANTS))


# --- making the schema -----------------------------------------------------------------------------------------


def initialise(driver: Driver, session: PostgresSession) -> Script[None]:
    """Make the schema unless it is there. Any number of processes may do so at once."""
    reply: Reply = yield driver.ask(session, "SELECT format FROM syncpoint.resource", "look for the schema")
    if reply.error is None and reply.rows(0):
        _check_format(int(reply.rows(0)[0][0] or 0))
        return
    if reply.error is not None and reply.code not in MISSING:
        raise _refused(driver, reply)
    # CREATE … IF NOT EXISTS of two sessions at once fails on the catalogue's own keys: take turns.
    sql = "; ".join((ALONE + _TURN, *STATEMENTS))
    reply = yield driver.ask(session, sql, "make the schema")
    if reply.error is not None:
        raise _refused(driver, reply)


def _check_format(found: int) -> None:
    if found > SCHEMA_FORMAT:
        raise FormatTooNew("database's schema syncpoint", found, SCHEMA_FORMAT)


def _refused(driver: Driver, reply: Reply) -> Exception:
    """The error to raise when the schema cannot be read or made."""
    assert reply.error is not None
    if reply.code == DENIED:
        why = reply.error.diag.message_primary
        return SetupRefused(
            f"The resource {driver.name!r} ({driver.address.safe_url}) has no usable schema syncpoint, and this role "
            f"may not make it: {why}.",
            advice="Let somebody who may run this once, with your role for app_role (`syncpoint init --print-sql` "
            f"prints it too):\n{_as_typed()}",
        )
    if reply.code in READ_ONLY_SERVER:
        return SetupRefused(
            f"The resource {driver.name!r} ({driver.address.safe_url}) only lets itself be read: it is a standby, or "
            "default_transaction_read_only is on.",
            advice="Point the URL at the primary, for example with ?target_session_attrs=read-write.",
        )
    return reply.error


# --- first contact ---------------------------------------------------------------------------------------------


def contact(driver: Driver, session: PostgresSession, who: Contact) -> Script[Guid]:
    """Leave the incarnation; return the GUID. Refuses a journal that is older than what was seen (O53)."""
    reply: Reply = yield driver.ask(session, _contact_sql(who), "first contact")
    if reply.code in MISSING or (reply.error is None and not reply.rows(-3)):
        yield from initialise(driver, session)
        reply = yield driver.ask(session, _contact_sql(who), "first contact with the new schema")
    if reply.error is not None:
        raise _refused(driver, reply)
    found, guid = reply.rows(-3)[0]
    _check_format(int(found or 0))
    seen = int(reply.rows(-1)[0][0] or 0)
    if seen > who.highest:
        raise JournalRefused(
            f"The database of the resource {driver.name!r} has seen incarnation {seen} of the coordinator "
            f"{who.coordinator}, but the journal has only come to {who.highest}: it is an older copy.",
            advice="Use the journal that was in use last; if it is lost for good, start a new one and finish by hand "
            "what `syncpoint in-doubt` lists.",
        )
    return Guid.parse(guid or "")


_GUID = "SELECT pg_catalog.encode(guid, 'hex') FROM syncpoint.resource"


def guid(driver: Driver, session: PostgresSession) -> Script[Guid | None]:
    """The GUID alone, on any connection; None without one. Raises SetupRefused when this role may not read it."""
    reply: Reply = yield driver.query(session, _GUID, "ask for the GUID")
    if reply.error is not None and reply.code not in MISSING:
        raise _refused(driver, reply)
    return Guid.parse(reply.rows(0)[0][0] or "") if reply.rows(0) else None


def _contact_sql(who: Contact) -> str:
    # One atomic statement compares and raises: a journal that has been overtaken changes nothing. Nor does this
    # code change anything in a schema of a later format.
    guid = hexadecimal(who.coordinator.raw)
    return (
        f"{ALONE}SELECT format, pg_catalog.encode(guid, 'hex') FROM syncpoint.resource; "
        "INSERT INTO syncpoint.coordinator AS known (guid, incarnation_seen) "
        f"SELECT {guid}, {who.incarnation} FROM syncpoint.resource WHERE format <= {SCHEMA_FORMAT} "
        "ON CONFLICT (guid) DO UPDATE SET incarnation_seen = "
        "greatest(known.incarnation_seen, excluded.incarnation_seen) "
        f"WHERE known.incarnation_seen <= {who.highest}; "
        f"SELECT coalesce(max(incarnation_seen), 0) FROM syncpoint.coordinator WHERE guid = {guid}"
    )


# --- lying set-ups ---------------------------------------------------------------------------------------------

_RIGHTS = (
    ("resource", "SELECT"),
    ("coordinator", "SELECT"),
    ("coordinator", "INSERT"),
    ("coordinator", "UPDATE"),
    ("evidence", "SELECT"),
    ("evidence", "INSERT"),
    ("evidence", "DELETE"),
)
_SETTINGS = "max_prepared_transactions max_connections fsync full_page_writes synchronous_commit server_version_num"


def _inspect_sql() -> str:
    settings = ", ".join(f"pg_catalog.current_setting('{name}')" for name in _SETTINGS.split())
    # Each right of each table that is there; a table that is missing has none.
    rights = " UNION ALL ".join(f"SELECT '{table}', '{right}'" for table, right in _RIGHTS)
    return (
        f"SELECT {settings}, pg_catalog.pg_is_in_recovery(), pg_catalog.current_setting('transaction_read_only'), "
        "pg_catalog.to_regnamespace('syncpoint') IS NOT NULL, "
        "pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE'), current_user, "
        f"{pooler.PID}; "
        f"SELECT t, r FROM ({rights}) AS needed (t, r) "
        "JOIN pg_catalog.pg_namespace n ON n.nspname = 'syncpoint' "
        "LEFT JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t "
        "WHERE NOT (pg_catalog.has_schema_privilege(n.oid, 'USAGE') "
        "AND coalesce(pg_catalog.has_table_privilege(c.oid, r), false))"
    )


def inspect(driver: Driver, session: PostgresSession) -> Script[list[Finding]]:
    """Changes nothing. It is a transaction of two packets, which only a pooler in statement mode refuses."""
    try:
        reply: Reply = yield driver.ask(session, f"BEGIN; {_inspect_sql()}", "look at the set-up")
    except ConnectionLost as error:
        refusal = pooler.refusal(error)
        if refusal is None:
            raise
        return [refusal]
    yield driver.query(session, "ROLLBACK", "ROLLBACK after a look")
    if reply.error is not None:
        raise reply.error
    values = [value or "" for value in reply.rows(1)[0]]
    settings = dict(zip(_SETTINGS.split(), values, strict=False))
    standby, read_only, schema, may_create, role, pid = values[len(settings) :]
    findings = [
        *_slots(int(settings["max_prepared_transactions"]), int(settings["max_connections"])),
        *_durability(settings),
        _version(int(settings["server_version_num"])),
        _writable(standby == "t", read_only == "on"),
    ]
    if schema == "t":
        findings.append(_rights([(row[0] or "", row[1] or "") for row in reply.rows(2)], role))
    else:
        findings.append(_creatable(may_create == "t", role))
    return findings + pooler.findings(session, pid)


def _slots(slots: int, connections: int) -> list[Finding]:
    fix = f"ALTER SYSTEM SET max_prepared_transactions = {connections};  -- then restart the server"
    if slots == 0:
        found = "0: the server cannot prepare any branch"
        return [Finding(Severity.REFUSED, "max_prepared_transactions", found, fix, for_prepare=True)]
    if slots < connections:
        found = f"{slots}, fewer than max_connections = {connections}: prepares can fail under load"
        return [Finding(Severity.WARNING, "max_prepared_transactions", found, fix)]
    return [Finding(Severity.OK, "max_prepared_transactions", str(slots))]


def _durability(settings: dict[str, str]) -> list[Finding]:
    findings = []
    if settings["fsync"] == "off":
        found = "off: a vote or a commit is lost when the machine stops"
        findings.append(Finding(Severity.REFUSED, "fsync", found, "ALTER SYSTEM SET fsync = on;  -- then reload"))
    else:
        findings.append(Finding(Severity.OK, "fsync", "on"))
    if settings["full_page_writes"] == "off":
        found = "off: safe only on storage that never tears a page"
        fix = "ALTER SYSTEM SET full_page_writes = on;  -- then reload"
        findings.append(Finding(Severity.WARNING, "full_page_writes", found, fix))
    if settings["synchronous_commit"] == "off":
        # Not refused: votes and their commits are forced whatever this says, and one-phase commits set it on for
        # themselves; any role may do so.
        found = "off: branches set it on for themselves; what other programs commit may be lost in a crash"
        fix = "ALTER SYSTEM SET synchronous_commit = on;  -- then reload; see also ALTER ROLE and ALTER DATABASE"
        findings.append(Finding(Severity.WARNING, "synchronous_commit", found, fix))
    else:
        findings.append(Finding(Severity.OK, "synchronous_commit", settings["synchronous_commit"]))
    return findings


def _version(number: int) -> Finding:
    found = f"{number // 10000}.{number % 10000}"
    if number < VERSION_MIN:
        return Finding(Severity.REFUSED, "version", f"{found}: too old", "Upgrade to PostgreSQL 15 or later.")
    if number < VERSION_TESTED_MIN:
        return Finding(Severity.WARNING, "version", f"{found}: not tested", "Upgrade to PostgreSQL 15 or later.")
    return Finding(Severity.OK, "version", found)


def _writable(standby: bool, read_only: bool) -> Finding:
    if standby:
        fix = "Point the URL at the primary, for example with ?target_session_attrs=read-write."
        return Finding(Severity.REFUSED, "primary", "this server is a standby", fix)
    if read_only:
        fix = "ALTER ROLE … SET default_transaction_read_only = off;  -- or ALTER DATABASE, ALTER SYSTEM"
        return Finding(Severity.WARNING, "primary", "transactions are read-only unless they say otherwise", fix)
    return Finding(Severity.OK, "primary", "yes")


def _rights(missing: list[tuple[str, str]], role: str) -> Finding:
    if not missing:
        return Finding(Severity.OK, "schema syncpoint", "there, with the rights needed")
    found = "missing: " + ", ".join(f"{right} on {table}" for table, right in missing)
    grants = "; ".join(f"GRANT {right} ON syncpoint.{table} TO {role}" for table, right in missing)
    return Finding(Severity.REFUSED, "schema syncpoint", found, f"GRANT USAGE ON SCHEMA syncpoint TO {role}; {grants};")


def _creatable(may_create: bool, role: str) -> Finding:
    if may_create:
        return Finding(Severity.OK, "schema syncpoint", "not there yet; made at first use")
    return Finding(
        Severity.REFUSED,
        "schema syncpoint",
        f"not there, and the role {role} may not make it",
        "Let somebody who may run what `syncpoint init --print-sql` prints.",
    )
