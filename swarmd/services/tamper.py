"""Reports what this node saw of tampering: opinions about peers, proofs of self-contradiction.

An opinion is what nobody else can check: a chunk that does not match, a forged page. It goes to the
ledger as `report.tamper`, at a bounded rate, in each group that this node shares with the peer and
whose owners want reports. A proof is checked here as the ledger will check it before it is sent as
`report.contradiction`: two anchors of one log that disagree, among all that come by; or an
announcement that the state at the announced header, while it is still this node's newest, belies.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from ledger.bodies.defence import Complaint, ReportContradiction, ReportTamper
from ledger.bodies.receipt import AnchorReceipts
from ledger.contradiction import verify_contradiction
from ledger.errors import LedgerError
from ledger.records.subject import SubjectRecord
from ledger.standing import conviction_of
from ledger.state_keys import manifest_key
from ledger.transition.kind import Body
from protocol.announcement import SignedAnnouncement
from protocol.contradiction import ConflictingAnchors, Contradiction, FalseAnnouncement
from protocol.did import KeyPurpose
from protocol.digest import DidId, sha256
from protocol.encoding import Fields
from protocol.errors import SwarmError, VerificationError
from protocol.transaction import SignedTransaction
from protocol.version import group_topic
from swarmd.ledger_host import LedgerHost
from swarmd.net.address import PeerKey
from swarmd.peers import Offence, PeerRegistry
from swarmd.receipts import ReceiptKind
from swarmd.services.receipts import ReceiptService

logger = logging.getLogger(__name__)

REPORTS_PER_HOUR_MAX: Final = 16
"""Transactions an hour from this service: a node that sees more is itself in trouble."""
QUEUE_MAX: Final = 64
"""Reports that wait to be submitted; beyond it the newest are dropped."""
HOUR_S: Final = 3600.0
"""The ledger takes one report an hour from one owner about one peer, seconds."""
SEEN_MAX: Final = 4096
"""Remembered reports and anchors, each; the oldest is forgotten first."""
_COMPLAINTS: Final = {
    Offence.BAD_CHUNK: Complaint.BAD_CHUNK,
    Offence.FALSE_ANNOUNCEMENT: Complaint.UNAUTHORISED,
    Offence.FORGED: Complaint.FORGED,
}


class TamperService:
    """Watches, judges and reports."""

    def __init__(
        self,
        *,
        ledger: LedgerHost,
        registry: PeerRegistry,
        receipts: ReceiptService,
        own_did: DidId,
        own_groups: Callable[[], tuple[str, ...]],
    ) -> None:
        """Wires the service; `own_groups` tells the groups this node belongs to now."""
        self._ledger = ledger
        self._registry = registry
        self._receipts = receipts
        self._own_did = own_did
        self._own_groups = own_groups
        self._send, self._receive = trio.open_memory_channel[Body](QUEUE_MAX)
        self._reported: dict[tuple[DidId, str], float] = {}
        self._anchors: dict[tuple[DidId, int], tuple[AnchorReceipts, bytes]] = {}
        self._hour_began = trio.current_time()
        self._hour_count = 0
        self.dropped = 0
        """Reports not sent because the queue or an hour's share was full."""

    # -- opinions ------------------------------------------------------------------------------

    def on_offence(self, peer: PeerKey, offence: Offence, detail: str) -> None:
        """Listener of the peer registry: reports what is tampering and not mere clumsiness."""
        complaint = _COMPLAINTS.get(offence)
        known = self._registry.get(peer)
        if complaint is None or known is None or known.did is None or known.did == self._own_did:
            return
        state, time_ms = self._ledger.chain.state, self._ledger.chain.head.time_ms
        for name in self._own_groups():
            group = state.group(name) if name in known.groups else None
            if group is None or state.policy(group.policy_at(time_ms)).defence is None:
                continue
            if self._is_due(known.did, name):
                evidence = sha256(detail.encode("utf-8", "replace"))
                self._queue(
                    ReportTamper(
                        subject=known.did, group=name, complaint=complaint, evidence=evidence
                    ),
                    subject=peer.hex()[:16],
                    detail=f"{offence.label} in {name}",
                )

    def _is_due(self, did: DidId, what: str) -> bool:
        now = trio.current_time()
        last = self._reported.pop((did, what), None)
        is_due = last is None or now - last > HOUR_S
        self._reported[did, what] = now if last is None or is_due else last
        while len(self._reported) > SEEN_MAX:
            self._reported.pop(next(iter(self._reported)))
        return is_due

    def _queue(self, body: Body, *, subject: str, detail: str) -> None:
        now = trio.current_time()
        if now - self._hour_began >= HOUR_S:
            self._hour_began, self._hour_count = now, 0
        self._hour_count += 1
        try:
            if self._hour_count > REPORTS_PER_HOUR_MAX:
                raise trio.WouldBlock
            self._send.send_nowait(body)
        except trio.WouldBlock:
            self.dropped += 1
        else:
            self._receipts.note_once(ReceiptKind.REPORTED, subject=subject, detail=detail)

    # -- proofs --------------------------------------------------------------------------------

    def on_transaction(self, signed: SignedTransaction, is_verified: bool) -> None:
        """Remembers anchors that their signers' current keys signed, and holds pairs together.

        Args:
            signed: a transaction that came by.
            is_verified: whether somebody has checked its signature by the signer's current key.
        """
        transaction = signed.transaction
        if transaction.kind != "receipt.anchor":
            return
        try:
            anchor = AnchorReceipts.read(Fields(transaction.body, "anchor"))
        except VerificationError:
            return
        place = (transaction.signer, anchor.size)
        known = self._anchors.get(place, (anchor, signed.signed.raw))
        is_seen = place in self._anchors and known[1] == signed.signed.raw
        # What is full here is brought again and again.
        if not is_verified and not is_seen and not self._is_signed(signed):
            return
        self._anchors.pop(place, None)
        self._anchors[place] = known
        while len(self._anchors) > SEEN_MAX:
            self._anchors.pop(next(iter(self._anchors)))
        if known[0].root != anchor.root:
            pair = sorted((known[1], signed.signed.raw))
            self._accuse(transaction.signer, ConflictingAnchors(pair[0], pair[1]))

    def _is_signed(self, signed: SignedTransaction) -> bool:
        """Whether the signer's current key signed it."""
        subject = self._ledger.chain.state.subject(signed.transaction.signer)
        key = None if subject is None else subject.key(KeyPurpose.NODE)
        if key is None:
            return False
        try:
            signed.verify(key, self._ledger.chain_id)
        except VerificationError:
            return False
        return True

    def on_falsehood(self, signed: SignedAnnouncement) -> None:
        """Proves an announcement false if it names this node's newest header, whose state is here.

        Of older headers the state is gone: then it stays an opinion.
        """
        content, tip = signed.announcement, self._ledger.chain.tip
        if content.manifest is None or content.block_id != tip.header.block_id:
            return
        chain = self._ledger.chain_id
        groups = [name for name in self._own_groups() if group_topic(chain, name) == content.topic]
        for name in groups:
            proof = tip.state.tree.prove(manifest_key(content.manifest, name))
            evidence = FalseAnnouncement(signed.signed.raw, tip.header.encoded, proof.encode())
            self._accuse(content.author, evidence)

    def _accuse(self, did: DidId, evidence: Contradiction) -> None:
        head, state = self._ledger.chain.head, self._ledger.chain.state
        subject = state.subject(did)
        key = None if subject is None else subject.key(KeyPurpose.NODE)
        if subject is None or key is None or self._is_convicted(did, subject):
            return
        try:
            verify_contradiction(evidence, did, key, chain=self._ledger.chain_id, era=head.era)
        except LedgerError as error:
            logger.debug("no contradiction of %s: %s", did.hex()[:8], error)
            return
        if self._is_due(did, evidence.offence.name):
            logger.warning("%s contradicts itself: %s", did.hex()[:8], evidence.offence.name)
            self._queue(
                ReportContradiction(subject=did, evidence=evidence),
                subject=did.hex()[:16],
                detail=evidence.offence.name.lower(),
            )

    def _is_convicted(self, did: DidId, subject: SubjectRecord) -> bool:
        known = conviction_of(self._ledger.chain.state, did)
        return known is not None and known.rotations == subject.sequence

    # -- submitting ----------------------------------------------------------------------------

    async def run(self, submit: Callable[[Body], Awaitable[bytes]]) -> None:
        """Submits reports until cancelled; `submit` signs and submits a transaction body."""
        async for body in self._receive:
            try:
                await submit(body)
            except SwarmError as error:
                logger.info("report not taken: %s", error)
