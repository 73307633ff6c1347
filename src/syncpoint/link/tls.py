"""Mutual TLS: contexts from files, the names in a certificate, and what a failure means.

Both ends show a certificate that one of *our* authorities has signed; the system's own authorities count for nothing.
Names are compared by `peers.Roster`, in both directions alike, so OpenSSL's check of host names is off: a peer is
known by its name, not by where it runs. TLS 1.3 (1.2 is accepted; older is not).

Not for: whether a name may talk to us (peers.py).
"""

from __future__ import annotations

import os
import socket
import ssl
import stat
from collections.abc import Mapping
from typing import Any

from syncpoint.errors import ConfigurationError
from syncpoint.link.settings import TlsFiles


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """For the end that was dialled. Raises ConfigurationError."""
    return _context(files, ssl.PROTOCOL_TLS_SERVER)


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """For the end that dials. Raises ConfigurationError."""
    return _context(files, ssl.PROTOCOL_TLS_CLIENT)


def _context(files: TlsFiles, protocol: int) -> ssl.SSLContext:
    for what, path in (("certificate", files.certificate), ("key", files.key), ("authorities", files.authorities)):
        _check_readable(what, path)
    _check_key_is_private(files.key)
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    _load_certificate(context, files)
    _load_authorities(context, files.authorities)
    return context


def _check_readable(what: str, path: str) -> None:
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise ConfigurationError(
            f"The link's {what} {path} cannot be read: {error.strerror or error}.",
            advice="Correct the path, or let the user that Syncpoint runs as read it.",
        ) from None


def _check_key_is_private(path: str) -> None:
    """As PostgreSQL asks it: nobody else may read it; a group may when root owns it."""
    status = os.stat(path)
    forbidden = 0o037 if status.st_uid == 0 else 0o077
    if stat.S_IMODE(status.st_mode) & forbidden:
        raise ConfigurationError(
            f"The link's key {path} can be read by others (mode {stat.S_IMODE(status.st_mode):04o}).",
            advice=f"chmod 600 {path}; if others could have read it, make a new key.",
        )


def _load_certificate(context: ssl.SSLContext, files: TlsFiles) -> None:
    asked = []

    def no_passphrase() -> str:
        asked.append(True)
        return ""

    try:
        context.load_cert_chain(files.certificate, files.key, no_passphrase)
    except (ssl.SSLError, ValueError) as error:
        if asked:
            raise ConfigurationError(
                f"The link's key {files.key} is protected by a passphrase.",
                advice="Nobody is there to type it: store the key without one, mode 600.",
            ) from None
        if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigurationError(
                f"The link's key {files.key} does not belong to the certificate {files.certificate}.",
                advice="Name the two that were made together.",
            ) from None
        raise ConfigurationError(
            f"The link's certificate {files.certificate} or key {files.key} is not PEM: {_said(error)}.",
            advice="Each file holds one or more blocks -----BEGIN …-----.",
        ) from None


def _load_authorities(context: ssl.SSLContext, path: str) -> None:
    try:
        context.load_verify_locations(path)
    except (ssl.SSLError, ValueError) as error:
        raise ConfigurationError(
            f"The link's authorities {path} are not PEM: {_said(error)}.",
            advice="It holds the certificates of the authorities that sign the peers' certificates.",
        ) from None
    if not context.get_ca_certs():
        raise ConfigurationError(
            f"The link's authorities {path} hold no certificate of an authority (CA:TRUE).",
            advice="Put the authority's own certificate there, not one that it has signed.",
        )


def names_in(certificate: Mapping[str, Any] | None) -> frozenset[str]:
    """The names that a verified certificate (`getpeercert()`) carries: its DNS names, or else its common name."""
    if not certificate:
        return frozenset()
    names = frozenset(value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS")
    if names:
        return names
    subject = (pair for part in certificate.get("subject", ()) for pair in part)
    return frozenset(value for key, value in subject if key == "commonName")


_MEANING = {
    "CERTIFICATE_REQUIRED": "it wants a certificate and got none. Configure one at the end that dialled",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it showed no certificate",
    "UNKNOWN_CA": "the other end does not trust the authority that signed our certificate",
    "CERTIFICATE_EXPIRED": "the other end says that our certificate has expired. Renew it",
    "BAD_CERTIFICATE": "the other end does not accept our certificate",
    "HTTP_REQUEST": "it speaks HTTP",
    "WRONG_VERSION_NUMBER": "it does not speak TLS",
    "UNSUPPORTED_PROTOCOL": "it speaks only versions of TLS before 1.2",
    "DECRYPT_ERROR": "the other end could not verify our certificate's signature",
    "UNEXPECTED_EOF_WHILE_READING": "the other end ended it",
}


def explain(error: BaseException) -> str:
    """What a failed TLS handshake means, for a log line, with what to do where that is known."""
    if isinstance(error, ssl.SSLCertVerificationError):
        said = error.verify_message or str(error)
        advice = "Renew it" if "expired" in said else "It must be signed by an authority that this end trusts"
        return f"its certificate does not pass: {said}. {advice}"
    if isinstance(error, ssl.SSLError):
        reason = error.reason or ""
        for ending, meaning in _MEANING.items():
            if reason.endswith(ending):
                return meaning
        return f"TLS failed: {_said(error)}"
    if isinstance(error, TimeoutError):
        return "it took too long"
    if isinstance(error, socket.gaierror):  # its numbers are its own
        return str(error.strerror)
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)  # asyncio's own text shows the address once more
    if isinstance(error, ConnectionError):  # asyncio's and uvloop's word for an end in the middle of a handshake
        return "the other end ended it before TLS was agreed on. Its log may say why"
    return str(error) or type(error).__name__


def _said(error: BaseException) -> str:
    reason = error.reason if isinstance(error, ssl.SSLError) else None
    return (reason or str(error) or type(error).__name__).replace("_", " ").lower()
