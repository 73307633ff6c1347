"""Looks at a SQLite file for `syncpoint doctor`: set-ups that would break a promise, and what a branch cannot carry.

Changes nothing; every function blocks. Not for: enforcing at work (sqlite_connection.py, sqlite_changeset.py).
"""

from __future__ import annotations

import os

from syncpoint.resources.base import Finding, Severity
from syncpoint.resources.sqlite_changeset import Shape, read_shape
from syncpoint.resources.sqlite_connection import GuardedConnection
from syncpoint.resources.sqlite_note import NOTE_SUFFIX

NETWORK_FILE_SYSTEMS = frozenset(
    (
        "9p",
        "afs",
        "ceph",
        "cifs",
        "fuse.s3fs",
        "fuse.sshfs",
        "glusterfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "smb3",
        "smbfs",
    )
)


def inspect(connection: GuardedConnection) -> list[Finding]:
    """Every finding about an open file."""
    path = connection.filename
    mode = str(connection.run("PRAGMA journal_mode")[0][0])
    synchronous = int(connection.run("PRAGMA main.synchronous")[0][0])
    shape = read_shape(connection, int(connection.run("PRAGMA schema_version")[0][0]))
    return [
        _durability(mode, synchronous),
        Finding(Severity.OK, "journal mode", mode),
        *_rights(path),
        *_file_system(path, mode),
        *_tables(shape),
        *_triggers(connection),
    ]


def _durability(mode: str, synchronous: int) -> Finding:
    needed = 2 if mode == "wal" else 3
    names = {0: "OFF", 1: "NORMAL", 2: "FULL", 3: "EXTRA"}
    found = f"synchronous={names.get(synchronous, synchronous)}"
    if synchronous < needed:
        return Finding(Severity.REFUSED, "durability", found, f"PRAGMA synchronous = {names[needed]}")
    return Finding(Severity.OK, "durability", found)


def _rights(path: str) -> list[Finding]:
    # Only access(): opening and closing the file here would drop SQLite's locks on it.
    folder = os.path.dirname(path)
    findings = []
    for what, wanted in (
        (path, os.R_OK | os.W_OK),
        (folder, os.R_OK | os.W_OK | os.X_OK),
        (path + NOTE_SUFFIX, os.R_OK | os.W_OK),
    ):
        if os.path.exists(what) and not os.access(what, wanted):
            findings.append(
                Finding(
                    Severity.REFUSED,
                    "rights",
                    f"{what} may not be read and written",
                    f"chmod u+rw {what} (as its owner)",
                )
            )
    return findings or [Finding(Severity.OK, "rights", "the file, its folder and its note may be read and written")]


def _file_system(path: str, mode: str) -> list[Finding]:
    kind = file_system_of(path)
    if kind not in NETWORK_FILE_SYSTEMS:
        return []
    why = "WAL needs memory shared by all processes" if mode == "wal" else "file locks and fsync promise less there"
    return [Finding(Severity.WARNING, "file system", f"{path} is on {kind}: {why}", "Keep the file on a local disk.")]


def file_system_of(path: str, mounts: str = "/proc/self/mountinfo") -> str:
    """The type of file system a path is on; empty where it cannot be told (not Linux)."""
    try:
        with open(mounts, encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except OSError:
        return ""
    real = os.path.realpath(path)
    best, kind = "", ""
    for line in lines:
        left, _, right = line.partition(" - ")
        fields = left.split()
        if len(fields) < 5 or not right:
            continue
        point = fields[4].replace("\\040", " ")
        if (real == point or real.startswith(point.rstrip("/") + "/")) and len(point) >= len(best):
            best, kind = point, right.split()[0]
    return kind


def _tables(shape: Shape) -> list[Finding]:
    findings = []
    if shape.keyless:
        findings.append(
            Finding(
                Severity.WARNING,
                "tables without a key",
                f"{', '.join(sorted(shape.keyless))}: a transaction with other databases that writes there is aborted",
                "Declare a PRIMARY KEY.",
            )
        )
    if shape.virtuals:
        findings.append(
            Finding(
                Severity.WARNING,
                "virtual tables",
                f"{', '.join(sorted(shape.virtuals))}: a transaction with other databases that writes there is aborted",
                "Write them in transactions of their own.",
            )
        )
    if shape.nullable:
        findings.append(
            Finding(
                Severity.WARNING,
                "keys that can be NULL",
                f"{', '.join(sorted(shape.nullable))}: a row with a NULL key cannot take part, and looking for "
                "such rows costs time",
                "Declare the key columns NOT NULL.",
            )
        )
    return findings


def _triggers(connection: GuardedConnection) -> list[Finding]:
    names = [
        str(name) for (name,) in connection.run("SELECT name FROM sqlite_schema WHERE type = 'trigger' ORDER BY name")
    ]
    if not names:
        return []
    return [
        Finding(
            Severity.OK, "triggers", f"{', '.join(names)}: a redo carries what they changed, and does not fire them"
        )
    ]
