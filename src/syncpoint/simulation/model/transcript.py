"""Counterexamples as transcripts: what happened, one command a line, and the whole state after it.

The format is that of the project's other transcripts: comments (#), commands, `----`, what they led to, an empty
line. The commands are the texts of the model's steps; `play` finds the step by its text among all that can happen,
and writes the states anew. A transcript that a mutant led to can be played with the mutant, or without.
Not for: finding counterexamples (explore.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from syncpoint.protocol.coordinator import What
from syncpoint.protocol.words import Illegal
from syncpoint.records import Commit, Record
from syncpoint.simulation.model.explore import Counterexample
from syncpoint.simulation.model.journal import GONE
from syncpoint.simulation.model.names import MANAGERS, TRANSACTION, Unit, Violation, listed_in, try_of
from syncpoint.simulation.model.process import Process
from syncpoint.simulation.model.rules import Action, AnyScope, apply, rules_of
from syncpoint.simulation.model.tree import showing
from syncpoint.simulation.model.tree.scope import TreeScope
from syncpoint.simulation.model.tree.world import TreeWorld
from syncpoint.simulation.model.world import World, text_of

BEGIN = "process 0 runs the transaction"
BEGIN_TREE = "the superior is asked to commit"
FUTURE = "# faults stop here, and what is left is recovered"


def write(shown: Counterexample, mutant: str = "") -> str:
    """The transcript of a counterexample."""
    head = [f"# {shown.rule}: {shown.found}", f"# scope: {shown.scope.name}"]
    head += [f"# mutant: {mutant}"] if mutant else []
    world = beginning_of(shown.scope)
    blocks = ["\n".join(head), _block(_begin(shown.scope), world)]
    for number, action in enumerate((*shown.way, *shown.future)):
        comment = FUTURE + "\n" if number == len(shown.way) else ""
        after = _apply(world, action)
        world = world if isinstance(after, str) else after
        blocks.append(comment + _block(text_of(*action), world, after if isinstance(after, str) else ""))
    return "\n\n".join(blocks) + "\n"


def _begin(scope: AnyScope) -> str:
    return BEGIN_TREE if isinstance(scope, TreeScope) else BEGIN


def beginning_of(scope: AnyScope) -> Any:
    """None: the very beginning breaks a rule."""
    try:
        return rules_of(scope).beginning(scope)
    except (AssertionError, Illegal, KeyError):
        return None


def _apply(world: Any, action: Action) -> Any:
    """What a step leads to; or, in words, what broke."""
    assert world is not None
    try:
        return apply(world, action)
    except (AssertionError, Illegal, KeyError) as error:
        return f"broken: {type(error).__name__}: {error}".replace(str(TRANSACTION), "t1")


def play(text: str, scope: AnyScope) -> str:
    """The same transcript, with the states that its commands lead to now. Raises ValueError on an unknown command."""
    world = beginning_of(scope)
    blocks: list[str] = []
    for block in text.strip().split("\n\n"):
        comments = [line for line in block.splitlines() if line.startswith("#")]
        commands = [line for line in block.partition("----")[0].splitlines() if not line.startswith("#")]
        lines = list(comments)
        for command in commands:
            broken = ""
            if command != _begin(scope) or len(blocks) > 1:
                assert world is not None
                after = _apply(world, _find(world, command))
                broken, world = (after, world) if isinstance(after, str) else ("", after)
            lines.append(_block(command, world, broken))
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def _find(world: Any, command: str) -> Action:
    for action in (*rules_of(world.scope).actions(world), *_beyond(world)):
        if text_of(*action) == command:
            return action
    raise ValueError(f"nothing of this can happen here: {command!r}")


def _beyond(world: Any) -> Iterator[Action]:
    """What may happen in a future, though it is beyond the bounds of the scope."""
    if isinstance(world, TreeWorld):
        yield from ((name, (index,)) for name in ("tree_kill", "tree_start") for index in (0, 1))
        return
    yield "lose_all", ()
    for index, process in enumerate(world.processes):
        yield "start", (index,)
        if process.is_alive:
            yield "crash", (index,)
            yield "begin_anew", (index,)
            yield from (("take_over", (index, one)) for one in range(1, len(world.journal.visible.keepers) + 1))
            yield from (("scan", (index, number)) for number in range(len(world.managers)))


# --- what is shown ------------------------------------------------------------------------------------------------


def _block(command: str, world: Any, broken: str = "") -> str:
    lines = [command, "----"]
    if broken or world is None:
        return "\n".join([*lines, broken or "broken: at the beginning"])
    lines += show(world)
    try:
        rules_of(world.scope).check(world)
    except Violation as violation:
        lines.append(f"broken: {violation}")
    return "\n".join(lines)


def show(world: Any) -> list[str]:
    """The whole state, in the manner of the project's transcripts."""
    return showing.show(world) if isinstance(world, TreeWorld) else _show(world)


def _show(world: World) -> list[str]:
    lines = [line for index, process in enumerate(world.processes) for line in _process(index, process)]
    for number, manager in enumerate(world.managers):
        for unit, state in manager.units:
            text = f"  {MANAGERS[number]:6} {unit} {state.name}"
            text += ", alone" if unit in manager.alone else ""
            text += ", evidence" if unit in manager.evidence else ""
            lines.append(text + "".join(f", {_word(what)} on its way" for what in _coming(world, unit)))
    return [*lines, *_journal(world)]


def _coming(world: World, unit: Unit) -> list[What]:
    return sorted((one.what for one in world.messages if one.unit == unit), key=lambda what: what.value)


def _process(index: int, process: Process) -> Iterator[str]:
    name = f"process {index}"
    if not process.is_alive:
        yield f"{name}: dead"
    elif process.coordinator is not None:
        yield f"{name}: {process.coordinator!r}".replace(str(TRANSACTION), "t1")
    else:
        yield f"{name}: incarnation {process.incarnation}"
    for branch, reply in sorted(process.replies, key=lambda one: one[0]):
        said = getattr(reply, "name", None) or f"not found, evidence {reply.evidence.name}"  # type: ignore[union-attr]
        yield f"  reply of branch {branch} on its way: {said}"
    if process.verdict is not None:
        yield f"  verdict on its way: {'accepted' if process.verdict else 'refused'}"
    for number, work in enumerate(process.passes):
        if work is not None:
            todo = [f"{'commit' if one.commit else 'abort'} {one.unit}" for one in work.steps]
            yield f"  pass over {MANAGERS[number]} {work.stage.name}" + "".join(f", {one}" for one in todo)
    for unit, answer in sorted(process.heuristics):
        yield f"  written down: {unit} {answer.name}"
    for told in process.told:
        yield f"  its caller was told: {told.attempt} {told.result.name}" + (", pending" if told.pending else "")


def _journal(world: World) -> Iterator[str]:
    rows, durable = world.journal
    records = [_record(one) + ("" if one in durable.commits else " (not forced)") for one in rows.commits]
    records += [f"End {one}" for one in sorted(rows.ended)] + [f"Abort {one}" for one in sorted(rows.aborts)]
    records += [f"Resolved {unit} {'commit' if commit else 'abort'}" for unit, commit in sorted(rows.resolved)]
    if records:
        yield f"  journal: {', '.join(records)}"
    coming = [_record(one.record) for one in world.appends if not one.written]
    if coming:
        yield f"  on its way to the journal: {', '.join(sorted(coming))}"
    others = [(one, keeper) for one, keeper in enumerate(rows.keepers, 1) if keeper != one]
    for one, keeper in others:
        yield f"  incarnation {one}: " + ("finished" if keeper == GONE else f"kept by {keeper}")


def _record(record: Record) -> str:
    text = f"{type(record).__name__} {try_of(record)}"
    if isinstance(record, Commit):
        text += "".join(f" #{unit.branch}" for unit in sorted(listed_in(record))) or " of nothing"
    return text


def _word(what: What) -> str:
    return what.name.lower().replace("_", "-")
