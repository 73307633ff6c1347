"""`syncpoint resource`: the processes that serve resources (B).

    syncpoint resource run audit --config /etc/syncpoint.toml            serve it; take over from whoever did
    syncpoint resource run audit --standby …                             wait until the node says that it is needed

The data are what `[resources.audit]` of the file names; the node is that of its journal (node://…), or its own [node].
SIGTERM and SIGINT end a process cleanly. Exit code 3: it was fenced off, or lost its node, and must not serve any
more; whoever supervises it may start it anew.

Not for: what such a process does (resources/process_driver.py).
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from typing import Annotated, Final

import typer

from syncpoint.cli import setup
from syncpoint.cli.options import ConfigOption
from syncpoint.cli.output import Output, output_of
from syncpoint.config import NodeSettings, Settings
from syncpoint.errors import ConfigurationError, Fenced
from syncpoint.link.addresses import UnixAddress, parse_address
from syncpoint.manager.at_node import is_at_node, node_link
from syncpoint.node import logs
from syncpoint.resources.process import ProcessResource
from syncpoint.resources.process_driver import DEAD_AFTER_S, NodeLost, ProcessDriver
from syncpoint.resources.process_host import ProcessHost
from syncpoint.runners.threads import ThreadRunner
from syncpoint.system import SystemClock, SystemRandom

MUST_STOP: Final = 3
"""The exit code of a process that must not serve any more."""

app = typer.Typer(help="Processes that serve resources, with backups.", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The resource, as the configuration names it.")]
StandbyOption = Annotated[bool, typer.Option("--standby", help="Wait until the node says that it is needed.")]
DeadAfterOption = Annotated[
    float, typer.Option("--dead-after", metavar="SECONDS", help="Stop when the node is silent for so long.")
]
JsonLogsOption = Annotated[bool, typer.Option("--json-logs", help="Log one JSON object a line.")]


@app.command("run")
def run(
    ctx: typer.Context,
    name: NameArgument,
    config: ConfigOption = None,
    standby: StandbyOption = False,
    dead_after: DeadAfterOption = DEAD_AFTER_S,
    json_logs: JsonLogsOption = False,
) -> None:
    """Serve a resource's data to the managers of this site (docs/resource-managers.md)."""
    settings = setup.settings_of(config=config)
    logs.set_up(as_json=json_logs)
    try:
        serve(settings, name, standby=standby, dead_after_s=dead_after)
    except (Fenced, NodeLost) as error:
        out: Output = output_of(ctx, False)
        out.error(error)
        raise typer.Exit(MUST_STOP) from error


def serve(
    settings: Settings,
    name: str,
    *,
    standby: bool = False,
    dead_after_s: float = DEAD_AFTER_S,
    started: Callable[[ProcessDriver], None] = lambda driver: None,
) -> None:
    """Until a signal comes. Raises SyncpointError: what ended it. `started` is told of the driver, for tests."""
    if not dead_after_s > 0:
        raise ConfigurationError(f"--dead-after {dead_after_s} is no time.", advice="Give seconds, more than 0.")
    if name not in settings.resources:
        raise ConfigurationError(
            f"There is no resource {name!r} in {settings.file or 'the configuration'}.",
            advice=f"It has {', '.join(sorted(settings.resources)) or 'none'}.",
        )
    url = node_url(settings)
    resource = setup.make(settings.resources[name])
    if isinstance(resource, ProcessResource):
        raise ConfigurationError(
            f"[resources.{name}] names {resource.safe_url}, which is how managers reach it.",
            advice="For its process name the data themselves: sqlite:///audit.db, or a class of yours.",
        )
    runner, clock, random = ThreadRunner(), SystemClock(), SystemRandom()
    host = ProcessHost(resource, runner, clock)
    link = node_link(url, role="resource", prefix="rm-", random=random)
    driver = ProcessDriver(
        host,
        ask=link.ask,
        runtime=runner,
        clock=clock,
        random=random,
        standby=standby,
        place=f"{socket.gethostname()}, process {os.getpid()}",
        dead_after_s=dead_after_s,
    )
    resource.attach(driver.rule, runner)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: driver.stop())
    link.desks.append(driver)
    started(driver)
    link.open(runner, random)
    try:
        runner.run(driver.run())
    finally:
        link.close()
        runner.close()


def node_url(settings: Settings) -> str:
    """Where the node is: what the journal says, or else the [node] of the same file. Raises ConfigurationError."""
    if settings.journal and is_at_node(settings.journal):
        return settings.journal
    if settings.node is None:
        where = f"In {settings.file}" if settings.file else "There is no configuration file:"
        raise ConfigurationError(
            f"{where} no node is named.",
            advice='Write journal = "node://unix:///run/syncpoint/node.sock" under [syncpoint] (docs/node.md).',
        )
    return _url_of(settings.node)


def _url_of(node: NodeSettings) -> str:
    address = next((one for one in node.listen if isinstance(parse_address(one), UnixAddress)), node.listen[0])
    options = f"name={node.name}&cluster={node.cluster}"
    if node.tls is not None:
        options += f"&certificate={node.tls.certificate}&key={node.tls.key}&authorities={node.tls.authorities}"
    return f"node://{address}?{options}"
