"""One live transaction inside the manager: its branches, its deadline, its nested blocks.

Both facades (sync.py, aio.py) wrap the same `Work`. Not for: the end of a transaction (commit.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from syncpoint.errors import ResourceUnavailable, TransactionEnded, TransactionTimeout
from syncpoint.ids import Key
from syncpoint.manager.branch import Branch
from syncpoint.protocol.coordinator import Coordinator, State
from syncpoint.resources.pool import Sessions
from syncpoint.steps import Script, Wait

if TYPE_CHECKING:
    from syncpoint.manager.core import Core
    from syncpoint.messages import Message
    from syncpoint.ports import Signal
    from syncpoint.resources.base import Session

Callback = Callable[[], Any]


class Used(NamedTuple):
    """Who has joined with a ticket, and what it was answered."""

    guid: bytes
    attempt: int
    answer: Message


class Work:
    """A live transaction. `name` is what people call it: the user's id, or the transaction id in hexadecimal."""

    __slots__ = (
        "_opening",
        "branches",
        "callbacks",
        "cancelled",
        "checks",
        "claimed",
        "coordinator",
        "core",
        "deadline",
        "ended",
        "error",
        "fingerprint",
        "is_closed",
        "key",
        "result",
        "retryable",
        "savepoints",
        "tickets",
        "timeout_s",
        "told",
        "user_id",
        "wait_applied",
    )

    def __init__(
        self,
        core: Core,
        key: Key,
        *,
        user_id: str | None,
        fingerprint: bytes,
        timeout_s: float,
        wait_applied: bool,
        coordinator: Coordinator | None = None,
    ) -> None:
        self.core = core
        self.key = key
        self.user_id = user_id
        self.fingerprint = fingerprint
        self.timeout_s = timeout_s
        self.wait_applied = wait_applied
        self.deadline = core.clock.monotonic() + timeout_s
        self.coordinator = coordinator or Coordinator(key, core.journal.coordinator)
        self.branches: dict[str, Branch] = {}
        self.callbacks: list[Callback] = []
        self.checks: list[Callable[[], str]] = []
        """Asked before the commit: why it must not be, or nothing. For integrations that keep work of their own."""
        self.tickets: dict[bytes, Used | None] = {}
        """Of the contexts that were exported, and who has joined with them: with each only one."""
        self.savepoints: list[str] = []
        """Open nested blocks, outermost first."""
        self.result: bytes | None = None
        self.claimed = False
        self.is_closed = False
        """Its end has begun: no other manager joins any more. Changed under the core's mutex."""
        self.told = False
        """Its caller was told "committed", with phase two still to come (wait="decided")."""
        self.cancelled = ""
        """Why it must not commit any more; read before the decision."""
        self.ended = False
        self.error: BaseException | None = None
        """The first error that kept it from committing: the cause of TransactionAborted."""
        self.retryable = True
        self._opening: dict[str, Signal] = {}

    @property
    def name(self) -> str:
        return self.user_id if self.user_id is not None else str(self.key.transaction)

    def __repr__(self) -> str:
        return f"<Transaction {self.name} {self.coordinator.state.name} over {sorted(self.branches) or 'nothing yet'}>"

    # --- work ------------------------------------------------------------------------------------------------

    def check_active(self) -> None:
        """Raises TransactionEnded when no more work can be done in it."""
        if self.ended or self.coordinator.state is not State.ACTIVE:
            raise TransactionEnded(
                f"Transaction {self.name!r} has ended ({self.coordinator.state.name.lower()}).",
                advice="Begin a new one.",
            )

    def branch(self, resource: str, *, read_only: bool = False, sessions: Sessions | None = None) -> Script[Branch]:
        """The branch at a resource, begun if it was not. Safe to ask for from several threads or tasks at once.
        Its session comes from `sessions`, or from the resource's pool.

        Raises UnknownResource, ResourceUnavailable, SetupRefused, TransactionTimeout, or the driver's error.
        """
        self.check_active()
        handle = self.core.handle(resource)
        while True:
            with self.core.mutex:
                branch = self.branches.get(resource)
                opening = self._opening.get(resource)
                if branch is None and opening is None:
                    self._opening[resource] = self.core.runtime.signal()
                    break
            if opening is None:
                assert branch is not None
                return self._begun(branch)
            yield Wait(opening, self.deadline - self.core.clock.monotonic())
            self.check_active()
        try:
            yield from handle.ensure_ready(self.deadline)
            self.check_active()
            assert handle.guid is not None
            identifier = self.coordinator.enlist(resource, handle.guid)
            branch = Branch(handle, identifier, read_only=read_only, sessions=sessions)
            self.branches[resource] = branch
            try:
                yield from branch.open(self._remaining_ms(), self.deadline)
                yield from self._catch_up(branch)
            except BaseException as error:
                # The branch may hold half a beginning: this transaction cannot commit any more.
                self.cancel(f"resource {resource!r} could not begin its branch", error)
                raise
            return branch
        finally:
            with self.core.mutex:
                signal = self._opening.pop(resource)
            signal.set()

    def _begun(self, branch: Branch) -> Branch:
        """Raises ResourceUnavailable when its beginning had failed."""
        if branch.session is None:
            raise ResourceUnavailable(
                f"Resource {branch.handle.name!r} could not begin its branch of transaction {self.name!r}.",
                advice="This transaction cannot commit any more: leave its block, and run it again.",
            ) from self.error
        return branch

    def _remaining_ms(self) -> int:
        remaining_s = self.deadline - self.core.clock.monotonic()
        if remaining_s <= 0:
            raise self.timeout_error()
        # Jittered, so that two transactions deadlocked across databases do not give up together.
        return max(1, int(remaining_s * 1000 * (0.9 + self.core.random.fraction() / 10)))

    def timeout_error(self) -> TransactionTimeout:
        return TransactionTimeout(
            f"Transaction {self.name!r} took longer than its timeout of {self.timeout_s:g} s and was aborted.",
            transaction=self.name,
            retryable=True,
            advice="Run it again, or give it more time with timeout=….",
        )

    def cancel(self, why: str, error: BaseException | None = None) -> None:
        """It must not commit any more. Has an effect until the decision; harmless later."""
        self.cancelled = self.cancelled or why
        self.error = self.error or error

    # --- nested blocks (savepoints) ---------------------------------------------------------------------------

    def _catch_up(self, branch: Branch) -> Script[None]:
        """A branch begun inside nested blocks gets their savepoints, so that they can be rolled back there too."""
        for name in self.savepoints:
            assert branch.session is not None
            yield from branch.handle.resource.savepoint(branch.session, name)

    def enter_nested(self) -> Script[str]:
        """Set a savepoint on every branch; returns its name."""
        self.check_active()
        name = f"syncpoint_{len(self.savepoints) + 1}"
        self.savepoints.append(name)
        try:
            for branch in list(self.branches.values()):
                yield from branch.handle.resource.savepoint(self._session_of(branch), name)
        except BaseException as error:
            # Some branches have it and some have not: what follows could not be rolled back everywhere.
            self.savepoints.remove(name)
            self.cancel("a nested block could not begin", error)
            raise
        return name

    def _session_of(self, branch: Branch) -> Session:
        session = self._begun(branch).session
        assert session is not None
        return session

    def leave_nested(self, name: str, *, keep: bool) -> Script[None]:
        """Release the savepoint, or roll back to it. A failure there dooms the whole transaction."""
        if self.savepoints and self.savepoints[-1] == name:
            self.savepoints.pop()
        if self.ended or self.coordinator.state is not State.ACTIVE:
            return
        for branch in list(self.branches.values()):
            if branch.session is None or branch.session.broken:
                self.cancel(f"the connection to {branch.handle.name!r} was lost")
                continue
            resource = branch.handle.resource
            try:
                if keep:
                    yield from resource.release_savepoint(branch.session, name)
                else:
                    yield from resource.rollback_to_savepoint(branch.session, name)
            except Exception as error:
                self.cancel(f"a nested block at {branch.handle.name!r} could not be ended", error)
                if keep:
                    raise
