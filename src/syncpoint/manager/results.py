"""Results and fingerprints: values stored with a commit, and what tells two requests apart.

Results are JSON or MessagePack values; no pickle anywhere (DESIGN section 8). Not for: records (records.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from syncpoint.errors import ResultNotStorable, ResultUnreadable

RESULT_SIZE_BYTES_MAX = 1 << 20


def encode_result(value: Any, *, transaction: str) -> bytes:
    """The bytes stored with the commit (C8). Raises ResultNotStorable."""
    try:
        raw = msgspec.msgpack.encode(value)
        msgspec.msgpack.decode(raw)  # a resend must get it: some values can be written and not be read again
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ResultNotStorable(
            f"The result of transaction {transaction!r} cannot be stored: {error}. The transaction was aborted.",
            advice="Return a JSON or MessagePack value: None, bool, int, float, str, bytes, list, dict.",
        ) from None
    if len(raw) > RESULT_SIZE_BYTES_MAX:
        raise ResultNotStorable(
            f"The result of transaction {transaction!r} has {len(raw)} bytes; at most {RESULT_SIZE_BYTES_MAX} can be "
            "stored. The transaction was aborted.",
            advice="Return a reference to it, and keep the value itself in one of your tables.",
        )
    return raw


def decode_result(raw: bytes | None, *, transaction: str) -> Any:
    """The value back; None when none was stored. Raises ResultUnreadable."""
    try:
        return None if raw is None else msgspec.msgpack.decode(raw)
    except (ValueError, RecursionError) as error:  # msgspec's errors, and that of a text which is none
        raise ResultUnreadable(
            f"The transaction {transaction!r} is committed, but what is stored as its result cannot be read: {error}.",
            transaction=transaction,
            advice="Do not run it again. `syncpoint show` tells what else is known of it.",
        ) from None


def fingerprint_of(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
    """What `run` tells requests apart by: the function's name and its arguments, SHA-256.

    Arguments that are no MessagePack values enter by their type's name only: give `fingerprint=` for those.
    """
    name = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', repr(type(function)))}"
    plain = [name, list(args), sorted(kwargs.items())]
    return hashlib.sha256(_encoder.encode(plain)).digest()


def digest_of(fingerprint: bytes | str) -> bytes:
    """A user's own fingerprint, as bytes of fixed size."""
    raw = fingerprint.encode() if isinstance(fingerprint, str) else fingerprint
    return hashlib.sha256(raw).digest()


def _type_name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


_encoder = msgspec.msgpack.Encoder(enc_hook=_type_name, order="deterministic")
