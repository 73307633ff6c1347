"""Run the service with databases of its own, or put it under load while its workers are killed, then audit.

    python examples/fastapi_transfer/run.py              # serves until Ctrl-C; shows requests to try
    python examples/fastapi_transfer/run.py --load 10    # ten seconds of load and kills; exit code 1 if one was broken

Needs: pip install "syncpoint[postgresql,demo]" fastapi uvicorn. The PostgreSQL is private: a temporary folder, a
loopback port, gone afterwards.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from books import Books
from load import Load

from syncpoint.testing.servers.base import free_port, wait_until
from syncpoint.testing.servers.postgres import PostgresServer

HERE = Path(__file__).resolve().parent
JOURNAL = "bank?heartbeat_s=0.3&dead_after_s=2"  # workers are killed all the time here: do not wait long for them
START_S_MAX = 60.0
STOP_S_MAX = 15.0
SETTLE_S_MAX = 20.0

WELCOME = """
The service listens on http://127.0.0.1:{port} with {workers} workers. Try, in another terminal:

    curl -i http://127.0.0.1:{port}/transfers -H 'Content-Type: application/json' \\
         -H 'Idempotency-Key: "my-first-transfer"' -d '{{"account": 7, "amount": 25}}'

Again, the same: the same receipt, with Idempotency-Replayed: true. With another amount: 422. Kill a worker in between
(kill -9 {pid}): the same. What the account holds:

    curl -s http://127.0.0.1:{port}/accounts/7

Ctrl-C ends it.
"""


def main() -> int:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    with contextlib.ExitStack() as stack:
        print("Starting a private PostgreSQL …", file=sys.stderr)
        server = stack.enter_context(PostgresServer())
        books = Books({name: server.create_database(name) for name in ("bank", "ledger")})
        books.make_tables()
        port = stack.enter_context(_service(books, options.journal, options))
        if options.load:
            return _under_load(port, books, options)
        print(WELCOME.format(port=port, workers=options.workers, pid=_ask(port, "/worker")["pid"]))
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--load", type=float, metavar="SECONDS", default=0.0, help="load, kills and an audit")
    parser.add_argument("--workers", type=int, default=4, help="uvicorn's worker processes")
    parser.add_argument("--clients", type=int, default=16, help="of the load, at the same time")
    parser.add_argument("--kill-every", type=float, metavar="SECONDS", default=1.0, help="between kills of the load")
    parser.add_argument("--journal", default=JOURNAL, help="where decisions are durable: a database, or a folder")
    parser.add_argument("--port", type=int, default=0, help="on the loopback; a free one when left out")
    parser.add_argument("--seed", type=int, default=1, help="of the load")
    parser.add_argument("--json", action="store_true", help="the report as one line of JSON")
    return parser.parse_args()


# --- the service -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _service(books: Books, journal: str, options: argparse.Namespace) -> Iterator[int]:
    """uvicorn with its workers, which it starts again when they die; the port."""
    port = options.port or free_port()
    command = [sys.executable, "-m", "uvicorn", "app:app", "--app-dir", str(HERE), "--port", str(port)]
    command += ["--workers", str(options.workers), "--no-access-log", "--log-level", "error"]
    command += ["--timeout-graceful-shutdown", "5"]
    urls = {f"{name.upper()}_URL": url for name, url in books.urls.items()}
    process = subprocess.Popen(command, env={**os.environ, **urls, "JOURNAL": journal}, start_new_session=True)
    try:
        wait_until(lambda: process.poll() is not None or _answers(port), "the service starts", START_S_MAX)
        if process.poll() is not None:
            raise SystemExit("The service did not start.")
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S_MAX)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the workers are in its group
        process.wait()


def _answers(port: int) -> bool:
    try:
        _ask(port, "/worker")
    except OSError:
        return False
    return True


def _ask(port: int, path: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as reply:
        answer: dict[str, Any] = json.load(reply)
        return answer


# --- under load --------------------------------------------------------------------------------------------------


def _under_load(port: int, books: Books, options: argparse.Namespace) -> int:
    before, begun = books.total(), time.monotonic()
    print(f"{options.clients} clients for {options.load:g} s, while workers are killed …", file=sys.stderr)
    load = Load(
        port,
        books,
        seconds=options.load,
        clients=options.clients,
        kill_period_s=options.kill_every,
        seed=options.seed,
    )
    tally = asyncio.run(load.run())
    seconds = time.monotonic() - begun
    with contextlib.suppress(Exception):  # else the audit counts them
        wait_until(lambda: not books.prepared(), "the workers finish what the killed ones left", SETTLE_S_MAX)
    audit = books.audit(tally.acknowledged, tally.refused)
    report = {
        "acknowledged": len(tally.acknowledged),
        "refused": len(tally.refused),
        "unanswered": tally.unanswered,
        "sent": tally.sent,
        "resent": tally.resent,
        "replayed": tally.replayed,
        "kills": tally.kills,
        "kills_in_commit": tally.kills_in_commit,
        "different_replies": tally.different_replies,
        **asdict(audit),
        "total_before": before,
        "total_after": books.total(),
        "unexpected": tally.unexpected,
        "seconds": round(seconds, 1),
    }
    _print(report, as_json=options.json)
    is_kept = audit.is_clean and not tally.different_replies and report["total_before"] == report["total_after"]
    if not is_kept:
        print("A promise was broken.", file=sys.stderr)
    return 0 if is_kept else 1


def _print(report: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(report))
        return
    for name, value in report.items():
        print(f"{name.replace('_', ' '):>20}  {value}")


if __name__ == "__main__":
    sys.exit(main())
