"""From options and configuration to a manager, or to single resources.

Tests put another manager in by replacing `make_manager`. Not for: reading files (config.py).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from syncpoint.config import ResourceSettings, Settings, find_file, load, parse_resource_option
from syncpoint.errors import ConfigurationError, JournalRefused
from syncpoint.journal.urls import is_database
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

if TYPE_CHECKING:
    from syncpoint.journal.database_admin import DatabaseAdmin

__all__ = ["Manager", "journal_admin", "make", "make_manager", "open_manager", "settings_of"]


class Manager(Protocol):
    """What the commands use of `syncpoint.TransactionManager`."""

    def in_doubt(self) -> list[InDoubtBranch]: ...

    def heuristics(self) -> list[HeuristicEntry]: ...

    def show(self, id: str) -> TransactionReport: ...

    def outcome(self, id: str) -> Outcome: ...

    def resolve(
        self, id: str, commit: bool, reason: str, who: str = "", resource: str | None = None
    ) -> list[ResolvedBranch]: ...

    def forget(self, id: str, who: str = "") -> int: ...

    def adopt(self, guid: str, address: str = "", who: str = "") -> None: ...

    def recover(self, wait_seconds: float = 0.0) -> RecoveryReport: ...


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
    if not is_database(settings.journal, settings.resources):
        _must_be_there(settings.journal)
    return make_manager(settings)


def make_manager(settings: Settings) -> AbstractContextManager[Manager]:
    """A manager that recovers nothing on its own: the commands say when."""
    from syncpoint.manager.sync import TransactionManager

    return TransactionManager(
        settings.journal or "",
        {name: one.table() for name, one in settings.resources.items()},
        scope=settings.scope,
        timeout=settings.timeout_s,
        background=False,
    )


def _must_be_there(journal: str) -> None:
    """A command looks at a journal that is there. Only an application begins one: here a wrong path must be told."""
    folder = journal.removeprefix("file://")
    try:
        missing = not Path(folder).exists()
    except OSError:
        return  # it cannot even be looked for: opening it says why
    if missing:
        raise JournalRefused(
            f"There is no journal at {folder}.", advice="Name the folder that the application uses; mind where you are."
        )


def journal_admin(settings: Settings) -> DatabaseAdmin:
    """The database that holds the journal, for blocking use. Raises ConfigurationError."""
    from syncpoint.journal.database_admin import DatabaseAdmin
    from syncpoint.journal.urls import database_place
    from syncpoint.system import SystemClock, SystemRandom

    random = SystemRandom()
    tables = {name: one.table() for name, one in settings.resources.items()}
    place = database_place(settings.journal or "", tables, mode="sync", clock=SystemClock(), random=random)
    return DatabaseAdmin(place.store, random, place.options.cluster)


def make(settings: ResourceSettings) -> Resource:
    """One resource, for blocking use."""
    from syncpoint.system import SystemClock, SystemRandom

    return make_resource(settings.name, settings.table(), mode="sync", clock=SystemClock(), random=SystemRandom())
