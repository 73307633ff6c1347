"""What the world was told by a folder journal, from marks; and whether a journal found on a disk keeps all of it.

    Handing, Noting     records are about to be written: from now on they may be there
    Told                what the journal said to them: what it accepted must be there
    Opened              an incarnation was drawn: none that is not higher may be drawn again
    Seen                a look at the journal: what it showed stays (O59), and what it did not show of a dead process
                        was aborted, so it never shows up
    Refused, Adopted    the folder was refused for good; a copy was adopted

Not for: making the disk (workloads.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from syncpoint.ids import Incarnation, Key, TransactionId
from syncpoint.journal.base import Verdict, View
from syncpoint.records import Abort, Commit, End, Forgotten, Heuristic, Record, ResourceKnown
from tests.journal.support import Process, abort, commit


@dataclass(frozen=True)
class Handing:
    records: tuple[Record, ...]


@dataclass(frozen=True)
class Noting:
    records: tuple[Record, ...]


@dataclass(frozen=True)
class Told:
    """`noted`: lazy records that were written with these."""

    records: tuple[Record, ...]
    verdicts: tuple[Verdict, ...]
    noted: tuple[Record, ...] = ()


@dataclass(frozen=True)
class Opened:
    incarnation: Incarnation


@dataclass(frozen=True)
class Seen:
    view: View
    own: Incarnation


@dataclass(frozen=True)
class Refused:
    done: bool


@dataclass(frozen=True)
class Adopted:
    done: bool
    floor: int
    """What the counter must have passed once the copy is a journal."""


CLAIMS_EVERY = 4

Mark = Handing | Noting | Told | Opened | Seen | Refused | Adopted


@dataclass
class Account:
    """Everything that was told until one moment."""

    handed: dict[Key, Commit] = field(default_factory=dict)
    certain: set[Key] = field(default_factory=set)
    """Commits acknowledged, or seen."""
    never: set[Key] = field(default_factory=set)
    """Commits refused, or taken for aborted."""
    ends_handed: set[Key] = field(default_factory=set)
    ends_certain: set[Key] = field(default_factory=set)
    others_handed: list[Record] = field(default_factory=list)
    others_certain: list[Record] = field(default_factory=list)
    highest: int = 0
    refused: Refused | None = None
    adopted: Adopted | None = None

    @classmethod
    def of(cls, marks: Iterable[Mark]) -> Account:
        account = cls()
        for mark in marks:
            account._take_in(mark)
        return account

    def _take_in(self, mark: Mark) -> None:
        match mark:
            case Handing() | Noting():
                for record in mark.records:
                    self._hand(record)
            case Told():
                told = [
                    *zip(mark.records, mark.verdicts, strict=True),
                    *((one, Verdict.ACCEPTED) for one in mark.noted),
                ]
                for record, verdict in told:
                    self._tell(record, verdict)
            case Opened():
                self.highest = max(self.highest, mark.incarnation)
            case Seen():
                shown = set(mark.view.decisions)
                self.certain |= shown
                gone = {key for key in self.handed if key.attempt.incarnation not in {*mark.view.live, mark.own}}
                self.never |= gone - shown - self.ends_handed - self.certain
            case Refused():
                self.refused = mark
            case Adopted():
                self.adopted = mark

    def _hand(self, record: Record) -> None:
        match record:
            case Commit():
                self.handed[record.key] = record
            case End():
                self.ends_handed.add(record.key)
            case _:
                self.others_handed.append(record)

    def _tell(self, record: Record, verdict: Verdict) -> None:
        match record:
            case Commit():
                (self.certain if verdict is Verdict.ACCEPTED else self.never).add(record.key)
            case End():
                self.ends_certain.add(record.key)
            case Abort() if verdict is Verdict.ACCEPTED:
                self.never.add(record.key)
            case _:
                self.others_certain.append(record)

    # --- checking ------------------------------------------------------------------------------------------------

    def check(self, process: Process, turn: int) -> None:
        """See that an opened journal keeps all of this. Writes into it, at the end.

        What asks for every transaction by itself asks for each at one `turn` in CLAIMS_EVERY.
        """
        assert process.journal.incarnation > self.highest, "an incarnation is drawn twice"
        assert process(process.journal.highest_incarnation()) == process.journal.incarnation
        if self.adopted is not None:
            assert process.journal.incarnation > self.adopted.floor, "a copy draws what the original drew"
        view = process(process.journal.look())
        assert not view.live, f"who is dead is taken for living: {view}"
        self._check_decisions(view)
        self._check_claims(process, view, turn)
        self._check_others(process)
        self._check_first_writer(process, view)

    def _check_decisions(self, view: View) -> None:
        shown = view.decisions
        assert not {key for key in self.certain - self.ends_handed if key not in shown}, (
            "an acknowledged Commit is lost"
        )
        assert not {key for key in shown if self.handed.get(key) != shown[key]}, "a Commit is invented, or half there"
        assert not shown.keys() & self.ends_certain, "what has ended came back"
        assert not shown.keys() & self.never, "what was aborted came back"
        both = [key.transaction for key in (*shown, *view.ended)]
        assert len(both) == len(set(both)), "two attempts of one transaction are committed"

    def _check_claims(self, process: Process, view: View, turn: int) -> None:
        certain = {key.transaction: self.handed[key] for key in self.certain}
        for key in list(self.handed)[turn % CLAIMS_EVERY :: CLAIMS_EVERY]:
            claim = process(process.journal.claim(key.transaction))
            process.journal.release(key.transaction)
            kept = certain.get(key.transaction)
            assert not claim.running, "a claim is stuck"
            assert claim.committed in (None, *self._attempts(key.transaction)), "a result is invented"
            if kept is not None and (kept.user_id is not None or kept.key in view.decisions):
                assert claim.committed == kept, "a stored result is lost"
            assert process(process.journal.find(key.transaction)) == claim.committed

    def _attempts(self, transaction: TransactionId) -> list[Commit]:
        return [record for key, record in self.handed.items() if key.transaction == transaction]

    def _check_others(self, process: Process) -> None:
        listed = list(process(process.journal.heuristics()))
        handed = [record for record in self.others_handed if isinstance(record, Heuristic)]
        certain = [record for record in self.others_certain if isinstance(record, Heuristic)]
        forgotten = {record.key for record in self.others_handed if isinstance(record, Forgotten)}
        forgotten_certain = {record.key for record in self.others_certain if isinstance(record, Forgotten)}
        assert [one for one in certain if one.key not in forgotten and one not in listed] == [], "a heuristic is lost"
        assert [one for one in listed if one not in handed or one.key in forgotten_certain] == [], "one is invented"
        for record in self.others_certain:
            if isinstance(record, ResourceKnown):
                guid = process.journal.resource(record.name)
                assert guid is not None, f"the resource {record.name} is forgotten"
                assert guid.raw == record.guid

    def _check_first_writer(self, process: Process, view: View) -> None:
        """Whatever is committed stays so, against any other attempt and any Abort; whatever is not can be aborted."""
        kept = {record.key for record in map(self.handed.get, self.certain) if record and record.user_id is not None}
        records: list[Record] = []
        for key in self.handed:
            other = Key(key.transaction, process.journal.next_attempt())
            records += [abort(key), commit(key), commit(other)]
        verdicts = iter(process(process.journal.force(records)))
        for key in self.handed:
            told = [next(verdicts) is Verdict.ACCEPTED for _ in range(3)]
            if key in view.decisions:
                assert told == [False, False, False], "a second writer wins"
            elif key in kept:
                assert told == [False, False, False], "a second writer wins over a stored result"
            else:
                assert not told[1], "what was aborted is committed after all"
