"""What the node reports of tampering: opinions at a bounded rate, and proofs that are proofs."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from ledger.bodies.defence import Complaint, ReportContradiction, ReportTamper
from ledger.bodies.receipt import AnchorReceipts
from ledger.standing import conviction_of
from ledger.transition.kind import Body
from protocol.announcement import Announcement, parse_announcement, sign_announcement
from protocol.contradiction import Offence as Contradicted
from protocol.defence import DefenceRules
from protocol.did import KeyPurpose
from protocol.digest import ChainId, sha256
from protocol.errors import NotYetError
from protocol.group import Policy
from protocol.keys import PublicKey
from protocol.transaction import SignedTransaction, parse_transaction
from protocol.version import group_topic
from swarmd.clock import ManualClock
from swarmd.ledger_host import LedgerHost
from swarmd.net.address import PeerKey
from swarmd.peers import Offence, PeerClass, PeerRegistry
from swarmd.receipts import ReceiptKind, ReceiptLog
from swarmd.services.receipts import ReceiptService
from swarmd.services.tamper import HOUR_S, REPORTS_PER_HOUR_MAX, TamperService
from tests.support.ledger import FLEET, Member, advance, authorise, make_lab, make_policy

PEER = PeerKey(b"p" * 32)
TAKING = make_policy(defence=DefenceRules())


class Bench:
    def __init__(self, path: Path, policy: Policy = TAKING, gateways: int = 2) -> None:
        self.lab = make_lab(policy=policy, gateways=gateways)
        self.chain = self.lab.open_chain()
        self.ledger = LedgerHost(self.chain, lambda: self.chain.head.time_ms)
        self.registry = PeerRegistry(self.lab.chain_id, ManualClock(), lambda *_: None)
        own = self.lab.gateways[0]
        self.receipts = ReceiptService(
            log=ReceiptLog(path / "receipts.db", self.lab.chain_id),
            ledger=self.ledger,
            own_did=own.did,
            time_ms=lambda: 7,
        )
        self.service = TamperService(
            ledger=self.ledger,
            registry=self.registry,
            receipts=self.receipts,
            own_did=own.did,
            own_groups=lambda: (FLEET,),
        )
        self.registry.listen(self.service.on_offence)
        self.connect(PEER, self.lab.gateways[1])

    def connect(self, key: PeerKey, member: Member) -> None:
        peer = self.registry.connected(key)
        peer.peer_class, peer.did, peer.groups = PeerClass.MEMBER, member.did, (FLEET,)

    def queued(self) -> list[Body]:
        bodies: list[Body] = []
        while True:
            try:
                bodies.append(self.service._receive.receive_nowait())
            except trio.WouldBlock:
                return bodies

    def anchor(self, root: bytes, *, size: int = 3, nonce: int = 5) -> SignedTransaction:
        body = AnchorReceipts(size=size, root=sha256(root))
        return self.lab.transaction(self.lab.gateways[1], body, nonce=nonce)


@pytest.mark.parametrize(
    ("offence", "complaint"),
    [
        (Offence.BAD_CHUNK, Complaint.BAD_CHUNK),
        (Offence.FORGED, Complaint.FORGED),
        (Offence.FALSE_ANNOUNCEMENT, Complaint.UNAUTHORISED),
        (Offence.STALLED, None),
        (Offence.MALFORMED, None),
        (Offence.REFUSED_TRANSACTION, None),
    ],
)
async def test_tampering_is_reported_and_clumsiness_is_not(
    tmp_path: Path, offence: Offence, complaint: Complaint | None
) -> None:
    bench = Bench(tmp_path)
    bench.registry.blame(PEER, offence, "what was seen")
    expected = [
        ReportTamper(
            subject=bench.lab.gateways[1].did,
            group=FLEET,
            complaint=complaint,
            evidence=sha256(b"what was seen"),
        )
        for complaint in ([] if complaint is None else [complaint])
    ]
    assert bench.queued() == expected


async def test_once_an_hour_for_each_peer_and_so_many_in_all(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    bench = Bench(tmp_path, gateways=REPORTS_PER_HOUR_MAX + 4)
    for _ in range(50):
        bench.service.on_offence(PEER, Offence.BAD_CHUNK, "again")
    assert len(bench.queued()) == 1
    for index, member in enumerate(bench.lab.gateways[2:]):
        key = PeerKey(bytes([index]) * 32)
        bench.connect(key, member)
        bench.service.on_offence(key, Offence.BAD_CHUNK, "each")
    assert len(bench.queued()) == REPORTS_PER_HOUR_MAX - 1
    assert bench.service.dropped == 3
    mock_clock.jump(HOUR_S + 1)
    bench.service.on_offence(PEER, Offence.BAD_CHUNK, "next hour")
    assert len(bench.queued()) == 1


async def test_strangers_and_groups_that_take_no_reports(tmp_path: Path) -> None:
    bench = Bench(tmp_path, make_policy())
    bench.service.on_offence(PEER, Offence.BAD_CHUNK, "no rules")
    bench.service.on_offence(PeerKey(b"x" * 32), Offence.BAD_CHUNK, "a stranger")
    assert bench.queued() == []


async def test_two_anchors_that_come_by_convict_their_signer(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for signed in (bench.anchor(b"1"), bench.anchor(b"1", nonce=6), bench.anchor(b"1", size=4)):
        bench.service.on_transaction(signed, False)
    assert bench.queued() == []
    bench.service.on_transaction(bench.anchor(b"2"), False)
    bench.service.on_transaction(bench.anchor(b"3"), False)
    (body,) = bench.queued()
    assert isinstance(body, ReportContradiction)
    advance(bench.lab, bench.chain, [bench.lab.transaction(bench.lab.gateways[0], body)])
    record = conviction_of(bench.chain.state, bench.lab.gateways[1].did)
    assert record is not None
    assert record.offence is Contradicted.CONFLICTING_ANCHORS
    bench.service._reported.clear()
    bench.service.on_transaction(bench.anchor(b"4"), False)
    assert bench.queued() == [], "convicted already"


async def test_forgeries_fill_no_memory_and_accuse_nobody(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    honest = bench.anchor(b"1")
    forged = bytearray(bench.anchor(b"2").signed.raw)
    forged[-1] ^= 1
    for raw in (bytes(forged), honest.signed.raw, bytes(forged)):
        bench.service.on_transaction(parse_transaction(raw), False)
    assert bench.queued() == []
    assert len(bench.service._anchors) == 1


async def test_what_is_brought_again_is_not_verified_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path)
    checked: list[bytes] = []
    verify = SignedTransaction.verify

    def count(self: SignedTransaction, key: PublicKey, chain: ChainId) -> None:
        checked.append(self.signed.raw)
        verify(self, key, chain)

    monkeypatch.setattr(SignedTransaction, "verify", count)
    refused, taken, other = bench.anchor(b"1"), bench.anchor(b"1", size=9), bench.anchor(b"2")
    for _ in range(5):
        bench.service.on_transaction(refused, False)
    bench.service.on_transaction(taken, True)
    assert checked == [refused.signed.raw]
    bench.service.on_transaction(other, False)
    assert checked[1] == other.signed.raw, "another of the same place is"
    assert len(bench.queued()) == 1


@pytest.mark.parametrize("is_true", [True, False])
async def test_a_false_announcement_at_the_newest_header(tmp_path: Path, *, is_true: bool) -> None:
    bench = Bench(tmp_path)
    lab, author = bench.lab, bench.lab.gateways[1]
    manifest = lab.manifest()
    if is_true:
        authorise(lab, bench.chain, manifest)
    else:
        advance(lab, bench.chain, [lab.propose(manifest)])
    head = bench.chain.head
    announcement = Announcement(
        era=0,
        author=author.did,
        topic=group_topic(lab.chain_id, FLEET),
        manifest=manifest.manifest_id,
        height=head.height,
        block_id=head.block_id,
    )
    signed = sign_announcement(announcement, author.key(KeyPurpose.NODE), lab.chain_id)
    bench.service.on_falsehood(parse_announcement(signed.signed.raw))
    bodies = bench.queued()
    assert len(bodies) == (0 if is_true else 1)
    if bodies:
        advance(lab, bench.chain, [lab.transaction(lab.gateways[0], bodies[0])])
        assert conviction_of(bench.chain.state, author.did) is not None


async def test_reports_are_submitted_and_refusals_are_survived(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    submitted: list[Body] = []

    async def submit(body: Body) -> bytes:
        await trio.lowlevel.checkpoint()
        submitted.append(body)
        raise NotYetError("report.repeat", "not now")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.service.run, submit)
        bench.service.on_offence(PEER, Offence.BAD_CHUNK, "x")
        bench.service.on_transaction(bench.anchor(b"1"), False)
        bench.service.on_transaction(bench.anchor(b"2"), False)
        while len(submitted) < 2:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    await bench.receipts.flush()
    kinds = [entry.kind for entry in bench.receipts.newest(9)]
    assert kinds == [ReceiptKind.REPORTED, ReceiptKind.REPORTED]
