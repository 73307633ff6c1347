"""Hypothesis strategies for everything of Syncpoint that is written as bytes: for property tests, ours and yours.

    from hypothesis import given
    from syncpoint.testing.strategies import identifiers, records

    @given(records)
    def test_my_journal_keeps_them(record): ...

Each draws every valid value of its kind, corner cases included, and nothing else. `damaged` draws what a disk, a
network or a careless hand makes of valid bytes. Needs hypothesis (`pip install "syncpoint[testing]"`).

Not for: values that are wrong on purpose in one field (a decoder's own tests make those).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from syncpoint.ids import (
    ID_SIZE_CHARS_MAX,
    INCARNATION_MAX,
    Attempt,
    BranchNumber,
    Guid,
    Identifier,
    Incarnation,
    Key,
    TransactionId,
)
from syncpoint.records import (
    Abort,
    AnyRecord,
    BranchEntry,
    Commit,
    CoordinatorKnown,
    End,
    Forgotten,
    Heuristic,
    KeyedRecord,
    Prepared,
    Resolved,
    ResourceIncarnation,
    ResourceKnown,
    key_fields,
)

# --- names -----------------------------------------------------------------------------------------------------

sixteen_bytes = st.binary(min_size=16, max_size=16)
guids: SearchStrategy[Guid] = sixteen_bytes.map(Guid)
transaction_ids: SearchStrategy[TransactionId] = sixteen_bytes.map(TransactionId)
_halves = st.integers(0, 0xFFFF_FFFF)
incarnations: SearchStrategy[Incarnation] = _halves.map(Incarnation)
attempts: SearchStrategy[Attempt] = st.builds(Attempt, incarnations, _halves)
keys: SearchStrategy[Key] = st.builds(Key, transaction_ids, attempts)
branch_numbers: SearchStrategy[BranchNumber] = st.integers(0, 0xFFFF).map(BranchNumber)
identifiers: SearchStrategy[Identifier] = st.builds(Identifier, guids, transaction_ids, attempts, branch_numbers)

texts = st.text(max_size=12)
"""Short text of any characters that UTF-8 can write."""
user_ids = st.text(min_size=1, max_size=20) | st.text(min_size=ID_SIZE_CHARS_MAX, max_size=ID_SIZE_CHARS_MAX)
"""What a user may give as `id=`."""
scopes = st.text(max_size=20)
resource_names: SearchStrategy[str] = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
times_ms = st.integers(0, 1 << 53)

# --- records -----------------------------------------------------------------------------------------------------

branch_entries: SearchStrategy[BranchEntry] = st.builds(
    BranchEntry,
    resource=texts,
    guid=sixteen_bytes,
    identifier=identifiers.map(Identifier.to_bytes),
    state=st.binary(max_size=30),
)
_branches = st.lists(branch_entries, max_size=3).map(tuple)


def _keyed(kind: type[KeyedRecord], **fields: SearchStrategy[Any]) -> SearchStrategy[Any]:
    return st.builds(lambda key, rest: kind(**key_fields(key), **rest), keys, st.fixed_dictionaries(fields))


_one_branch: dict[str, SearchStrategy[Any]] = {
    "resource": texts,
    "identifier": identifiers.map(Identifier.to_bytes),
    "at_ms": times_ms,
}

records_by_kind: Mapping[type[AnyRecord], SearchStrategy[AnyRecord]] = {
    Commit: _keyed(
        Commit,
        branches=_branches,
        at_ms=times_ms,
        scope=texts,
        user_id=st.none() | texts,
        fingerprint=st.binary(max_size=32),
        result=st.none() | st.binary(max_size=30),
        term=st.integers(0, 1 << 40),
        decided_at=texts,
    ),
    Abort: _keyed(Abort, why=texts),
    Prepared: _keyed(
        Prepared, superior=sixteen_bytes, branches=_branches, identifier=identifiers.map(Identifier.to_bytes)
    ),
    End: _keyed(End),
    Resolved: _keyed(Resolved, **_one_branch, commit=st.booleans(), reason=texts, who=texts),
    Heuristic: _keyed(Heuristic, **_one_branch, outcome=texts, decided=texts, detail=texts),
    Forgotten: _keyed(Forgotten, who=texts, at_ms=times_ms),
    ResourceIncarnation: st.builds(
        ResourceIncarnation,
        name=texts,
        guid=sixteen_bytes,
        incarnation=st.integers(1, INCARNATION_MAX),
        place=texts,
        at_ms=times_ms,
    ),
    ResourceKnown: st.builds(ResourceKnown, name=texts, guid=sixteen_bytes),
    CoordinatorKnown: st.builds(
        CoordinatorKnown, guid=sixteen_bytes, address=texts, adopted=st.booleans(), at_ms=times_ms
    ),
}
records: SearchStrategy[AnyRecord] = st.one_of(*records_by_kind.values())

# --- results -----------------------------------------------------------------------------------------------------

_scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.binary(max_size=8)
)
results: SearchStrategy[Any] = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
"""Values that a transaction may store as its result, and that come back equal."""

# --- damage ------------------------------------------------------------------------------------------------------


@st.composite
def damaged(draw: Callable[[SearchStrategy[Any]], Any], whole: SearchStrategy[bytes]) -> bytes:
    """Bytes drawn from `whole`, then changed one to four times: flipped, replaced, cut, doubled, filled."""
    raw = bytearray(draw(whole))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(raw)))
        end = min(len(raw), at + draw(st.integers(0, 16)))
        match draw(st.integers(0, 5)):
            case 0 if at < len(raw):
                raw[at] ^= 1 << draw(st.integers(0, 7))
            case 1 if at < len(raw):
                raw[at] = draw(st.integers(0, 255))
            case 2:
                del raw[at:]
            case 3:
                raw[at:at] = raw[at:end]
            case 4:
                raw[at:end] = draw(st.sampled_from((b"\0", b"\xff", b"\x7f"))) * (end - at)
            case _:
                raw[at:at] = draw(st.binary(max_size=8))
    return bytes(raw)
