"""The pure rules of the Idempotency-Key: garbage gives its own error and no other, nothing reads as something else."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import syncpoint
from syncpoint.errors import FormatTooNew
from syncpoint.ids import ID_SIZE_CHARS_MAX
from syncpoint.integrations.idempotency import (
    KEY_SIZE_CHARS_MAX,
    BadReply,
    MalformedKey,
    Reply,
    parse_key,
    read_key,
    request_fingerprint,
    transaction_id,
)
from syncpoint.integrations.problems import KEY_MISSING, problem_at_the_end, problem_in_the_work

printable = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=KEY_SIZE_CHARS_MAX)
pairs = st.lists(st.tuples(st.binary(max_size=9), st.binary(max_size=9)), max_size=4)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.binary() | st.text(), lambda inner: st.lists(inner, max_size=5)
)


def _quoted(key: str) -> bytes:
    return b'"' + key.replace("\\", "\\\\").replace('"', '\\"').encode() + b'"'


# --- the key ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (b'"8e03978e-40d5-43dd-bc93-6e6c8c3c3f3b"', "8e03978e-40d5-43dd-bc93-6e6c8c3c3f3b"),
        (b"8e03978e-40d5-43dd-bc93-6e6c8c3c3f3b", "8e03978e-40d5-43dd-bc93-6e6c8c3c3f3b"),
        (b' \t"a b, c"  ', "a b, c"),
        (rb'"a\"b\\c"', 'a"b\\c'),
        (b"order:4711/x=", "order:4711/x="),
        (b'"a";v=1', "a"),
        (b'"a"; v=1.25;w="x;y";flag;t=*tok/en:1;b=:YQ==:;n=-3;yes=?1', "a"),
        (b"k" * KEY_SIZE_CHARS_MAX, "k" * KEY_SIZE_CHARS_MAX),
        (b'"' + rb"\"" * KEY_SIZE_CHARS_MAX + b'"', '"' * KEY_SIZE_CHARS_MAX),
    ],
)
def test_a_key_is_a_string_or_a_bare_word(value: bytes, key: str) -> None:
    assert parse_key(value) == key


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (b"", "is empty"),
        (b"  ", "is empty"),
        (b'""', "is empty"),
        (b'"a', "is no string"),
        (b'a"', "is no string"),
        (b'"a" b', "is no string"),
        (b'"a","b"', "is no string"),
        (b"a, b", "is no string"),
        (b"a;v=1", "is no string"),
        (b'"a";V=1', "is no string"),
        (b'"a" ;v=1', "is no string"),
        (b'"a";v=', "is no string"),
        (rb'"a\b"', "is no string"),
        (b'"a\tb"', "is no string"),
        (b'"a"\n', "is no string"),
        ('"ä"'.encode(), "is no string"),
        (b"k" * (KEY_SIZE_CHARS_MAX + 1), "has 256 characters"),
        (b'"' + b"k" * 256 + b'"', "has 256 characters"),
    ],
)
def test_what_is_no_key_is_refused(value: bytes, why: str) -> None:
    with pytest.raises(MalformedKey, match=why):
        parse_key(value)


@given(printable)
def test_every_string_is_read_as_it_was_written(key: str) -> None:
    assert parse_key(_quoted(key)) == key


@given(st.binary(max_size=300))
@example(b'"' + b"\\" * 299)
@example(b'"a"' + b";a=1" * 70)
@example(b'"a"' + b";a=*" + b"*" * 250 + b"\x00")
def test_garbage_is_malformed_and_nothing_else(value: bytes) -> None:
    try:
        key = parse_key(value)
    except MalformedKey:
        return
    assert 0 < len(key) <= KEY_SIZE_CHARS_MAX
    assert key.isascii()
    assert key.isprintable()


@given(pairs)
def test_any_headers_can_be_asked_for_the_key(headers: list[tuple[bytes, bytes]]) -> None:
    assert read_key(headers) is None
    assert read_key([*headers, (b"Idempotency-Key", b"k")]) == "k"
    with pytest.raises(MalformedKey, match="more than one"):
        read_key([(b"idempotency-key", b"k"), *headers, (b"idempotency-key", b"k")])


# --- whose, and for what ----------------------------------------------------------------------------------------

WHO = st.fixed_dictionaries(
    {
        "principal": st.none() | st.text(max_size=5),
        "method": st.sampled_from(["POST", "PUT"]),
        "path": st.text(st.characters(), max_size=5),
        "key": st.text(min_size=1, max_size=5),
    }
)


@given(WHO, WHO)
@example(
    {"principal": None, "method": "POST", "path": "/", "key": "k"},
    {"principal": "", "method": "POST", "path": "/", "key": "k"},
)
@example(
    {"principal": "a", "method": "POST", "path": "b", "key": "k"},
    {"principal": "ab", "method": "POST", "path": "", "key": "k"},
)
def test_a_transaction_has_one_principal_method_path_and_key(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert (transaction_id(**one) == transaction_id(**other)) is (one == other)
    assert len(transaction_id(**one)) <= ID_SIZE_CHARS_MAX


REQUEST: dict[str, Any] = {
    "key": "k",
    "method": "POST",
    "path": "/work",
    "query": b"a=1",
    "headers": [(b"Content-Type", b"text/plain"), (b"authorization", b"Bearer a")],
    "body": b"body",
    "bind_credentials": True,
}


@pytest.mark.parametrize(
    "change",
    [
        {"key": "l"},
        {"method": "PUT"},
        {"path": "/wor", "query": b"ka=1"},
        {"query": b"a=2"},
        {"body": b"bodY"},
        {"body": b""},
        {"headers": []},
        {"headers": [(b"content-type", b"text/html"), (b"authorization", b"Bearer a")]},
        {"headers": [*REQUEST["headers"], (b"content-encoding", b"gzip")]},
        {"headers": [(b"content-type", b"text/plain"), (b"authorization", b"Bearer b")]},
        {"headers": [(b"content-type", b"text/plain"), (b"cookie", b"Bearer a")]},
        {"headers": [*REQUEST["headers"], (b"cookie", b"session=1")]},
        {"headers": [*REQUEST["headers"], (b"x-api-key", b"1")]},
    ],
)
def test_another_request_has_another_fingerprint(change: dict[str, Any]) -> None:
    assert request_fingerprint(**{**REQUEST, **change}) != request_fingerprint(**REQUEST)


def test_the_same_request_has_the_same_fingerprint() -> None:
    again = {**REQUEST, "headers": [*reversed(REQUEST["headers"]), (b"user-agent", b"other"), (b"host", b"elsewhere")]}
    assert request_fingerprint(**again) == request_fingerprint(**REQUEST)
    anybody = {**REQUEST, "bind_credentials": False}
    moved = {**anybody, "headers": [(b"content-type", b"text/plain"), (b"cookie", b"session=2")]}
    assert request_fingerprint(**moved) == request_fingerprint(**anybody)


def test_credentials_do_not_slip_from_one_header_into_another() -> None:
    one = [(b"authorization", b"cookie"), (b"cookie", b"cookie")]
    other = [(b"authorization", b"cookie"), (b"authorization", b"cookie")]
    prints = [request_fingerprint(**{**REQUEST, "headers": headers}) for headers in (one, other, one[:1], one[1:])]
    assert len(set(prints)) == 4


# --- the reply --------------------------------------------------------------------------------------------------


@given(st.integers(200, 599), pairs, st.binary())
def test_a_reply_comes_back_from_its_bytes(status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    reply = Reply(status=status, headers=tuple(headers), body=body)
    raw = msgspec.msgpack.encode(reply.to_value())
    assert Reply.from_value(msgspec.msgpack.decode(raw)) == reply
    assert len(raw) <= reply.size_bytes + 32


@given(values)
@example([1, True, [], b""])
@example([1, 200, [[b"a"]], b""])
@example([1, 200, [[b"a", "b"]], b""])
@example([0, 200, [], b""])
@example([True, 200, [], b""])
@example([1, 99, [], b""])
@example([1])
def test_what_is_no_reply_is_a_bad_reply_and_nothing_else(value: Any) -> None:
    try:
        reply = Reply.from_value(value)
    except (BadReply, FormatTooNew):
        return
    assert reply.to_value() == value


def test_a_later_format_is_named_as_such() -> None:
    with pytest.raises(FormatTooNew, match="stored reply has format version 2"):
        Reply.from_value([2, "whatever"])


def test_credentials_are_not_kept() -> None:
    kept = [(b"Content-Type", b"text/plain"), (b"X-Total", b"1"), (b"x-total", b"2")]
    secret = [
        (name, b"secret")
        for name in (b"Set-Cookie", b"set-cookie2", b"Authorization", b"Proxy-Authorization", b"WWW-Authenticate")
    ]
    connections = [(b"Connection", b"close"), (b"Transfer-Encoding", b"chunked")]
    reply = Reply(status=200, headers=[*secret, *kept, *connections], body=b"x").to_keep()
    assert list(reply.headers) == kept
    assert b"secret" not in msgspec.msgpack.encode(reply.to_value())


def test_a_problem_says_what_to_do() -> None:
    reply = KEY_MISSING.to_reply("http/1")
    assert msgspec.json.decode(reply.body) == {
        "type": "urn:syncpoint:problem:key-missing",
        "title": "Idempotency-Key is missing",
        "status": 400,
        "detail": KEY_MISSING.detail,
        "transaction": "http/1",
    }
    assert dict(reply.headers)[b"content-length"] == str(len(reply.body)).encode()


@pytest.mark.parametrize(
    ("error", "at_the_end", "in_the_work"),
    [
        (syncpoint.TransactionAborted("", transaction="t", retryable=True), "aborted", "aborted"),
        (syncpoint.TransactionAborted("", transaction="t", retryable=False), "refused", "refused"),
        (syncpoint.TransactionTimeout("", transaction="t", retryable=True), "timed-out", "timed-out"),
        (syncpoint.ResourceUnavailable(""), "unavailable", "unavailable"),
        (syncpoint.JournalFailed(""), "unavailable", None),
        (syncpoint.ManagerClosed(""), "unavailable", None),
        (syncpoint.ResultNotStorable(""), "reply-too-large", None),
        (syncpoint.HeuristicMixed("", transaction="t", branches={}), "mixed-outcome", None),
        (syncpoint.HeuristicHazard("", transaction="t", branches={}), "mixed-outcome", None),
        # In the work it is another transaction's: a resend would do that one's work again.
        (syncpoint.OutcomePending("", transaction="t"), "outcome-pending", None),
        (syncpoint.AlreadyCommitted(transaction="t", result=None), None, None),
        (syncpoint.SetupRefused(""), None, None),
        (ValueError(), None, None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_each_error_has_its_answer(error: Exception, at_the_end: str | None, in_the_work: str | None) -> None:
    found = [problem and problem.code for problem in (problem_at_the_end(error), problem_in_the_work(error))]
    assert found == [at_the_end, in_the_work]
