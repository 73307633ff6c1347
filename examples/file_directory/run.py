"""Publish articles, each a file and its row, while the publisher is killed with `kill -9` again and again; then audit.

    python examples/file_directory/run.py                  # twenty kills, about ten seconds
    python examples/file_directory/run.py --kills 100 --json

Needs: pip install "syncpoint[sqlite]". Everything is in a temporary folder, gone afterwards. Exit code 1 when anything
is torn, lost or left in doubt.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw

import syncpoint

HERE = Path(__file__).resolve().parent
WAIT_S_MAX = 0.25
"""A publisher is killed so long after its first article, or before."""
INDEX = "index.txt"


def manager(folder: Path) -> syncpoint.TransactionManager:
    resources = {
        "docs": f"files://{folder}/docs",
        "catalogue": f"sqlite:///{folder}/catalogue.db",
    }
    return syncpoint.TransactionManager(folder / "journal", resources)


def publish(folder: Path) -> None:
    """Articles without end: a new file, the index replaced, an old one deleted, and the rows. Says each on stdout."""
    with manager(folder) as transactions:
        for _ in itertools.count():
            with transactions.transaction() as tx:
                docs, catalogue = tx.connect("docs"), tx.connect("catalogue")
                known = [name for (name,) in catalogue.execute("SELECT name FROM article ORDER BY number")]
                number = next(iter(catalogue.execute("SELECT coalesce(max(number), 0) + 1 FROM article")))[0]
                name = f"articles/{number % 10}/{number}.txt"
                docs.write(name, f"article {number}\n".encode() * 100)
                catalogue.execute("INSERT INTO article VALUES (?, ?)", (number, name))
                kept = [*known, name][-20:]
                for old in {*known} - {*kept}:
                    docs.delete(old)
                    catalogue.execute("DELETE FROM article WHERE name = ?", (old,))
                docs.write(INDEX, "\n".join(kept).encode())
            print(number, flush=True)


def audit(folder: Path, acknowledged: int) -> dict[str, int]:
    """From outside: every row has its file and every file its row, the index says the same, and nothing is lost."""
    with manager(folder) as transactions:
        transactions.recover(wait_seconds=20)
        in_doubt = len(transactions.in_doubt())
    with closing(apsw.Connection(str(folder / "catalogue.db"))) as catalogue:
        rows: dict[str, int] = dict(catalogue.execute("SELECT name, number FROM article ORDER BY number"))
    docs = folder / "docs"
    files = {file.relative_to(docs).as_posix() for file in (docs / "articles").rglob("*") if file.is_file()}
    torn = len(files ^ rows.keys())
    whole = (docs / name for name in files & rows.keys())
    torn += sum(file.read_text() != f"article {rows[file.relative_to(docs).as_posix()]}\n" * 100 for file in whole)
    torn += (docs / INDEX).read_text().splitlines() != list(rows)
    return {"torn": torn, "lost": max(0, acknowledged - max(rows.values())), "in_doubt": in_doubt}


def kill_and_audit(folder: Path, kills: int) -> dict[str, int]:
    found = {"kills": 0, "acknowledged": 0, "torn": 0, "lost": 0, "in_doubt": 0}
    for _ in range(kills):
        acknowledged = _run_and_kill(folder)
        found["kills"] += 1
        found["acknowledged"] = max(found["acknowledged"], acknowledged)
        for what, count in audit(folder, found["acknowledged"]).items():
            found[what] += count
    return found


def _run_and_kill(folder: Path) -> int:
    """Returns the number of the last article that the publisher was told is published."""
    command = [sys.executable, __file__, "--publish", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as publisher:
        said = publisher.stdout or sys.stdin  # it is a pipe
        first = said.readline()
        time.sleep(random.uniform(0, WAIT_S_MAX))
        publisher.send_signal(signal.SIGKILL)
        lines = [line for line in (first + said.read()).splitlines(keepends=True) if line.endswith("\n")]
    return int(lines[-1]) if lines else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20, help="how often the publisher is killed")
    parser.add_argument("--json", action="store_true", help="print one JSON document, and nothing else")
    parser.add_argument("--publish", metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.publish:
        publish(Path(options.publish))
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "docs").mkdir()
        with closing(apsw.Connection(str(folder / "catalogue.db"))) as catalogue:
            catalogue.execute("CREATE TABLE article (number INTEGER PRIMARY KEY, name TEXT NOT NULL)")
        found = kill_and_audit(folder, options.kills)
    _tell(found, as_json=options.json)
    return 1 if found["torn"] or found["lost"] or found["in_doubt"] else 0


def _tell(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(found))
        return
    print(f"{found['acknowledged']} articles published, the publisher killed {found['kills']} times:")
    print(f"{found['torn']} torn, {found['lost']} lost, {found['in_doubt']} in doubt")


if __name__ == "__main__":
    sys.exit(main())
