"""Classes, scores and bans of peers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.digest import ChainId, DidId, sha256
from protocol.version import ProtocolName, protocol_id
from swarmd.clock import ManualClock
from swarmd.net.address import PeerKey
from swarmd.net.config import PeerClass as SlotClass
from swarmd.peers import (
    BAN_S,
    BANNED_MAX,
    SCORE_RECOVERY_PER_S,
    SCORE_START,
    Offence,
    PeerClass,
    PeerRegistry,
    RegistryAdmission,
)

CHAIN = ChainId(sha256(b"chain"))
ONE, TWO = PeerKey(b"1" * 32), PeerKey(b"2" * 32)


class Bench:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.bans: list[tuple[PeerKey, Offence]] = []
        self.registry = PeerRegistry(CHAIN, self.clock, lambda *ban: self.bans.append(ban))
        self.admission = RegistryAdmission(self.registry)

    def known(self, key: PeerKey, peer_class: PeerClass) -> None:
        self.registry.connected(key).peer_class = peer_class


ALLOWED = {
    PeerClass.STRANGER: {ProtocolName.HELLO, ProtocolName.ENROL},
    PeerClass.READER: {ProtocolName.HELLO, ProtocolName.LEDGER},
    PeerClass.MEMBER: {
        ProtocolName.HELLO,
        ProtocolName.LEDGER,
        ProtocolName.EXCHANGE,
        ProtocolName.LANE,
        ProtocolName.SEALING,
        ProtocolName.PEERS,
        ProtocolName.FORWARD,
    },
    PeerClass.VALIDATOR: set(ProtocolName) - {ProtocolName.ENROL},
}


@pytest.mark.parametrize("peer_class", PeerClass)
def test_each_class_opens_its_protocols_and_no_other(peer_class: PeerClass) -> None:
    bench = Bench()
    bench.known(ONE, peer_class)
    other_chain = ChainId(sha256(b"other"))
    for name in ProtocolName:
        is_allowed = name in ALLOWED[peer_class]
        assert bench.admission.may_open(ONE, protocol_id(CHAIN, name)) is is_allowed
        assert not bench.admission.may_open(ONE, protocol_id(other_chain, name))
    assert bench.admission.may_gossip(ONE) is (peer_class >= PeerClass.MEMBER)


def test_who_is_not_connected_is_a_stranger() -> None:
    bench = Bench()
    assert bench.registry.peer_class(ONE) is PeerClass.STRANGER
    assert bench.admission.may_connect(ONE)
    bench.known(ONE, PeerClass.VALIDATOR)
    bench.registry.disconnected(ONE)
    assert bench.registry.peer_class(ONE) is PeerClass.STRANGER
    assert bench.registry.disconnected(ONE) is None


def test_slots() -> None:
    bench = Bench()
    slots = {
        PeerClass.STRANGER: SlotClass.STRANGER,
        PeerClass.READER: SlotClass.MEMBER,
        PeerClass.MEMBER: SlotClass.MEMBER,
        PeerClass.VALIDATOR: SlotClass.VALIDATOR,
    }
    for peer_class, slot in slots.items():
        bench.known(ONE, peer_class)
        assert bench.admission.peer_class(ONE) is slot


def test_lookups_and_counts() -> None:
    bench = Bench()
    bench.known(ONE, PeerClass.MEMBER)
    bench.known(TWO, PeerClass.READER)
    did = DidId(sha256(b"did"))
    bench.registry.connected(ONE).did = did
    assert bench.registry.by_did(did) is bench.registry.get(ONE)
    assert bench.registry.by_did(DidId(sha256(b"no"))) is None
    assert [peer.key for peer in bench.registry.at_least(PeerClass.MEMBER)] == [ONE]
    assert [peer.key for peer in bench.registry] == [ONE, TWO]
    statistics = bench.registry.statistics()
    assert (statistics.readers, statistics.members, statistics.banned) == (1, 1, 0)


@pytest.mark.parametrize("offence", [item for item in Offence if item.cost])
def test_offences_add_up_to_a_ban(offence: Offence) -> None:
    bench = Bench()
    bench.known(ONE, PeerClass.MEMBER)
    for _ in range(-(-SCORE_START // offence.cost) - 1):
        bench.registry.blame(ONE, offence, "again")
    assert not bench.bans
    bench.registry.blame(ONE, offence, "once too often")
    assert bench.bans == [(ONE, offence)]
    assert not bench.admission.may_connect(ONE)
    assert bench.admission.may_connect(TWO)
    assert bench.registry.statistics().banned == 1
    peer = bench.registry.get(ONE)
    assert peer is not None
    assert peer.offences == {offence.label: -(-SCORE_START // offence.cost)}
    bench.clock.advance(BAN_S - 1)
    assert bench.registry.is_banned(ONE)
    bench.clock.advance(2)
    assert bench.admission.may_connect(ONE)


def test_who_left_is_still_remembered_for_what_it_did() -> None:
    bench = Bench()
    bench.registry.blame(ONE, Offence.MALFORMED, "before it left")
    bench.known(ONE, PeerClass.MEMBER)
    bench.registry.disconnected(ONE)
    bench.registry.blame(ONE, Offence.MALFORMED, "after it left")
    assert bench.bans == [(ONE, Offence.MALFORMED)]


def test_points_come_back_with_time() -> None:
    bench = Bench()
    bench.registry.blame(ONE, Offence.MALFORMED, "x")
    bench.clock.advance(1 / SCORE_RECOVERY_PER_S)
    bench.registry.blame(ONE, Offence.MALFORMED, "x")
    assert not bench.bans
    bench.clock.advance(10**9)  # never above the start
    bench.registry.blame(ONE, Offence.MALFORMED, "x")
    bench.registry.blame(ONE, Offence.MALFORMED, "x")
    assert bench.bans


@pytest.mark.slow
def test_memory_of_scores_and_bans_is_bounded() -> None:
    bench = Bench()
    keys = [PeerKey(index.to_bytes(32, "big")) for index in range(BANNED_MAX + 8)]
    for key in keys:
        bench.registry.blame(key, Offence.REFUSED_TRANSACTION, "x")
        bench.registry.blame(key, Offence.FORGED, "x")
    assert bench.registry.statistics().banned == BANNED_MAX
    assert not bench.registry.is_banned(keys[0])
    assert bench.registry.is_banned(keys[-1])
    for key in keys:
        bench.registry.blame(PeerKey(bytes(reversed(key))), Offence.REFUSED_TRANSACTION, "x")
    assert len(bench.registry._scores) <= BANNED_MAX


@given(st.lists(st.tuples(st.sampled_from(list(Offence)), st.floats(0, 1000)), max_size=40))
def test_scores_stay_in_range_whatever_happens(events: list[tuple[Offence, float]]) -> None:
    bench = Bench()
    for offence, pause_s in events:
        bench.clock.advance(pause_s)
        bench.registry.blame(ONE, offence, "x")
        score = bench.registry._scores.get(ONE)
        assert score is None or 0 < score[0] <= SCORE_START
