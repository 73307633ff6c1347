"""What both managers share: the resources, the journal, the live transactions, start, stop and the background.

`TransactionManager` (sync.py) and `AsyncTransactionManager` (aio.py) are thin: they run the scripts that stand
here and in commit.py, recovery.py and operators.py. Not for: threads, asyncio, or the user's own calls.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Protocol

from syncpoint.errors import (
    AlreadyCommitted,
    ConnectionLost,
    DifferentRequest,
    JournalUnavailable,
    JournalUncertain,
    ManagerClosed,
    ResourceUnavailable,
    SyncpointError,
    TransactionRunning,
    UnknownResource,
)
from syncpoint.ids import Attempt, Identifier, Incarnation, Key, TransactionId
from syncpoint.journal.base import Journal, View
from syncpoint.manager import answering, deciding, promises, recovery
from syncpoint.manager.handle import ResourceHandle
from syncpoint.manager.observer import Observer
from syncpoint.manager.results import decode_result
from syncpoint.manager.transaction import Work
from syncpoint.manager.tree import Place, Tree
from syncpoint.manager.votes import KeptVotes
from syncpoint.manager.watch import Watch
from syncpoint.marks import sometimes
from syncpoint.ports import Clock, Random, Runtime, Signal
from syncpoint.protocol.words import Answer
from syncpoint.records import Commit, CoordinatorKnown, Record
from syncpoint.resources.base import Resource
from syncpoint.steps import Failed, Gather, Script, Wait

FIRST_CONTACT_S_MAX = 10.0
WATCH_PERIOD_S = 0.25
"""How often to look for dead processes: their locks must be gone within 2 s."""
SCAN_PERIOD_S = 5.0
SETTLED_MAX = 10_000


class Task(Protocol):
    """What `Runtime.spawn` returns."""

    ended: Signal

    def stop(self) -> None: ...


class Core:
    """One manager's insides. `start` before use."""

    def __init__(
        self,
        *,
        journal: Journal,
        resources: Sequence[Resource],
        runtime: Runtime,
        clock: Clock,
        random: Random,
        scope: str = "",
        timeout_s: float = 30.0,
        pool_sizes: Mapping[str, int] | None = None,
        lagging: Collection[str] = (),
        background: bool = True,
        address: str = "",
        observers: list[Observer] | None = None,
        tree: Tree | None = None,
    ) -> None:
        self.journal = journal
        self.runtime = runtime
        self.clock = clock
        self.random = random
        self.scope = scope
        self.timeout_s = timeout_s
        self.background = background
        self.address = address
        self.tree = tree
        self.place = Place()
        self.mutex = runtime.mutex()
        self.watch = Watch([] if observers is None else observers, clock)
        sizes = pool_sizes or {}
        self.handles = {
            resource.name: ResourceHandle(resource, journal, runtime, clock, random, sizes.get(resource.name, 32))
            for resource in resources
        }
        for name in lagging:
            self.handles[name].lags = True
        for resource in resources:
            self._attach(resource)
        self.live: dict[Key, Work] = {}
        self.quiet = runtime.signal()
        """Set when no transaction is live: what `close` waits for."""
        self.quiet.set()
        self.acknowledged: dict[Key, set[Identifier]] = {}
        """Branches of decided transactions that recovery has finished; the record ends when all are in."""
        self.deciding: dict[Key, bool] = {}
        """Transactions that were given up because the journal did not say whether their Commit record is there, and
        whether their ids are still claimed. Live, until recovery has settled them by writing Abort (deciding.py)."""
        self.owed: list[Record] = []
        """Heuristic outcomes that the journal could not take yet."""
        self.votes = KeptVotes(self)
        self.unsettled: dict[Identifier, str] = {}
        """One-phase commits whose reply was lost, and their resource."""
        self.settled: dict[TransactionId, bool] = {}
        """How those came out, for `outcome`; the last SETTLED_MAX."""
        self.failure: SyncpointError | None = None
        self.closing = False
        self._tasks: list[Task] = []
        self._tends = False
        """The background runs: whatever is added is tended too."""
        self.shutdown = runtime.signal()
        """Set when waiting is over: the manager closes, or its journal has failed."""

    def __repr__(self) -> str:
        stopped = f" stopped: {self.failure.message}" if self.failure else ""
        return f"{self.address}, {len(self.live)} live, over {', '.join(sorted(self.handles))}{stopped}"

    # --- start and stop ---------------------------------------------------------------------------------------

    def start(self, opened: Callable[[], None] = lambda: None) -> Script[None]:
        """Open the journal, make first contact, recover, and start the background. `opened` is called as soon as the
        journal is open: a node serves it from then on, whatever its resources are at.

        An unreachable resource does not keep it from starting (O37); a refused set-up or journal does.
        """
        yield from self.journal.open(self.runtime)
        try:
            yield from self._write_directory()
            opened()
            deadline = self.clock.monotonic() + FIRST_CONTACT_S_MAX
            handles = list(self.handles.values())
            for outcome, handle in zip(
                (yield Gather([handle.ensure_ready(deadline) for handle in handles], "first contact")),
                handles,
                strict=True,
            ):
                if isinstance(outcome, Failed):
                    if not isinstance(outcome.error, ResourceUnavailable | ConnectionLost):
                        raise outcome.error
                    handle.trouble = str(outcome.error)
        except BaseException:
            yield from self._close_all()
            raise
        self.watch.started(self.journal.incarnation, tuple(self.handles))
        if self.tree is not None:
            self.tree.exchange.serve(
                lambda question: answering.answer(self, question),
                runtime=self.runtime,
                guid=self.journal.coordinator,
                random=self.random,
            )
        if self.background:
            yield from recovery.recover_all(self)
            self._spawn_background()

    def _write_directory(self) -> Script[None]:
        """The forced directory that maps coordinator GUIDs to addresses (A6)."""
        own = self.journal.coordinator
        if not any(known.guid == own.raw and known.address == self.address for known in self.journal.directory()):
            entry = CoordinatorKnown(guid=own.raw, address=self.address, at_ms=self.clock.wall_ms())
            yield from self.journal.force((entry,))

    def _spawn_background(self) -> None:
        self._tasks.append(self.runtime.spawn(self._watch(), "watch for dead processes"))
        with self.mutex:
            self._tends = True
            handles = list(self.handles.values())
        for handle in handles:
            self._tasks.append(self.runtime.spawn(self._tend(handle), f"recovery of {handle.name}"))
        if self.tree is not None:
            self._tasks.append(self.runtime.spawn(promises.tend(self), "promises to superiors"))

    def _attach(self, resource: Resource) -> None:
        resource.attach(lambda identifier: recovery.ruling(self, identifier), self.runtime)

    def add_resource(self, resource: Resource, pool_size_max: int) -> ResourceHandle:
        """One more, while it runs; the one that goes by that name, if there is one already."""
        made = ResourceHandle(resource, self.journal, self.runtime, self.clock, self.random, pool_size_max)
        with self.mutex:
            if resource.name in self.handles:
                return self.handles[resource.name]
            self._attach(resource)
            self.handles = {**self.handles, resource.name: made}  # a new one: others may be going through the old
            tends = self._tends and not self.closing
        if tends:
            self._tasks.append(self.runtime.spawn(self._tend(made), f"recovery of {resource.name}"))
        return made

    def _watch(self) -> Script[None]:
        """Notice processes that died, and have their branches looked for at once."""
        while not (yield Wait(self.shutdown, WATCH_PERIOD_S)):
            if self.failure is not None:
                return
            try:
                inherited = yield from self.journal.watch()
                yield from deciding.settle_left(self)
            except (JournalUncertain, JournalUnavailable):
                continue  # a remote journal that is away for a while: whoever needs it is told so
            except SyncpointError as error:
                self.stop(error)
                return
            if inherited:
                self._take_over(inherited)

    def look(self) -> Script[View]:
        """The journal's snapshot. Whoever takes over a dead process's records has its branches looked for at once."""
        view = yield from self.journal.look()
        if view.inherited:
            self._take_over(view.inherited)
        return view

    def _take_over(self, inherited: frozenset[Incarnation]) -> None:
        sometimes("took over from a process that died")
        self.watch.took_over(inherited)
        self.wake_all()

    def wake_all(self) -> None:
        """Have every resource's branches looked for now."""
        for handle in self.handles.values():
            handle.wake.set()

    def _tend(self, handle: ResourceHandle) -> Script[None]:
        """Recover one resource for ever, with its own back-off: none holds up another (O39)."""
        while not self.closing and self.failure is None:
            yield Wait(handle.wake, handle.delay_s(SCAN_PERIOD_S))
            handle.wake.clear()
            if self.closing or self.failure is not None:
                return
            yield from recovery.recover_resource(self, handle)

    def close(self, wait_s: float) -> Script[None]:
        """Take no new transactions, wait for the live ones (at most `wait_s`), give everything back."""
        if self.closing:
            return
        self.closing = True
        if self.failure is None:  # else what is left open has no end here: recovery settles it after a restart (R5)
            yield Wait(self.quiet, wait_s)
        self.shutdown.set()
        for handle in self.handles.values():
            handle.wake.set()
        for task in self._tasks:
            task.stop()
        for task in self._tasks:
            yield Wait(task.ended, wait_s)
        yield from self._close_all()

    def _close_all(self) -> Script[None]:
        self.closing = True
        if self.tree is not None:
            self.tree.exchange.close()
        for handle in self.handles.values():
            yield from handle.close()
        yield from self.journal.close()

    def stop(self, error: SyncpointError) -> None:
        """The journal has failed: no further answers from this process (R5)."""
        if self.failure is None:
            sometimes("the journal failed, and the manager stopped")
            self.failure = error
            self.watch.stopped(error)
        self.shutdown.set()
        for handle in self.handles.values():
            handle.wake.set()

    def abandon(self) -> None:
        """In a forked child: forget the parent's connections, files and transactions without touching them."""
        self.closing = True
        for work in self.live.values():
            work.ended = True
            for branch in work.branches.values():
                branch.sessions.abandon()
        self.live.clear()
        self.place = Place()
        self.deciding.clear()
        for handle in self.handles.values():
            handle.abandon()
        self.journal.abandon()

    def check_open(self) -> None:
        """Raises ManagerClosed."""
        self.check_journal()
        if self.closing:
            raise ManagerClosed("This manager is closed.", advice="Make a new one.")

    def check_journal(self) -> None:
        """Raises ManagerClosed after the journal has failed: no further answers (R5)."""
        if self.failure is not None:
            raise ManagerClosed(
                f"This manager has stopped because its journal failed: {self.failure.message}",
                advice="Restart the process; recovery settles what was under way.",
            ) from self.failure

    # --- transactions -------------------------------------------------------------------------------------------

    def handle(self, name: str) -> ResourceHandle:
        """A configured resource by name. Raises UnknownResource."""
        try:
            return self.handles[name]
        except KeyError:
            raise UnknownResource(
                f"No resource is named {name!r}.",
                advice=f"Configured are: {', '.join(sorted(self.handles)) or 'none'}.",
            ) from None

    def begin(
        self, *, user_id: str | None, timeout_s: float | None, wait_applied: bool, fingerprint: bytes = b""
    ) -> Script[Work]:
        """A new transaction. Raises AlreadyCommitted, TransactionRunning, DifferentRequest (C7, O50, O51)."""
        self.check_open()
        if user_id is None:
            transaction = TransactionId(self.random.bytes(16))
        else:
            transaction = TransactionId.from_user_id(self.scope, user_id)
            yield from self.watch.claimed(user_id, self._claim(transaction, user_id, fingerprint))
        work = Work(
            self,
            Key(transaction, self.journal.next_attempt()),
            user_id=user_id,
            fingerprint=fingerprint,
            timeout_s=self.timeout_s if timeout_s is None else timeout_s,
            wait_applied=wait_applied,
        )
        work.claimed = user_id is not None
        self.enter(work)
        return work

    def enter(self, work: Work) -> None:
        """It lives from now on: recovery leaves it alone."""
        with self.mutex:
            self.live[work.key] = work
            self.quiet.clear()
        self.watch.begun(work)

    def _claim(self, transaction: TransactionId, user_id: str, fingerprint: bytes) -> Script[None]:
        claim = yield from self.journal.claim(transaction)
        if claim.running:
            sometimes("an id was sent again while it ran")
            raise TransactionRunning(
                f"Transaction {user_id!r} is running now; it was not run a second time.",
                transaction=user_id,
                advice="Ask manager.outcome(id), or send it again later.",
            )
        if claim.committed is not None:
            sometimes("an id was sent again after it had committed")
            self._refuse_again(claim.committed, user_id, fingerprint)

    def _refuse_again(self, committed: Commit, user_id: str, fingerprint: bytes) -> None:
        if fingerprint and committed.fingerprint and committed.fingerprint != fingerprint:
            raise DifferentRequest(
                f"The id {user_id!r} was used before for another request; nothing was run.",
                transaction=user_id,
                advice="Use a new id for a new request.",
            )
        raise AlreadyCommitted(transaction=user_id, result=decode_result(committed.result, transaction=user_id))

    def live_keys(self) -> frozenset[Key]:
        """Keys of the transactions that this process works on now."""
        with self.mutex:
            return frozenset((*self.live, *self.deciding))

    def ended(self, work: Work) -> None:
        """A transaction is over, or recovery's: take it off the list of live ones."""
        work.ended = True
        if work.key not in self.deciding:
            self.votes.forget(work.coordinator)
        with self.mutex:
            self.live.pop(work.key, None)
            for ticket in work.tickets:
                self.place.tickets.pop(ticket, None)
            if not self.live:
                self.quiet.set()
        self._release(work)
        self.watch.ended(work)

    def told(self, work: Work) -> None:
        """Its caller is told that it is committed, though phase two has still to come: so is everybody who asks."""
        work.told = True
        self._release(work)

    def _release(self, work: Work) -> None:
        if work.claimed:
            work.claimed = False
            self.journal.release(work.key.transaction)

    def leave_deciding(self, work: Work) -> None:
        """The journal does not say whether it is committed: recovery is to find out. Its id stays claimed."""
        with self.mutex:
            self.deciding[work.key] = work.claimed  # before it is off the list of live ones: never a gap
        work.claimed = False
        self.ended(work)

    def decided(self, key: Key) -> None:
        """It is known now, or another process's to know: what its branches need is found by scans, or in records."""
        with self.mutex:
            claimed = self.deciding.pop(key, False)
        self.votes.forget_key(key)
        if claimed:
            self.journal.release(key.transaction)
        self.wake_all()

    def owe(self, records: Sequence[Record]) -> None:
        """The journal did not take these: recovery writes them."""
        with self.mutex:
            self.owed.extend(records)

    def forget_acknowledged(self, keys: Iterable[Key]) -> None:
        """Their records have ended, or are another process's to end."""
        with self.mutex:
            for key in keys:
                self.acknowledged.pop(key, None)

    def leave_unsettled(self, work: Work) -> None:
        """Recovery is to find out about its lost one-phase commit."""
        for branch in work.branches.values():
            if branch.identifier.branch == work.coordinator.lone_writer:
                self.unsettled[branch.identifier] = branch.handle.name
                branch.handle.wake.set()

    def settle(self, identifier: Identifier, answer: Answer) -> None:
        """A lost one-phase commit is found out; or it never will be, and then a heuristic outcome says so."""
        self.unsettled.pop(identifier, None)
        if answer in (Answer.COMMITTED, Answer.ABORTED):
            self.settled[identifier.transaction] = answer is Answer.COMMITTED
        while len(self.settled) > SETTLED_MAX:
            del self.settled[next(iter(self.settled))]

    def oldest_unfinished(self, ceiling: Attempt, unfinished: Iterable[Key]) -> Attempt:
        """The oldest attempt of the incarnation of `ceiling` whose evidence may still be asked for.

        `ceiling` was drawn before `unfinished` was read: whatever began later is above it.
        """
        attempts = [key.attempt for key in unfinished]
        attempts += [identifier.attempt for identifier in list(self.unsettled)]
        return min([ceiling, *(one for one in attempts if one.incarnation == ceiling.incarnation)])

    def at_work(self, incarnations: Collection[Incarnation]) -> set[Incarnation]:
        """Those of `incarnations` under which something is still under way here: this process may have been taken for
        dead, and have drawn another since."""
        busy = {key.attempt.incarnation for key in self.live_keys()}
        busy |= {identifier.attempt.incarnation for identifier in list(self.unsettled)}
        return busy & set(incarnations)
