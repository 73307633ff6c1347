"""The statements of a journal in a database, for both kinds of it; and the rules that hold because of them.

    journal       one row: the journal's GUID, its format, whose it is, the counter of incarnations
    incarnation   one row a process: who finishes its work (`keeper`); its own number means that it lives
    heartbeat     when each was last heard of; apart, since a decision locks its row of `incarnation`
    record        Commit and Abort, by (transaction, attempt); `once` is the transaction of a Commit
    claim         which living process runs a transaction with an id (C7)
    note, known   heuristic outcomes and operators' wishes; names of resources and coordinators

First writer wins: of Commit(x, n) and Abort(x, n) the primary key lets one in, of all Commits of x the unique `once`
(protocol/admission.py says the same of a folder). A Commit is let in only while its incarnation keeps itself: the
INSERT reads that row and keeps it as it is until it has ended, so once somebody else is its keeper, no Commit of that
incarnation can appear any more (O54, O56); an Abort needs no such leave.
Not for: running them, or reading what comes back (database.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from syncpoint.ids import Incarnation, Key, TransactionId
from syncpoint.journal.store import Store
from syncpoint.records import Abort, Commit, CoordinatorKnown, KeyedRecord, ResourceKnown, encode_record

JOURNAL_FORMAT = 1


class Statements:
    """Texts in the words of one store."""

    def __init__(self, store: Store) -> None:
        self._words = store

    # --- the journal itself -------------------------------------------------------------------------------------

    def head(self) -> str:
        digits = self._words.digits
        return f"SELECT {digits('guid')}, format, cluster, counter, refused FROM syncpoint.journal"

    @staticmethod
    def format() -> str:
        """What every later format keeps in its place."""
        return "SELECT format FROM syncpoint.journal"

    def begin_journal(self, guid: bytes, cluster: str) -> str:
        return (
            "INSERT INTO syncpoint.journal (single, guid, format, cluster, counter) VALUES "
            f"(true, {self._words.raw(guid)}, {JOURNAL_FORMAT}, {self._words.text(cluster)}, 0) "
            + self._words.unless_there("single")
        )

    def database_guid(self) -> str:
        return f"SELECT {self._words.digits('guid')} FROM syncpoint.resource"

    def counter(self) -> str:
        return "SELECT counter FROM syncpoint.journal"

    def refuse(self, why: str) -> str:
        return f"UPDATE syncpoint.journal SET refused = {self._words.text(why)}"

    @staticmethod
    def adopt(raise_by: int) -> str:
        """Let a restored copy be used, with incarnations above all that the original can have drawn."""
        return f"UPDATE syncpoint.journal SET refused = NULL, counter = counter + {raise_by}"

    def draw(self, process: str) -> list[str]:
        """The next incarnation, alive from now on. The first statement tells whose journal it is and whether it is
        refused, the last one the number."""
        number = "(SELECT counter FROM syncpoint.journal)"
        return [
            f"SELECT {self._words.digits('guid')}, refused FROM syncpoint.journal",
            "UPDATE syncpoint.journal SET counter = counter + 1",
            (
                "INSERT INTO syncpoint.incarnation (incarnation, keeper, process) "
                f"VALUES ({number}, {number}, {self._words.text(process)})"
            ),
            f"INSERT INTO syncpoint.heartbeat (incarnation, beat) VALUES ({number}, {self._words.NOW})",
            self.counter(),
        ]

    # --- who lives ----------------------------------------------------------------------------------------------

    def beat(self, own: Incarnation, dead_after_s: float) -> list[str]:
        """Give a sign of life. The first statement tells (one row) whether the last one came in time, the last one who
        keeps us: ourselves, or we were taken for dead."""
        return [
            f"SELECT 1 FROM syncpoint.heartbeat h WHERE h.incarnation = {own} AND {self._heard('h', dead_after_s)}",
            f"UPDATE syncpoint.heartbeat SET beat = {self._words.NOW} WHERE incarnation = {own}",
            self.keeper(own),
        ]

    @staticmethod
    def keeper(incarnation: Incarnation) -> str:
        return f"SELECT keeper FROM syncpoint.incarnation WHERE incarnation = {incarnation}"

    def _heard(self, alias: str, dead_after_s: float) -> str:
        """Heard of lately. A sign of life from the future says nothing: the server's clock was put back."""
        return f"{alias}.beat BETWEEN {self._words.ago(dead_after_s)} AND {self._words.ago(-dead_after_s)}"

    def _we_were_heard(self, own: Incarnation, dead_after_s: float) -> str:
        """Who was not heard of himself judges nobody: the server was away, or its clock was put forward."""
        return (
            f"EXISTS (SELECT 1 FROM syncpoint.heartbeat o WHERE o.incarnation = {own} "
            f"AND {self._heard('o', dead_after_s)})"
        )

    def forsaken(self, own: Incarnation, dead_after_s: float) -> str:
        """(incarnation, keeper) of those to be taken over: not heard of for so long, or kept by nobody who lives.

        What somebody else keeps is only taken after that keeper itself was: until then it may be at work. Nobody
        takes his own number back: whoever has been taken over stays so (O54).
        """
        return (
            "SELECT i.incarnation, i.keeper FROM syncpoint.incarnation i "
            "LEFT JOIN syncpoint.incarnation k ON k.incarnation = i.keeper "
            "LEFT JOIN syncpoint.heartbeat h ON h.incarnation = i.incarnation "
            f"WHERE i.keeper <> {own} AND i.incarnation <> {own} AND {self._we_were_heard(own, dead_after_s)} "
            f"AND CASE WHEN i.keeper = i.incarnation THEN h.beat IS NULL OR NOT ({self._heard('h', dead_after_s)}) "
            "ELSE k.incarnation IS NULL OR k.keeper <> k.incarnation END"
        )

    def take_over(self, own: Incarnation, one: Incarnation, keeper: Incarnation, dead_after_s: float) -> list[str]:
        """Become the keeper, unless somebody else was faster or it was heard of meanwhile; the last statement tells.

        This waits for a decision of `one` that is being written, and after it there is no other.
        """
        assert own != one, "whoever has been taken over stays so (O54)"
        return [
            (
                f"UPDATE syncpoint.incarnation SET keeper = {own} WHERE incarnation = {one} AND keeper = {keeper} "
                f"AND {self._we_were_heard(own, dead_after_s)} "
                "AND (keeper <> incarnation OR NOT EXISTS (SELECT 1 FROM syncpoint.heartbeat h "
                f"WHERE h.incarnation = {one} AND {self._heard('h', dead_after_s)}))"
            ),
            self.keeper(one),
        ]

    @staticmethod
    def kept_by(own: Incarnation) -> str:
        return f"SELECT incarnation FROM syncpoint.incarnation WHERE keeper = {own}"

    def leave(self, own: Incarnation, kept: Sequence[Incarnation], claims: Sequence[TransactionId]) -> list[str]:
        """At the end: nobody keeps what is ours any more, and what is finished needs no keeper."""
        return [
            *(
                f"UPDATE syncpoint.incarnation SET keeper = 0 WHERE incarnation = {one} AND keeper = {own}"
                for one in sorted({own, *kept})
            ),
            f"DELETE FROM syncpoint.heartbeat WHERE incarnation = {own}",
            *(self.release([(claim, own) for claim in claims]) if claims else ()),
            *self._remove_incarnation(own, keeper=0),
        ]

    @staticmethod
    def living() -> str:
        return "SELECT incarnation FROM syncpoint.incarnation WHERE keeper = incarnation"

    @staticmethod
    def oldest_living() -> str:
        return "SELECT MIN(incarnation) FROM syncpoint.incarnation WHERE keeper = incarnation"

    @staticmethod
    def unfinished(candidates: Iterable[Incarnation]) -> str:
        """Those of `candidates` that live, or whose Commit records have not all ended."""
        numbers = ", ".join(str(one) for one in candidates)
        return (
            f"SELECT incarnation FROM syncpoint.incarnation WHERE keeper = incarnation AND incarnation IN ({numbers}) "
            "UNION SELECT incarnation FROM syncpoint.record "
            f"WHERE ended IS NULL AND once IS NOT NULL AND incarnation IN ({numbers})"
        )

    # --- records ------------------------------------------------------------------------------------------------

    def commit(self, record: Commit) -> str:
        """Fails on a key when another was first, and on the missing incarnation when it was taken for dead."""
        own = record.key.attempt.incarnation
        alive = (
            "(SELECT i.incarnation FROM syncpoint.incarnation i "
            f"WHERE i.incarnation = {own} AND i.keeper = {own} {self._words.SHARE})"
        )
        once = self._words.raw(record.transaction)
        return self._insert_record(record, alive, once, kept=record.user_id is not None)

    def abort(self, record: Abort) -> str:
        return self._insert_record(record, str(record.key.attempt.incarnation), "NULL", kept=False)

    def _insert_record(self, record: Commit | Abort, incarnation: str, once: str, *, kept: bool) -> str:
        raw = self._words.raw
        return (
            "INSERT INTO syncpoint.record (transaction, attempt, incarnation, once, kept, data) VALUES "
            f"({raw(record.transaction)}, {record.attempt}, {incarnation}, {once}, {str(kept).lower()}, "
            f"{raw(encode_record(record))})"
        )

    def is_abort(self, key: Key) -> str:
        """One row, "1" when it is an Abort, for a key that is there."""
        return f"SELECT CASE WHEN once IS NULL THEN 1 ELSE 0 END FROM syncpoint.record WHERE {self._at(key)}"

    def unended(self, key: Key) -> str:
        """One row, for a Commit that has not ended."""
        return f"SELECT 1 FROM syncpoint.record WHERE {self._at(key)} AND once IS NOT NULL AND ended IS NULL"

    def committed(self, transaction: TransactionId) -> str:
        data = self._words.digits("data")
        return f"SELECT {data} FROM syncpoint.record WHERE once = {self._words.raw(transaction.raw)}"

    def end(self, keys: Sequence[Key], own: Iterable[Incarnation]) -> list[str]:
        """Every branch has acknowledged. Results stay for the retention, all else goes.

        Only what one of `own` keeps is ended: whoever has taken it over finishes it himself, and would take evidence
        that goes after the end for a rollback. The row of the keeper is held, so who takes over sees the end or none.
        """
        now = self._words.NOW
        keeper = (
            "(SELECT i.keeper FROM syncpoint.incarnation i WHERE i.incarnation = record.incarnation "
            f"{self._words.SHARE}) IN ({', '.join(map(str, sorted(own)))})"
        )
        return [
            statement
            for which in self._among(keys)
            for statement in (
                (
                    f"UPDATE syncpoint.record SET ended = {now} WHERE {which} AND kept = true AND ended IS NULL "
                    f"AND {keeper}"
                ),
                f"DELETE FROM syncpoint.record WHERE {which} AND kept = false AND once IS NOT NULL AND {keeper}",
            )
        ]

    def kept_decisions(self, own: Incarnation) -> str:
        """Commit records that have not ended and that we must see finished."""
        return (
            f"SELECT {self._words.digits('r.data')} FROM syncpoint.record r "
            "JOIN syncpoint.incarnation i ON i.incarnation = r.incarnation "
            f"WHERE i.keeper = {own} AND r.ended IS NULL AND r.once IS NOT NULL"
        )

    def decisions_elsewhere(self, own: Incarnation) -> str:
        """Keys of those of the dead that somebody else sees finished, or nobody yet."""
        return (
            f"SELECT {self._words.digits('r.transaction')}, r.attempt FROM syncpoint.record r "
            "LEFT JOIN syncpoint.incarnation i ON i.incarnation = r.incarnation "
            f"WHERE r.ended IS NULL AND r.once IS NOT NULL AND (i.incarnation IS NULL OR "
            f"(i.keeper <> {own} AND i.keeper <> i.incarnation))"
        )

    def _at(self, key: Key) -> str:
        return f"transaction = {self._words.raw(key.transaction.raw)} AND attempt = {key.attempt.to_int()}"

    def _among(self, keys: Sequence[Key]) -> list[str]:
        pairs = [(self._words.raw(key.transaction.raw), str(key.attempt.to_int())) for key in keys]
        return self._words.conditions(("transaction", "attempt"), pairs)

    # --- claims -------------------------------------------------------------------------------------------------

    def claim(self, transaction: TransactionId, own: Incarnation) -> list[str]:
        """Claim an id, also from a process that was taken for dead; the last two tell who has it, and the result."""
        raw = self._words.raw(transaction.raw)
        return [
            f"INSERT INTO syncpoint.claim (transaction, incarnation) VALUES ({raw}, {own}) "
            + self._words.unless_there("transaction"),
            (
                f"UPDATE syncpoint.claim SET incarnation = {own} WHERE transaction = {raw} AND NOT EXISTS "
                "(SELECT 1 FROM syncpoint.incarnation i WHERE i.incarnation = claim.incarnation "
                "AND i.keeper = i.incarnation)"
            ),
            f"SELECT incarnation FROM syncpoint.claim WHERE transaction = {raw}",
            self.committed(transaction),
        ]

    def release(self, claims: Sequence[tuple[TransactionId, Incarnation]]) -> list[str]:
        pairs = [(self._words.raw(transaction.raw), str(own)) for transaction, own in sorted(claims)]
        return [
            f"DELETE FROM syncpoint.claim WHERE {which}"
            for which in self._words.conditions(("transaction", "incarnation"), pairs)
        ]

    def claims_of(self, own: Incarnation) -> str:
        return f"SELECT {self._words.digits('transaction')} FROM syncpoint.claim WHERE incarnation = {own}"

    def claims_of_the_dead(self, limit: int) -> str:
        """(transaction, incarnation) of claims whose process was taken for dead, or has ended."""
        return (
            f"SELECT {self._words.digits('c.transaction')}, c.incarnation FROM syncpoint.claim c WHERE NOT EXISTS "
            "(SELECT 1 FROM syncpoint.incarnation i WHERE i.incarnation = c.incarnation AND i.keeper = i.incarnation) "
            f"LIMIT {limit}"
        )

    # --- the rest -----------------------------------------------------------------------------------------------

    def note(self, record: KeyedRecord) -> str:
        """Written once, also when it is sent again after a lost reply."""
        transaction, data = self._words.raw(record.transaction), self._words.raw(encode_record(record))
        return (
            "INSERT INTO syncpoint.note (transaction, attempt, data) "
            f"SELECT {transaction}, {record.attempt}, {data} WHERE NOT EXISTS (SELECT 1 FROM syncpoint.note n "
            f"WHERE n.transaction = {transaction} AND n.attempt = {record.attempt} AND n.data = {data})"
        )

    def notes(self) -> str:
        return f"SELECT {self._words.digits('data')} FROM syncpoint.note ORDER BY id"

    def know(self, record: ResourceKnown | CoordinatorKnown) -> str:
        """A resource keeps the GUID it was first known by; what is said of a coordinator may change."""
        if isinstance(record, ResourceKnown):
            kind, name, tail = "resource", record.name, self._words.unless_there("kind")
        else:
            kind, name, tail = "coordinator", record.guid.hex(), self._words.or_update("kind, name", ("data",))
        return (
            f"INSERT INTO syncpoint.known (kind, name, data) VALUES ('{kind}', {self._words.text(name)}, "
            f"{self._words.raw(encode_record(record))}) {tail}"
        )

    def known(self) -> str:
        return f"SELECT {self._words.digits('data')} FROM syncpoint.known ORDER BY kind, name"

    def story(self, transaction: TransactionId) -> list[str]:
        raw, data = self._words.raw(transaction.raw), self._words.digits("data")
        return [
            (
                f"SELECT incarnation, {data}, CASE WHEN ended IS NULL THEN 0 ELSE 1 END FROM syncpoint.record "
                f"WHERE transaction = {raw} ORDER BY attempt"
            ),
            f"SELECT {data} FROM syncpoint.note WHERE transaction = {raw} ORDER BY id",
        ]

    def transactions(self) -> list[str]:
        digits = self._words.digits("transaction")
        return [f"SELECT {digits}, attempt FROM syncpoint.{table}" for table in ("record", "note")]

    # --- cleaning -----------------------------------------------------------------------------------------------

    def expired(self, retention_s: float, limit: int) -> str:
        """Keys of results kept long enough."""
        return (
            f"SELECT {self._words.digits('transaction')}, attempt FROM syncpoint.record "
            f"WHERE ended < {self._words.ago(retention_s)} LIMIT {limit}"
        )

    def fenced_aborts(self, limit: int) -> str:
        """Keys of Aborts whose incarnation can write no Commit any more (O54)."""
        return (
            f"SELECT {self._words.digits('r.transaction')}, r.attempt FROM syncpoint.record r "
            "WHERE r.once IS NULL AND NOT EXISTS (SELECT 1 FROM syncpoint.incarnation i "
            f"WHERE i.incarnation = r.incarnation AND i.keeper = i.incarnation) LIMIT {limit}"
        )

    def remove(self, keys: Sequence[Key]) -> list[str]:
        """Remove records that have ended, and Aborts."""
        return [
            f"DELETE FROM syncpoint.record WHERE {which} AND (ended IS NOT NULL OR once IS NULL)"
            for which in self._among(keys)
        ]

    @staticmethod
    def finished(own: Incarnation) -> str:
        """Of those that we keep, the ones with nothing left."""
        return (
            f"SELECT i.incarnation FROM syncpoint.incarnation i WHERE i.keeper = {own} AND i.incarnation <> {own} "
            "AND NOT EXISTS (SELECT 1 FROM syncpoint.record r WHERE r.incarnation = i.incarnation AND r.ended IS NULL)"
        )

    def remove_finished(self, own: Incarnation, found: Sequence[Incarnation]) -> list[str]:
        return [statement for one in found for statement in self._remove_incarnation(one, keeper=own)]

    @staticmethod
    def _remove_incarnation(one: Incarnation, *, keeper: int) -> list[str]:
        """By its key, so that no other row is locked on the way; then a sign of life that belongs to nobody."""
        return [
            (
                f"DELETE FROM syncpoint.incarnation WHERE incarnation = {one} AND keeper = {keeper} "
                f"AND NOT EXISTS (SELECT 1 FROM syncpoint.record r WHERE r.incarnation = {one} AND r.ended IS NULL)"
            ),
            (
                f"DELETE FROM syncpoint.heartbeat WHERE incarnation = {one} AND NOT EXISTS "
                f"(SELECT 1 FROM syncpoint.incarnation i WHERE i.incarnation = {one})"
            ),
        ]
