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
from syncpoint.cli.options import ConfigOption, JsonOption, ResourceOption
from syncpoint.cli.output import kind_of, output_of, without_secrets
from syncpoint.cli.views import Checkup, Made
from syncpoint.config import ResourceSettings, hide_secrets, parse_resource_option
from syncpoint.errors import ConfigurationError, SyncpointError
from syncpoint.resources.base import Finding, Resource, Session, Severity
from syncpoint.runners.threads import ThreadRunner
from syncpoint.steps import Script

__all__ = ["add_to"]

T = TypeVar("T")

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
    as_json: JsonOption = False,
) -> None:
    """Look for set-ups under which a promise could not be kept, with the line that mends each. Changes nothing.

    Exit code 1 when a database is refused or cannot be reached.
    """
    out = output_of(ctx, as_json)
    checkups = [_check_up(one) for one in _chosen(urls, config, resource)]
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
    as_json: JsonOption = False,
) -> None:
    """Make what Syncpoint keeps in a database (its own schema). Harmless to repeat."""
    out = output_of(ctx, as_json)
    chosen = _chosen(urls, config, resource)
    if print_sql:
        scripts = [Made(name=one.name, url=hide_secrets(one.url), statements=_statements(one)) for one in chosen]
        # Text, not a table: it is to be copied or piped into a client.
        out.document({"resources": scripts}, lambda: Text("\n".join(views.sql(script) for script in scripts)))
        return
    made = [_initialise(one) for one in chosen]
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


def _check_up(settings: ResourceSettings) -> Checkup:
    url = hide_secrets(settings.url)
    try:
        resource = setup.make(settings)
        findings = list(resource.look_only()) or _with_session(resource, lambda one, session: one.inspect(session))
    except ConfigurationError:
        raise  # the question is wrong, not the database
    except SyncpointError as error:
        refusal = Finding(
            Severity.REFUSED, kind_of(error), without_secrets(error.message), without_secrets(error.advice)
        )
        return Checkup(name=settings.name, url=url, ok=False, findings=[refusal])
    return Checkup(
        name=settings.name,
        url=url,
        ok=all(finding.severity is not Severity.REFUSED for finding in findings),
        findings=findings,
    )


def _initialise(settings: ResourceSettings) -> Made:
    url = hide_secrets(settings.url)
    resource = setup.make(settings)
    try:
        _with_session(resource, lambda one, session: one.initialise(session))
    except SyncpointError as error:
        advice = error.advice.partition("\n")[0]  # the statements follow it; they are printed below
        why = without_secrets(f"{error.message} {advice}".strip())
        return Made(name=settings.name, url=url, ok=False, error=why, statements=list(resource.init_statements()))
    return Made(name=settings.name, url=url, statements=list(resource.init_statements()))


def _statements(settings: ResourceSettings) -> list[str]:
    return list(setup.make(settings).init_statements())


def _with_session(resource: Resource, use: Callable[[Resource, Session], Script[T]]) -> T:
    runner = ThreadRunner()
    try:
        session = runner.run(resource.open())
        try:
            return runner.run(use(resource, session))
        finally:
            runner.run(resource.close(session))
    finally:
        runner.close()
