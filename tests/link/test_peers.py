"""Who may talk to us: proof before names; and of two connections both ends keep the same one."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncpoint.ids import Guid
from syncpoint.link.handshake import Reason
from syncpoint.link.peers import Keep, KnownPeer, Proof, Roster, choose
from syncpoint.messages import LINK_VOCABULARY, Hello

HELLO = Hello(version_min=1, version_max=1, cluster="c", guid=b"b" * 16, name="bert", role="node", instance=bytes(8))
BERT = KnownPeer(name="bert", role="node", guid=Guid(b"b" * 16))
CERTIFICATE = Proof(certificate=frozenset({"bert"}))
UID = Proof(uid=1000)


def _roster(*peers: KnownPeer) -> Roster:
    return Roster(peers, cluster="c", own_name="anna", own_uid=1000)


@pytest.mark.parametrize("proof", [CERTIFICATE, UID], ids=str)
def test_a_known_peer_with_proof_is_admitted(proof: Proof) -> None:
    assert _roster(BERT).refusal(HELLO, proof, None) is None
    assert _roster(BERT).refusal(HELLO, proof, "bert") is None


@pytest.mark.parametrize(
    ("changed", "proof", "dialled", "reason", "text"),
    [
        ({"cluster": "d"}, UID, None, Reason.CLUSTER, "bert belongs to the cluster 'd', anna to another"),
        ({}, UID, "carl", Reason.WRONG_PEER, "anna dialled carl and reached bert"),
        ({"name": "eve"}, UID, None, Reason.UNKNOWN, "anna knows no 'eve'"),
        ({"name": "anna"}, UID, None, Reason.UNKNOWN, "Both ends are named anna"),
        ({}, Proof(uid=1001), None, Reason.IDENTITY, "bert runs as user id 1001, which may not use this name"),
        ({}, Proof(), None, Reason.IDENTITY, "may not use this name"),
        ({}, Proof(certificate=frozenset()), None, Reason.IDENTITY, "bert came with a certificate for nobody"),
        (
            {},
            Proof(certificate=frozenset({"eve", "Bert"})),
            None,
            Reason.IDENTITY,
            "bert came with a certificate for Bert, eve, and not for bert",
        ),
        ({"role": "client"}, UID, None, Reason.UNEXPECTED, "its role is client"),
        ({"guid": b"x" * 16}, UID, None, Reason.UNEXPECTED, f"its GUID is {b'x'.hex() * 16}"),
    ],
)
def test_others_are_refused_with_the_reason(
    changed: dict[str, object], proof: Proof, dialled: str | None, reason: Reason, text: str
) -> None:
    no = _roster(BERT).refusal(msgspec.structs.replace(HELLO, **changed), proof, dialled)
    assert no is not None
    assert no.reason == reason
    assert text in no.text
    assert no.text.endswith(".")
    assert LINK_VOCABULARY.decode(LINK_VOCABULARY.encode(no)) == no


def test_a_certificate_with_thousands_of_names_still_gives_a_refusal_that_fits() -> None:
    proof = Proof(certificate=frozenset(f"{number:0200d}\n" for number in range(5000)))
    no = _roster(BERT).refusal(HELLO, proof, None)
    assert no is not None
    assert LINK_VOCABULARY.decode(LINK_VOCABULARY.encode(no)) == no


def test_a_name_may_need_other_certificates_or_users() -> None:
    roster = _roster(KnownPeer(name="bert", certificates=("host-1", "host-2"), uids=(7,)))
    assert roster.refusal(HELLO, Proof(certificate=frozenset({"host-2"})), None) is None
    assert roster.refusal(HELLO, CERTIFICATE, None) is not None
    assert roster.refusal(HELLO, Proof(uid=7), None) is None
    assert roster.refusal(HELLO, UID, None) is not None


def test_many_peers_of_one_kind_and_a_whole_name_before_them() -> None:
    roster = _roster(KnownPeer(name="app-*", certificates=("app",)), KnownPeer(name="app-7", role="operator"))
    app = Proof(certificate=frozenset({"app"}))
    assert roster.refusal(msgspec.structs.replace(HELLO, name="app-1"), app, None) is None
    assert roster.refusal(msgspec.structs.replace(HELLO, name="ap-1"), app, None) is not None
    assert roster.find("app-7") == KnownPeer(name="app-7", role="operator")


@given(st.booleans(), st.booleans(), st.permutations(["anna", "bert"]))
def test_both_ends_keep_the_same_connection(old_by_first: bool, new_by_first: bool, names: list[str]) -> None:
    first, second = names
    for same_instance in (True, False):
        at_first = choose(
            own_name=first,
            peer_name=second,
            same_instance=same_instance,
            old_dialled_by_us=old_by_first,
            new_dialled_by_us=new_by_first,
        )
        at_second = choose(
            own_name=second,
            peer_name=first,
            same_instance=same_instance,
            old_dialled_by_us=not old_by_first,
            new_dialled_by_us=not new_by_first,
        )
        assert at_first is at_second
        # The two may see them in the other order: still the same one stays.
        if same_instance and old_by_first != new_by_first:
            swapped = choose(
                own_name=first,
                peer_name=second,
                same_instance=True,
                old_dialled_by_us=new_by_first,
                new_dialled_by_us=old_by_first,
            )
            assert swapped is (Keep.OLD if at_first is Keep.NEW else Keep.NEW)
