"""A manager's place in a tree of managers (B10): how it is reached, which keys sign its contexts, and who has joined.

Not for: taking part (joining.py), letting others take part (exporting.py), or what is left in doubt (promises.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from syncpoint.errors import ConfigurationError
from syncpoint.ids import Identifier
from syncpoint.manager.contexts import check_keys
from syncpoint.ports import Exchange
from syncpoint.resources.pool import Turn

if TYPE_CHECKING:
    from syncpoint.manager.core import Core
    from syncpoint.manager.transaction import Work

CONTEXT_LIFETIME_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Tree:
    """What a manager needs to take part in trees: `TransactionManager(…, tree=Tree(exchange=…, keys=[…]))`.

    Parameters: `exchange` carries messages between managers, and gives this one its address; `keys` sign contexts (the
    first) and check them (all), at least 16 random bytes each; without keys contexts are accepted only over
    authenticated links; `context_lifetime_s`, seconds for which an exported context can be joined. Raises
    ConfigurationError.
    """

    exchange: Exchange = field(repr=False)
    keys: Sequence[bytes] = field(default=(), repr=False)
    context_lifetime_s: float = CONTEXT_LIFETIME_S

    def __post_init__(self) -> None:
        check_keys(self.keys)
        if not self.context_lifetime_s > 0:
            raise ConfigurationError(
                f"context_lifetime_s={self.context_lifetime_s} is no time.", advice="Give seconds, more than 0."
            )


@dataclass(slots=True)
class Part:
    """A superior's transaction that this manager takes part in."""

    superior: Identifier
    """What the superior calls this branch of its transaction."""
    address: str
    """Where the superior is."""
    work: Work
    gate: Turn = field(repr=False)
    """One message, or the end of the block, at a time."""
    is_open: bool = True
    """The user's block has not ended."""
    ask_at: float = float("inf")
    """When to ask the superior what became of it, in monotonic seconds."""


class Place:
    """What a core remembers of the trees it is in."""

    def __init__(self) -> None:
        self.parts: dict[Identifier, Part] = {}
        """Of other managers' transactions, until they have ended here."""
        self.tickets: dict[bytes, Work] = {}
        """Of contexts exported in live transactions."""
        self.ask_at: dict[Identifier, float] = {}
        """When to ask about what an earlier process promised."""

    def __repr__(self) -> str:
        return f"<Place {len(self.parts)} parts, {len(self.tickets)} tickets>"


def tree_of(core: Core) -> Tree:
    """Raises ConfigurationError when the manager is in no tree."""
    if core.tree is None:
        raise ConfigurationError(
            "This manager cannot be reached by others, so it is in no tree.",
            advice="Make it with tree=syncpoint.Tree(exchange=…, keys=[…]); see docs/trees.md.",
        )
    return core.tree
