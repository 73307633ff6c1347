"""A resource manager of your own, in plain blocking Python: `syncpoint.ResourceManager`.

    class Counters(syncpoint.ResourceManager):
        def place(self): ...                        # a folder that lives and dies with the data
        def begin(self, *, read_only): ...          # the object that `tx.connect(name)` gives to the user
        def prepare(self, work): ...                # state information: all that commit will need
        def commit(self, state): ...                # may be called again: the same state, the same result
        def abort(self, work): ...

Identifiers, evidence, votes that survive a crash, recovery and the rest are kept for it, in a small SQLite file in
`place()` (own_adapter.py; docs/resource-managers.md). What is asked of an author:

    1. before `commit` nobody sees what a work did
    2. what `prepare` left for `commit` is durable, and `state` is all that is needed to find it
    3. `commit` is durable when it returns, and may be called again with the same state: nothing was written in between
    4. `begin` of a writing work is called while no other work writes, is in doubt, or waits for its commit: whatever
       is left of other works may be thrown away then

Not for: databases with transactions of their own; their adapters subclass `resources.base.Resource`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from syncpoint.errors import NotAllowed

__all__ = ["ResourceManager"]


class ResourceManager(ABC):
    """One resource manager, made once for each manager that uses it. Every method blocks.

    One work at a time writes; works that only read go on beside it. Methods may be called from different threads.
    An exception of `begin`, or of a method of the work's object, reaches the user's code as it is.
    """

    option_names: ClassVar[frozenset[str]] = frozenset()
    """Options of its URL's table that it understands; any other is refused."""

    def __init__(self, name: str, url: str, options: Mapping[str, str]) -> None:
        """Read what was configured; touch nothing.

        Parameters: `name` by which transactions know it; `url` as written, empty when the table has only a `class`;
        `options`, the rest of the table, as text. Raise ConfigurationError on what makes no sense.
        """
        self.name = name
        self.url = url
        self.options = dict(options)

    @abstractmethod
    def place(self) -> str:
        """The folder in which Syncpoint keeps what it must know of this resource; it is made when it is missing.

        It stands for the resource: every process that uses the same data names the same folder, and the two are
        backed up, restored and moved together. On a local disk.
        """

    def check(self) -> None:
        """Raise when it cannot be used now: called before anything is done, each time a session is opened."""
        return

    @abstractmethod
    def begin(self, *, read_only: bool) -> Any:
        """Begin a work and return its object. Users get it from `tx.connect(name)`, and call its methods until the
        transaction ends; under asyncio they await them, and each runs in a thread of its own."""

    def wrote(self, work: Any) -> bool | None:
        """Whether it has anything to commit; None: only `prepare` can tell. Saves a prepare when nothing was written
        elsewhere."""
        return None

    @abstractmethod
    def prepare(self, work: Any) -> bytes | None:
        """Make the work durable without showing it, and return its state information: what `commit` needs to find and
        finish it, in another process too. None: there is nothing to commit, and then `abort` follows.

        Raise to vote no. Afterwards the user's methods are refused. The bytes stand in the transaction's record: a
        few kilobytes at most.
        """

    @abstractmethod
    def commit(self, state: bytes) -> None:
        """Show what was prepared, durably. It is decided and there is no way back: raise only when it cannot be done
        now; it is then tried again until it can, and no other work begins before. After a crash this may be the
        second time for the same state."""

    def redo(self, state: bytes) -> None:
        """As `commit`, when the work was prepared by a process that is gone, or `commit` was tried before."""
        self.commit(state)

    @abstractmethod
    def abort(self, work: Any) -> None:
        """Throw the work away, prepared or not, and nothing of any other work. Not called for works of processes that
        died: see rule 4."""

    # --- savepoints, for blocks inside a transaction's block ----------------------------------------------------

    def savepoint(self, work: Any) -> Any:
        """Mark where the work stands; the mark is given to `roll_back_to`."""
        raise NotAllowed(
            f"The resource {self.name!r} has no savepoints, so it cannot take part in a block inside another one.",
            advice=f"Use it in the outer block only, or write {type(self).__name__}.savepoint and roll_back_to.",
        )

    def roll_back_to(self, work: Any, mark: Any) -> None:
        """Undo what the work did since the mark; the mark stays."""
        raise NotImplementedError

    # --- errors ---------------------------------------------------------------------------------------------------

    def is_retryable(self, error: BaseException) -> bool:
        """Whether the same work may succeed when run again after this error of one of its methods."""
        return False
