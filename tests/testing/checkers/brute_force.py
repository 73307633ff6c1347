"""Is a small history of list-append strictly serializable? Tries every order, and knows nothing of graphs.

Not for: more than six operations or so.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import combinations

from syncpoint.testing.checkers import Append, History, Operation, Outcome, Read

Lists = defaultdict[tuple[str, str], tuple[int | str, ...]]


def is_serializable(history: History, *, real_time: bool = True) -> bool:
    """Whether some order of all that are OK, and of some that are INDETERMINATE, explains what was read."""
    certain = list(history.ended(Outcome.OK))
    unknown = list(history.ended(Outcome.INDETERMINATE))
    return any(
        _has_order([*certain, *some], defaultdict(tuple), real_time=real_time)
        for count in range(len(unknown) + 1)
        for some in combinations(unknown, count)
    )


def _has_order(left: list[Operation], lists: Lists, *, real_time: bool) -> bool:
    if not left:
        return True
    for operation in left:
        if real_time and any(other.precedes(operation) for other in left):
            continue
        after = _run(operation, lists)
        if after is not None and _has_order([one for one in left if one is not operation], after, real_time=real_time):
            return True
    return False


def _run(operation: Operation, lists: Lists) -> Lists | None:
    """What the lists are afterwards; None when they were not as it read them."""
    after = lists.copy()
    for action in operation.actions:
        if isinstance(action, Append):
            after[action.place] += (action.value,)
        elif isinstance(action, Read) and action.values is not None and after[action.place] != action.values:
            return None
    return after
