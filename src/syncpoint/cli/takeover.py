"""`syncpoint resource list` and `syncpoint takeover NAME`: how resource managers are, and having one taken over.

Both ask the running node, as an operator. Not for: what a takeover does (node/registry.py, node/supervision.py).
"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import RenderableType
from rich.table import Table

from syncpoint.cli import setup
from syncpoint.cli.options import ConfigOption, JsonOption, WhoOption
from syncpoint.cli.output import output_of
from syncpoint.cli.resource import app as resource_app
from syncpoint.cli.resource import node_url
from syncpoint.config import Settings
from syncpoint.errors import ConnectionLost, ResourceUnavailable, UnknownResource
from syncpoint.ids import Guid, Identifier
from syncpoint.manager.at_node import node_link
from syncpoint.manager.base import whoami
from syncpoint.messages import Message
from syncpoint.resources.node_messages import ListResources, ResourceLine, Resources, TakeOver, TakeOverPlan
from syncpoint.runners.threads import ThreadRunner
from syncpoint.system import SystemRandom

__all__ = ["add_to"]

LIST_S_MAX = 5.0
PLAN_S_MAX = 30.0
"""The node asks every manager, and waits for those that are slow."""

_COLUMNS = ("name", "GUID", "incarnation", "state", "where", "standbys", "backlog", "in doubt", "oldest", "trouble")

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The resource, as the configuration names it.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]


def list_resources(ctx: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Every resource manager of this site: who it is, how it is, where it runs, what waits and what is in doubt."""
    out = output_of(ctx, as_json)
    answer = _ask(setup.settings_of(config=config), ListResources(), LIST_S_MAX)
    assert isinstance(answer, Resources)
    lines = [_as_document(line) for line in answer.lines]
    out.document({"resources": lines}, lambda: _as_table(answer.lines))


def takeover(
    ctx: typer.Context,
    name: NameArgument,
    config: ConfigOption = None,
    dry_run: DryRunOption = False,
    who: WhoOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a resource manager's incarnation from whoever has it, and have a backup take over; say what it will do.

    Exit code 1 when nobody can take over.
    """
    out = output_of(ctx, as_json)
    question = TakeOver(resource=name, dry_run=dry_run, who=who or whoami())
    plan = _ask(setup.settings_of(config=config), question, PLAN_S_MAX)
    assert isinstance(plan, TakeOverPlan)
    if not plan.found:
        raise UnknownResource(f"{plan.why[:1].upper()}{plan.why[1:]}.", advice="See: syncpoint resource list")
    document = {
        "resource": name,
        "incarnation": plan.incarnation,
        "by": plan.by,
        "begun": plan.begun,
        "why": plan.why,
        "decided": [str(Identifier.from_bytes(one)) for one in plan.decided],
        "undecided": [str(Identifier.from_bytes(one)) for one in plan.undecided],
    }
    out.document(document, lambda: _plan_in_words(name, plan, dry_run=dry_run))
    if not plan.by:
        raise typer.Exit(1)


def _ask(settings: Settings, question: Message, seconds: float) -> Message:
    """Ask the running node. Raises ResourceUnavailable."""
    runner, random = ThreadRunner(), SystemRandom()
    url = node_url(settings)
    link = node_link(url, role="operator", prefix="op-", random=random)
    link.open(runner, random)
    try:
        answer: Message = runner.run(link.ask(question, seconds))
        return answer
    except (ResourceUnavailable, ConnectionLost) as error:
        raise ResourceUnavailable(
            f"The node at {url.removeprefix('node://').partition('?')[0]} does not answer: {error.message}",
            advice="Is it running? See: syncpoint node --check",
        ) from error
    finally:
        link.close()
        runner.close()


def _as_document(line: ResourceLine) -> dict[str, Any]:
    return {
        "name": line.name,
        "guid": str(Guid(line.guid)) if line.guid else None,
        "incarnation": line.incarnation,
        "state": line.state,
        "place": line.place,
        "standbys": line.standbys,
        "backlog": line.backlog,
        "in_doubt": line.in_doubt,
        "oldest_ms": line.oldest_ms,
        "trouble": line.trouble,
    }


def _as_table(lines: tuple[ResourceLine, ...]) -> RenderableType:
    if not lines:
        return "This node has no resource managers: none of its resources says process = true."
    made = Table(*_COLUMNS)
    for line in lines:
        made.add_row(
            line.name,
            str(Guid(line.guid)) if line.guid else "",
            str(line.incarnation),
            line.state,
            line.place,
            str(line.standbys),
            str(line.backlog),
            str(line.in_doubt),
            f"{line.oldest_ms / 1000:.1f} s" if line.in_doubt else "",
            line.trouble,
        )
    return made


def _plan_in_words(name: str, plan: TakeOverPlan, *, dry_run: bool) -> str:
    """One sentence for each thing that matters."""
    if not plan.by:
        return f"Resource manager {name}, incarnation {plan.incarnation}: {plan.why}. Nothing was done."
    verb = "would take over" if dry_run or not plan.begun else "takes over"
    lines = [f"Resource manager {name}: {plan.by} {verb}; incarnation {plan.incarnation} is fenced then."]
    lines.append(f"It finishes {len(plan.decided)} decided branches, and redoes those of them that the data have lost.")
    lines += [f"  {Identifier.from_bytes(one)}" for one in plan.decided]
    lines.append(f"It waits for the outcome of {len(plan.undecided)} branches, and rolls back all others.")
    lines += [f"  {Identifier.from_bytes(one)}" for one in plan.undecided]
    return "\n".join(lines)


def add_to(app: typer.Typer) -> None:
    """Put the commands where they belong."""
    resource_app.command("list")(list_resources)
    app.command("takeover")(takeover)
