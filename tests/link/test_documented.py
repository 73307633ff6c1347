"""docs/link.md is true: its bytes, its defaults, its commands and its example."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from syncpoint.link.framing import to_frame
from syncpoint.link.handshake import Reason
from syncpoint.link.peers import KnownPeer
from syncpoint.link.settings import Limits, LinkSettings, TlsFiles
from syncpoint.messages import LINK_VOCABULARY, Hello, Ping, Ready
from tests.link.world import connected, run, world

TEXT = (Path(__file__).parents[2] / "docs" / "link.md").read_text(encoding="utf-8")


def test_the_bytes_are_as_written() -> None:
    [block] = re.findall(r"```\n(ping 7 .*?)```", TEXT, re.DOTALL)
    written = [bytes.fromhex(part) for part in re.split(r"(?:ping 7|ready 1|hello) ", block)[1:]]
    hello = Hello(
        version_min=1,
        version_max=1,
        cluster="bank",
        guid=bytes(range(16)),
        name="farm-1",
        role="node",
        instance=bytes(range(8)),
    )
    assert written == [to_frame(LINK_VOCABULARY.encode(one)) for one in (Ping(number=7), Ready(version=1), hello)]
    assert [LINK_VOCABULARY.decode(raw[8:]) for raw in written] == [Ping(number=7), Ready(version=1), hello]


def test_every_message_reason_and_default_is_named() -> None:
    for kind in LINK_VOCABULARY.types:
        assert f"`{kind.__struct_config__.tag}`" in TEXT
        for field in kind.__struct_fields__:
            assert f"`{field}`" in TEXT
    assert [reason for reason in Reason if f"`{reason}`" not in TEXT] == []
    limits = Limits()
    for name in ("dead_after_s", "handshake_s", "greetings_max", "heartbeat_s", "retry_base_s", "retry_max_s"):
        value = getattr(limits, name)
        assert re.search(rf"`{name}` \({value:g}( s)?\)", TEXT), name
    assert "`frame_bytes_max` (16 MiB)" in TEXT
    assert limits.frame_bytes_max == 16 << 20


def test_the_example_is_valid() -> None:
    [example] = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    names: dict[str, object] = {}
    exec(example.replace("\nLinkSettings(", "\nsettings = LinkSettings("), names)  # noqa: S102  # what a reader would write
    assert isinstance(names["settings"], LinkSettings)


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs the openssl command")
def test_the_commands_make_certificates_that_serve(tmp_path: Path) -> None:
    [commands] = re.findall(r"```\n(openssl .*?)```", TEXT, re.DOTALL)
    authority, leaf = commands.split("\n\n")
    for script in (authority, leaf, leaf.replace("farm-1", "farm-2")):
        subprocess.run(["bash", "-euc", script], cwd=tmp_path, check=True, capture_output=True)

    def files(name: str) -> TlsFiles:
        return TlsFiles(
            certificate=f"{tmp_path}/{name}.pem", key=f"{tmp_path}/{name}.key", authorities=f"{tmp_path}/authority.pem"
        )

    async def main() -> None:
        async with world(tmp_path) as here:
            second = await here.link(
                "farm-2", KnownPeer(name="farm-1"), listen=("tls://127.0.0.1:0",), tls=files("farm-2")
            )
            first = await here.link(
                "farm-1", KnownPeer(name="farm-2", address=second.listening_at[0]), tls=files("farm-1")
            )
            await connected(first, second)

    run(main())
