"""Scenes of set-up and of what only one kind of database does: first contact, roles, files that are busy."""

from __future__ import annotations

from typing import Any

import psycopg

from tests.crash.journals import EVERYWHERE
from tests.crash.run import Run
from tests.crash.scenes import Left, scene
from tests.crash.scenes_recovery import PHASE_TWO
from tests.crash.trap import Target
from tests.crash.world import ALL, AUDIT, BANK, LEDGER


@scene(fresh=True, user_id=True, journals=EVERYWHERE)
def first_contact(run: Run) -> None:
    """Syncpoint's schema is made at first use."""
    run.transfer(run.manager(), id=run.name)


@scene(fresh=True, journals=EVERYWHERE)
def initialised_by_hand(run: Run) -> None:
    """As `syncpoint init` does it, twice."""
    manager = run.manager(open=False)
    runner = manager._runner
    for name in ALL * 2:
        resource = manager._core.handles[name].resource
        session = runner.run(resource.open())
        runner.run(resource.initialise(session))
        runner.run(resource.inspect(session))
        runner.run(resource.close(session))
    run.transfer(run.manager())


@scene()
def file_is_busy(run: Run) -> None:
    """Another program has the whole file for itself: opening it waits, and so does first contact."""
    audit = run.audit()
    audit.execute("BEGIN EXCLUSIVE")
    run.trap.before("sleep", lambda: audit.execute("COMMIT"))
    run.transfer(run.manager())


# --- roles ------------------------------------------------------------------------------------------------------

OWNER, FINISHER = "crash_owner", "crash_finisher"


def _with_role(run: Run, role: str) -> dict[str, Any]:
    return {BANK: run.world.bank_url.replace("//postgres@", f"//{role}@")}


@scene(is_tried=False, user_id=True)
def transfer_as_owner(run: Run) -> None:
    """Prepared by a role with no more rights than it needs."""
    with run.bank() as bank:
        _make_roles(bank)
    run.transfer(run.manager((LEDGER, AUDIT), resources=_with_role(run, OWNER)), ALL, id=run.name)


def _make_roles(bank: psycopg.Connection[Any]) -> None:
    have = {name for (name,) in bank.execute("SELECT rolname FROM pg_roles").fetchall()}
    for role in (OWNER, FINISHER):
        if role not in have:
            bank.execute(f"CREATE ROLE {role} LOGIN")
        bank.execute(f"GRANT SELECT, INSERT, UPDATE ON account, transfer TO {role}")
        bank.execute(f"GRANT USAGE ON SCHEMA syncpoint TO {role}")
        bank.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA syncpoint TO {role}")
    bank.execute(f"GRANT {OWNER} TO {FINISHER}")


@scene(left=(Left("transfer_as_owner", Target(what=PHASE_TWO), "committed"),), user_id=True)
def recover_as_member(run: Run) -> None:
    """Finishing takes SET ROLE (DATABASES PostgreSQL 11)."""
    manager = run.manager((LEDGER, AUDIT), resources=_with_role(run, FINISHER))
    report = manager.recover(wait_seconds=10.0)
    assert not report.left, report
