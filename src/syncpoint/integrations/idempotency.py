"""The rules of the `Idempotency-Key` header: which key, whose, for which request, and what reply is kept. Pure.

    Idempotency-Key: "8e03978e-40d5-43dd-bc93-6e6c8c3c3f3b"     as the IETF's draft has it: an RFC 8941 string
    Idempotency-Key: 8e03978e-40d5-43dd-bc93-6e6c8c3c3f3b       as most clients send it; the same key

A key names a transaction only together with the principal, the method and the path (`transaction_id`). What else makes
it this request stands in `request_fingerprint`. Neither lets anyone read the key, a credential or the body again.
Not for: talking HTTP (asgi.py), or what is answered when no reply is kept (problems.py).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from syncpoint.errors import FormatTooNew

KEY_HEADER = b"idempotency-key"
KEY_SIZE_CHARS_MAX = 255
REPLY_FORMAT = 1
HEADER_OVERHEAD_BYTES = 16
"""What a header costs beside its text, at most, in the kept bytes."""

CREDENTIALS = (b"authorization", b"cookie", b"x-api-key")
"""Request headers by which callers are told apart when the application does not say who they are."""

NEVER_KEPT = frozenset(
    {
        # What lets somebody in.
        b"set-cookie",
        b"set-cookie2",
        b"authorization",
        b"proxy-authorization",
        b"authentication-info",
        b"proxy-authentication-info",
        b"www-authenticate",
        b"proxy-authenticate",
        # What belongs to one connection.
        b"connection",
        b"keep-alive",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""Response headers that the first reply carries and no replay does."""

Headers: TypeAlias = Sequence[tuple[bytes, bytes]]


class MalformedKey(ValueError):
    """The header holds no key. Its text tells the client why."""


class BadReply(ValueError):
    """What is stored under this key is no reply."""


# --- the key ----------------------------------------------------------------------------------------------------

_STRING = rb'"(?:[ !#-\[\]-~]|\\["\\])*"'
_NUMBER, _TOKEN, _BINARY, _TRUTH = (
    rb"-?[0-9]{1,15}(?:\.[0-9]{1,3})?",
    rb"[A-Za-z*][!#-'*+\--:A-Z^-z|~]*",
    rb":[A-Za-z0-9+/=]*:",
    rb"\?[01]",
)
_PARAMETER_VALUE = rb"(?:" + b"|".join((_NUMBER, _STRING, _TOKEN, _BINARY, _TRUTH)) + rb")"
_ITEM = re.compile(rb"(" + _STRING + rb")(?:; *[a-z*][a-z0-9_.*-]*(?:=" + _PARAMETER_VALUE + rb")?)*")
_BARE = re.compile(rb"[!#-+\--:<-\[\]-~]+")  # visible, without `"`, `,`, `;` and `\`
_ESCAPED = re.compile(rb"\\(.)")


def read_key(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The request's key; None when it has none. Raises MalformedKey, and nothing else whatever the bytes."""
    found = [value for name, value in headers if name.lower() == KEY_HEADER]
    if not found:
        return None
    if len(found) > 1:
        raise MalformedKey("The request has more than one Idempotency-Key header.")
    return parse_key(found[0])


def parse_key(value: bytes) -> str:
    """The key in a header's value. Raises MalformedKey."""
    value = value.strip(b" \t")
    item = _ITEM.fullmatch(value)
    if item is not None:  # parameters that nobody has defined are ignored (RFC 8941, section 3.1.2)
        key = _ESCAPED.sub(rb"\1", item.group(1)[1:-1])
    elif _BARE.fullmatch(value):
        key = value
    elif not value:
        raise MalformedKey("The Idempotency-Key is empty.")
    else:
        raise MalformedKey('The Idempotency-Key is no string such as "8e03978e-40d5-43dd-bc93-6e6c8c3c3f3b".')
    if not key:
        raise MalformedKey("The Idempotency-Key is empty.")
    if len(key) > KEY_SIZE_CHARS_MAX:
        raise MalformedKey(f"The Idempotency-Key has {len(key)} characters; at most {KEY_SIZE_CHARS_MAX} are allowed.")
    return key.decode("ascii")


# --- whose, and for what ----------------------------------------------------------------------------------------


def transaction_id(*, principal: str | None, method: str, path: str, key: str) -> str:
    """The transaction that a key names: `http/` and 64 hexadecimal digits.

    Parameters: `principal` as the middleware's callable says, None when it says nothing; `path` without the query.
    Also for people: the commands and `manager.outcome` take it.
    """
    whose = b"" if principal is None else b"principal " + _bytes(principal)
    return "http/" + _digest(b"id", whose, _bytes(method.upper()), _bytes(path), _bytes(key)).hex()


def request_fingerprint(
    *, key: str, method: str, path: str, query: bytes, headers: Headers, body: bytes, bind_credentials: bool
) -> bytes:
    """What tells this request from another one under the same key (O51): 32 bytes.

    With `bind_credentials` the caller's credentials are part of it, so that nobody else gets the reply. The key is part
    of it too: it is kept nowhere, so that no weak password can be guessed from the digest.
    """
    credentials = [_digest(name, *_values(headers, name)) for name in CREDENTIALS] if bind_credentials else []
    return _digest(
        b"request",
        _bytes(key),
        _bytes(method.upper()),
        _bytes(path),
        query,
        _digest(*_values(headers, b"content-type")),
        _digest(*_values(headers, b"content-encoding")),
        _digest(*credentials),
        body,
    )


def is_larger(announced: bytes, size_max: int) -> bool:
    """Whether a Content-Length says more than that. What is no number says nothing: the body itself is counted."""
    digits = announced.strip().lstrip(b"0") or b"0"
    return digits.isdigit() and (len(digits) > len(str(size_max)) or int(digits) > size_max)


def _values(headers: Headers, wanted: bytes) -> list[bytes]:
    return [value for name, value in headers if name.lower() == wanted]


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _digest(*parts: bytes) -> bytes:
    """SHA-256 over parts, each with its length: no two lists of parts read the same."""
    hasher = hashlib.sha256()
    for part in parts:
        hasher.update(len(part).to_bytes(8, "big"))
        hasher.update(part)
    return hasher.digest()


# --- the reply --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A whole HTTP response."""

    status: int
    headers: Headers
    body: bytes

    @property
    def size_bytes(self) -> int:
        """What keeping it takes, at most."""
        return sum(header_size_bytes(name, value) for name, value in self.headers) + len(self.body)

    def to_keep(self, never_kept: Collection[bytes] = NEVER_KEPT) -> Reply:
        """Without the headers (in small letters) that may not be kept."""
        kept = tuple((name, value) for name, value in self.headers if name.lower() not in never_kept)
        return Reply(status=self.status, headers=kept, body=self.body)

    def to_value(self) -> list[Any]:
        """The MessagePack value stored with the commit (C8)."""
        return [REPLY_FORMAT, self.status, [[name, value] for name, value in self.headers], self.body]

    @classmethod
    def from_value(cls, value: Any) -> Reply:
        """Read `to_value`. Raises BadReply, or FormatTooNew if a later Syncpoint wrote it."""
        if not isinstance(value, list) or not value or type(value[0]) is not int or value[0] < 1:
            raise BadReply("What is stored under this key is no reply.")
        if value[0] > REPLY_FORMAT:
            raise FormatTooNew("stored reply", value[0], REPLY_FORMAT)
        match value:
            case [_, int(status), list(headers), bytes(body)] if not isinstance(status, bool) and 200 <= status < 600:
                return cls(status=status, headers=tuple(_header(one) for one in headers), body=body)
        raise BadReply("The reply stored under this key cannot be read.")


def header_size_bytes(name: bytes, value: bytes) -> int:
    """What keeping one header takes, at most."""
    return len(name) + len(value) + HEADER_OVERHEAD_BYTES


def _header(value: Any) -> tuple[bytes, bytes]:
    match value:
        case [bytes(name), bytes(text)]:
            return name, text
    raise BadReply("A header of the reply stored under this key cannot be read.")
