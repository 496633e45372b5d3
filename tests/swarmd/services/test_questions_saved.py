"""What is not asked or sent a second time, and what is all the same."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, cast

import pytest
import trio
import trio.testing

from protocol.catchup import (
    BlocksRequest,
    Freshness,
    FreshnessAnswer,
    FreshnessRequest,
    LedgerMessage,
    sign_freshness,
)
from protocol.did import KeyPurpose
from protocol.digest import TransactionId, sha256
from protocol.genesis import EPOCH_MS
from protocol.merkle import inclusion_proof, leaf_hash, merkle_root
from swarmd.clock import ManualClock
from swarmd.entropy import SeededEntropy
from swarmd.freshness import FreshnessClock
from swarmd.ledger_host import LedgerHost
from swarmd.net.address import PeerKey
from swarmd.net.network import Network
from swarmd.peers import PeerClass, PeerRegistry
from swarmd.services.freshness import FreshnessService
from swarmd.services.ledger_service import SHORT_BLOCKS, LedgerService
from swarmd.services.peer_exchange import SILENT_S
from swarmd.services.submission import RESEND_S, RESEND_S_MAX, SubmissionService
from tests.support.epochs import VoteKeys, advance_epochs, certify_all
from tests.support.ledger import Lab, advance, make_lab
from tests.support.reach_nodes import Directory, Member, reach_node

PEER = PeerKey(sha256(b"peer"))


async def unexpected(*_given: object) -> Any:
    """Must not be called."""
    raise AssertionError(_given)


class Follower:
    """A copy that follows another one through their ledger services."""

    def __init__(self, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        self.chain = lab.open_chain()
        self.source = lab.open_chain()
        self.questions: list[int] = []
        self.service = self._service(lab, LedgerHost(self.chain, lambda: 0))
        self._other = self._service(lab, LedgerHost(self.source, lambda: 0))
        monkeypatch.setattr(self.service, "ask", self._ask)

    def _service(self, lab: Lab, host: LedgerHost) -> LedgerService:
        return LedgerService(
            network=cast(Network, None),  # what would be asked over it is asked by `_ask`
            ledger=host,
            registry=PeerRegistry(lab.chain_id, ManualClock(), lambda *_: None),
            freshness=cast(FreshnessService, None),  # nobody asks about it
            on_pending=lambda: None,
        )

    async def _ask(self, _peer: PeerKey, request: LedgerMessage) -> LedgerMessage:
        await trio.lowlevel.checkpoint()
        assert isinstance(request, BlocksRequest)
        self.questions.append(request.from_height)
        return self._other._blocks(request.from_height)


@pytest.mark.parametrize("told", [0, 3])
async def test_a_short_answer_is_the_last_one(told: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = make_lab()
    follower = Follower(lab, monkeypatch)
    for _ in range(3):
        advance(lab, follower.source)
    await follower.service.catch_up(PEER, told)
    assert follower.questions == [1]
    assert follower.chain.head == follower.source.head
    await follower.service.catch_up(PEER, told)
    assert follower.questions == [1, 4], "nothing newer: one question says so"


async def test_who_told_of_more_is_asked_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = make_lab()
    follower = Follower(lab, monkeypatch)
    advance(lab, follower.source)
    await follower.service.catch_up(PEER, 2)
    assert follower.questions == [1, 2]


async def test_a_long_answer_is_not_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = make_lab()
    follower = Follower(lab, monkeypatch)
    for _ in range(SHORT_BLOCKS):
        advance(lab, follower.source)
    await follower.service.catch_up(PEER)
    assert follower.questions == [1, SHORT_BLOCKS + 1]


@pytest.mark.slow
async def test_an_epoch_that_ended_is_no_end_of_the_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = make_lab()
    follower, keys = Follower(lab, monkeypatch), VoteKeys(lab.validators)
    source = follower.source
    now_ms = source.head.time_ms
    advance_epochs(lab, source, keys, certify_all(lab, 2, lab.validators, now_ms=now_ms))
    advance_epochs(lab, source, keys, after_ms=EPOCH_MS)
    assert source.head.closes_epoch
    edge = source.head.height
    for _ in range(2):
        advance_epochs(lab, source, keys)
    await follower.service.catch_up(PEER)
    assert follower.questions == [1, edge + 1]
    assert follower.chain.head == source.head


# -- freshness -------------------------------------------------------------------------------------


async def test_a_validator_that_states_more_is_followed_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Without that a node that hears no gossip asks again and again for what it cannot confirm."""
    lab = make_lab()
    chain, ahead = lab.open_chain(), lab.open_chain()
    advance(lab, ahead)
    clock = ManualClock()
    registry = PeerRegistry(lab.chain_id, clock, lambda *_: None)
    peers = [PeerKey(sha256(b"%d" % index)) for index in range(len(lab.validators))]
    for key in peers:
        registry.connected(key).peer_class = PeerClass.VALIDATOR
    heard: dict[PeerKey, int] = {}

    async def ask(peer: PeerKey, request: LedgerMessage) -> LedgerMessage:
        await trio.lowlevel.checkpoint()
        assert isinstance(request, FreshnessRequest)
        leaf = leaf_hash(request.nonce)
        head, index = ahead.head, peers.index(peer)
        content = Freshness(
            era=head.era,
            validator=index,
            epoch=head.epoch,
            height=head.height,
            block_id=head.block_id,
            nonces=merkle_root([leaf]),
            time_ms=0,
        )
        key = lab.validators[index].key(KeyPurpose.VALIDATOR)
        signed = sign_freshness(content, key, lab.chain_id)
        proof = inclusion_proof([leaf], 0)
        return FreshnessAnswer(statements=((signed.signed.raw, 0, proof, 1),))

    service = FreshnessService(
        ledger=LedgerHost(chain, lambda: 0),
        registry=registry,
        clock=clock,
        entropy=SeededEntropy(1),
        age=FreshnessClock(None, now=0.0, wall_ms=0),
        save=unexpected,
        validator=None,
        on_ahead=heard.__setitem__,
    )
    assert not await service._ask_round(ask)
    assert heard == dict.fromkeys(peers, 1)


# -- submission ------------------------------------------------------------------------------------


def submission(look: list[float] | None) -> SubmissionService:
    lab = make_lab()
    chain = lab.open_chain()
    return SubmissionService(
        ledger=LedgerHost(chain, lambda: 0),
        own_did=lab.gateways[0].did,
        key=lab.gateways[0].key(KeyPurpose.NODE),
        time_ms=lambda: 0,
        offer=unexpected,
        gossip=unexpected,
        on_pending=lambda: None,
        needs_gossip=lambda: False,
        look=None if look is None else lambda: look.append(1.0),
    )


def offers(service: SubmissionService, seconds: int) -> list[int]:
    """When a transaction that does not become final is handed over."""
    transaction = TransactionId(sha256(b"transaction"))
    return [now for now in range(seconds) if service._is_due(transaction, float(now))]


def test_a_node_that_is_told_of_blocks_hands_over_again_and_again() -> None:
    assert offers(submission(None), 60) == list(range(0, 60, int(RESEND_S)))


def test_a_metered_node_looks_before_it_hands_over_again_and_rests_longer_each_time() -> None:
    looks: list[float] = []
    times = offers(submission(looks), 6 * 3600)
    assert times[:4] == [0, 20, 50, 100]
    gaps = [later - before for before, later in pairwise(times)]
    assert max(gaps) <= RESEND_S_MAX + RESEND_S, "it is never given up"
    assert len(looks) in (len(times) - 1, len(times)), "looked for before each time"
    assert len(times) < 40


# -- addresses -------------------------------------------------------------------------------------


async def test_who_does_not_offer_the_exchange_of_addresses_is_not_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, two = Member(1), Member(2)
    directory = Directory()
    directory.add(one, two)
    with trio.fail_after(20):
        async with reach_node(one, directory) as a, reach_node(two, directory) as b:
            await a.meet(b)
            peer = b.network.peer
            asked: list[str] = []
            open_stream = a.network.open_stream

            async def refused(key: PeerKey, protocol: str, **settings: int) -> object:
                asked.append(protocol)
                return await open_stream(key, "/not/offered/1", **settings)

            monkeypatch.setattr(a.network, "open_stream", refused)
            for _ in range(3):
                await a.exchange._ask_quietly(peer)
            assert len(asked) == 1
            assert a.exchange._is_silent(peer)
            a.exchange.peer_connected(peer)  # a new connection may be of a peer that has changed
            assert not a.exchange._is_silent(peer)
            await a.exchange._ask_quietly(peer)
            assert len(asked) == 2
            a.exchange._silent_until[peer] -= SILENT_S
            assert not a.exchange._is_silent(peer), "a day later"
            assert a.offences == []
