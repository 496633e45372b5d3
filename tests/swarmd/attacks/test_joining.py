"""Getting in: newcomers, rotated keys, and what a stranger learns (epoch headers at most)."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import trio
from libp2p.protocol_muxer.exceptions import MultiselectClientError
from libp2p.stream_muxer.exceptions import MuxedStreamError

from ledger.bodies.subject import CreateSubject
from ledger.membership import make_membership_proof
from protocol.approval import Action
from protocol.did import did_text
from protocol.framing import FrameBuffer, encode_frame
from protocol.hello import Hello, HelloStatus, decode_hello_answer
from protocol.keys import PrivateKey
from protocol.limits import HELLO_BYTES_MAX
from protocol.version import ProtocolName, group_topic, protocol_id
from swarmd.datadir import KeyName, write_atomic
from swarmd.net.gossip_router import GOSSIP_PROTOCOL
from swarmd.net.wire import TCPWire
from swarmd.peers import PeerClass
from tests.support.forge import Forge
from tests.support.network_attacker import Attacker, attack, attacker_keys, subscription
from tests.support.network_nodes import seed
from tests.support.swarm import GROUP, VALIDATORS, Swarm, swarm, until


def frame(body: bytes) -> bytes:
    """A hello frame."""
    return encode_frame(body, bytes_max=HELLO_BYTES_MAX)


OPEN = (ProtocolName.HELLO, ProtocolName.ENROL)
"""All that a stranger may open; tests/swarmd/attacks/test_newcomers.py has the second."""
JOIN_S = 10.0
"""Everybody who may get in is in by then, seconds."""


@pytest.mark.slow
async def test_a_gateway_with_genesis_only_catches_up(tmp_path: Path) -> None:
    async with swarm(tmp_path) as lab:
        forge = Forge(lab)
        await lab.start("gateway-1")
        await forge.give(lab["gateway-1"], *[forge.advance() for _ in range(5)])
        await lab.start("gateway-2")
        with trio.fail_after(JOIN_S):
            await lab.until_met("gateway-1", "gateway-2")
            await lab.until_height(5, "gateway-2")
        forge.close()


@pytest.mark.slow
async def test_a_gateway_enrolled_a_block_ago_gets_in(tmp_path: Path) -> None:
    """It knows genesis only, which does not know it; peers know it since the last block."""
    async with swarm(tmp_path) as lab:
        forge = Forge(lab)
        await lab.start("gateway-1")
        join = lab.new_gateway("gateway-9", "gateway-1")
        await lab.start("gateway-9")
        await until(lambda: lab["gateway-1"].network.statistics().handshakes == 0, "it tried")
        assert lab.class_of("gateway-1", "gateway-9") is PeerClass.STRANGER
        approvals = lab.approvals(Action.ENROL, join.record.did)
        enrol = CreateSubject(join=join.statement, approvals=(approvals,))
        await forge.give(lab["gateway-1"], forge.advance(enrol))
        with trio.fail_after(JOIN_S):
            await lab.until_met("gateway-1", "gateway-9")
            await lab.until_height(1, "gateway-9")
        assert lab["gateway-9"]._own_groups() == (GROUP,)
        forge.close()


async def rotate(lab: Swarm, forge: Forge, *names: str) -> None:
    """Rotates keys in the ledger and in the folders."""
    for name in names:
        body, install = lab.rotation(name)
        forge.advance(body, by=name)
        install()


def blocks(forge: Forge) -> list[tuple[object, object]]:
    from ledger.block import decode_block

    raws, certificate = forge.chain.blocks(1, 10**6)
    assert certificate is not None
    return [(decode_block(raw), forge.certify(decode_block(raw))) for raw in raws]


@pytest.mark.slow
async def test_one_that_was_off_while_every_peer_rotated_its_key(tmp_path: Path) -> None:
    async with swarm(tmp_path) as lab:
        forge = Forge(lab)
        peers = ("gateway-2", "publisher-1")
        old = {name: lab.peer(name) for name in peers}
        lab.isolate("gateway-1", *peers)  # nobody calls it: it must find them under other keys
        await rotate(lab, forge, *peers)
        assert all(lab.peer(name) != old[name] for name in peers)
        for name in peers:
            await lab.start(name)
            await forge.give(lab[name], *blocks(forge))  # type: ignore[arg-type]
        await lab.start("gateway-1")
        with trio.fail_after(JOIN_S):
            await lab.until_met("gateway-1", "gateway-2")
            await lab.until_met("gateway-1", "publisher-1")
            await lab.until_height(forge.chain.head.height, "gateway-1")
        reached = lab["gateway-1"].reach._reached
        assert {reached[old[name]] for name in peers} == {lab.peer(name) for name in peers}
        # A copy that knows the rotation dials the new key from the first.
        await lab.crash("gateway-1")
        await lab.start("gateway-1")
        with trio.fail_after(JOIN_S):
            await lab.until_met("gateway-1", "gateway-2")
        forge.close()


@pytest.mark.slow
async def test_validators_whose_transport_keys_were_rotated_find_each_other(tmp_path: Path) -> None:
    """All of them at once, and one whose copy does not know it yet."""
    async with swarm(tmp_path, gateways=0, publishers=0) as lab:
        forge = Forge(lab)
        await rotate(lab, forge, *VALIDATORS)
        for name in VALIDATORS[:3]:
            forge.put(name)
        await lab.start(*VALIDATORS)
        with trio.fail_after(JOIN_S):
            await lab.until_met(*VALIDATORS)
        last = lab[VALIDATORS[3]].consensus
        assert last is not None
        await until(lambda: last.status.may_vote, "the one that was behind votes")
        await lab.until_height(forge.chain.head.height, *VALIDATORS)
        forge.close()


@pytest.mark.slow
async def test_whoever_sits_at_a_known_address_is_not_told_who_asks(tmp_path: Path) -> None:
    """With a current copy, a key that the ledger does not know gets no hello."""
    async with swarm(tmp_path) as lab:
        lab.isolate("gateway-1", "gateway-2")
        stranger = PrivateKey(seed(77))
        write_atomic(lab.directory("gateway-2").key_path(KeyName.TRANSPORT), stranger.to_pem())
        await lab.start("gateway-2")

        def current(services: object) -> None:
            services.freshness._current_until = 10.0**12  # type: ignore[attr-defined]

        await lab.start("gateway-1", before=current)
        refused: list[bool] = []
        reached = lab["gateway-1"].reach._is_reached

        async def noted(peer: object) -> bool:
            refused.append(await reached(peer))  # type: ignore[arg-type]
            return refused[-1]

        lab["gateway-1"].reach._is_reached = noted  # type: ignore[method-assign,assignment]
        await until(lambda: len(refused) >= 2, "it was dialed")
        assert not any(refused)
        assert lab["gateway-2"].registry.statistics().strangers == 0
        # Not current: hello decides, and a stranger's key does not get in either.
        lab["gateway-1"].freshness._current_until = -1.0
        count = len(refused)
        await until(lambda: len(refused) >= count + 2, "it was dialed again")
        assert lab.class_of("gateway-1", "gateway-2") is PeerClass.STRANGER
        assert lab["gateway-1"].registry.statistics().members == 0


# -- strangers ---------------------------------------------------------------------------------


async def ask(attacker: Attacker, protocol: str, data: bytes) -> list[bytes]:
    """Opens a protocol, says something, and collects the frames of the answer."""
    frames: list[bytes] = []
    buffer = FrameBuffer(HELLO_BYTES_MAX)
    with trio.move_on_after(2), contextlib.suppress(MuxedStreamError, MultiselectClientError):
        stream = await attacker.select(protocol)
        await stream.write(data)
        while True:
            frames += buffer.feed(await stream.read(65536))
    return frames


@pytest.mark.slow
async def test_a_stranger_learns_nothing_but_epoch_headers(tmp_path: Path) -> None:
    async with swarm(tmp_path) as lab:
        forge = Forge(lab)
        await lab.start("gateway-1", wire=TCPWire())
        await forge.give(lab["gateway-1"], forge.advance())
        victim = lab["gateway-1"]
        address = victim.network.listen_addresses[0]
        member = lab.did("gateway-2")
        stolen = make_membership_proof(forge.chain, member)  # seen once, replayed under my key
        hello = protocol_id(lab.chain, ProtocolName.HELLO)
        said: list[bytes] = []
        answers: list[HelloStatus] = []
        for number, (did, proof, height) in enumerate(
            [
                (bytes(32), b"", 0),
                (member, b"", 1),
                (member, stolen, 1),
                (member, stolen, 2**40),
                (member, b"", 2**40),  # tells no more than a small height: no search for my head
                (lab.did("gateway-1"), b"junk", 1),
            ]
        ):
            async with attack(address, 700 + number) as attacker:
                greeting = Hello(era=0, epoch=1, height=height, did=did, membership=proof)
                for raw in await ask(attacker, hello, frame(greeting.encode())):
                    answer = decode_hello_answer(raw)
                    assert answer.hello is None
                    assert answer.epoch_steps == ()
                    answers.append(answer.status)
                said.append(attacker.learned)
        assert answers == [HelloStatus.REFUSED] * 3
        said += await _everything_else(lab, victim.network.listen_addresses[0])
        learned = b"".join(said)
        for secret in (
            victim._identity.did,
            lab.did("gateway-2"),
            did_text(lab.chain, victim._identity.did).encode(),
            b"gateway-1",
            GROUP.encode(),
            victim.ledger.chain.head.block_id,
            victim.ledger.chain.head.state_root,
            b"libp2p/",  # no agent or protocol of the library tells what runs here
            *(protocol_id(lab.chain, name).encode() for name in ProtocolName if name not in OPEN),
        ):
            assert bytes(secret) not in learned
        assert victim.registry.statistics().members == 0
        assert victim.network.statistics().handler_faults == 0
        forge.close()


async def _everything_else(lab: Swarm, address: object) -> list[bytes]:
    """Tries every other protocol, a raw subscription, and nonsense."""
    said = []
    names = [
        *(protocol_id(lab.chain, name) for name in ProtocolName if name not in OPEN),
        GOSSIP_PROTOCOL,
        "/meshsub/1.1.0",
        "/ipfs/id/1.0.0",
        "/ipfs/ping/1.0.0",
    ]
    for number, name in enumerate(names):
        async with attack(address, 800 + number) as attacker:  # type: ignore[arg-type]
            with pytest.raises((MultiselectClientError, Exception)), trio.fail_after(5):
                await attacker.select(name)
            said.append(attacker.learned)
    async with attack(address, 900) as attacker:  # type: ignore[arg-type]
        listed = await attacker.list_protocols()
        assert [name for name in listed if name.startswith("/swarmd/")] == [
            protocol_id(lab.chain, name) for name in OPEN
        ]
        assert (
            await ask(attacker, GOSSIP_PROTOCOL, subscription(group_topic(lab.chain, GROUP))) == []
        )
        said.append(attacker.learned)
    return said


@pytest.mark.slow
@pytest.mark.parametrize(
    "greeting",
    [b"junk", frame(b"junk"), (HELLO_BYTES_MAX + 1).to_bytes(4, "big"), frame(b"\xa0")],
    ids=["no frame", "no hello", "oversized", "empty map"],
)
async def test_malformed_greetings_cost_the_stranger(tmp_path: Path, greeting: bytes) -> None:
    async with swarm(tmp_path) as lab:
        await lab.start("gateway-1", wire=TCPWire())
        victim = lab["gateway-1"]
        address = victim.network.listen_addresses[0]
        hello = protocol_id(lab.chain, ProtocolName.HELLO)
        async with attack(address, 700) as attacker:
            stream = await attacker.select(hello)
            await stream.write(greeting)
            await stream.close_write()
            _, key = attacker_keys(700)
            await until(
                lambda: (peer := victim.registry.get(key)) is not None and peer.offences, "blamed"
            )
            peer = victim.registry.get(key)
            assert peer is not None
            assert peer.offences == {"malformed": 1}
        assert lab.is_alive("gateway-1")
