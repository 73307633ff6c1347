"""From `journal="node://…"` to the link with that node.

    node://unix:///run/syncpoint/node.sock?name=site-a&cluster=shop
    node://tls://node.example:7420?name=site-a&certificate=app.pem&key=app-key.pem&authorities=ca.pem

Options: `name` of the node (else "node"), its `cluster` (else "syncpoint"); for TLS the paths of our `certificate`,
its `key`, and the `authorities` that we trust; `node_certificate`, the name that the node's certificate must carry when
that is not its own; for a Unix socket `user`, the numeric id of the user whose process the node is, when that is not
ours. Touches nothing. Not for: asking (journal/node.py), or sockets (link/).
"""

from __future__ import annotations

import difflib
import os
import socket
from urllib.parse import unquote

from syncpoint.errors import ConfigurationError
from syncpoint.ids import Guid
from syncpoint.journal.node import NodeJournal
from syncpoint.journal.node_link import NodeLink
from syncpoint.journal.node_messages import NODE_VOCABULARY
from syncpoint.link.addresses import TlsAddress, parse_address
from syncpoint.link.exchange import LinkExchange
from syncpoint.link.peers import KnownPeer
from syncpoint.link.settings import Limits, LinkSettings, TlsFiles
from syncpoint.messages import Message
from syncpoint.ports import Clock, Peer, Random

SCHEME = "node://"
NODE_ROLE = "node"
RETRY_S_MAX = 1.0
"""Between two tries to reach it: nothing can be decided meanwhile."""
_TLS = ("certificate", "key", "authorities")
_OPTIONS = ("name", "cluster", "user", "node_certificate", *_TLS)
_EXAMPLE = "Write for example: node://unix:///run/syncpoint/node.sock?name=site-a"


def is_at_node(journal: str) -> bool:
    """Whether this names a journal that a node keeps."""
    return journal.startswith(SCHEME)


def node_journal(journal: str, *, clock: Clock, random: Random) -> NodeJournal:
    """The journal at that node. Raises ConfigurationError."""
    link = node_link(journal, role="manager", prefix="app-", random=random)
    return NodeJournal(link, clock=clock, random=random, place=f"{socket.gethostname()}, process {os.getpid()}")


def node_link(journal: str, *, role: str, prefix: str, random: Random) -> NodeLink:
    """The link with that node, for a process of this role, under a name of its own. Raises ConfigurationError."""
    address, _, query = journal.removeprefix(SCHEME).partition("?")
    options = _read_options(query)
    node = options.get("name", "node")
    certificate = options.get("node_certificate")
    if not address:
        raise ConfigurationError("The journal's node:// names no address.", advice=_EXAMPLE)
    peer = KnownPeer(
        name=node,
        address=address,
        role=NODE_ROLE,
        certificates=(certificate,) if certificate else (),
        uids=_user(options.get("user")),
    )
    settings = LinkSettings(
        cluster=options.get("cluster", "syncpoint"),
        name=f"{prefix}{random.bytes(8).hex()}",
        role=role,
        guid=Guid(random.bytes(16)),
        peers=(peer,),
        tls=_tls(address, options),
        limits=Limits(retry_max_s=RETRY_S_MAX),
    )
    return NodeLink(LinkExchange(settings, vocabulary=NODE_VOCABULARY, may_ask=_may_ask), node=node)


def _user(text: str | None) -> tuple[int, ...]:
    if text is None:
        return ()
    if not (text.isascii() and text.isdigit()):
        raise ConfigurationError(
            f"The option user of the journal's URL is {text!r}.", advice="Give a numeric user id, for example user=998"
        )
    return (int(text),)


def _may_ask(peer: Peer, question: Message) -> bool:
    """Only the node talks to us."""
    return peer.role == NODE_ROLE


def _read_options(query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for part in filter(None, query.split("&")):
        key, _, value = part.partition("=")
        if key not in _OPTIONS:
            near = difflib.get_close_matches(key, _OPTIONS, n=1)
            raise ConfigurationError(
                f"The journal's URL has an unknown option {key!r}.",
                advice=f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(_OPTIONS)}.",
            )
        options[key] = unquote(value)
    return options


def _tls(address: str, options: dict[str, str]) -> TlsFiles | None:
    if not isinstance(parse_address(address), TlsAddress):
        return None
    missing = [key for key in _TLS if not options.get(key)]
    if missing:
        raise ConfigurationError(
            f"The journal's URL has tls:// and no {' and no '.join(missing)}.",
            advice="Add ?certificate=…&key=…&authorities=… with paths of PEM files.",
        )
    return TlsFiles(**{key: options[key] for key in _TLS})
