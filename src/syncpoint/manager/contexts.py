"""The context of a transaction, to be sent along to another service: what is in it, its signature, its refusals.

    v1.<base64url of the fields>.<base64url of HMAC-SHA256 of what is before the last dot, or nothing>

The fields: transaction, the superior's coordinator GUID and address, a ticket, and when it expires. The ticket is
random, known to the superior alone until it is sent, and good for one join; it names the branch that joining will
make. The signature says that this context was made by somebody who has the key, and so that the address in it may be
asked: it keeps forged contexts from sending us to strangers. The expiry is one more limit, never what safety rests on
(R6). Not for: joining (joining.py), or HTTP (integrations/asgi.py).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from syncpoint.errors import ConfigurationError, ContextRefused
from syncpoint.ids import Guid, TransactionId

HEADER = "Syncpoint-Transaction"
"""The HTTP header, and the key of the dict, that a context travels in."""
KEY_SIZE_BYTES_MIN = 16
TOKEN_SIZE_CHARS_MAX = 2000
TICKET_SIZE_BYTES = 16
_VERSION = "v1"


class _Fields(msgspec.Struct, frozen=True, array_like=True):
    transaction: bytes
    superior: bytes
    address: str
    ticket: bytes
    expires_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What `export` returns. Send `headers` with an HTTP request, or `as_dict()` with any message; join it once."""

    transaction: TransactionId
    superior: Guid
    address: str
    ticket: bytes
    expires_at_ms: int
    token: str = ""
    """All of it as text, signed if the manager has a key. Whoever has it can take part: keep it as you keep a
    password."""

    def __repr__(self) -> str:
        return f"<Context of transaction {self.transaction} at {self.address}>"

    @property
    def headers(self) -> dict[str, str]:
        """The HTTP header to send along."""
        return {HEADER: self.token}

    def as_dict(self) -> dict[str, str]:
        """For messages that are no HTTP: a JSON value."""
        return {HEADER: self.token}


ContextLike = Context | str | Mapping[str, str]


def check_keys(keys: Sequence[bytes]) -> None:
    """Raises ConfigurationError on a key that is too short to be one."""
    for key in keys:
        if len(key) < KEY_SIZE_BYTES_MIN:
            raise ConfigurationError(
                f"A key for contexts has {len(key)} bytes.", advice=f"Give at least {KEY_SIZE_BYTES_MIN} random bytes."
            )


def write(
    *,
    transaction: TransactionId,
    superior: Guid,
    address: str,
    ticket: bytes,
    expires_at_ms: int,
    keys: Sequence[bytes],
) -> Context:
    """A context with its token, signed with the first of `keys`; unsigned without any."""
    fields = _Fields(transaction.raw, superior.raw, address, ticket, expires_at_ms)
    signed = f"{_VERSION}.{_to_text(msgspec.msgpack.encode(fields))}"
    signature = _to_text(_sign(signed, keys[0])) if keys else ""
    return Context(
        transaction=transaction,
        superior=superior,
        address=address,
        ticket=ticket,
        expires_at_ms=expires_at_ms,
        token=f"{signed}.{signature}",
    )


def read(context: ContextLike, *, keys: Sequence[bytes], now_ms: int, authenticated: bool) -> Context:
    """Read a context that arrived. With `authenticated` the caller vouches for where it came from (an authenticated
    link, mutual TLS), and it need not be signed. `now_ms` is wall clock.

    Raises ContextRefused: no context, damaged, not signed, signed with another key, expired.
    """
    token = _token_of(context)
    signed, _, signature = token.rpartition(".")
    if not (authenticated and not signature):
        _check_signature(signed, signature, keys)
    fields = _fields_of(signed)
    if fields.expires_at_ms < now_ms:
        raise refused("it has expired")
    return Context(
        transaction=TransactionId(fields.transaction),
        superior=Guid(fields.superior),
        address=fields.address,
        ticket=fields.ticket,
        expires_at_ms=fields.expires_at_ms,
        token=token,
    )


def is_signed(token: str) -> bool:
    """Whether there is a signature at all; whether it is right says `read`."""
    return token.count(".") == 2 and not token.endswith(".")


def refused(why: str) -> ContextRefused:
    """The error of a context that cannot be joined. It shows nothing of the context."""
    return ContextRefused(
        f"The transaction's context was refused: {why}. Nothing was done under it.",
        advice="Let the caller export a new one in a running transaction, and send it once.",
    )


def _token_of(context: ContextLike) -> str:
    if isinstance(context, Context):
        token: object = context.token
    elif isinstance(context, str):
        token = context
    else:
        token = next((value for name, value in context.items() if name.lower() == HEADER.lower()), None)
    if not isinstance(token, str) or not token:
        raise refused("there is none")
    if len(token) > TOKEN_SIZE_CHARS_MAX or not token.isascii():
        raise refused("it is damaged")
    return token


def _check_signature(signed: str, signature: str, keys: Sequence[bytes]) -> None:
    if not signature:
        raise refused("it is not signed, and did not come over an authenticated link")
    if not keys:
        raise refused("this manager has no key to check its signature with")
    given = _from_text(signature)
    matches = [hmac.compare_digest(_sign(signed, key), given) for key in keys]  # all of them: no early answer
    if not any(matches):
        raise refused("its signature is wrong: it was forged or changed, or made with another key")


def _fields_of(signed: str) -> _Fields:
    version, _, payload = signed.partition(".")
    if version != _VERSION:
        raise refused(f"it has another format than {_VERSION}")
    try:
        fields = msgspec.msgpack.decode(_from_text(payload), type=_Fields)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise refused("it is damaged") from None
    sizes = len(fields.transaction), len(fields.superior), len(fields.ticket)
    if sizes != (16, 16, TICKET_SIZE_BYTES) or not 0 < len(fields.address) <= 255:
        raise refused("it is damaged")
    return fields


def _sign(signed: str, key: bytes) -> bytes:
    return hmac.new(key, signed.encode(), hashlib.sha256).digest()


def _to_text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _from_text(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise refused("it is damaged") from None
