"""Deliberate bugs in takeover (B1..B9), for the simulator to catch: the node, managers, processes, and their data.

Not for: the rules themselves (protocol/takeover.py and its neighbours).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from syncpoint.ids import Guid, Incarnation
from syncpoint.manager.votes import KeptVotes
from syncpoint.messages import Message
from syncpoint.node.registry import ResourceDesk
from syncpoint.node.supervision import STANDBY, Supervisor
from syncpoint.protocol import backup
from syncpoint.protocol.backup import Backup, Effect, SayOpened, Undone
from syncpoint.protocol.coordinator import Coordinator
from syncpoint.protocol.takeover import Registry
from syncpoint.records import BranchEntry, ResourceIncarnation
from syncpoint.resources.node_messages import AskVotes, Votes
from syncpoint.simulation.mutant import Mutant, put
from syncpoint.simulation.rm_data import RmData, RmResource
from syncpoint.steps import Script


@contextmanager
def _unfenced_data() -> Iterator[None]:
    """The data take what comes, from whichever incarnation."""

    def serve_as(self: RmData, incarnation: int) -> None:
        self.served = max(self.served, incarnation)

    with put(RmData, "serve_as", serve_as), put(RmResource, "check", lambda self: None):
        yield


@contextmanager
def _serve_unasked() -> Iterator[None]:
    """A backup serves as soon as it has its incarnation, and the node believes it."""

    def written(self: Backup) -> tuple[Effect, ...]:
        if self.state is not backup.State.FENCED:
            self.state = backup.State.OPEN
        return (SayOpened(self.incarnation, 0),)

    def opened(self: Registry, guid: Guid, incarnation: Incarnation) -> bool:
        self._services[guid].has_snapshot = True
        return _opened(self, guid, incarnation)

    with put(Backup, "written", written), put(Registry, "opened", opened):
        yield


_opened = Registry.opened


def _redo_later(self: Backup, decided: Sequence[Undone], undecided: Sequence[Undone]) -> tuple[Effect, ...]:
    """What was decided is left to others; the backup serves at once."""
    return _told(self, (), undecided)


_told = Backup.told


def _redo_backwards(self: Backup, decided: Sequence[Undone], undecided: Sequence[Undone]) -> tuple[Effect, ...]:
    return _told(self, list(reversed(decided)), undecided)


def _drop_undecided(self: Backup, decided: Sequence[Undone], undecided: Sequence[Undone]) -> tuple[Effect, ...]:
    """The backup does not wait for what managers have not decided."""
    return _told(self, decided, ())


def _without_state(self: Coordinator, yes: Any) -> tuple[BranchEntry, ...]:
    """The vote's state information is dropped when the record is written."""
    return tuple(
        BranchEntry(
            resource=one.resource, guid=one.guid, identifier=one.identifier, state=b"", incarnation=one.incarnation
        )
        for one in _entries(self, yes)
    )


_entries = Coordinator._entries


def _take_any(self: KeptVotes, work: Any, branch: Any, vote: Any) -> str:
    """A vote counts, whoever gave it."""
    return ""


def _tell_nothing(self: KeptVotes, question: AskVotes) -> Script[Message]:
    """A manager does not say what it has not decided."""
    return Votes(undecided=())
    yield from ()


def _force_later(self: ResourceDesk, guid: Guid, record: ResourceIncarnation) -> Script[Any]:
    """An incarnation is given out, and never forced."""
    with self.mutex:
        return self.registry.forced(guid, Incarnation(record.incarnation))
    yield from ()


def _expect_nobody(self: Supervisor, *args: Any, **kwargs: Any) -> None:
    """A loss that the node has not noticed itself is none."""
    _supervise(self, *args, **kwargs)
    for one in self.watched.values():
        if one.policy == STANDBY:
            one.due_at = None


_supervise = Supervisor.__init__


T = partial(Mutant, workload="takeover")
_VOTES = ("kill-process-between-votes", "kill-process-pause-manager", "pause-process-at-a-message")
_LOSSES = ("kill-process", "kill-process-at-a-message", "start-backup")

MUTANTS: tuple[Mutant, ...] = (
    T(
        "takeover: data without a fence",
        "a lower incarnation changes nothing (B7)",
        "resources/base.py",
        _unfenced_data,
    ),
    T("takeover: serve before asking", "a backup asks before it serves (B8)", "protocol/backup.py", _serve_unasked),
    T(
        "takeover: serve before redoing",
        "decided work is done before new work (B9)",
        "protocol/backup.py",
        lambda: put(Backup, "told", _redo_later),
    ),
    T(
        "takeover: redo backwards",
        "redo in the order of the records (B-I3)",
        "protocol/backup.py",
        lambda: put(Backup, "told", _redo_backwards),
        kinds=_LOSSES,
    ),
    T(
        "takeover: drop what is undecided",
        "it opens with no branch undecided (B-I5)",
        "protocol/backup.py",
        lambda: put(Backup, "told", _drop_undecided),
        kinds=_VOTES,
    ),
    T(
        "takeover: forget state information",
        "the record holds what the vote carried (B3)",
        "protocol/coordinator.py",
        lambda: put(Coordinator, "_entries", _without_state),
    ),
    T(
        "takeover: take votes of lower incarnations",
        "no vote that its backup does not know of (B7)",
        "manager/votes.py",
        lambda: put(KeptVotes, "take", _take_any),
        kinds=_VOTES,
    ),
    T(
        "takeover: tell no votes",
        "a backup is told what is undecided (B8)",
        "manager/votes.py",
        lambda: put(KeptVotes, "_answer", _tell_nothing),
        kinds=_VOTES,
    ),
    T(
        "takeover: give out incarnations unforced",
        "an incarnation is forced before use (T-I1)",
        "node/registry.py",
        lambda: put(ResourceDesk, "_force", _force_later),
    ),
    T(
        "takeover: tell no standby after a restart",
        "a node that was away when it was lost has it replaced",
        "node/supervision.py",
        lambda: put(Supervisor, "__init__", _expect_nobody),
    ),
)
