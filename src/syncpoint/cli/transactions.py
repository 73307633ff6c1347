"""Commands about transactions: in-doubt, show, outcome, recover, resolve, forget, adopt.

Not for: what they do to a transaction (manager/operators.py).
"""

from __future__ import annotations

from typing import Annotated

import typer

from syncpoint.cli import setup, views
from syncpoint.cli.options import (
    ConfigOption,
    IdArgument,
    JournalOption,
    JsonOption,
    ResourceOption,
    ScopeOption,
    WhoOption,
    YesOption,
)
from syncpoint.cli.output import output_of
from syncpoint.errors import UnknownResource
from syncpoint.manager.reports import OutcomeState, TransactionReport

__all__ = ["add_to"]


def in_doubt(
    ctx: typer.Context,
    config: ConfigOption = None,
    journal: JournalOption = None,
    resource: ResourceOption = None,
    as_json: JsonOption = False,
) -> None:
    """List every branch in doubt, and every heuristic outcome that nobody has forgotten yet.

    Exit code 1 when a resource could not be asked: the list may lack branches then.
    """
    out = output_of(ctx, as_json)
    with setup.open_manager(config=config, journal=journal, resources=resource, scope=None) as manager:
        branches, heuristics = manager.in_doubt(), manager.heuristics()
    out.document({"branches": branches, "heuristics": heuristics}, lambda: views.in_doubt(branches, heuristics))
    if any(branch.status == "unreachable" for branch in branches):
        raise typer.Exit(1)


def show(
    ctx: typer.Context,
    id: IdArgument,
    config: ConfigOption = None,
    journal: JournalOption = None,
    resource: ResourceOption = None,
    scope: ScopeOption = None,
    as_json: JsonOption = False,
) -> None:
    """All that is known about one transaction: its branches, what the databases prove, and what happened when."""
    out = output_of(ctx, as_json)
    with setup.open_manager(config=config, journal=journal, resources=resource, scope=scope) as manager:
        report = manager.show(id)
    out.document(report, lambda: views.transaction(report))


def outcome(
    ctx: typer.Context,
    id: IdArgument,
    config: ConfigOption = None,
    journal: JournalOption = None,
    resource: ResourceOption = None,
    scope: ScopeOption = None,
    as_json: JsonOption = False,
) -> None:
    """What became of one transaction, and the result stored with it."""
    out = output_of(ctx, as_json)
    with setup.open_manager(config=config, journal=journal, resources=resource, scope=scope) as manager:
        answer = manager.outcome(id)
    out.document(answer, lambda: views.outcome(answer))


def recover(
    ctx: typer.Context,
    wait: Annotated[
        float,
        typer.Option("--wait", min=0, metavar="SECONDS", help="Go on until nothing is in doubt, at most so long."),
    ] = 0,
    config: ConfigOption = None,
    journal: JournalOption = None,
    resource: ResourceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Finish what is in doubt. Exit code 1 when something is left: it is listed, with the reason."""
    out = output_of(ctx, as_json)
    with setup.open_manager(config=config, journal=journal, resources=resource, scope=None) as manager:
        report = manager.recover(wait_seconds=wait)
    out.document(report, lambda: views.recovery(report))
    if report.left or report.unreachable:
        raise typer.Exit(1)


def resolve(
    ctx: typer.Context,
    id: IdArgument,
    reason: Annotated[str, typer.Option("--reason", help="Why; it is kept in the journal.", show_default=False)],
    commit: Annotated[bool, typer.Option("--commit", help="Commit the branches.")] = False,
    abort: Annotated[bool, typer.Option("--abort", help="Roll the branches back.")] = False,
    resource_name: Annotated[
        str | None, typer.Option("--resource-name", metavar="NAME", help="Only the branch at this resource.")
    ] = None,
    yes: YesOption = False,
    who: WhoOption = None,
    config: ConfigOption = None,
    journal: JournalOption = None,
    resource: ResourceOption = None,
    scope: ScopeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Force the branches of one transaction by hand. Shows them and what the databases prove, then asks.

    Recovery decides by proof and needs no help; this is for a branch whose coordinator or journal is lost for good.
    """
    out = output_of(ctx, as_json)
    if commit == abort:
        raise typer.BadParameter("Give exactly one of --commit and --abort.")
    if not reason.strip():
        raise typer.BadParameter("A reason is needed: it is kept in the journal.", param_hint="--reason")
    out.require_yes(yes)
    with setup.open_manager(config=config, journal=journal, resources=resource, scope=scope) as manager:
        report = manager.show(id)
        out.human(views.transaction(report))
        _must_have_branch(report, resource_name)
        warning = _contradiction(report, resource_name, commit=commit)
        if warning:
            typer.echo(f"Warning: {warning}", err=True)
        if not yes:
            verb = "Commit" if commit else "Roll back"
            what = f"the branch at {resource_name}" if resource_name else "every branch listed above"
            typer.confirm(f"{verb} {what} by hand?", abort=True, err=True)
        branches = manager.resolve(id, commit=commit, reason=reason, who=who or "", resource=resource_name)
    out.document({"before": report, "resolved": branches, "warning": warning}, lambda: views.resolved(branches))
    done = ("COMMITTED", "HEURISTIC_COMMIT") if commit else ("ABORTED", "HEURISTIC_ROLLBACK")
    if not branches or any(branch.answer not in done for branch in branches):
        raise typer.Exit(1)


def forget(
    ctx: typer.Context,
    id: IdArgument,
    who: WhoOption = None,
    config: ConfigOption = None,
    journal: JournalOption = None,
    resource: ResourceOption = None,
    scope: ScopeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a transaction's heuristic outcome off the list: someone has looked, and mended the data."""
    out = output_of(ctx, as_json)
    with setup.open_manager(config=config, journal=journal, resources=resource, scope=scope) as manager:
        count = manager.forget(id, who=who or "")
    out.document(
        {"id": id, "forgotten": count},
        lambda: f"Forgotten: {count}." if count else f"No heuristic outcome of {id} is listed; nothing was changed.",
    )


def adopt(
    ctx: typer.Context,
    guid: Annotated[str, typer.Argument(metavar="GUID", help="The coordinator's, as `syncpoint in-doubt` prints it.")],
    address: Annotated[str, typer.Option("--address", help="Where that journal was, for people.")] = "",
    yes: YesOption = False,
    who: WhoOption = None,
    config: ConfigOption = None,
    journal: JournalOption = None,
    resource: ResourceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Answer from now on for another journal that is lost for good: its branches in doubt are then rolled back."""
    out = output_of(ctx, as_json)
    out.require_yes(yes)
    if not yes:
        typer.echo(
            f"Every branch in doubt of coordinator {guid} will be rolled back, also one that its journal had decided "
            "to commit. Right only if that journal is lost for good.",
            err=True,
        )
        typer.confirm("Adopt it?", abort=True, err=True)
    with setup.open_manager(config=config, journal=journal, resources=resource, scope=None) as manager:
        manager.adopt(guid, address=address, who=who or "")
    out.document(
        {"coordinator": guid, "adopted": True},
        lambda: f"Adopted {guid}. `syncpoint recover` finishes its branches now; so does the next start.",
    )


def add_to(app: typer.Typer) -> None:
    """Register the commands, in the order in which the help lists them."""
    app.command("in-doubt")(in_doubt)
    app.command("show")(show)
    app.command("outcome")(outcome)
    app.command("recover")(recover)
    app.command("resolve")(resolve)
    app.command("forget")(forget)
    app.command("adopt")(adopt)


def _must_have_branch(report: TransactionReport, resource: str | None) -> None:
    names = sorted({branch.resource for branch in report.branches})
    if resource is not None and resource not in names:
        raise UnknownResource(
            f"Transaction {report.user_id or report.transaction} has no branch at a resource {resource!r}; "
            "nothing was forced.",
            advice=f"It has branches at: {', '.join(names) or 'none that is known'}.",
        )


def _contradiction(report: TransactionReport, resource: str | None, *, commit: bool) -> str:
    """A sentence when the wish goes against the decision or against what a database proves; empty otherwise."""
    proven = [
        branch.resource
        for branch in report.branches
        if branch.evidence == "committed" and (resource is None or branch.resource == resource)
    ]
    if not commit and report.state is OutcomeState.COMMITTED:
        return "its decision is commit, and recovery would commit these branches; the outcome will be heuristic."
    if not commit and proven:
        return f"the database proves that it is committed at {', '.join(proven)}; that cannot be taken back."
    if commit and report.state in (OutcomeState.ABORTED_OR_UNKNOWN, OutcomeState.PENDING):
        return "no decision to commit is known here; the other branches may have been rolled back."
    return ""
