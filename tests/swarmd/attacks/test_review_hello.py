"""Hello at the seams: two eras, an epoch that ends during an answer, endless hand-overs.

Real chains, real certificates, the real service on both sides; frames pass as bytes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio

from ledger.block import decode_block
from ledger.bodies.governance import SetCheckpoint
from ledger.chain import Chain
from ledger.light import CHECKPOINT_EPOCHS_MAX
from protocol.approval import Action
from protocol.did import KeyPurpose
from protocol.digest import DidId
from protocol.genesis import EPOCH_MS
from protocol.governance import Recovery, RecoveryPlan, Seat, checkpoint_digest, seat_message
from swarmd.ledger_host import LedgerHost
from swarmd.net.address import PeerKey
from swarmd.peers import PeerClass, PeerRegistry
from swarmd.services.hello import HelloService
from tests.support.epochs import VoteKeys, advance_epochs, certify_all
from tests.support.ledger import HOUR_MS, Lab, Member, make_key, make_lab


class Clock:
    """Trio's clock."""

    def monotonic(self) -> float:
        return trio.current_time()

    def wall_ms(self) -> int:
        return 0


class End:
    """One end of a stream between two nodes."""

    def __init__(self, peer: PeerKey) -> None:
        self.peer = peer
        self.send, self.take = trio.open_memory_channel[bytes](8)
        self.other: End | None = None

    async def send_frame(self, frame: bytes) -> None:
        assert self.other is not None
        await self.other.send.send(frame)

    async def receive_frame(self) -> bytes | None:
        try:
            return await self.take.receive()
        except trio.EndOfChannel:
            return None

    async def close_write(self) -> None:
        assert self.other is not None
        await self.other.send.aclose()

    async def reset(self) -> None:
        await self.close_write()
        await self.send.aclose()


class Node:
    """A chain, its host, its registry and the hello service of one member."""

    def __init__(self, lab: Lab, member: Member, chain: Chain, nursery: trio.Nursery) -> None:
        self.key = PeerKey(member.key(KeyPurpose.TRANSPORT).public.raw)
        self.host = LedgerHost(chain, lambda: chain.head.time_ms)
        self.registry = PeerRegistry(lab.chain_id, Clock(), lambda *_: None)
        self.nodes: dict[PeerKey, Node] = {}
        self.before_answer: Callable[[], Awaitable[None]] | None = None
        self._nursery = nursery
        self.hello = HelloService(
            network=self,  # type: ignore[arg-type]
            ledger=self.host,
            registry=self.registry,
            own_did=DidId(member.did),
            on_member=lambda _peer: None,
            on_demoted=lambda _peer: None,
        )

    async def open_stream(self, peer: PeerKey, _protocol: str, *, frame_bytes_max: int) -> End:
        assert frame_bytes_max
        near, far = End(peer), End(self.key)
        near.other, far.other = far, near
        self._nursery.start_soon(self.nodes[peer]._answer, far)
        return near

    async def _answer(self, stream: End) -> None:
        if self.before_answer is not None:
            await self.before_answer()
        await self.hello.answer(stream)  # type: ignore[arg-type]

    def is_connected(self, _peer: PeerKey) -> bool:
        return True

    async def greet(self, other: Node) -> PeerClass:
        self.nodes[other.key] = other
        self.registry.connected(other.key)
        other.registry.connected(self.key)
        return await self.hello.greet(other.key)

    def blamed(self, other: Node) -> dict[str, int]:
        peer = self.registry.get(other.key)
        assert peer is not None
        return peer.offences


class History:
    """A chain that passes epochs by its clock."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.keys = VoteKeys(lab.validators)
        self.chain = lab.open_chain()
        lab.nonces.clear()

    def pass_epochs(self, count: int) -> None:
        for _ in range(count):
            now_ms, epoch = self.chain.head.time_ms, self.chain.validators.epoch + 1
            certified = certify_all(self.lab, epoch, self.lab.validators, now_ms=now_ms)
            advance_epochs(self.lab, self.chain, self.keys, certified)
            advance_epochs(self.lab, self.chain, self.keys, after_ms=EPOCH_MS)

    def record_checkpoint(self) -> None:
        """Governance vouches for the head, which closes an epoch."""
        header = self.chain.head
        until = header.time_ms + 20 * HOUR_MS
        approvals = tuple(
            self.lab.approval(
                Action.CHECKPOINT,
                checkpoint_digest(header.height, header.block_id),
                key,
                group="governance",
                policy=bytes(32),
                valid_until_ms=until,
            )
            for key in self.lab.governance[:2]
        )
        body = SetCheckpoint(header=header.encoded, approvals=approvals)
        signed = self.lab.transaction(self.lab.gateways[0], body, valid_until_ms=until)
        advance_epochs(self.lab, self.chain, self.keys, [signed])

    def copy(self, height: int | None = None) -> Chain:
        """Another node's chain, up to a height."""
        copy = self.lab.open_chain()
        catch_up(copy, self.chain, self.chain.head.height if height is None else height)
        return copy


def catch_up(copy: Chain, source: Chain, height: int) -> None:
    while copy.head.height < height:
        raws, certificate = source.blocks(copy.head.height + 1, 1)
        assert certificate is not None
        copy.follow([decode_block(raw) for raw in raws], certificate)


def recovery_of(lab: Lab, chain: Chain) -> Recovery:
    """The same members go on with new keys in the next era."""
    tip = chain.tip
    plan = RecoveryPlan(
        era=tip.header.era + 1,
        header=tip.header.encoded,
        certificate=b"" if tip.certificate is None else tip.certificate.encode(),
        time_ms=tip.header.time_ms + 60_000,
        seats=(),
        joins=(),
    )
    draft = Recovery(plan=plan, approvals=())
    for member in lab.validators:
        key = make_key(f"{member.label}/next era")
        message = seat_message(lab.chain_id, plan.era, member.did, tip.header.block_id)
        seat = Seat(did=member.did, key=key.public, proof=key.sign(message))
        draft = draft.with_seat(seat, None)
    for governor in lab.governance[:2]:
        draft = draft.signed_by(governor, lab.chain_id)
    return draft


@pytest.mark.slow
async def test_nodes_of_two_eras_meet_without_blame(nursery: trio.Nursery) -> None:
    """G27: who has not adopted a recovery yet is late, not hostile, and so the other way round."""
    lab = make_lab()
    history = History(lab)
    history.pass_epochs(1)
    history.record_checkpoint()
    assert history.chain.checkpoint() is not None
    laggard = Node(lab, lab.gateways[1], history.copy(), nursery)
    chain = history.copy()
    chain.recover(recovery_of(lab, chain))
    adopted = Chain.open(chain._store, lab.genesis)
    node = Node(lab, lab.gateways[0], adopted, nursery)
    assert (adopted.rules.era, laggard.host.chain.rules.era) == (1, 0)
    for one, other in ((node, laggard), (laggard, node)):
        assert await one.greet(other) is PeerClass.MEMBER
        assert one.blamed(other) == {}
        assert other.blamed(one) == {}


@pytest.mark.slow
async def test_who_stayed_in_an_epoch_that_another_era_numbers_too_is_not_blamed(
    nursery: trio.Nursery,
) -> None:
    """The old era's epoch 2 and the new era's are different sets: neither side forged anything."""
    lab = make_lab()
    history = History(lab)
    early = history.copy()
    history.pass_epochs(1)
    late = Node(lab, lab.gateways[1], history.chain, nursery)
    early.recover(recovery_of(lab, early))
    adopted = Chain.open(early._store, lab.genesis)
    node = Node(lab, lab.gateways[0], adopted, nursery)
    assert adopted.validators.epoch == late.host.chain.validators.epoch == 2
    for one, other in ((node, late), (late, node)):
        await one.greet(other)
        assert one.blamed(other) == {}
        assert other.blamed(one) == {}


@pytest.mark.slow
async def test_an_epoch_that_ends_while_the_answer_is_under_way_blames_nobody(
    nursery: trio.Nursery,
) -> None:
    lab = make_lab()
    history = History(lab)
    history.pass_epochs(2)
    node = Node(lab, lab.gateways[0], history.copy(1), nursery)
    source = Node(lab, lab.gateways[1], history.chain, nursery)

    async def follow_meanwhile() -> None:
        catch_up(node.host.chain, history.chain, 2)

    source.before_answer = follow_meanwhile
    assert node.host.chain.validators.epoch == 1
    await node.greet(source)
    assert node.host.chain.validators.epoch == 2
    assert node.blamed(source) == {}


@pytest.mark.slow
async def test_hand_overs_past_the_trusted_epochs_are_not_even_remembered(
    nursery: trio.Nursery,
) -> None:
    """Else thieves of one retired quorum could fill the memory with epochs of their own."""
    lab = make_lab()
    history = History(lab)
    history.pass_epochs(CHECKPOINT_EPOCHS_MAX + 6)
    node = Node(lab, lab.gateways[0], lab.open_chain(), nursery)
    source = Node(lab, lab.gateways[1], history.chain, nursery)
    await node.greet(source)
    assert node.hello._trusted.validators.epoch == 1 + CHECKPOINT_EPOCHS_MAX
    assert node.blamed(source) == {}


@pytest.mark.slow
async def test_hand_overs_are_read_once_for_however_many_strangers(nursery: trio.Nursery) -> None:
    """Reading 64 of them takes tens of milliseconds of the thread that consensus waits for."""
    lab = make_lab()
    history = History(lab)
    history.pass_epochs(6)
    source = Node(lab, lab.gateways[1], history.chain, nursery)
    reads: list[int] = []
    handover = history.chain._store.handover

    def counted(epoch: int) -> object:
        reads.append(epoch)
        return handover(epoch)

    history.chain._store.handover = counted  # type: ignore[method-assign, assignment]
    for expected in ([1, 2, 3, 4, 5, 6], []):
        newcomer = Node(lab, lab.gateways[0], lab.open_chain(), nursery)
        reads.clear()
        await newcomer.greet(source)
        assert newcomer.hello._trusted.validators.epoch == 7
        assert reads == expected
