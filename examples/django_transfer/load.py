"""Clients that resend, a murderer of workers, and the audit from outside.

Not for: servers (run.py). What it asserts: every acknowledged request is there once, in both databases; every refused
one is nowhere; every resend gets the same reply; no money appears or disappears; nothing stays in doubt.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import threading
import time
import uuid
from collections import Counter
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pymysql

GIVE_UP_S = 60.0
RESENDS_AT_THE_END_MAX = 500
MURDER_EVERY_S = 0.7
BETWEEN_MURDERS_MIN = 5
"""So many requests are acknowledged between two murders: on a slow machine workers take long to start."""
AGAIN = (409, 503)


class Load:
    """`run` drives it all and returns the summary; `ok` in it says whether everything held."""

    def __init__(self, port: int, urls: dict[str, str], *, clients: int, accounts: int, total: int) -> None:
        self.port = port
        self.urls = urls
        self.clients = clients
        self.accounts = accounts
        self.total = total
        self.requests: dict[str, dict[str, Any]] = {}
        self.acknowledged: dict[str, dict[str, Any]] = {}
        self.refused: set[str] = set()
        self.different: list[str] = []
        self.counts: Counter[str] = Counter()
        self.workers: set[int] = set()
        self._mutex = threading.Lock()
        self._stop = threading.Event()

    def run(self, seconds: float) -> dict[str, Any]:
        began = time.monotonic()
        clients = [threading.Thread(target=self._client) for _ in range(self.clients)]
        murderer = threading.Thread(target=self._murder)
        for thread in (*clients, murderer):
            thread.start()
        self._stop.wait(seconds)
        self._stop.set()
        for thread in (*clients, murderer):
            thread.join()
        lasted = time.monotonic() - began
        keys = list(self.acknowledged)
        for key in random.sample(keys, min(len(keys), RESENDS_AT_THE_END_MAX)):
            self._send(key)
        return {"seconds": round(lasted, 1), **self._audit(), "transfers_a_second": round(len(keys) / lasted, 1)}

    # --- clients -------------------------------------------------------------------------------------------------

    def _client(self) -> None:
        while not self._stop.is_set():
            key = uuid.uuid4().hex
            self.requests[key] = {
                "source": random.choice(["default", "ledger"]),
                "debit": random.randint(1, self.accounts),
                "credit": random.randint(1, self.accounts),
                "amount": random.randint(1, 50),
            }
            self._send(key)
            if random.random() < 0.2:
                self._send(key)

    def _send(self, key: str) -> None:
        """Until it is answered, the same request again and again."""
        deadline = time.monotonic() + GIVE_UP_S
        while time.monotonic() < deadline:
            try:
                status, reply = self._post(key)
            except (OSError, http.client.HTTPException):
                self._count("connections lost")
            else:
                if status not in AGAIN:
                    self._answered(key, status, reply)
                    return
                self._count(f"answers {status}")
            time.sleep(random.uniform(0.01, 0.1))
        self._count("unanswered")

    def _post(self, key: str) -> tuple[int, dict[str, Any]]:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)) as connection:
            connection.request("POST", "/transfer", json.dumps(self.requests[key]), {"Idempotency-Key": key})
            answer = connection.getresponse()
            body = answer.read()
            with self._mutex:
                self.workers.add(int(answer.headers.get("X-Worker", "0")))
            return answer.status, json.loads(body) if answer.status in (200, 402, *AGAIN) else {"error": body[:500]}

    def _answered(self, key: str, status: int, reply: dict[str, Any]) -> None:
        with self._mutex:
            if status == 402:
                self.refused.add(key)
            elif status != 200:
                self.counts[f"answers {status}"] += 1
                self.different.append(f"{key}: {status} {reply}")
            elif key in self.acknowledged:
                self.counts["resent"] += 1
                if self.acknowledged[key] != reply:
                    self.different.append(f"{key}: first {self.acknowledged[key]}, then {reply}")
            else:
                self.acknowledged[key] = reply

    def _count(self, what: str) -> None:
        with self._mutex:
            self.counts[what] += 1

    def _murder(self) -> None:
        wanted = 1
        while not self._stop.wait(MURDER_EVERY_S * random.uniform(0.5, 1.5)):
            if len(self.acknowledged) < wanted:
                continue
            wanted = len(self.acknowledged) + BETWEEN_MURDERS_MIN
            with self._mutex:
                victims, self.workers = sorted(self.workers - {0}), set()
            if victims:
                try:
                    os.kill(random.choice(victims), signal.SIGKILL)
                    self._count("workers killed")
                except ProcessLookupError:
                    pass  # killed before

    # --- the audit -----------------------------------------------------------------------------------------------

    def _audit(self) -> dict[str, Any]:
        deadline = time.monotonic() + 20
        while self._in_doubt() and time.monotonic() < deadline:
            time.sleep(0.1)  # the workers that live finish what the dead have left
        rows = {alias: self._rows(alias, "SELECT key_, ticket, amount FROM t") for alias in self.urls}
        money = sum(int(self._rows(alias, "SELECT sum(balance) FROM transfers_account")[0][0]) for alias in self.urls)
        by_key = {alias: Counter(key for key, _, _ in rows[alias]) for alias in self.urls}
        done = by_key["default"].keys() | by_key["ledger"].keys()
        violations = {
            "torn": sum(by_key["default"][key] != by_key["ledger"][key] for key in done),
            "twice": sum(count > 1 for counts in by_key.values() for count in counts.values()),
            "lost": sum(not by_key[alias][key] for key in self.acknowledged for alias in self.urls),
            "refused_but_done": sum(bool(by_key[alias][key]) for key in self.refused for alias in self.urls),
            "other_ticket": self._other_tickets(rows),
            "other_reply": len(self.different),
            "in_doubt": len(self._in_doubt()),
            "money": money - self.total,
            "unanswered": self.counts["unanswered"],
        }
        return {
            "ok": not any(violations.values()) and bool(self.acknowledged),
            "databases": {alias: urlsplit(url).scheme for alias, url in self.urls.items()},
            "acknowledged": len(self.acknowledged),
            "refused": len(self.refused),
            **{name.replace(" ", "_"): count for name, count in sorted(self.counts.items()) if name != "unanswered"},
            "violations": violations,
            "examples": self.different[:5],
        }

    def _other_tickets(self, rows: dict[str, list[tuple[Any, ...]]]) -> int:
        """Acknowledged with a ticket that is not the one in the databases."""
        tickets = {alias: {key: ticket for key, ticket, _ in rows[alias]} for alias in rows}
        return sum(
            tickets[alias].get(key) != reply["ticket"] for key, reply in self.acknowledged.items() for alias in rows
        )

    def _in_doubt(self) -> list[tuple[Any, ...]]:
        found = []
        for alias, url in self.urls.items():
            sql = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"
            found += self._rows(alias, "XA RECOVER" if url.startswith("mariadb") else sql)
        return found

    def _rows(self, alias: str, sql: str) -> list[tuple[Any, ...]]:
        """On a connection that knows nothing of Django or Syncpoint."""
        parts = urlsplit(self.urls[alias])
        quote = "`" if parts.scheme == "mariadb" else '"'
        sql = sql.replace("key_, ticket, amount FROM t", f"{quote}key{quote}, ticket, amount FROM transfers_transfer")
        if parts.scheme == "postgresql":
            with psycopg.connect(self.urls[alias]) as connection:
                return connection.execute(sql.encode()).fetchall()
        with (
            closing(
                pymysql.connect(
                    host=parts.hostname,
                    port=parts.port or 3306,
                    user=parts.username,
                    password=parts.password or "",
                    database=parts.path[1:],
                )
            ) as mariadb,
            mariadb.cursor() as cursor,
        ):
            cursor.execute(sql)
            return list(cursor.fetchall())
