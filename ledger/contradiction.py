"""Judges evidence that a node's own signatures contradict each other.

The verdict rests on the evidence, the culprit's node key, chain and era alone: every node, and
every third party with the culprit's record, comes to the same one, now or years later. No
certificate is needed for a false announcement: the author itself signed the id of the header whose
state says otherwise, final or not, and an honest node signs ids of final headers only.
"""

from __future__ import annotations

from typing import assert_never

from ledger.bodies.receipt import AnchorReceipts
from ledger.errors import LedgerError
from ledger.header import HEADER_BYTES_MAX, Header, decode_header
from ledger.records.manifest import ManifestRecord
from ledger.state_keys import manifest_key
from ledger.state_tree import StateProof
from protocol.announcement import Announcement, parse_announcement
from protocol.contradiction import (
    CONTRADICTION_PROOF_BYTES_MAX,
    ConflictingAnchors,
    Contradiction,
    FalseAnnouncement,
)
from protocol.digest import ChainId, DidId
from protocol.encoding import Fields, decode_canonical
from protocol.errors import EncodingError, SignatureError, VerificationError
from protocol.keys import PublicKey
from protocol.transaction import SignedTransaction, parse_transaction
from protocol.version import group_topic


def verify_contradiction(
    evidence: Contradiction, did: DidId, key: PublicKey, *, chain: ChainId, era: int
) -> None:
    """Checks that evidence convicts a subject (D40 to D42).

    Args:
        evidence: untrusted.
        did: whom it shall convict.
        key: the subject's current node key.
        chain: chain that both statements must be signed for.
        era: era that both statements must be signed for.

    Raises:
        LedgerError: `contradiction.malformed`, `.subject`, `.era`, `.chain`, `.signature`,
            `.header`, `.proof`, or `.consistent`: both statements may be true.
    """
    try:
        match evidence:
            case ConflictingAnchors():
                _verify_anchors(evidence, did, key, chain=chain, era=era)
            case FalseAnnouncement():
                _verify_announcement(evidence, did, key, chain=chain, era=era)
            case _:
                assert_never(evidence)
    except EncodingError as error:
        raise LedgerError("contradiction.malformed", str(error)) from error
    except SignatureError as error:
        raise LedgerError("contradiction.signature", str(error)) from error


def _verify_anchors(
    evidence: ConflictingAnchors, did: DidId, key: PublicKey, *, chain: ChainId, era: int
) -> None:
    anchors = []
    for raw in (evidence.first, evidence.second):
        signed = parse_transaction(raw)
        anchors.append(_read_anchor(signed, did, era))
        signed.verify(key, chain)
    first, second = anchors
    if first.size != second.size:
        raise LedgerError("contradiction.consistent", "the anchors are of different sizes")
    if first.root == second.root:
        raise LedgerError("contradiction.consistent", "the anchors name one root")


def _read_anchor(signed: SignedTransaction, did: DidId, era: int) -> AnchorReceipts:
    transaction = signed.transaction
    if transaction.signer != did:
        raise LedgerError("contradiction.subject", "an anchor is signed by somebody else")
    if transaction.era != era:
        raise LedgerError("contradiction.era", f"an anchor of era {transaction.era}, not {era}")
    if transaction.kind != "receipt.anchor":
        raise LedgerError("contradiction.consistent", f"a {transaction.kind} is no anchor")
    fields = Fields(transaction.body, "anchor")
    anchor = AnchorReceipts.read(fields)
    fields.finish()
    return anchor


def _verify_announcement(
    evidence: FalseAnnouncement, did: DidId, key: PublicKey, *, chain: ChainId, era: int
) -> None:
    signed = parse_announcement(evidence.announcement)
    content = signed.announcement
    if content.author != did:
        raise LedgerError("contradiction.subject", "the announcement is by somebody else")
    if content.era != era:
        raise LedgerError("contradiction.era", f"announcement of era {content.era}, not {era}")
    if content.manifest is None:
        raise LedgerError("contradiction.consistent", "it announces a head and no manifest")
    header = _read_header(evidence.header, content, chain=chain)
    signed.verify(key, chain)
    record = _read_standing(evidence.proof, content, header, chain)
    if record is not None and record.authorised_height is not None:
        raise LedgerError("contradiction.consistent", "the manifest was authorised there")


def _read_header(raw: bytes, content: Announcement, *, chain: ChainId) -> Header:
    if len(raw) > HEADER_BYTES_MAX:
        raise EncodingError(f"header of {len(raw)} bytes, at most {HEADER_BYTES_MAX}")
    header = decode_header(raw)
    if header.chain != chain:
        raise LedgerError("contradiction.chain", "the header is of another chain")
    if header.era != content.era:
        raise LedgerError("contradiction.era", f"header of era {header.era}, not {content.era}")
    if header.block_id != content.block_id:
        raise LedgerError("contradiction.header", "the announcement names another header")
    if header.height != content.height:
        raise LedgerError("contradiction.header", "the announcement names another height")
    return header


def _read_standing(
    raw: bytes, content: Announcement, header: Header, chain: ChainId
) -> ManifestRecord | None:
    """What the header's state says about the announced manifest in the topic's group."""
    value = decode_canonical(raw, bytes_max=CONTRADICTION_PROOF_BYTES_MAX)
    proof = StateProof.from_value(value)
    group = _group_of(content, chain)
    assert content.manifest is not None, "the caller has checked it"
    if proof.key != manifest_key(content.manifest, group):
        raise LedgerError("contradiction.proof", "the proof is about something else")
    try:
        shown = proof.verify(header.state_root)
    except VerificationError as error:
        raise LedgerError("contradiction.proof", str(error)) from error
    return None if shown is None else ManifestRecord.decode(shown)


def _group_of(content: Announcement, chain: ChainId) -> str:
    parts = content.topic.split("/")
    group = parts[-2] if len(parts) > 2 else ""
    if content.topic != group_topic(chain, group):
        raise LedgerError("contradiction.chain", "no topic of a group of this chain")
    return group
