"""Traces made wrong on purpose: each rule takes a good trace and returns one that no correct program can have left.

A rule returns None where it does not apply, and never a trace that would be legal: what it breaks is stated. Not for:
changes that only might be wrong (an event that the specification allows to be missing, say an abort that was lost).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from tests.spec.histories import Action, Trace

Rule = Callable[[list[Action], random.Random], list[Action] | None]
RULES: dict[str, Rule] = {}


def rule(function: Rule) -> Rule:
    RULES[function.__name__] = function  # type: ignore[attr-defined]
    return function


def corrupted(traces: Sequence[Trace], *, each: int, seed: int = 1) -> Iterator[tuple[str, Trace]]:
    """At most `each` corrupted traces by every rule, with the rule's name."""
    for name, break_it in RULES.items():
        chance = random.Random(f"{seed}/{name}")  # it must repeat
        made = 0
        for trace in chance.sample(list(traces), len(traces)):
            broken = break_it(list(trace.actions), chance)
            if broken is not None and tuple(broken) != trace.actions:
                yield name, Trace(f"{trace.name}, {name}", tuple(broken))
                made += 1
                if made == each:
                    break


def _find(actions: Sequence[Action], what: str, **fields: object) -> int | None:
    """Where the first such event is."""
    for number, action in enumerate(actions):
        if action.e == what and all(getattr(action, name) == value for name, value in fields.items()):
            return number
    return None


def _change(actions: list[Action], number: int | None, **fields: object) -> list[Action] | None:
    if number is None:
        return None
    actions[number] = replace(actions[number], **fields)  # type: ignore[arg-type]
    return actions


def _drop(actions: list[Action], number: int | None) -> list[Action] | None:
    if number is None:
        return None
    del actions[number]
    return actions


def _move(actions: list[Action], source: int | None, before: int | None) -> list[Action] | None:
    """Move an event forward in time, to just before an earlier one."""
    if source is None or before is None or before >= source:
        return None
    actions.insert(before, actions.pop(source))
    return actions


# --- votes and the decision -----------------------------------------------------------------------------------


@rule
def commit_after_a_no(actions: list[Action], chance: random.Random) -> list[Action] | None:
    """A branch that is decided to commit had voted no (A9)."""
    decided = _find(actions, "decide")
    if decided is None or not actions[decided].names:
        return None
    a, r = actions[decided].a, chance.choice(actions[decided].names)
    for what in ("voted", "vote"):
        _change(actions, _find(actions, what, a=a, r=r), s="no")
    return actions


@rule
def commit_without_a_vote(actions: list[Action], chance: random.Random) -> list[Action] | None:
    """One vote has never arrived at the coordinator, and it commits."""
    decided = _find(actions, "decide")
    if decided is None or not actions[decided].names:
        return None
    return _drop(actions, _find(actions, "vote", a=actions[decided].a, r=chance.choice(actions[decided].names)))


@rule
def vote_that_was_never_given(actions: list[Action], chance: random.Random) -> list[Action] | None:
    """A vote arrives at the coordinator that no database has given."""
    number = _find(actions, "vote")
    return None if number is None else _drop(actions, _find(actions, "voted", a=actions[number].a, r=actions[number].r))


@rule
def vote_arrives_before_it_is_durable(actions: list[Action], chance: random.Random) -> list[Action] | None:
    """A3: the vote is sent before the branch is prepared."""
    number = _find(actions, "vote")
    if number is None:
        return None
    return _move(actions, number, _find(actions, "voted", a=actions[number].a, r=actions[number].r))


@rule
def decided_before_the_last_vote(actions: list[Action], chance: random.Random) -> list[Action] | None:
    decided = _find(actions, "decide")
    if decided is None or not actions[decided].names:
        return None
    votes = [n for n, one in enumerate(actions[:decided]) if one.e == "vote" and one.a == actions[decided].a]
    return _move(actions, decided, votes[-1] if votes else None)


@rule
def record_lacks_a_participant(actions: list[Action], chance: random.Random) -> list[Action] | None:
    """C-I4: a branch that voted yes is not listed."""
    number = _find(actions, "decide")
    if number is None or not actions[number].names:
        return None
    return _change(actions, number, names=actions[number].names[1:])


@rule
def record_lists_a_stranger(actions: list[Action], chance: random.Random) -> list[Action] | None:
    """C-I4: a branch is listed that has not voted yes."""
    number = _find(actions, "decide")
    if number is None:
        return None
    others = sorted({action.r for action in actions if action.r} - set(actions[number].names))
    return _change(actions, number, names=(*actions[number].names, *others[:1])) if others else None


@rule
def vote_of_another_participant(actions: list[Action], chance: random.Random) -> list[Action] | None:
    """One database has prepared twice, the other one never."""
    decided = _find(actions, "decide")
    if decided is None or len(actions[decided].names) < 2:
        return None
    first, second = actions[decided].names[:2]
    return _change(actions, _find(actions, "voted", a=actions[decided].a, r=first), r=second)


@rule
def decided_twice(actions: list[Action], chance: random.Random) -> list[Action] | None:
    number = _find(actions, "decide")
    return None if number is None else [*actions[: number + 1], actions[number], *actions[number + 1 :]]


@rule
def decided_after_abort(actions: list[Action], chance: random.Random) -> list[Action] | None:
    """The branches are told to abort, and then the attempt is decided to commit."""
    number = _find(actions, "decide")
    if number is None:
        return None
    return [*actions[:number], Action("abort", a=actions[number].a), *actions[number:]]


@rule
def second_attempt_commits_too(actions: list[Action], chance: random.Random) -> list[Action] | None:
    """O56: the transaction is committed, and another attempt at it begins (C7)."""
    number = _find(actions, "accepted")
    if number is None or any(action.e in ("die", "cut") for action in actions) or actions[number].a[1] > 1:
        return None
    a, names = (actions[number].a[0], 2), actions[_find(actions, "decide") or 0].names
    again = [Action("begin", a=a, names=names)]
    again += [Action(what, a=a, r=name, s="yes") for name in names for what in ("voted", "vote")]
    return [*actions, *again, Action("decide", a=a, names=names), Action("accepted", a=a)]


# --- phase two ----------------------------------------------------------------------------------------------------


@rule
def told_before_the_force(actions: list[Action], chance: random.Random) -> list[Action] | None:
    """C-I1: a branch is committed before the record is durable."""
    number = _find(actions, "phase two")
    return None if number is None else _move(actions, number, _find(actions, "accepted", a=actions[number].a))


@rule
def committed_without_a_force(actions: list[Action], chance: random.Random) -> list[Action] | None:
    """The verdict of the journal never came."""
    number = _find(actions, "phase two")
    return None if number is None else _drop(actions, _find(actions, "accepted", a=actions[number].a))


@rule
def aborted_though_decided(actions: list[Action], chance: random.Random) -> list[Action] | None:
    return _change(actions, _find(actions, "phase two"), e="aborted")


@rule
def committed_though_refused(actions: list[Action], chance: random.Random) -> list[Action] | None:
    return _change(actions, _find(actions, "accepted"), e="refused")


@rule
def committed_twice(actions: list[Action], chance: random.Random) -> list[Action] | None:
    number = _find(actions, "phase two")
    return None if number is None else [*actions[: number + 1], actions[number], *actions[number + 1 :]]


@rule
def committed_though_aborted(actions: list[Action], chance: random.Random) -> list[Action] | None:
    """Some branch of an attempt that is never decided is committed."""
    decided = {action.a for action in actions if action.e == "decide"}
    numbers = [n for n, one in enumerate(actions) if one.e == "aborted" and one.a not in decided]
    return _change(actions, chance.choice(numbers), e="committed") if numbers else None


@rule
def caller_is_told_otherwise(actions: list[Action], chance: random.Random) -> list[Action] | None:
    number = _find(actions, "told")
    if number is None:
        return None
    return _change(actions, number, s="aborted" if actions[number].s == "committed" else "committed")


@rule
def caller_is_told_too_early(actions: list[Action], chance: random.Random) -> list[Action] | None:
    """Committed, says the caller's answer, and the record is not durable yet."""
    number = _find(actions, "told", s="committed")
    return None if number is None else _move(actions, number, _find(actions, "accepted", a=actions[number].a))


# --- End and evidence ---------------------------------------------------------------------------------------------


@rule
def end_before_the_last_answer(actions: list[Action], chance: random.Random) -> list[Action] | None:
    """O28: End is written while a branch has not acknowledged."""
    number = _find(actions, "end")
    if number is None:
        return None
    answers = [n for n, one in enumerate(actions[:number]) if one.e in ("phase two", "finish commit", "evidence")]
    return _move(actions, number, answers[-1] if answers else None)


@rule
def evidence_goes_without_end(actions: list[Action], chance: random.Random) -> list[Action] | None:
    number = _find(actions, "clean")
    if number is None or sum(action.e == "end" for action in actions) != 1:
        return None
    return _drop(actions, _find(actions, "end"))


@rule
def evidence_goes_twice(actions: list[Action], chance: random.Random) -> list[Action] | None:
    number = _find(actions, "clean")
    return None if number is None else [*actions[: number + 1], actions[number], *actions[number + 1 :]]


@rule
def record_seen_that_was_never_written(actions: list[Action], chance: random.Random) -> list[Action] | None:
    """Recovery reads a Commit record of an attempt that was never decided."""
    decided = {action.a for action in actions if action.e == "decide"}
    begun = [action.a for action in actions if action.e == "begin" and action.a not in decided]
    number = _find(actions, "looked", attempts=())
    return _change(actions, number, attempts=(begun[0],)) if begun else None


# --- recovery -----------------------------------------------------------------------------------------------------


@rule
def scan_overlooks_a_branch(actions: list[Action], chance: random.Random) -> list[Action] | None:
    """O35: a scan does not show all that is prepared."""
    numbers = [n for n, one in enumerate(actions) if one.e == "scan" and one.attempts]
    return _change(actions, chance.choice(numbers), attempts=()) if numbers else None


@rule
def scan_shows_what_is_not_there(actions: list[Action], chance: random.Random) -> list[Action] | None:
    """A branch that had ended is found prepared."""
    number = _find(actions, "scan", attempts=())
    if number is None:
        return None
    ended = [one.a for one in actions[:number] if one.e == "phase two" and one.r == actions[number].r]
    return _change(actions, number, attempts=(ended[0],)) if ended else None


@rule
def presumed_abort_of_the_living(actions: list[Action], chance: random.Random) -> list[Action] | None:
    """O34, O36: another process finishes a branch though its coordinator has not died."""
    number = _find(actions, "finish abort")
    if number is None or any(action.e == "cut" for action in actions):
        return None
    owner = actions[number].a[0]
    return _drop(actions, _find(actions, "die", p=owner)) if owner != actions[number].p else None


@rule
def recovery_turns_the_decision(actions: list[Action], chance: random.Random) -> list[Action] | None:
    """O26, O27: commit for abort, or abort for commit."""
    number = _find(actions, "finish abort")
    if number is not None:
        return _change(actions, number, e="send commit")
    return _change(actions, _find(actions, "finish commit"), e="finish abort")


@rule
def recovery_acts_without_looking(actions: list[Action], chance: random.Random) -> list[Action] | None:
    """The records were not read before a branch was finished."""
    for what in ("finish abort", "finish commit", "send commit", "missing"):
        number = _find(actions, what)
        if number is not None:
            looks = [
                n
                for n, one in enumerate(actions[:number])
                if one.e == "looked" and (one.p, one.r) == (actions[number].p, actions[number].r)
            ]
            return _drop(actions, looks[-1])
    return None


@rule
def two_incarnations_of_one_number(actions: list[Action], chance: random.Random) -> list[Action] | None:
    """A process that has died starts again under its old number."""
    number = _find(actions, "die")
    return None if number is None else [*actions, Action("start", p=actions[number].p)]


@rule
def the_dead_go_on(actions: list[Action], chance: random.Random) -> list[Action] | None:
    """A process decides after it has died."""
    number = _find(actions, "decide")
    if number is None:
        return None
    return [*actions[:number], Action("die", p=actions[number].a[0]), *actions[number:]]


@rule
def alarm_for_nothing(actions: list[Action], chance: random.Random) -> list[Action] | None:
    """A heuristic outcome is reported, and nobody has decided alone."""
    number = _find(actions, "phase two")
    if number is None:
        return None
    return [*actions, Action("alarm", a=actions[number].a, r=actions[number].r)]
