"""The commands of the transcripts, played on a world of real coordinators and participants.

A command is one line: its name, words, `key=value`. What it prints: what the journal and recovery said, then the
effects in their order (force, send, lazily). After the last command of a block: the coordinator, every unit of work
with what is on its way to it, and the journal. Every line of it is deterministic.

    begin                      a new attempt at the transaction, by the living process
    enlist NAME                a branch at a resource manager
    commit writers=1,2 id=X    the caller's wish; without `id` no record is needed for fewer than two writers;
                               `decider=1`: that one is at the database that the journal lives in
    abort WHY | withdraw WHY   the caller's other wish | the coordinator's own no
    vote N yes|no|read-only    the prepare arrives at N, and its vote arrives back
    lost N [yes|no|read-only]  no vote came back from N; with a word: the prepare had arrived there
    force                      the record lands in the journal, and its verdict arrives
    force lost [landed]        the verdict is lost; the record is still on its way, or has landed
    decide [lost [landed]]     the same for a decision that the decider carries
    land                       a record on its way lands, though nobody waits for it any more
    answer N [ANSWER]          the outcome arrives at N, and its answer (or this one) arrives back
    unreachable N              no answer came back from N; what it was told is still on its way
    arrives N WHAT             something still on its way arrives at N
    settle [retry]             the evidence of the lone writer is looked at
    alone NAME commit|abort    somebody at a resource manager ends its unit in doubt without asking
    crash | restart            the coordinator's process is killed | its next incarnation starts
    restart NAME               a resource manager is killed and starts again
    replace NAME               a replica that never had the prepared unit takes its place
    redo NAME                  this resource manager's state information can redo a branch
    scan | recover             what is in doubt | one pass of recovery
    recover guessed-dead       the same by another process, which takes a living coordinator for dead
    resolve NAME commit|abort  an operator forces a branch; the record comes first
    ask NAME                   a unit in doubt asks what became of it
    prepare NAME [N]           a stray prepare with the identifier of branch N, or with none
    result                     what the caller is told
"""

from __future__ import annotations

from collections.abc import Callable

from syncpoint.ids import BranchNumber, Identifier
from syncpoint.protocol.coordinator import Effects, What
from syncpoint.protocol.participant import Participant
from syncpoint.protocol.words import Answer, Choice
from syncpoint.records import Abort, Commit, KeyedRecord, Record, Resolved, key_fields
from tests.protocol.world import TRANSACTION, Step, World

CHOICES = {"yes": Choice.YES, "no": Choice.NO, "read-only": Choice.READ_ONLY}


class Stage:
    """Plays one transcript."""

    def __init__(self) -> None:
        self.world = World(guaranteed=False)
        self.lines: list[str] = []

    def play(self, commands: list[str]) -> str:
        """Run some commands; the whole text they print, with the state of the world once, after the last."""
        self.lines = []
        for command in commands:
            self._run(command)
        if not all(command.split()[0] in ("result", "scan", "ask") for command in commands):
            self._show_world()
        return "\n".join(self.lines).replace(str(TRANSACTION), "t1")

    def _run(self, command: str) -> None:
        name, *words = command.split()
        method: Callable[..., Effects | None] = getattr(self, f"do_{name}")
        options = dict(word.split("=", 1) for word in words if "=" in word)
        effects = method(*[word for word in words if "=" not in word], **options)
        if effects is not None:
            self._show_effects(effects)

    def say(self, text: str) -> None:
        self.lines.append(text)

    # --- the coordinator's side ---------------------------------------------------------------------------

    def do_begin(self) -> None:
        self.world.begin()

    def do_enlist(self, name: str) -> None:
        self.say(f"identifier {self.world.enlist(name)}")

    def do_commit(self, writers: str = "", id: str | None = None, decider: str = "") -> Effects:
        numbers = [BranchNumber(int(number)) for number in writers.split(",") if number]
        return self.world.commit(numbers, user_id=id, decider=BranchNumber(int(decider)) if decider else None)

    def do_abort(self, *why: str) -> Effects:
        return self.world.do(self.world.alive.abort(" ".join(why)))

    def do_withdraw(self, *why: str) -> None:
        self.world.alive.withdraw(" ".join(why))

    def do_vote(self, number: str, choice: str) -> Effects:
        branch = BranchNumber(int(number))
        self.world.arrive(branch, What.PREPARE, CHOICES[choice])
        return self.world.reply(branch)

    def do_lost(self, number: str, choice: str = "") -> Effects:
        branch = BranchNumber(int(number))
        if choice:
            self.world.arrive(branch, What.PREPARE, CHOICES[choice])
        return self.world.give_up(branch)

    def do_answer(self, number: str, answer: str = "") -> Effects:
        branch = BranchNumber(int(number))
        told = self.world.alive.branches[branch].told
        assert told is not None, f"branch {branch} was told nothing"
        self.world.arrive(branch, told)
        return self.world.reply(branch, Answer[answer.upper().replace("-", "_")] if answer else None)

    def do_unreachable(self, number: str) -> Effects:
        return self.world.give_up(BranchNumber(int(number)))

    def do_arrives(self, number: str, what: str) -> None:
        self.world.arrive(BranchNumber(int(number)), What[what.upper().replace("-", "_")])

    def do_settle(self, answer: str = "") -> Effects:
        return self.world.alive.settled(Answer.RETRY) if answer == "retry" else self.world.settle()

    def do_result(self) -> None:
        coordinator = self.world.alive
        self.say(" ".join([coordinator.result.name, *(f"pending={name}" for name in sorted(coordinator.pending))]))
        if coordinator.why:
            self.say(f"because {coordinator.why}")

    # --- the journal ----------------------------------------------------------------------------------------

    def do_force(self, lost: str = "", landed: str = "") -> Effects:
        if lost and not landed:
            return self.world.lose_verdict()
        self.do_land()
        return self.world.lose_verdict() if lost else self.world.judge()

    def do_decide(self, lost: str = "", landed: str = "") -> Effects:
        if lost and not landed:
            return self.world.lose_verdict()
        number, record = self.world.alive.decider, self.world.decision
        assert number is not None
        assert record is not None
        self.world.arrive(number, What.DECIDE)
        said = "accepts" if record in self.world.journal.records else "refuses"
        self.say(f"journal {said} {shown(record)}, in the branch of {self.world.homes[number]}")
        return self.world.lose_verdict() if lost else self.world.judge()

    def do_land(self) -> None:
        index = len(self.world.appends) - 1 if self.world.coordinator else 0
        record = self.world.appends[index]
        said = "accepts" if self.world.land(index) else "refuses"
        self.say(f"journal {said} {shown(record)}")

    def do_resolve(self, name: str, outcome: str) -> None:
        (identifier,) = self.world.manager(name).table.in_doubt()
        fields = key_fields(identifier.key)
        record = Resolved(
            **fields,
            resource=name,
            identifier=identifier.to_bytes(),
            commit=outcome == "commit",
            reason="the caller confirmed",
            who="operator",
            at_ms=0,
        )
        self.world.journal.append(record)

    # --- resource managers -----------------------------------------------------------------------------------

    def do_alone(self, name: str, outcome: str) -> None:
        (identifier,) = self.world.manager(name).table.in_doubt()
        self.world.manager(name).decide_alone(identifier, commit=outcome == "commit")

    def do_redo(self, name: str) -> None:
        self.world.manager(name).has_redo = True

    def do_replace(self, name: str) -> None:
        (identifier,) = self.world.manager(name).table.in_doubt()
        self.world.manager(name).lose(identifier)

    def do_prepare(self, name: str, number: str = "") -> None:
        identifier = self.world.identifiers[BranchNumber(int(number))] if number else None
        unit = Participant()
        refused = self.world.manager(name).table.prepare(identifier, unit)
        said = f"votes {refused.name}" if refused else "goes on to make its vote durable"
        self.say(f"{name} {said}: the stray unit is {unit.state.name}")

    # --- death and recovery ----------------------------------------------------------------------------------

    def do_crash(self) -> None:
        self.world.crash()

    def do_restart(self, name: str = "") -> None:
        if name:
            self.world.manager(name).restart()
        else:
            assert self.world.coordinator is None, "it lives"
            self.world.incarnation, self.world.counter = self.world.incarnation + 1, 0

    def do_scan(self) -> None:
        found = [
            f"{name} {identifier}"
            for name, manager in self.world.managers.items()
            for identifier in manager.table.in_doubt()
        ]
        for line in found or ["nothing in doubt"]:
            self.say(line)

    def do_recover(self, guess: str = "") -> None:
        if guess:
            plan = self.world.look(guessed_dead=True)
            for step in plan:
                self.world.act(step)
        else:
            plan = self.world.recover()
        for step in plan:
            self.say(_step(step))
        if not plan:
            self.say("nothing to do")

    def do_ask(self, name: str) -> None:
        for identifier in self.world.manager(name).table.in_doubt():
            self.say(f"{identifier}: {self.world.ask(identifier).name}")

    # --- what is shown ---------------------------------------------------------------------------------------

    def _show_effects(self, effects: Effects) -> None:
        for record in effects.force:
            through = f" through {effects.through} {self.world.homes[effects.through]}" if effects.through else ""
            self.say(f"force {shown(record)}{through}")
        for send in effects.then:
            self.say(f"send {_word(send.what)} to {send.branch} {self.world.homes[send.branch]}")
        for record in effects.lazily:
            self.say(f"lazily {shown(record)}")

    def _show_world(self) -> None:
        self.say(repr(self.world.coordinator) if self.world.coordinator else "<no coordinator>")
        for name, manager in self.world.managers.items():
            for identifier, unit in manager.units.items():
                self.say(self._unit(name, identifier, unit))
        records = [shown(record) for record in self.world.journal.records]
        if records:
            self.say(f"  journal: {', '.join(records)}")

    def _unit(self, name: str, identifier: Identifier, unit: Participant) -> str:
        text = f"  {name:6} {identifier} {unit.state.name}"
        if identifier in self.world.managers[name].alone:
            text += ", alone"
        coming = [what for number, what in self.world.requests if self.world.identifiers.get(number) == identifier]
        text += "".join(f", {_word(what)} on its way" for what in sorted(coming, key=lambda what: what.value))
        return text


def shown(record: Record) -> str:
    """A record on one line."""
    assert isinstance(record, KeyedRecord)
    text = f"{type(record).__name__} {record.key}"
    if isinstance(record, Commit):
        text += "".join(f" #{entry.read_identifier().branch}" for entry in record.branches) or " of nothing"
        text += f" id={record.user_id}" if record.user_id else ""
    if isinstance(record, Abort):
        text += f" ({record.why})"
    if isinstance(record, Resolved):
        text += f" {record.resource} {'commit' if record.commit else 'abort'}"
    return text


def _step(step: Step) -> str:
    where = "found" if step.found else "missing"
    answer = step.answer.name if step.answer else "left alone"
    return f"{where} {step.manager} {step.identifier}: {step.fate.name}: {answer}"


def _word(what: What) -> str:
    return what.name.lower().replace("_", "-")
