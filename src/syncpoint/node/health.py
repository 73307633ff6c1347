"""Whether the node is alive and ready, for whoever supervises it: HTTP on loopback, and systemd.

    GET /live     200 while the process answers and its disk has not failed, else 503
    GET /ready    200 when applications can work with it, else 503

The body is the node's status as JSON. systemd is told READY and STOPPING over $NOTIFY_SOCKET, and that the node lives
as often as $WATCHDOG_USEC asks. Not for: numbers over time.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from syncpoint.errors import ConfigurationError
from syncpoint.journal.node_messages import Status
from syncpoint.node.server import as_document

REQUEST_S_MAX = 5.0


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    status: Callable[[], Status]


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = REQUEST_S_MAX
    server_version = "syncpoint"
    sys_version = ""

    def do_GET(self) -> None:
        status = self.server.status()
        good = {"/live": not status.failed, "/ready": status.ready}.get(self.path)
        if good is None:
            self.send_error(HTTPStatus.NOT_FOUND, "Ask for /live or /ready.")
            return
        body = json.dumps(as_document(status)).encode() + b"\n"
        self.send_response(HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: it is asked every second."""


class Health:
    """The HTTP endpoint. Parameters: `address`, "host:port" on loopback; `status` says how the node is.

    Raises ConfigurationError when the port is in use.
    """

    def __init__(self, address: str, status: Callable[[], Status]) -> None:
        host, _, port = address.rpartition(":")
        family = socket.AF_INET6 if host == "[::1]" else socket.AF_INET
        server = type("_FamilyServer", (_Server,), {"address_family": family})
        try:
            self._server: _Server = server((host.strip("[]"), int(port)), _Handler)
        except (OSError, OverflowError) as error:
            raise ConfigurationError(
                f"The health endpoint cannot listen at {address}: {error}.",
                advice="Name a free port on loopback as node.health, or leave it out.",
            ) from error
        self._server.status = status
        self._thread = threading.Thread(target=self._server.serve_forever, name="syncpoint-health", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def notify_systemd(state: str) -> None:
    """Tell systemd, if it started us: "READY=1", "STOPPING=1", "WATCHDOG=1". Never raises."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sending:
            sending.connect("\0" + path[1:] if path.startswith("@") else path)
            sending.sendall(state.encode())
    except OSError:
        return


def watchdog_period_s() -> float | None:
    """How often systemd wants to hear from us; None: it does not."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    ours = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return int(microseconds) / 2e6 if ours and microseconds.isdigit() and int(microseconds) > 0 else None
