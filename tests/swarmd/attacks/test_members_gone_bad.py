"""Members that lie, flood or were suspended: found out, scored, and no use to them."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from ledger.bodies.manifest import ApproveManifest, ProposeManifest
from ledger.bodies.receipt import AnchorReceipts
from ledger.bodies.subject import SuspendSubject
from protocol.announcement import Announcement, parse_announcement, sign_announcement
from protocol.approval import Action
from protocol.catchup import (
    BlocksAnswer,
    BlocksRequest,
    FreshnessAnswer,
    FreshnessRequest,
    HeadAnswer,
    HeadRequest,
)
from protocol.digest import BlockId, ChainId, TransactionId, sha256
from protocol.encoding import encode_canonical
from protocol.errors import NotYetError, PolicyError, TransportError
from protocol.framing import encode_frame
from protocol.keys import PrivateKey
from protocol.limits import TRANSACTION_BYTES_MAX
from protocol.submit_messages import (
    SubmitAnswer,
    SubmitBatchAnswer,
    SubmitBatchRequest,
    SubmitRequest,
)
from protocol.transaction import parse_transaction, sign_transaction
from protocol.version import ProtocolName, group_topic, heads_topic, protocol_id, transactions_topic
from swarmd.net.address import PeerKey
from swarmd.net.network import GossipMessage
from swarmd.peers import PeerClass
from swarmd.publisher import Release
from swarmd.services.gossip import PARKED_MAX, PARKED_PER_RELAYER_MAX, GossipService
from tests.support.forge import Forge
from tests.support.swarm import GROUP, Swarm, swarm, until

IMAGE = b"firmware" * 20_000
RELAYER = PeerKey(b"r" * 32)
FORM_RULES = ("tx.malformed", "tx.body", "tx.signature")


async def stage(lab: Swarm) -> ProposeManifest:
    publisher = lab["publisher-1"].publisher
    assert publisher is not None
    path = lab.path / "image"
    path.write_bytes(IMAGE)
    release = Release(path=path, product="pump", version="1", groups=(GROUP,), metadata={})
    return ProposeManifest(manifest=(await publisher.stage(release)).signed.raw)


@pytest.mark.slow
async def test_a_suspended_member_becomes_a_reader_within_a_second(tmp_path: Path) -> None:
    async with swarm(tmp_path) as lab:
        forge = Forge(lab)
        nodes = ("gateway-1", "gateway-2")
        await lab.start(*nodes)
        await lab.until_met(*nodes)
        good, bad = lab["gateway-1"], lab["gateway-2"]
        bad_key = lab.peer("gateway-2")
        await until(lambda: good.network._gossip.is_admitted(bad_key), "it gossips")
        await bad.network.open_stream(
            lab.peer("gateway-1"), protocol_id(lab.chain, ProtocolName.EXCHANGE)
        )
        await until(lambda: bytes(bad_key) in good.exchange._links, "it exchanges")
        did = lab.did("gateway-2")
        suspend = SuspendSubject(did=did, group=GROUP, approvals=_suspensions(lab, did))
        block = forge.advance(suspend)
        await forge.give(good, block)
        with trio.fail_after(1):
            while (
                good.network._gossip.is_admitted(bad_key) or bytes(bad_key) in good.exchange._links
            ):
                await trio.lowlevel.checkpoint()
        assert lab.class_of("gateway-1", "gateway-2") is PeerClass.READER
        peer = lab.peer("gateway-1")
        with pytest.raises(TransportError):
            await bad.network.open_stream(peer, protocol_id(lab.chain, ProtocolName.EXCHANGE))
        # It may still read, so that it learns of revocations, and nothing else.
        ask = bad.ledger_service.ask
        assert isinstance(await ask(peer, HeadRequest()), HeadAnswer)
        answer = await ask(peer, BlocksRequest(from_height=1))
        assert isinstance(answer, BlocksAnswer)
        assert answer.blocks == (block[0].encoded,)
        assert isinstance(
            await ask(peer, FreshnessRequest(nonce=b"n" * 32, relay=True)), FreshnessAnswer
        )
        for request in (
            SubmitRequest(transaction=b"x"),
            SubmitBatchRequest(transactions=(b"x", b"y")),
        ):
            with pytest.raises(PolicyError, match=r"peer\.reader"):
                await ask(peer, request)
        # It learns of its own suspension, says hello again, and stays a reader.
        bad.follower.hear(peer, 1)
        await until(lambda: lab.height("gateway-2") == 1, "it reads on")
        await lab.crash("gateway-2")
        await lab.start("gateway-2")
        await until(
            lambda: lab.class_of("gateway-1", "gateway-2") is PeerClass.READER, "a reader again"
        )
        assert not good.network._gossip.is_admitted(bad_key)
        forge.close()


def _suspensions(lab: Swarm, did: bytes) -> tuple[bytes, ...]:
    return lab.approvals(Action.SUSPEND, did)


# -- gossip ------------------------------------------------------------------------------------


class Gossip:
    """One node's gossip, fed by hand with what relayers bring."""

    def __init__(self, lab: Swarm, forge: Forge) -> None:
        self.lab = lab
        self.forge = forge
        self.service: GossipService = lab["gateway-1"].gossip
        self.registry = lab["gateway-1"].registry
        self.topic = group_topic(lab.chain, GROUP)

    def announce(
        self, *, by: str = "gateway-2", key: PrivateKey | None = None, **changes: object
    ) -> bytes:
        head = self.forge.chain.head
        announcement = Announcement(
            era=0,
            author=self.lab.did(by),
            topic=self.topic,
            manifest=None,
            height=head.height,
            block_id=head.block_id,
        )
        announcement = replace(announcement, **changes)  # type: ignore[arg-type]
        return sign_announcement(announcement, key or self.lab.key(by), self.lab.chain).signed.raw

    def bring(self, data: bytes, *, topic: str | None = None, relayer: PeerKey = RELAYER) -> bool:
        """Whether a message would be passed on; if so it is taken, too."""
        topic = topic or self.topic
        is_good = self.service._is_relayable(topic, relayer, data)
        if is_good and topic != transactions_topic(self.lab.chain):
            self.service._take_announcement(relayer, parse_announcement(data))
        return is_good

    def points(self, peer: PeerKey = RELAYER) -> float:
        return self.registry._scores.get(peer, (100.0, 0.0))[0]


@pytest.mark.slow
async def test_announcements(tmp_path: Path) -> None:
    async with swarm(tmp_path) as lab:
        forge = Forge(lab)
        await lab.start("gateway-1", "publisher-1")
        proposal = await stage(lab)
        await forge.give(lab["gateway-1"], forge.advance(proposal))
        manifest = sha256(proposal.manifest)
        gossip = Gossip(lab, forge)
        author = lab.peer("gateway-2")  # not even connected

        assert gossip.bring(gossip.announce())
        assert gossip.points() == 100
        # A lie is held against who signed it, not against who passed it on.
        for number, lie in enumerate(
            (
                gossip.announce(manifest=manifest),
                gossip.announce(manifest=sha256(b"nothing")),
            )
        ):
            assert not gossip.bring(lie)
            assert gossip.points() == 100
            assert gossip.points(author) == pytest.approx(50 if number == 0 else 100)
        assert gossip.registry.is_banned(author)
        # Relayers answer for what is malformed whoever reads it ...
        for bad in (b"junk", b"x" * 2000, gossip.announce(topic=heads_topic(lab.chain))):
            relayer = PeerKey(sha256(bad)[:32])
            assert not gossip.bring(bad, relayer=relayer)
            assert gossip.points(relayer) == 50
        # ... and not for what depends on the block they are at; it goes no further, though.
        stranger = PrivateKey(sha256(b"stranger"))
        content = parse_announcement(gossip.announce()).announcement
        for bad in (
            gossip.announce(key=stranger),
            gossip.announce(era=1),
            gossip.announce(key=stranger, author=sha256(b"nobody")),
            sign_announcement(content, lab.key("gateway-2"), ChainId(sha256(b"other"))).signed.raw,
        ):
            assert not gossip.bring(bad)
            assert gossip.points() == 100
        assert lab.is_alive("gateway-1")
        forge.close()


@pytest.mark.slow
async def test_announcements_of_unknown_heights_are_parked_and_judged_later(tmp_path: Path) -> None:
    async with swarm(tmp_path) as lab:
        forge = Forge(lab)
        await lab.start("gateway-1", "publisher-1")
        proposal = await stage(lab)
        manifest = sha256(proposal.manifest)
        approvals = lab.approvals(Action.AUTHORISE, manifest)
        runs = [
            forge.advance(proposal),
            forge.advance(ApproveManifest(manifest=manifest, group=GROUP, approvals=approvals)),
        ]
        gossip = Gossip(lab, forge)
        heard: list[bytes] = []
        hooks = gossip.service._hooks
        gossip.service._hooks = replace(hooks, manifest_announced=heard.append)
        true = gossip.announce(manifest=manifest)
        false = gossip.announce(
            by="publisher-1", manifest=manifest, height=1, block_id=runs[0][0].block_id
        )
        fork = gossip.announce(by="validator-4", block_id=BlockId(sha256(b"fork")))
        nobody = gossip.announce(key=PrivateKey(sha256(b"x")), author=sha256(b"nobody"))
        for data in (true, false, fork, nobody):
            assert gossip.bring(data)
        assert not heard
        assert gossip.points() == 100
        await forge.give(lab["gateway-1"], *runs)
        assert heard == [manifest]
        assert gossip.points(lab.peer("publisher-1")) == 50
        assert gossip.points(lab.peer("validator-4")) == 50
        assert gossip.points() == 100  # who passed them on knew no better
        assert not gossip.service._parked
        forge.close()


@pytest.mark.slow
async def test_parking_is_bounded_in_all_and_for_each_relayer(tmp_path: Path) -> None:
    async with swarm(tmp_path) as lab:
        forge = Forge(lab)
        await lab.start("gateway-1")
        gossip = Gossip(lab, forge)
        honest = gossip.announce(height=2**30)
        assert gossip.bring(honest, relayer=PeerKey(b"h" * 32))
        for height in range(2**40, 2**40 + 2 * PARKED_PER_RELAYER_MAX):
            assert gossip.bring(gossip.announce(height=height))
        parked = gossip.service._parked
        assert len(parked) == PARKED_PER_RELAYER_MAX + 1
        assert honest in parked
        for index in range(PARKED_MAX // 8 + 1):
            for height in range(2**50, 2**50 + 8):
                relayer = PeerKey(index.to_bytes(32, "big"))
                gossip.bring(gossip.announce(height=height + 100 * index), relayer=relayer)
        assert len(parked) == PARKED_MAX
        # A flood of promises does not keep the follower from others.
        follower = lab["gateway-1"].follower
        assert len(follower._heard) <= PARKED_MAX + 2
        forge.close()


# -- transactions ------------------------------------------------------------------------------


@pytest.mark.slow
async def test_transactions_of_all_bad_kinds(tmp_path: Path) -> None:
    async with swarm(tmp_path) as lab:
        await lab.start("gateway-1", "validator-1")
        await lab.until_met("gateway-1", "validator-1")
        forge = Forge(lab)
        validator = lab["validator-1"]
        peer, culprit = lab.peer("validator-1"), lab.peer("gateway-1")
        body = AnchorReceipts(size=1, root=sha256(b"root"))

        async def submit(raw: bytes) -> object:
            validator.registry._scores.clear()
            try:
                return await lab["gateway-1"].ledger_service.ask(
                    peer, SubmitRequest(transaction=raw)
                )
            except PolicyError as error:
                return error.rule, isinstance(error, NotYetError)

        def points() -> float:
            return validator.registry._scores.get(culprit, (100.0, 0.0))[0]

        good = forge.transaction(body, by="gateway-2", nonce=0)
        content = parse_transaction(good).transaction
        key = lab.key("gateway-2")

        def altered(
            signer: PrivateKey = key, chain: ChainId = lab.chain, **changes: object
        ) -> bytes:
            changed = replace(content, **changes)  # type: ignore[arg-type]
            return sign_transaction(changed, signer, chain).signed.raw

        stranger = PrivateKey(sha256(b"stranger"))
        cases = {
            b"junk": ("tx.malformed", False),
            good[:-1]: ("tx.malformed", False),
            altered(chain=ChainId(sha256(b"other"))): ("tx.signature", False),
            altered(signer=stranger): ("tx.signature", False),
            altered(era=1): ("tx.era", False),
            altered(valid_until_ms=1): ("tx.expired", False),
            altered(valid_until_ms=2**45): ("tx.lifetime", True),
            altered(nonce=2**20): ("tx.nonce_ahead", True),
            altered(kind="receipt.unknown"): ("tx.body", False),
            altered(body={}): ("tx.body", False),
        }
        for raw, expected in cases.items():
            assert await submit(raw) == expected
            # What no older copy of the ledger excuses is held against who brings it, always.
            assert points() in ((95,) if expected[0] in FORM_RULES else (95, 100))
        unknown = replace(content, signer=sha256(b"nobody"))  # type: ignore[arg-type]
        raw = sign_transaction(unknown, stranger, lab.chain).signed.raw
        assert await submit(raw) == ("tx.signer", True)
        assert isinstance(await submit(good), SubmitAnswer)
        assert isinstance(await submit(good), SubmitAnswer)  # handed over twice: no offence
        assert points() == 100
        await _oversized(lab, peer)
        await until(lambda: "malformed" in _offences(lab), "it is scored")
        # Gossip drops what nobody signed, without asking who relayed it.
        gossip = validator.gossip
        topic = transactions_topic(lab.chain)
        relayer = PeerKey(b"r" * 32)
        assert gossip._is_relayable(topic, relayer, good)
        assert not gossip._is_relayable(topic, relayer, raw)
        assert relayer not in validator.registry._scores
        assert not gossip._is_relayable(topic, relayer, b"junk")
        assert validator.registry._scores[relayer][0] == 50
        await gossip._take_transaction(GossipMessage(topic, relayer, raw))
        assert lab.is_alive("validator-1")
        assert validator.network.statistics().handler_faults == 0
        forge.close()


@pytest.mark.slow
async def test_a_batch_hides_nothing_that_is_wrong_with_its_parts(tmp_path: Path) -> None:
    async with swarm(tmp_path) as lab:
        await lab.start("gateway-1", "validator-1")
        await lab.until_met("gateway-1", "validator-1")
        forge = Forge(lab)
        validator = lab["validator-1"]
        peer, culprit = lab.peer("validator-1"), lab.peer("gateway-1")
        body = AnchorReceipts(size=1, root=sha256(b"root"))
        first, second = (forge.transaction(body, by="gateway-2", nonce=item) for item in (0, 1))
        forged = bytearray(second)
        forged[-1] ^= 1
        raws = (b"junk", first, bytes(forged), second, first)
        answer = await lab["gateway-1"].ledger_service.ask(
            peer, SubmitBatchRequest(transactions=raws)
        )
        assert isinstance(answer, SubmitBatchAnswer)
        rules = [None if refusal is None else refusal.rule for refusal in answer.refusals]
        assert rules == ["tx.malformed", None, "tx.signature", None, None]
        waiting = validator.ledger.chain.mempool.pending
        taken = [TransactionId(sha256(raw)) in waiting for raw in raws]
        assert taken == [False, True, False, True, True]
        assert 90 <= validator.registry._scores[culprit][0] < 91, "two offences, as one by one"
        # A batch over its bounds is no batch.
        stream = await lab["gateway-1"].network.open_stream(
            peer, protocol_id(lab.chain, ProtocolName.LEDGER), frame_bytes_max=2**20
        )
        await stream.send_frame(encode_canonical([18, {0: [b"x"] * 65}]))
        with contextlib.suppress(TransportError):
            assert await stream.receive_frame() is None
        await stream.reset()
        await until(lambda: "malformed" in _offences(lab), "it is scored")
        assert lab.is_alive("validator-1")
        assert validator.network.statistics().handler_faults == 0
        forge.close()


def _offences(lab: Swarm) -> dict[str, int]:
    peer = lab["validator-1"].registry.get(lab.peer("gateway-1"))
    return {} if peer is None else peer.offences


async def _oversized(lab: Swarm, peer: PeerKey) -> None:
    stream = await lab["gateway-1"].network.open_stream(
        peer, protocol_id(lab.chain, ProtocolName.LEDGER), frame_bytes_max=2**20
    )
    message = encode_canonical([5, {0: bytes(TRANSACTION_BYTES_MAX + 1)}])
    await stream.send_all(encode_frame(message, bytes_max=2**20))
    with contextlib.suppress(TransportError):
        assert await stream.receive_frame() is None
    await stream.reset()


@pytest.mark.slow
@pytest.mark.parametrize(
    "frame",
    [
        b"junk",
        b"\x82\x18\x63\xa0",
        b"\x82\x01\xa1\x00\x00",
        b"\x82\x06\xa1\x00\x58\x20" + b"i" * 32,
    ],
    ids=["no message", "unknown kind", "extra field", "an answer"],
)
async def test_malformed_requests_cost_the_member(tmp_path: Path, frame: bytes) -> None:
    async with swarm(tmp_path) as lab:
        await lab.start("gateway-1", "gateway-2")
        await lab.until_met("gateway-1", "gateway-2")
        stream = await lab["gateway-2"].network.open_stream(
            lab.peer("gateway-1"), protocol_id(lab.chain, ProtocolName.LEDGER)
        )
        await stream.send_frame(frame)
        registry, culprit = lab["gateway-1"].registry, lab.peer("gateway-2")
        await until(lambda: culprit in registry._scores, "it is scored")
        peer = registry.get(culprit)
        assert peer is not None
        assert peer.offences == {"malformed": 1}
        await stream.reset()
        assert isinstance(
            await lab["gateway-2"].ledger_service.ask(lab.peer("gateway-1"), HeadRequest()),
            HeadAnswer,
        )


@pytest.mark.slow
async def test_one_that_promises_heights_goes_behind_those_that_deliver(tmp_path: Path) -> None:
    async with swarm(tmp_path) as lab:
        forge = Forge(lab)
        await lab.start("gateway-1", "gateway-2", "publisher-1")
        await lab.until_met("gateway-1", "gateway-2", "publisher-1")
        liar, honest = lab.peer("gateway-2"), lab.peer("publisher-1")
        follower = lab["gateway-1"].follower
        asked: list[PeerKey] = []
        catch_up = lab["gateway-1"].ledger_service.catch_up

        async def noted(peer: PeerKey, told: int) -> None:
            asked.append(peer)
            if peer == liar:
                follower.hear(liar, 2**40 + len(asked))  # promises again while it is asked
            await catch_up(peer, told)

        follower._service.catch_up = noted  # type: ignore[method-assign]
        await forge.give(lab["publisher-1"], forge.advance())
        follower.hear(liar, 2**40)
        follower.hear(honest, 1)
        await lab.until_height(1, "gateway-1")
        assert asked.index(honest) <= asked.index(liar) + 1
        forge.close()
