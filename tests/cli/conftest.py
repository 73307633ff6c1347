"""The command run in this process, with a manager of the test's own put in where that is enough.

Not for: what a real manager answers (test_real.py).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from syncpoint.cli import setup
from syncpoint.cli.app import app
from syncpoint.config import Settings
from syncpoint.errors import SyncpointError
from syncpoint.manager.reports import (
    BranchReport,
    HeuristicEntry,
    InDoubtBranch,
    Outcome,
    OutcomeState,
    RecoveryReport,
    ResolvedBranch,
    TimelineEvent,
    TransactionReport,
)

TRANSACTION = "0123456789abcdef0123456789abcdef"
COORDINATOR = "fedcba9876543210fedcba9876543210"
AT_MS = 1_700_000_000_123

BRANCH = InDoubtBranch(
    transaction=TRANSACTION,
    attempt="3.1",
    resource="bank",
    branch="syncpoint_0123",
    status="decided-commit",
    explanation="Its decision is commit; recovery will commit it.",
    coordinator=COORDINATOR,
    age_ms=90_000,
    user_id="order-4711",
)
HEURISTIC = HeuristicEntry(
    transaction=TRANSACTION,
    resource="ledger",
    outcome="HEURISTIC_ROLLBACK",
    decided="commit",
    detail="forced to abort by ann: [bold]disk[/bold] lost",
    at_ms=AT_MS,
)


@dataclass
class FakeManager:
    """Answers what it was told to, and keeps what it was asked."""

    settings: Settings | None = None
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    branches: list[InDoubtBranch] = field(default_factory=lambda: [BRANCH])
    heuristic_entries: list[HeuristicEntry] = field(default_factory=list)
    state: OutcomeState = OutcomeState.COMMITTED
    evidence: str = "absent"
    report: RecoveryReport = field(default_factory=RecoveryReport)
    answer: str = "COMMITTED"
    result: Any = None
    raises: SyncpointError | None = None

    def __enter__(self) -> FakeManager:
        if self.raises is not None:
            raise self.raises
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def in_doubt(self) -> list[InDoubtBranch]:
        return self.branches

    def heuristics(self) -> list[HeuristicEntry]:
        return self.heuristic_entries

    def show(self, id: str) -> TransactionReport:
        self.calls.append(("show", id))
        return TransactionReport(
            transaction=TRANSACTION,
            state=self.state,
            user_id="order-4711",
            branches=(BranchReport("bank", f"{TRANSACTION}/3.1#0", "prepared", self.evidence),),
            timeline=(
                TimelineEvent(AT_MS, "decided: commit", "journal, process 3", "attempt 3.1; bank"),
                TimelineEvent(None, "ended: every branch has acknowledged", "journal, process 3"),
            ),
            heuristics=tuple(self.heuristic_entries),
        )

    def outcome(self, id: str) -> Outcome:
        self.calls.append(("outcome", id))
        return Outcome(TRANSACTION, self.state, result=self.result, user_id="order-4711", pending=("ledger",))

    def resolve(
        self, id: str, commit: bool, reason: str, who: str = "", resource: str | None = None
    ) -> list[ResolvedBranch]:
        self.calls.append(("resolve", id, commit, reason, who, resource))
        return [ResolvedBranch("bank", f"{TRANSACTION}/3.1#0", self.answer)]

    def forget(self, id: str, who: str = "") -> int:
        self.calls.append(("forget", id, who))
        return len(self.heuristic_entries)

    def adopt(self, guid: str, address: str = "", who: str = "") -> None:
        self.calls.append(("adopt", guid, address, who))

    def recover(self, wait_seconds: float = 0.0) -> RecoveryReport:
        self.calls.append(("recover", wait_seconds))
        return self.report


@dataclass(frozen=True)
class Ran:
    """One run of the command."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """The one document on stdout; nothing may stand beside it."""
        return json.loads(self.stdout)


class Command:
    """`syncpoint …` in this process."""

    def __call__(self, *arguments: str, input: str = "") -> Ran:
        result = CliRunner().invoke(app, list(arguments), input=input, prog_name="syncpoint")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ran(result.exit_code, result.stdout, result.stderr)


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command, in an empty folder and without a configuration from outside."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SYNCPOINT_CONFIG", raising=False)
    return Command()


@pytest.fixture
def manager(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeManager:
    """A fake manager behind the command, and a configuration that names a journal and a resource."""
    fake = FakeManager()

    def make_manager(settings: Settings) -> FakeManager:
        fake.settings = settings
        return fake

    monkeypatch.setattr(setup, "make_manager", make_manager)
    (tmp_path / "journal").mkdir()
    (tmp_path / "syncpoint.toml").write_text(
        '[syncpoint]\njournal = "journal"\nscope = "shop"\n[resources]\nbank = "memory://bank"\n', encoding="utf-8"
    )
    return fake
