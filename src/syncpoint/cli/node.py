"""`syncpoint node`: run the node of a site, or see how the running one is.

SIGTERM and SIGINT end it cleanly. A failed disk ends it with exit code 1, so that its supervisor starts it anew.
Not for: what a node does (node/).
"""

from __future__ import annotations

import signal
import threading
from typing import Annotated

import typer

from syncpoint.cli import setup
from syncpoint.cli.options import ConfigOption, JsonOption
from syncpoint.cli.output import output_of
from syncpoint.config import NodeSettings, Settings
from syncpoint.errors import ConfigurationError, ResourceUnavailable
from syncpoint.journal.node_messages import AskStatus, Status
from syncpoint.link.addresses import UnixAddress, parse_address
from syncpoint.manager.at_node import node_link
from syncpoint.node import health, logs
from syncpoint.node.launching import SystemLauncher
from syncpoint.node.server import Node, as_document
from syncpoint.runners.threads import ThreadRunner
from syncpoint.system import SystemRandom

ASK_S_MAX = 5.0
TICK_S = 1.0

JsonLogsOption = Annotated[bool, typer.Option("--json-logs", help="Log one JSON object a line.")]
CheckOption = Annotated[
    bool, typer.Option("--check", help="Read the configuration, ask the running node how it is, and end.")
]


def node(
    ctx: typer.Context,
    config: ConfigOption = None,
    json_logs: JsonLogsOption = False,
    check: CheckOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run the node of this site, which keeps the journal of its applications (docs/node.md)."""
    settings = setup.settings_of(config=config)
    if settings.node is None:
        where = f"In {settings.file} there is no [node]" if settings.file else "There is no configuration file"
        raise ConfigurationError(f"{where}.", advice="Write one; docs/node.md has a whole one.")
    if check:
        out = output_of(ctx, as_json)
        status = _ask(settings.node)
        out.document(as_document(status), lambda: _in_words(settings, status))
        if not status.ready:
            raise typer.Exit(1)
        return
    logs.set_up(as_json=json_logs)
    run(settings)


def run(settings: Settings) -> None:
    """Until a signal comes. Raises SyncpointError when it cannot start, or has failed."""
    assert settings.node is not None
    made = Node(
        settings.node,
        resources={name: one.table() for name, one in settings.resources.items() if not one.process},
        scope=settings.scope,
        processes={name: one.backup for name, one in settings.resources.items() if one.process},
        launcher=None if settings.file is None else SystemLauncher(settings.file),
    )
    asked = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked.set())
    endpoint = health.Health(settings.node.health, made.status) if settings.node.health else None
    try:
        with made:
            health.notify_systemd("READY=1")
            period_s = health.watchdog_period_s()
            while not asked.wait(min(TICK_S, period_s or TICK_S)) and not made.status().failed:
                health.notify_systemd("WATCHDOG=1")
            health.notify_systemd("STOPPING=1")
    finally:
        if endpoint is not None:
            endpoint.close()
    if made.failure is not None:
        raise made.failure


def _ask(settings: NodeSettings) -> Status:
    """Ask the running node, as an operator. Raises ResourceUnavailable."""
    runner, random = ThreadRunner(), SystemRandom()
    address = next((one for one in settings.listen if isinstance(parse_address(one), UnixAddress)), settings.listen[0])
    options = f"name={settings.name}&cluster={settings.cluster}"
    if settings.tls is not None:
        files = settings.tls
        options += f"&certificate={files.certificate}&key={files.key}&authorities={files.authorities}"
    link = node_link(f"node://{address}?{options}", role="operator", prefix="op-", random=random)
    link.open(runner, random)
    try:
        answer = runner.run(link.ask(AskStatus(), ASK_S_MAX))
    except ResourceUnavailable as error:
        raise ResourceUnavailable(
            f"The configuration is right, but no node {settings.name} answers at {address}.",
            advice="Start it: syncpoint node",
        ) from error
    finally:
        link.close()
        runner.close()
    assert isinstance(answer, Status)
    return answer


def _in_words(settings: Settings, status: Status) -> str:
    assert settings.node is not None
    state = "ready" if status.ready else f"not ready: {status.why}"
    lines = [f"Node {settings.node.name} is {state}; {len(status.applications)} applications are connected."]
    lines += [f"Resource {name}: {trouble}" for name, trouble in sorted(status.unfinished.items())]
    return "\n".join(lines)
