"""Addresses and settings: what is right is read, what is wrong is named with what to write instead."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from syncpoint.errors import ConfigurationError
from syncpoint.link.addresses import TlsAddress, UnixAddress, parse_address
from syncpoint.link.peers import KnownPeer
from syncpoint.link.settings import Limits, LinkSettings, TlsFiles
from tests.link.words import guid

FILES = TlsFiles(certificate="c", key="k", authorities="a")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("tls://farm-1:7400", TlsAddress("farm-1", 7400)),
        ("tls://127.0.0.1:1/", TlsAddress("127.0.0.1", 1)),
        ("tls://[::1]:7400", TlsAddress("::1", 7400)),
        ("unix:///run/node.sock", UnixAddress("/run/node.sock")),
        ("unix:///run/a%20b", UnixAddress("/run/a b")),
    ],
)
def test_an_address_is_read(text: str, address: TlsAddress | UnixAddress) -> None:
    assert parse_address(text) == address
    if "%" not in text:
        assert str(address) == text.rstrip("/")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("tcp://farm-1:7400", "TCP is used with TLS only"),
        ("http://farm-1:7400", "the scheme 'http' is not known"),
        ("farm-1:7400", "the scheme 'farm-1' is not known"),
        ("tls://farm-1", "it names no port"),
        ("tls://farm-1:0", "it names no port"),
        ("tls://farm-1:99999", "out of range"),
        ("tls://:7400", "it names no host"),
        ("tls://farm-1:7400/x", "more than a host and a port"),
        ("tls://me@farm-1:7400", "more than a host and a port"),
        ("unix://run/node.sock", "three slashes"),
        ("unix:///run/", "it names no file"),
        ("unix://", "it names no file"),
        ("unix:node.sock", "it names no file"),
        ("unix:///" + "x" * 107, "longer than the 107 bytes"),
    ],
)
def test_a_wrong_address_is_refused_with_what_to_write(text: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match="is no address of a link") as caught:
        parse_address(text)
    assert why in caught.value.message
    assert "tls://host:port" in caught.value.advice


@given(st.text(max_size=40))
@example("tls://[")
@example("unix:///\0")
def test_any_text_is_an_address_or_a_configuration_error(text: str) -> None:
    for candidate in (text, f"tls://{text}", f"unix:///{text}"):
        try:
            address = parse_address(candidate)
        except ConfigurationError:
            continue
        if isinstance(address, TlsAddress):
            assert parse_address(str(address)) == address


def _settings(**changed: Any) -> LinkSettings:
    return LinkSettings(**{"cluster": "c", "name": "anna", "role": "node", "guid": guid("anna"), **changed})


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"name": "a b"}, "'a b' cannot be a link's name"),
        ({"cluster": ""}, "'' cannot be a link's cluster"),
        ({"role": "x" * 65}, "cannot be a link's role"),
        ({"listen": ("tls://127.0.0.1:0",)}, "the link has no certificate"),
        ({"peers": (KnownPeer(name="bert", address="tls://b:1"),)}, "the link has no certificate"),
        ({"peers": (KnownPeer(name="bert", address="b"),)}, "is no address"),
        ({"peers": (KnownPeer(name="a*b"),)}, "'a*b' cannot be a peer's name"),
        ({"peers": (KnownPeer(name="bert"), KnownPeer(name="bert"))}, "'bert' is listed twice"),
        ({"peers": (KnownPeer(name="app-*", address="tls://b:1"),), "tls": FILES}, "'app-*' have an address"),
    ],
)
def test_wrong_settings_are_named(changed: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        _settings(**changed)
    assert why in caught.value.message
    assert caught.value.advice


def test_good_settings_pass() -> None:
    peers = (KnownPeer(name="bert", address="tls://b:1"), KnownPeer(name="app-*"), KnownPeer(name="*"))
    assert _settings(peers=peers, listen=("tls://127.0.0.1:0", "unix:///x"), tls=FILES).name == "anna"


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"frame_bytes_max": 100}, "frame_bytes_max is below 4096"),
        ({"queue_bytes_max": 5000}, "queue_bytes_max is below frame_bytes_max"),
        ({"inbox_bytes_max": 5000}, "inbox_bytes_max is below frame_bytes_max"),
        ({"heartbeat_s": 2.0}, "dead_after_s is below three times heartbeat_s"),
        ({"retry_max_s": 0.01}, "retry_max_s is below retry_base_s"),
        ({"links_max": 0}, "links_max is 0"),
        ({"handshake_s": float("nan")}, "handshake_s is nan"),
        ({"dial_s": float("inf")}, "dial_s is inf"),
        ({"dial_s": True}, "dial_s is True"),
        ({"dial_s": "5"}, "dial_s is '5'"),
    ],
)
def test_wrong_limits_are_named(changed: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigurationError, match="The link's") as caught:
        Limits(**changed)
    assert why in caught.value.message
