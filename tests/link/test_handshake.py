"""The greeting as a machine: two ends joined in memory agree, or both know why not; anything out of place breaks it."""

from __future__ import annotations

from collections import deque
from itertools import product

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncpoint.link.handshake import GREETING, NEXT, Handshake, Input, Reason, Side, State, common_version
from syncpoint.messages import Hello, Message, Ping, Ready, Refused, refused
from tests.test_messages import messages

ANNA = Hello(version_min=1, version_max=1, cluster="c", guid=b"a" * 16, name="anna", role="node", instance=bytes(8))
BERT = msgspec.structs.replace(ANNA, guid=b"b" * 16, name="bert")


def _admit(hello: Hello) -> Refused | None:
    return None


def _reject(hello: Hello) -> Refused | None:
    return refused(Reason.UNKNOWN, f"nobody knows {hello.name}")


def _greet(dialler: Handshake, acceptor: Handshake) -> list[str]:
    """Join the two until nothing moves; returns who said what."""
    said = []
    waiting: deque[tuple[Handshake, Message]] = deque((acceptor, message) for message in dialler.start())
    assert acceptor.start() == ()
    while waiting:
        to, message = waiting.popleft()
        said.append(f"{'anna' if to is acceptor else 'bert'}: {type(message).__name__}")
        if to.state in GREETING:
            other = dialler if to is acceptor else acceptor
            waiting.extend((other, answer) for answer in to.on_message(message))
    return said


def _pair(anna: Hello = ANNA, bert: Hello = BERT) -> tuple[Handshake, Handshake]:
    return (
        Handshake(own=anna, side=Side.DIALLER, admit=_admit),
        Handshake(own=bert, side=Side.ACCEPTOR, admit=_admit),
    )


def test_two_who_admit_each_other_are_open() -> None:
    dialler, acceptor = _pair()
    assert _greet(dialler, acceptor) == ["anna: Hello", "bert: Hello", "anna: Ready"]
    assert repr(dialler) == "<Handshake anna OPEN with bert>"
    assert repr(acceptor) == "<Handshake bert OPEN with anna>"
    assert (dialler.version, acceptor.version) == (1, 1)


def test_an_acceptor_that_refuses_says_nothing_of_itself() -> None:
    dialler, _ = _pair()
    acceptor = Handshake(own=BERT, side=Side.ACCEPTOR, admit=_reject)
    assert _greet(dialler, acceptor) == ["anna: Hello", "bert: Refused"]
    for end, by_us in ((dialler, False), (acceptor, True)):
        assert end.state is State.REFUSED
        assert end.refusal is not None
        assert (end.refusal.by_us, end.refusal.reason, end.refusal.text) == (by_us, "unknown", "nobody knows anna")
    assert dialler.peer is None


def test_a_dialler_that_refuses_is_never_seen_as_open() -> None:
    _, acceptor = _pair()
    dialler = Handshake(own=ANNA, side=Side.DIALLER, admit=_reject)
    assert _greet(dialler, acceptor) == ["anna: Hello", "bert: Hello", "anna: Refused"]
    assert (dialler.state, acceptor.state) == (State.REFUSED, State.REFUSED)
    assert acceptor.refusal is not None
    assert acceptor.refusal.text == "nobody knows bert"


versions = st.tuples(st.integers(1, 6), st.integers(1, 6)).map(sorted)


@given(versions, versions)
def test_both_speak_the_highest_common_version_or_both_know_that_there_is_none(a: list[int], b: list[int]) -> None:
    dialler, acceptor = _pair(
        msgspec.structs.replace(ANNA, version_min=a[0], version_max=a[1]),
        msgspec.structs.replace(BERT, version_min=b[0], version_max=b[1]),
    )
    _greet(dialler, acceptor)
    common = set(range(a[0], a[1] + 1)) & set(range(b[0], b[1] + 1))
    if common:
        assert (dialler.state, acceptor.state) == (State.OPEN, State.OPEN)
        assert dialler.version == acceptor.version == max(common)
        return
    assert (dialler.state, acceptor.state) == (State.REFUSED, State.REFUSED)
    older = "anna" if a[1] < b[0] else "bert"
    for end in (dialler, acceptor):
        assert end.refusal is not None
        assert end.refusal.reason == Reason.VERSION
        assert end.refusal.text.endswith(f"Update Syncpoint where {older} runs.")


@given(st.lists(messages, max_size=6), st.sampled_from(Side))
def test_whatever_comes_a_greeting_ends_in_one_state(heard: list[Message], side: Side) -> None:
    end = Handshake(own=ANNA, side=side, admit=_admit)
    end.start()
    for message in heard:
        if end.state not in GREETING:
            break
        answers = end.on_message(message)
        if end.state is State.OPEN:
            assert end.peer is not None
            assert common_version(ANNA, end.peer) == end.version
            assert end.refusal is None
        elif end.state not in GREETING:
            assert end.refusal is not None
            assert end.refusal.text == "" or not end.refusal.by_us or isinstance(answers[-1], Refused)


@pytest.mark.parametrize(
    ("side", "heard", "text"),
    [
        (Side.DIALLER, [Ping(number=1)], "Ping is out of place while dialling."),
        (Side.DIALLER, [Ready(version=1)], "Ready is out of place while dialling."),
        (Side.ACCEPTOR, [Ready(version=1)], "Ready is out of place while accepting."),
        (Side.ACCEPTOR, [BERT, BERT], "Hello is out of place while confirming."),
        (Side.ACCEPTOR, [BERT, Ping(number=1)], "Ping is out of place while confirming."),
        (Side.ACCEPTOR, [BERT, Ready(version=2)], "Ready is out of place while confirming."),
    ],
)
def test_who_breaks_the_rules_is_told_so(side: Side, heard: list[Message], text: str) -> None:
    end = Handshake(own=ANNA, side=side, admit=_admit)
    answers: tuple[Message, ...] = ()
    for message in heard:
        answers = end.on_message(message)
    assert end.state is State.BROKEN
    assert answers == (Refused(reason=Reason.BROKEN, text=text),)


def test_the_table_is_total() -> None:
    assert set(NEXT) == set(product(GREETING, Input))
    assert {NEXT[state, Input.REFUSED] for state in GREETING} == {State.REFUSED}
    assert {NEXT[state, Input.OTHER] for state in GREETING} == {State.BROKEN}
