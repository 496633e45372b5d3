"""Validators' cosignatures: what they give, what nobody can get them to sign, what is believed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from ledger.chain import Chain
from protocol.catchup import (
    CosignAnswer,
    CosignRequest,
    HeadRequest,
    LedgerMessage,
    decode_ledger_message,
    encode_ledger_message,
)
from protocol.did import KeyPurpose
from protocol.digest import DidId, sha256
from protocol.errors import (
    EncodingError,
    NotYetError,
    PolicyError,
    TransportError,
    VerificationError,
)
from protocol.submit_messages import Refusal
from protocol.tlog import (
    Note,
    NoteKey,
    SignatureType,
    cosign,
    parse_note,
    validator_name,
    verify_witnesses,
)
from swarmd.clock import ManualClock
from swarmd.control.params import Params
from swarmd.export.tiles import checkpoint_of
from swarmd.ledger_host import LedgerHost
from swarmd.net.address import PeerKey
from swarmd.peers import PeerClass, PeerRegistry
from swarmd.services.cosigning import HEIGHTS_BACK, CosigningService
from swarmd.services.proving import ProvingService
from tests.support.ledger import Lab, advance, make_lab
from tests.support.swarm import VALIDATORS, swarm, until


def peer_of(index: int) -> PeerKey:
    return PeerKey(bytes([index]) * 32)


class Parish:
    """Four validators with copies of one chain, and a gateway that asks them."""

    def __init__(self, blocks: int = 3) -> None:
        self.lab: Lab = make_lab()
        self.chains: list[Chain] = [self.lab.open_chain() for _ in range(5)]
        self.registry = PeerRegistry(self.lab.chain_id, ManualClock(), lambda *_: None)
        for chain in self.chains:
            for _ in range(blocks):
                advance(self.lab, chain)
        self.members = [self.member(index) for index in range(4)]
        self.gateway = self.service(4, None)
        self.asked: list[PeerKey] = []
        for index in range(4):
            self.registry.connected(peer_of(index))
            peer = self.registry.get(peer_of(index))
            assert peer is not None
            peer.peer_class = PeerClass.VALIDATOR

    def service(self, copy: int, index: int | None) -> CosigningService:
        chain = self.chains[copy]
        seat = None
        if index is not None:
            seat = (self.lab.validators[index].key(KeyPurpose.VALIDATOR), index)
        host = LedgerHost(chain, lambda: chain.head.time_ms)
        return CosigningService(ledger=host, registry=self.registry, seat=lambda: seat)

    def member(self, index: int) -> CosigningService:
        return self.service(index, index)

    async def ask(self, peer: PeerKey, request: LedgerMessage) -> LedgerMessage:
        """As the ledger stream carries it."""
        self.asked.append(peer)
        sent = decode_ledger_message(encode_ledger_message(request))
        assert isinstance(sent, CosignRequest)
        reply = decode_ledger_message(
            encode_ledger_message(await self.members[peer[0]].answer(sent))
        )
        if isinstance(reply, Refusal):
            raise (NotYetError if reply.may_retry else PolicyError)(reply.rule, reply.message)
        return reply

    async def refusal(self, height: int, member: int = 0) -> str:
        reply = await self.members[member].answer(CosignRequest(height=height))
        return reply.rule if isinstance(reply, Refusal) else ""


async def test_a_gateway_gathers_what_any_tlog_client_believes() -> None:
    parish = Parish()
    head = parish.chains[4].head
    lines = await parish.gateway.gather(head, parish.ask)
    assert len(lines) == 4
    checkpoint = checkpoint_of(head)
    keys = [
        NoteKey(
            name=validator_name(checkpoint.origin, member.did),
            kind=SignatureType.COSIGNATURE,
            key=member.key(KeyPurpose.VALIDATOR).public,
        )
        for member in parish.lab.validators
    ]
    found, witnesses = verify_witnesses(Note(checkpoint.encode(), lines), keys, 3)
    assert found == checkpoint
    assert {item.time_s for item in witnesses} == {head.time_ms // 1000}


async def test_a_validator_counts_itself_once() -> None:
    parish = Parish()
    lines = await parish.members[0].gather(parish.chains[0].head, parish.ask)
    assert len(lines) == 4


@pytest.mark.slow
async def test_a_height_is_signed_once_and_only_what_is_final_here() -> None:
    parish = Parish(blocks=HEIGHTS_BACK + 2)
    member, chain = parish.members[0], parish.chains[0]
    newest = chain.head.height
    first = await member.answer(CosignRequest(height=newest))
    assert await member.answer(CosignRequest(height=newest)) is first, "from the cache"
    old = await member.answer(CosignRequest(height=newest - HEIGHTS_BACK + 1))
    assert isinstance(old, CosignAnswer)
    again = parish.member(0)
    assert await again.answer(CosignRequest(height=newest)) == first, "also after a restart"
    assert await parish.refusal(newest - HEIGHTS_BACK) == "cosign.old"
    assert await parish.refusal(newest + 1) == "cosign.behind"
    for height in range(newest - HEIGHTS_BACK + 1, newest + 1):
        await member.answer(CosignRequest(height=height))
    assert len(member._kept) <= HEIGHTS_BACK
    with pytest.raises(EncodingError):
        decode_ledger_message(encode_ledger_message(CosignRequest(height=0)))


async def test_nobody_without_a_seat_and_no_alarmed_node_signs() -> None:
    parish = Parish()
    assert isinstance(await parish.gateway.answer(CosignRequest(height=1)), Refusal)
    parish.members[0]._ledger.raise_alarm(VerificationError("a fork"))
    assert await parish.refusal(1) == "cosign.none"


async def test_what_liars_answer_is_passed_over() -> None:
    parish = Parish()
    lab, head = parish.lab, parish.chains[4].head
    checkpoint = checkpoint_of(head)
    member = lab.validators[0]
    key = member.key(KeyPurpose.VALIDATOR)
    other = replace(checkpoint, root=sha256(b"another log"))
    name = validator_name(checkpoint.origin, member.did)
    genuine = cosign(checkpoint, name, key, time_s=1).signature

    lies: list[LedgerMessage | Exception] = [
        CosignAnswer(did=member.did, cosignature=cosign(other, name, key, time_s=1).signature),
        CosignAnswer(did=DidId(sha256(b"nobody")), cosignature=genuine),
        CosignAnswer(did=lab.validators[1].did, cosignature=genuine),
        CosignAnswer(did=member.did, cosignature=bytes(72)),
        HeadRequest(),
        TransportError("gone"),
        VerificationError("malformed"),
        PolicyError("cosign.none", "no"),
    ]
    for lie in lies:

        async def ask(
            peer: PeerKey, request: LedgerMessage, lie: LedgerMessage | Exception = lie
        ) -> LedgerMessage:
            if peer != peer_of(0):
                return await parish.ask(peer, request)
            if isinstance(lie, Exception):
                raise lie
            return lie

        lines = await parish.gateway.gather(head, ask)
        assert [line.name for line in lines] == [
            validator_name(checkpoint.origin, item.did) for item in lab.validators[1:]
        ]


async def test_a_copied_line_does_not_count_for_two() -> None:
    parish = Parish()

    async def ask(_peer: PeerKey, request: LedgerMessage) -> LedgerMessage:
        return await parish.ask(peer_of(2), request)

    assert len(await parish.gateway.gather(parish.chains[4].head, ask)) == 1


async def test_one_that_is_behind_is_asked_again_and_a_silent_one_not_waited_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    parish = Parish()
    for copy in (1, 2, 3, 4):
        advance(parish.lab, parish.chains[copy])

    async def ask(peer: PeerKey, request: LedgerMessage) -> LedgerMessage:
        if peer == peer_of(3):
            await trio.sleep_forever()
        if peer == peer_of(0) and parish.asked.count(peer) == 2:
            advance(parish.lab, parish.chains[0])
        return await parish.ask(peer, request)

    lines = await parish.gateway.gather(parish.chains[4].head, ask)
    assert len(lines) == 3


@pytest.mark.slow
async def test_real_nodes_cosign_for_a_gateway_over_the_network(tmp_path: Path) -> None:
    everyone = (*VALIDATORS, "publisher-1", "gateway-1")
    async with swarm(tmp_path, gateways=1) as lab:
        await lab.start(*everyone)
        await lab.until_met(*everyone)
        gateway = lab["gateway-1"]
        chain = gateway.ledger.chain
        await lab.release(b"image", version="1.0")
        await until(lambda: chain.head.log_size >= 2, "the release reaches the gateway")
        desk = ProvingService(gateway.ledger, gateway.receipts)
        lines: list[Any] = []
        for _ in range(3):
            answer: Any = await desk.checkpoint(
                Params({}), gateway.cosigning, gateway.ledger_service.ask
            )
            lines = answer["signatures"]
            if len(lines) >= answer["quorum"]:
                break
        assert len(lines) >= chain.validators.quorum
        text = answer["text"]
        note = parse_note("\n".join([text, *lines, ""]).encode())
        origin = text.splitlines()[0]
        keys = [
            NoteKey(
                name=validator_name(origin, item.did), kind=SignatureType.COSIGNATURE, key=item.key
            )
            for item in chain.validators.members
            if item.key is not None
        ]
        found, _ = verify_witnesses(note, keys, chain.validators.quorum, origin=origin)
        assert found.size >= 2
