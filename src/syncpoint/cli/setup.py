"""From options and configuration to a manager, or to single resources.

Tests put another manager in by replacing `make_manager`. Not for: reading files (config.py).
"""

from __future__ import annotations

import getpass
import importlib
import os
import socket
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Protocol

from syncpoint.config import ResourceSettings, Settings, find_file, load, parse_resource_option
from syncpoint.errors import ConfigurationError
from syncpoint.manager.reports import (
    HeuristicEntry,
    InDoubtBranch,
    Outcome,
    RecoveryReport,
    ResolvedBranch,
    TransactionReport,
)
from syncpoint.resources.base import Resource
from syncpoint.resources.registry import make_resource

__all__ = ["Manager", "make", "make_manager", "open_manager", "settings_of", "who_am_i"]


class Manager(Protocol):
    """What the commands use of `syncpoint.TransactionManager`."""

    def in_doubt(self) -> list[InDoubtBranch]: ...

    def heuristics(self) -> list[HeuristicEntry]: ...

    def show(self, id: str) -> TransactionReport: ...

    def outcome(self, id: str) -> Outcome: ...

    def resolve(
        self, id: str, *, commit: bool, reason: str, who: str, resource: str | None = None
    ) -> list[ResolvedBranch]: ...

    def forget(self, id: str, *, who: str) -> int: ...

    def adopt(self, guid: str, *, address: str = "", who: str) -> None: ...

    def recover(self, wait_seconds: float = 0) -> RecoveryReport: ...


def settings_of(
    *, config: str | None, journal: str | None = None, resources: Sequence[str] | None = None, scope: str | None = None
) -> Settings:
    """The file, with what the options say put over it."""
    settings = load(find_file(config, os.environ), os.environ)
    extra = [parse_resource_option(text) for text in resources or ()]
    return replace(
        settings,
        journal=settings.journal if journal is None else journal,
        scope=settings.scope if scope is None else scope,
        resources={**settings.resources, **{one.name: one for one in extra}},
    )


def open_manager(
    *, config: str | None, journal: str | None, resources: Sequence[str] | None, scope: str | None
) -> AbstractContextManager[Manager]:
    """The manager that the options and the configuration name. Raises ConfigurationError when they name none."""
    settings = settings_of(config=config, journal=journal, resources=resources, scope=scope)
    where = f"in {settings.file}" if settings.file else "there is no configuration file"
    if not settings.journal:
        raise ConfigurationError(
            f"No journal is named ({where}).", advice='Write journal = "…" under [syncpoint], or give --journal.'
        )
    if not settings.resources:
        # With no resource to ask, "nothing is in doubt" would be no answer.
        raise ConfigurationError(
            f"No resource is configured ({where}).", advice="Write them under [resources], or give --resource name=url."
        )
    return make_manager(settings)


def make_manager(settings: Settings) -> AbstractContextManager[Manager]:
    """A manager that recovers nothing on its own: the commands say when."""
    facade: Any = importlib.import_module("syncpoint")
    manager: AbstractContextManager[Manager] = facade.TransactionManager(
        journal=settings.journal,
        resources={name: one.table() for name, one in settings.resources.items()},
        scope=settings.scope,
        timeout=settings.timeout_s,
        background=False,
    )
    return manager


def make(settings: ResourceSettings) -> Resource:
    """One resource, for blocking use."""
    from syncpoint.system import SystemClock, SystemRandom

    return make_resource(settings.name, settings.table(), mode="sync", clock=SystemClock(), random=SystemRandom())


def who_am_i(given: str | None) -> str:
    """Who acts, for the journal."""
    if given:
        return given
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = f"user {os.getuid()}"
    return f"{user}@{socket.gethostname()}"
