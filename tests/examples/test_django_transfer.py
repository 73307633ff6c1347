"""The Django example under load, workers killed: its own audit must find nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from syncpoint.testing.servers.mariadb import MariadbServer
from tests.conftest import _missing
from tests.django.world import HAS_MYSQLCLIENT

RUN = Path(__file__).parent.parent.parent / "examples" / "django_transfer" / "run.py"


@pytest.mark.parametrize("kind", ["mariadb", "postgresql"])
def test_every_acknowledged_request_once_and_every_resend_the_same_reply(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("django")
    if kind == "mariadb" and not (HAS_MYSQLCLIENT and MariadbServer.available()):
        _missing("The Django example over MariaDB needs mariadbd and mysqlclient")
    one_kind = ["--one-kind", "--journal", str(tmp_path / "journal")] if kind == "postgresql" else []
    command = [sys.executable, str(RUN), "--load", "--seconds", "4", "--workers", "3", "--clients", "4", *one_kind]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(done.stdout)
    assert summary["databases"] == {"default": "postgresql", "ledger": kind}
    assert summary["workers_killed"] > 0
    assert summary["resent"] > 0
    assert not any(summary["violations"].values())
