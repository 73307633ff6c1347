"""On garbage every decoder answers or raises its own error, nothing else; the long form is `make fuzz`.

What the long form has found is kept in findings/ and replayed here. Not for: round trips (test_round_trips.py).
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from syncpoint.testing.strategies import damaged
from tests.fuzz.decoders import DECODERS

FINDINGS = Path(__file__).parent / "findings"
SLOW = {"journal-file": 60, "journal-names": 60, "configuration": 100, "sqlite-changeset": 60}
"""How many examples of those that do more than decode."""
EXAMPLES = 150

by_name = pytest.mark.parametrize("name", sorted(DECODERS))


@by_name
def test_valid_bytes_are_read(name: str) -> None:
    decoder = DECODERS[name]
    accepted = [decoder.feed(seed) for seed in decoder.seeds]
    assert accepted[0], "the first seed is a valid one"


@by_name
def test_garbage(name: str) -> None:
    decoder = DECODERS[name]

    @settings(max_examples=SLOW.get(name, EXAMPLES), deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.binary(max_size=200))
    def feed(raw: bytes) -> None:
        decoder.feed(raw)

    feed()


@by_name
def test_damaged_bytes(name: str) -> None:
    decoder = DECODERS[name]

    @settings(max_examples=SLOW.get(name, EXAMPLES), deadline=None, suppress_health_check=list(HealthCheck))
    @given(damaged(st.sampled_from(decoder.seeds)))
    def feed(raw: bytes) -> None:
        decoder.feed(raw)

    feed()


@by_name
def test_every_flipped_bit_and_every_cut(name: str) -> None:
    decoder = DECODERS[name]
    seed = decoder.seeds[0]
    step = max(1, len(seed) // 40)  # of a long seed a part; the long form tries them all
    for at in range(0, len(seed), step):
        decoder.feed(seed[:at])
        for bit in (0, 3, 7):
            decoder.feed(seed[:at] + bytes((seed[at] ^ 1 << bit,)) + seed[at + 1 :])


@pytest.mark.parametrize("finding", sorted(FINDINGS.glob("*/*")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_fuzzing_has_found(finding: Path) -> None:
    DECODERS[finding.parent.name].feed(finding.read_bytes())
