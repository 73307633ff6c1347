"""The scenes by name: everything that is tried at points, each a function that one process runs.

Together they reach every point of the source; `test_points.py` says which they do not. A scene may begin where an
earlier process left off: `left` names the scene that one ran, and where it died. Not for: dying (trap.py), or
what must hold afterwards (harness.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tests.crash.journals import FOLDER
from tests.crash.run import Run
from tests.crash.trap import Target
from tests.crash.world import ALL, World

Act = Callable[[Run], None]


@dataclass(frozen=True)
class Left:
    """What an earlier process left: it ran `scene` as `transfer`, and died at `target`."""

    scene: str
    target: Target
    outcome: str = ""
    """How that transfer must come out: "committed", "aborted", or either."""
    transfer: str = ""
    """Added to the transfer's id."""
    otherwise: Mapping[str, Target] = field(default_factory=dict)
    """Decider -> where it died then."""

    def target_in(self, world: World) -> Target:
        """Where it died: the decider is not told with the others."""
        return self.otherwise.get(world.decider) or self.target.without(world.decider)


@dataclass(frozen=True)
class Scene:
    """One thing that a process does. After it, however it ended, every transfer in `expects` must be settled."""

    name: str
    act: Act
    left: tuple[Left, ...] = ()
    expects: dict[str, tuple[str, ...]] = field(default_factory=lambda: {"": ALL})
    """What is added to the transfer's id -> the databases that must all have its row, or none."""
    user_id: bool = False
    """The transfer has its own id as user's id: afterwards it is sent again."""
    fresh: bool = False
    """Needs databases in which Syncpoint's schema is missing."""
    is_heuristic: bool = False
    """Somebody decides alone in it: the outcome may be mixed, and must then be listed."""
    forgets: tuple[str, ...] = ()
    """Resources that die with their process: what was decided there stays listed, until a person forgets it."""
    is_tried: bool = True
    """False: only a beginning for others."""
    journals: tuple[str, ...] = (FOLDER,)
    """The kinds of journal with which it is tried."""
    mend: Callable[[World], None] | None = None
    """Sets right from outside, before anybody recovers, what it has spoilt."""


SCENES: dict[str, Scene] = {}


def scene(
    *,
    left: tuple[Left, ...] = (),
    expects: dict[str, tuple[str, ...]] | None = None,
    user_id: bool = False,
    fresh: bool = False,
    is_heuristic: bool = False,
    forgets: tuple[str, ...] = (),
    is_tried: bool = True,
    journals: tuple[str, ...] = (FOLDER,),
    mend: Callable[[World], None] | None = None,
) -> Callable[[Act], Act]:
    """Register a function as a scene, under its name."""

    def register(act: Act) -> Act:
        assert act.__name__ not in SCENES, f"two scenes are named {act.__name__}"
        SCENES[act.__name__] = Scene(
            name=act.__name__,
            act=act,
            left=left,
            expects={"": ALL} if expects is None else expects,
            user_id=user_id,
            fresh=fresh,
            is_heuristic=is_heuristic,
            forgets=forgets,
            is_tried=is_tried,
            journals=journals,
            mend=mend,
        )
        return act

    return register


def load() -> dict[str, Scene]:
    """All scenes, registered."""
    from tests.crash import (
        scenes_commit,
        scenes_copies,
        scenes_databases,
        scenes_journal,
        scenes_lent,
        scenes_memory,
        scenes_operators,
        scenes_own,
        scenes_recovery,
        scenes_trees,
    )

    loaded = (scenes_commit, scenes_databases, scenes_lent, scenes_memory, scenes_operators, scenes_recovery)
    assert all((*loaded, scenes_copies, scenes_journal, scenes_own, scenes_trees))
    return SCENES
