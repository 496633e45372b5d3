"""One member key against the scores of others: honest relayers must not pay for what they relay."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import trio
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2

from protocol.announcement import Announcement, sign_announcement
from protocol.digest import BlockId, DidId
from protocol.keys import PrivateKey
from protocol.version import heads_topic
from swarmd.net.guards import id_of
from swarmd.running_node import RunningNode
from tests.support.swarm import Swarm, swarm, until

VALIDATORS = ("validator-1", "validator-2", "validator-3", "validator-4")
HONEST = (*VALIDATORS, "publisher-1", "gateway-1")
MESSAGES = 24
"""Of five points each: more than the hundred that a peer has."""


async def _whisper(evil: RunningNode, lab: Swarm, victim: str, data: bytes) -> None:
    """Sends a gossip message to one peer only, which then relays it."""
    pubsub, router = evil.network._gossip.pubsub, evil.network._gossip.router

    async def push(_forwarder: ID, message: rpc_pb2.Message) -> None:
        router.send_rpc(id_of(lab.peer(victim)), rpc_pb2.RPC(publish=[message]))

    pubsub.push_msg, before = push, pubsub.push_msg  # type: ignore[method-assign]
    try:
        await pubsub.publish(heads_topic(lab.chain), data)
    finally:
        pubsub.push_msg = before  # type: ignore[method-assign]
    await trio.lowlevel.checkpoint()


@pytest.mark.slow
async def test_authors_that_do_not_exist_get_no_relayer_banned(tmp_path: Path) -> None:
    async with swarm(tmp_path) as lab:
        await lab.start(*HONEST, "gateway-2")
        await lab.until_met(*HONEST, "gateway-2")
        evil = lab["gateway-2"]
        peers = evil.network._gossip.pubsub.peers
        await until(lambda: all(id_of(lab.peer(name)) in peers for name in VALIDATORS))
        head, topic = evil.ledger.chain.head, heads_topic(lab.chain)
        for number in range(MESSAGES):
            for name in VALIDATORS:
                seed = hashlib.sha256(f"{name} {number}".encode()).digest()
                announcement = Announcement(
                    era=head.era,
                    author=DidId(seed),
                    topic=topic,
                    manifest=None,
                    height=head.height + 1,
                    block_id=BlockId(seed),
                )
                signed = sign_announcement(announcement, PrivateKey(seed), lab.chain)
                await _whisper(evil, lab, name, signed.signed.raw)
        parked = MESSAGES * len(VALIDATORS)
        with trio.move_on_after(2.0):
            await until(lambda: all(len(lab[name].gossip._parked) >= parked for name in VALIDATORS))
        await lab.propose(b"one block more", version="1")
        await lab.propose(b"and another one", version="2")
        for name in HONEST:
            banned = [other for other in HONEST if lab[name].registry.is_banned(lab.peer(other))]
            assert not banned, f"{name} sent {banned} away"
