"""Commands about databases: doctor, init. They need no journal and change no transaction.

Not for: what is checked (each adapter's `inspect`) or made (its `init_statements`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

import typer
from rich.text import Text

from syncpoint.cli import setup, views
from syncpoint.cli.options import ConfigOption, JournalOption, JsonOption, ResourceOption
from syncpoint.cli.output import kind_of, output_of, without_secrets
from syncpoint.cli.views import Checkup, Made
from syncpoint.config import ResourceSettings, parse_resource_option
from syncpoint.errors import ConfigurationError, SyncpointError
from syncpoint.journal.database_admin import DatabaseAdmin
from syncpoint.journal.urls import is_database
from syncpoint.manager.at_node import is_at_node
from syncpoint.resources.base import Finding, Resource, Session, Severity
from syncpoint.runners.threads import ThreadRunner
from syncpoint.steps import Script

__all__ = ["add_to", "with_session"]

T = TypeVar("T")
JOURNAL = "journal"
"""The name under which the journal's database is listed."""

UrlsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[URL|NAME=URL|NAME]...", help="Which databases; else all configured ones.", show_default=False
    ),
]
_NAME = re.compile(r"[A-Za-z0-9_-]+\Z")
_NAMED_URL = re.compile(r"[A-Za-z0-9_-]+=[A-Za-z]")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


def doctor(
    ctx: typer.Context,
    urls: UrlsArgument = None,
    config: ConfigOption = None,
    resource: ResourceOption = None,
    journal: JournalOption = None,
    as_json: JsonOption = False,
) -> None:
    """Look for set-ups under which a promise could not be kept, with the line that mends each. Changes nothing.

    Exit code 1 when a database is refused or cannot be reached.
    """
    out = output_of(ctx, as_json)
    chosen = _chosen(urls, config, resource)
    admin = _journal(urls, config, resource, journal)
    checkups = [_check_up(one, admin) for one in chosen]
    if admin is not None:
        checkups.append(_check_up_journal(admin))
    out.document({"resources": checkups}, lambda: views.checkups(checkups))
    if not all(checkup.ok for checkup in checkups):
        raise typer.Exit(1)


def init(
    ctx: typer.Context,
    urls: UrlsArgument = None,
    print_sql: Annotated[
        bool, typer.Option("--print-sql", help="Print the statements for someone with the rights; touch nothing.")
    ] = False,
    config: ConfigOption = None,
    resource: ResourceOption = None,
    journal: JournalOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make what Syncpoint keeps in a database (its own schema), and the journal's tables when it is in a database.
    Harmless to repeat."""
    out = output_of(ctx, as_json)
    chosen = _chosen(urls, config, resource)
    admin = _journal(urls, config, resource, journal)
    if print_sql:
        scripts = [Made(name=one.name, url=one.shown, statements=_statements(one)) for one in chosen]
        if admin is not None:
            scripts.append(_made_journal(admin))
        # Text, not a table: it is to be copied or piped into a client.
        out.document({"resources": scripts}, lambda: Text("\n".join(views.sql(script) for script in scripts)))
        return
    made = [_initialise(one) for one in chosen]
    if admin is not None:
        made.append(_initialise_journal(admin))
    out.document({"resources": made}, lambda: views.made(made))
    if not all(one.ok for one in made):
        raise typer.Exit(1)


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command("doctor")(doctor)
    app.command("init")(init)


def _chosen(urls: Sequence[str] | None, config: str | None, resources: Sequence[str] | None) -> list[ResourceSettings]:
    if urls and all(_is_url(text) for text in urls):
        # Complete without a configuration: a broken file, or another directory's, must not matter.
        named = {one.name: one for one in map(parse_resource_option, resources or ())}
    else:
        named = dict(setup.settings_of(config=config, resources=resources).resources)
    if urls:
        return [_one(text, number, named) for number, text in enumerate(urls, 1)]
    if not named:
        raise ConfigurationError(
            "There is no database to look at: no URL is given and no resource is configured.",
            advice="Write for example: syncpoint doctor postgresql://localhost/bank",
        )
    return list(named.values())


def _is_url(text: str) -> bool:
    return bool(_NAMED_URL.match(text) or _URL.match(text))


def _one(text: str, number: int, named: dict[str, ResourceSettings]) -> ResourceSettings:
    if _NAMED_URL.match(text):
        return parse_resource_option(text)
    if _URL.match(text):
        return ResourceSettings(name=f"database-{number}", url=text)
    if text in named:
        return named[text]
    shown = repr(text) if _NAME.match(text) else "What is given"  # anything else may hold a password
    raise ConfigurationError(
        f"{shown} is neither a URL nor a configured resource.",
        advice=f"Configured: {', '.join(named) or 'none'}. A URL begins with a scheme, such as postgresql://",
    )


def _journal(
    urls: Sequence[str] | None, config: str | None, resources: Sequence[str] | None, journal: str | None
) -> DatabaseAdmin | None:
    """The journal's database: the one named, or the configured one when all configured databases are meant."""
    if urls and journal is None:
        return None
    settings = setup.settings_of(config=config, journal=journal, resources=resources)
    if not settings.journal or is_at_node(settings.journal):
        return None
    if not is_database(settings.journal, settings.resources):
        return None
    return setup.journal_admin(settings)


def _check_up_journal(admin: DatabaseAdmin) -> Checkup:
    return _check_with(JOURNAL, admin.store.resource.safe_url, admin.store.resource, lambda _, s: admin.inspect(s))


def _made_journal(admin: DatabaseAdmin, error: str = "") -> Made:
    url = admin.store.resource.safe_url
    return Made(name=JOURNAL, url=url, ok=not error, error=error, statements=list(admin.init_statements()))


def _initialise_journal(admin: DatabaseAdmin) -> Made:
    try:
        with_session(admin.store.resource, lambda _, session: admin.initialise(session))
    except SyncpointError as error:
        return _made_journal(admin, without_secrets(f"{error.message} {error.advice}".strip()))
    return _made_journal(admin)


def _check_up(settings: ResourceSettings, journal: DatabaseAdmin | None) -> Checkup:
    resource = setup.make(settings)
    decides = journal is not None and journal.store.resource.safe_url == resource.safe_url

    def inspect(one: Resource, session: Session) -> Script[list[Finding]]:
        findings = yield from one.inspect(session)
        return [_excused(finding) if decides and finding.for_prepare else finding for finding in findings]

    return _check_with(settings.name, settings.shown, resource, inspect)


def _excused(finding: Finding) -> Finding:
    """A journal's own database prepares nothing: its commit is the decision."""
    return Finding(Severity.OK, finding.check, f"{finding.found}; not needed where the journal is", for_prepare=True)


def _check_with(
    name: str, url: str, resource: Resource, ask: Callable[[Resource, Session], Script[list[Finding]]]
) -> Checkup:
    try:
        findings = list(resource.look_only()) or with_session(resource, ask)
    except ConfigurationError:
        raise  # the question is wrong, not the database
    except SyncpointError as error:
        refusal = Finding(
            Severity.REFUSED, kind_of(error), without_secrets(error.message), without_secrets(error.advice)
        )
        return Checkup(name=name, url=url, ok=False, findings=[refusal])
    return Checkup(
        name=name,
        url=url,
        ok=all(finding.severity is not Severity.REFUSED for finding in findings),
        findings=findings,
    )


def _initialise(settings: ResourceSettings) -> Made:
    url = settings.shown
    resource = setup.make(settings)
    try:
        with_session(resource, lambda one, session: one.initialise(session))
    except SyncpointError as error:
        advice = error.advice.partition("\n")[0]  # the statements follow it; they are printed below
        why = without_secrets(f"{error.message} {advice}".strip())
        return Made(name=settings.name, url=url, ok=False, error=why, statements=list(resource.init_statements()))
    return Made(name=settings.name, url=url, statements=list(resource.init_statements()))


def _statements(settings: ResourceSettings) -> list[str]:
    return list(setup.make(settings).init_statements())


def with_session(resource: Resource, use: Callable[[Resource, Session], Script[T]]) -> T:
    """Use one session of a resource, blocking, and close it."""
    runner = ThreadRunner()
    try:
        session = runner.run(resource.open())
        try:
            return runner.run(use(resource, session))
        finally:
            runner.run(resource.close(session))
    finally:
        runner.close()
