"""The example, with one command: servers, tables, workers; with --load also clients, murders and an audit.

    python examples/django_transfer/run.py                      serve until Ctrl-C
    python examples/django_transfer/run.py --load --seconds 20  the same under load; JSON summary; exit 1 on a violation

It starts its own PostgreSQL (and MariaDB for the second database, when mariadbd and mysqlclient are there) in temporary
folders, on loopback. --journal is what SYNCPOINT["journal"] says: an alias by default, whose database then holds the
decisions; or a folder.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from syncpoint.testing.servers.base import free_port, wait_until
from syncpoint.testing.servers.mariadb import MariadbServer
from syncpoint.testing.servers.postgres import PostgresServer

HERE = Path(__file__).parent
ACCOUNTS, BALANCE = 20, 1000
JOURNAL = "default?heartbeat_s=0.3&dead_after_s=2"  # workers are killed all the time here: do not wait long for them
sys.path.insert(0, str(HERE))


def main() -> int:
    options = _options()
    with contextlib.ExitStack() as stack:
        urls = stack.enter_context(_databases(one_kind=options.one_kind))
        os.environ |= {"BANK_URL": urls["default"], "LEDGER_URL": urls["ledger"], "SYNCPOINT_JOURNAL": options.journal}
        os.environ["DJANGO_SETTINGS_MODULE"] = "transfers.settings"
        _make_tables()
        port = options.port or free_port()
        server = stack.enter_context(_workers(port, options.workers))
        if not options.load:
            return _serve(server, port)
        from load import Load

        load = Load(port, urls, clients=options.clients, accounts=ACCOUNTS, total=2 * ACCOUNTS * BALANCE)
        summary = load.run(options.seconds)
    print(json.dumps({"journal": options.journal, **summary}, indent=2))
    return 0 if summary["ok"] else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--load", action="store_true", help="drive transfers while workers are killed, then audit")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long to drive them")
    parser.add_argument("--journal", default=JOURNAL, help='an alias such as "default", a URL, or a folder')
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--port", type=int, default=0, help="a free one when left out")
    parser.add_argument("--one-kind", action="store_true", help="PostgreSQL for both, though MariaDB is there")
    return parser.parse_args()


@contextlib.contextmanager
def _databases(*, one_kind: bool) -> Iterator[dict[str, str]]:
    """URL by alias."""
    with contextlib.ExitStack() as stack:
        postgres = stack.enter_context(PostgresServer())
        urls = {"default": postgres.create_database("bank")}
        if not one_kind and MariadbServer.available() and importlib.util.find_spec("MySQLdb") is not None:
            urls["ledger"] = stack.enter_context(MariadbServer()).create_database("ledger")
        else:
            urls["ledger"] = postgres.create_database("ledger")
        yield urls


def _make_tables() -> None:
    from django.core.management import call_command
    from django.db import connections

    import django

    django.setup()
    from transfers.models import Account

    for alias in connections:
        call_command("migrate", database=alias, run_syncdb=True, verbosity=0)
        Account.objects.using(alias).bulk_create(Account(pk=n, balance=BALANCE) for n in range(1, ACCOUNTS + 1))
    connections.close_all()


@contextlib.contextmanager
def _workers(port: int, count: int) -> Iterator[subprocess.Popen[bytes]]:
    """gunicorn: a master that starts another worker whenever one is killed."""
    command = [sys.executable, "-m", "gunicorn", "--chdir", str(HERE), "--bind", f"127.0.0.1:{port}"]
    command += ["--workers", str(count), "--log-level", "critical", "--no-control-socket", "transfers.wsgi"]
    process = subprocess.Popen(command)
    try:
        wait_until(lambda: _answers(port), "the workers answer", 60)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/accounts", timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def _serve(server: subprocess.Popen[bytes], port: int) -> int:
    print(
        f"Serving on http://127.0.0.1:{port} until Ctrl-C. Try, and send it twice:\n\n"
        f"  curl -H 'Idempotency-Key: order-1' http://127.0.0.1:{port}/transfer \\\n"
        '       -d \'{"source": "default", "debit": 1, "credit": 2, "amount": 5}\'\n'
        f"  curl http://127.0.0.1:{port}/accounts\n",
        flush=True,
    )
    with contextlib.suppress(KeyboardInterrupt):
        while server.poll() is None:
            time.sleep(0.5)
    return 0


if __name__ == "__main__":
    sys.exit(main())
