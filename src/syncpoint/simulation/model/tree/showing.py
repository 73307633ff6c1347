"""A tree's state, in the manner of the project's transcripts. Not for: finding counterexamples."""

from __future__ import annotations

from collections.abc import Iterator

from syncpoint.simulation.model.tree.world import DATABASES, KEYS, NODES, SUBORDINATE, SUPERIOR, UNIT, TreeWorld


def show(world: TreeWorld) -> list[str]:
    """The whole state."""
    return [line for index in (SUPERIOR, SUBORDINATE) for line in _node(world, index)] + list(_sent(world))


def _node(world: TreeWorld, index: int) -> Iterator[str]:
    node = world.nodes[index]
    state = "dead" if not node.is_alive else "nothing live"
    if node.coordinator is not None:
        state = repr(node.coordinator).replace(str(KEYS[SUBORDINATE].transaction), "t2")
        state = state.replace(str(KEYS[SUPERIOR].transaction), "t1")
    yield f"{NODES[index]}: {state}"
    for branch in world.own_branches(index):
        place = 0 if index == SUPERIOR else branch
        found = world.manager(index, branch).state(UNIT)
        yield f"  {DATABASES[place]:6} #{branch} {found.name if found else 'gone'}"
    records = sorted(
        type(one).__name__ + (" (not forced)" if one in node.unforced else "") for one in node.book.records
    )
    if records:
        yield f"  journal: {', '.join(records)}"
    if node.forcing is not None:
        yield f"  being forced: {type(node.forcing).__name__}"
    if node.told is not None:
        yield f"  its caller was told: {node.told.name}"


def _sent(world: TreeWorld) -> Iterator[str]:
    said = sorted(" ".join(getattr(word, "name", str(word)) for word in one) for one in world.sent)
    if said:
        yield f"sent: {', '.join(said)}"
    calls = sorted(f"{what.name} to {DATABASES[0 if i == SUPERIOR else b]}" for i, b, what in world.calls)
    if calls:
        yield f"on their way: {', '.join(calls)}"
