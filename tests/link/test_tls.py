"""Mutual TLS over loopback: who has no certificate of ours, or another's, is refused, and both ends say why."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from syncpoint.errors import ConfigurationError
from syncpoint.link.peers import KnownPeer
from syncpoint.link.settings import TlsFiles
from syncpoint.link.stream import StreamLink
from syncpoint.link.tls import client_context, names_in, server_context
from tests.link.words import Note
from tests.link.world import LOOPS, QUICK, Authority, Ear, World, connected, run, send, until, world


async def _server(here: World, files: TlsFiles | None = None) -> tuple[StreamLink, StreamLink]:
    """bert listens, and anna, the good peer, is connected."""
    bert = await here.link(
        "bert",
        KnownPeer(name="anna"),
        KnownPeer(name="carl", certificates=("host-7",)),
        KnownPeer(name="eve"),
        listen=("tls://127.0.0.1:0",),
        tls=files or here.authority.issue("bert"),
    )
    anna = await here.link(
        "anna", KnownPeer(name="bert", address=bert.listening_at[0]), tls=here.authority.issue("anna")
    )
    return bert, anna


async def _dial(here: World, bert: StreamLink, name: str, files: TlsFiles) -> StreamLink:
    return await here.link(name, KnownPeer(name="bert", address=bert.listening_at[0]), tls=files, **QUICK)


WrongFiles = Callable[[World], TlsFiles]

NOT_ACCEPTED = "it does not accept who we are. Its log says why"

WRONG: dict[str, tuple[WrongFiles, str, str]] = {
    "other authority": (
        lambda here: Authority(here.folder / "other").issue("eve", trusting=here.authority),
        "its certificate does not pass: unable to get local issuer certificate",
        NOT_ACCEPTED,
    ),
    "expired": (
        lambda here: here.authority.issue("eve", days=-1),
        "its certificate does not pass: certificate has expired. Renew it",
        NOT_ACCEPTED,
    ),
    "another's name": (
        lambda here: here.authority.issue("anna"),
        "eve came with a certificate for anna, and not for eve",
        "it refused: eve came with a certificate for anna, and not for eve. Give eve a certificate that carries",
    ),
    "part of the name": (
        lambda here: here.authority.issue("*.eve", "eve.example.com"),
        "eve came with a certificate for *.eve, eve.example.com, and not for eve",
        "it refused: eve came with",
    ),
    "trusts another": (
        lambda here: here.authority.issue("eve", trusting=Authority(here.folder / "other")),
        "the other end ended it before TLS was agreed on. Its log may say why",
        "its certificate does not pass: self-signed certificate in certificate chain",
    ),
}


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("loop", LOOPS)
def test_a_wrong_certificate_is_refused_and_both_know_why(
    tmp_path: Path, what: str, loop: str, caplog: pytest.LogCaptureFixture
) -> None:
    files, said_by_bert, said_by_eve = WRONG[what]

    async def main() -> None:
        async with world(tmp_path) as here:
            bert, anna = await _server(here)
            await connected(anna, bert)
            eve = await _dial(here, bert, "eve", files(here))
            await until(lambda: eve.figures()["dial_attempts"]["bert"] > 1, "it was tried again")
            await until(lambda: bert.figures()["refused"] > 0, "it was refused")
            assert eve.take() == []
            await _is_undisturbed(anna, bert)

    with caplog.at_level(logging.WARNING, "syncpoint.link"):
        run(main(), loop)
    lines = [record.getMessage() for record in caplog.records]
    assert any(line.startswith("A connection from 127.0.0.1:") and said_by_bert in line for line in lines), lines
    assert any("The link to bert at tls://" in line and said_by_eve in line for line in lines), lines


async def _is_undisturbed(anna: StreamLink, bert: StreamLink) -> None:
    ear = Ear(bert)
    await send(anna, "bert", Note(number=1))
    await until(lambda: ear.notes() == [1], "the good peer is heard")
    assert ear.kinds() == ["Connected", "Arrived"]


@pytest.mark.parametrize("loop", LOOPS)
def test_no_certificate_old_tls_and_no_tls_are_refused(
    tmp_path: Path, loop: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            bert, anna = await _server(here)
            await connected(anna, bert)
            port = int(bert.listening_at[0].rpartition(":")[2])
            await asyncio.to_thread(_try_without_certificate, port, ssl.TLSVersion.TLSv1_3)
            await until(lambda: bert.figures()["refused"] == 1, "it was refused")
            await asyncio.to_thread(_try_without_certificate, port, ssl.TLSVersion.TLSv1_2)
            await until(lambda: bert.figures()["refused"] == 2, "it was refused")
            for number, said in enumerate((b"GET / HTTP/1.1\r\n\r\n", b"SYNCPT-L" * 10, b""), 3):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(said)
                if not said:
                    writer.write_eof()
                with contextlib.suppress(ConnectionError):
                    await reader.read()
                writer.close()
                with contextlib.suppress(ConnectionError):
                    await writer.wait_closed()
                await until(lambda number=number: bert.figures()["refused"] == number, "it was refused")
            await _is_undisturbed(anna, bert)

    with caplog.at_level(logging.WARNING, "syncpoint.link"):
        run(main(), loop)
    lines = [record.getMessage() for record in caplog.records if "was refused" in record.getMessage()]
    assert "it showed no certificate" in lines[0]
    assert any("it speaks HTTP" in line or "it does not speak TLS" in line for line in lines), lines


@pytest.mark.parametrize("loop", LOOPS)
def test_who_never_ends_his_tls_handshake_is_dropped_in_time(
    tmp_path: Path, loop: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            bert = await here.link(
                "bert",
                KnownPeer(name="anna"),
                listen=("tls://127.0.0.1:0",),
                tls=here.authority.issue("bert"),
                handshake_s=0.2,
                greetings_max=4,
            )
            port = int(bert.listening_at[0].rpartition(":")[2])
            for crowd in (2, 10):  # within the bound, and above it
                strangers = [await asyncio.open_connection("127.0.0.1", port) for _ in range(crowd)]
                for _, writer in strangers:
                    writer.write(b"\x16\x03\x01\x02")  # a handshake record begins
                for reader, writer in strangers:
                    with contextlib.suppress(ConnectionError):
                        assert await asyncio.wait_for(reader.read(), 10) == b"", "it is dropped without a word"
                    writer.close()
                    with contextlib.suppress(ConnectionError):
                        await writer.wait_closed()
            anna = await here.link(
                "anna", KnownPeer(name="bert", address=bert.listening_at[0]), tls=here.authority.issue("anna")
            )
            await connected(anna, bert)

    with caplog.at_level(logging.WARNING, "syncpoint.link"):
        run(main(), loop)
    assert any("it took too long" in record.getMessage() for record in caplog.records)


def _try_without_certificate(port: int, version: ssl.TLSVersion) -> None:
    import socket

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    with (
        contextlib.suppress(OSError),
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain) as wrapped,
    ):
        wrapped.recv(1)


def test_versions_of_tls_before_1_2_and_hosts_names_play_no_part(tmp_path: Path) -> None:
    files = Authority(tmp_path / "tls").issue("anna")
    for context in (server_context(files), client_context(files)):
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert not context.check_hostname


def test_a_name_may_belong_to_another_certificate(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            bert, _ = await _server(here)
            await connected(await _dial(here, bert, "carl", here.authority.issue("host-7", "host-8")))

    run(main())


def test_a_common_name_serves_when_there_is_no_other(tmp_path: Path) -> None:
    assert names_in({"subject": ((("organizationName", "x"),), (("commonName", "anna"),))}) == {"anna"}
    both = {"subject": ((("commonName", "anna"),),), "subjectAltName": (("DNS", "bert"), ("IP Address", "::1"))}
    assert names_in(both) == {"bert"}
    assert names_in(None) == names_in({}) == frozenset()


def test_a_renewed_certificate_serves_new_connections(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            files = here.authority.issue("bert", days=-1)
            bert, anna = await _server(here, files)
            await until(lambda: anna.figures()["dial_attempts"]["bert"] > 1, "it was refused and tried again")
            assert anna.peers() == []
            renewed = here.authority.issue("bert")
            for old, new in ((files.certificate, renewed.certificate), (files.key, renewed.key)):
                os.replace(new, old)
            bert.reload_certificates()
            await connected(anna, bert)

    run(main())


# --- the files -----------------------------------------------------------------------------------------


def test_files_that_cannot_serve_are_named(tmp_path: Path) -> None:
    ours, other = Authority(tmp_path / "ours"), Authority(tmp_path / "other")
    good = ours.issue("anna")

    def files(**changed: str) -> TlsFiles:
        return TlsFiles(
            **{"certificate": good.certificate, "key": good.key, "authorities": good.authorities, **changed}
        )

    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("hello")
    nonsense.chmod(0o600)
    for wrong, why in (
        (files(certificate="/nowhere.pem"), "certificate /nowhere.pem cannot be read: No such file or directory"),
        (files(key="/nowhere.key"), "key /nowhere.key cannot be read"),
        (files(authorities=str(tmp_path)), f"authorities {tmp_path} cannot be read: Is a directory"),
        (files(key=other.issue("anna").key), "does not belong to the certificate"),
        (files(certificate=str(nonsense)), "is not PEM"),
        (files(key=str(nonsense)), "is not PEM"),
        (files(authorities=str(nonsense)), "are not PEM"),
        (files(authorities=good.certificate), "hold no certificate of an authority"),
    ):
        for make in (server_context, client_context):
            with pytest.raises(ConfigurationError, match="The link's") as caught:
                make(wrong)
            assert why in caught.value.message
            assert caught.value.advice


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o666, 0o602])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    files = Authority(tmp_path / "ours").issue("anna")
    os.chmod(files.key, mode)
    with pytest.raises(ConfigurationError, match=rf"can be read by others \(mode {mode:04o}\). chmod 600 {files.key}"):
        server_context(files)


def test_a_key_with_a_passphrase_is_refused_and_nobody_is_asked(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization as pem

    files = Authority(tmp_path / "ours").issue("anna")
    key = pem.load_pem_private_key(Path(files.key).read_bytes(), None)
    Path(files.key).write_bytes(
        key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.BestAvailableEncryption(b"secret"))
    )
    with pytest.raises(ConfigurationError, match="is protected by a passphrase"):
        server_context(files)
    assert threading.active_count() >= 1
