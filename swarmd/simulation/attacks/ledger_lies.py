"""Lies about the ledger's content: state that was never final, two stories under one signature."""

from __future__ import annotations

import random
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from ledger.block_store import BlockStore
from ledger.bodies.receipt import AnchorReceipts
from ledger.chain import Chain
from ledger.contradiction import verify_contradiction
from ledger.database import Durability
from ledger.errors import LedgerError
from ledger.state_range import FIRST_PATH, decode_state_page
from ledger.state_sync import SyncTarget, verify_page, verify_state_head
from ledger.vote import Ed25519Verifier
from protocol.contradiction import ConflictingAnchors
from protocol.did import KeyPurpose
from protocol.digest import sha256
from protocol.errors import VerificationError
from swarmd.simulation.attacks.attack import AttackResult, at_least, never
from swarmd.simulation.byzantine.conflicting_anchors import ConflictingAnchorer
from swarmd.simulation.byzantine.state_sync_liar import StateSyncLiar
from swarmd.simulation.lab import GENESIS_MS, HOUR_MS, Lab, Member, make_lab
from swarmd.simulation.lab_chain import advance

FLIPS: Final = 200
"""Pages with one bit flipped somewhere."""
_SNAPSHOT_BLOCKS: Final = 4
_UNTIL_MS: Final = GENESIS_MS + HOUR_MS


def _make_chain() -> tuple[Lab, Chain]:
    lab = make_lab()
    path = Path(":memory:")
    store = BlockStore(path, Durability.BATCHED, snapshot_interval=_SNAPSHOT_BLOCKS)
    chain = Chain.open(store, lab.genesis)
    weakref.finalize(chain, store.close)
    for size in range(1, _SNAPSHOT_BLOCKS + 3):
        body = AnchorReceipts(size=size, root=sha256(b"%d" % size))
        advance(lab, chain, [lab.transaction(lab.gateways[0], body)])
    return lab, chain


def _believed(lies: Iterable[bytes], judge: Callable[[bytes], object]) -> tuple[int, int]:
    """How many lies there were, and how many were taken for true."""
    told = believed = 0
    for lie in lies:
        told += 1
        try:
            judge(lie)
        except VerificationError:
            continue
        believed += 1
    return told, believed


def run_state_lies(seed: int, *, is_checked: bool = True) -> AttackResult:
    """A newcomer asks a liar for the state.

    Args:
        seed: decides which bits flip.
        is_checked: whether it checks pages against the final header.
    """
    _, chain = _make_chain()
    verifier, liar = Ed25519Verifier(), StateSyncLiar()
    answer = chain.state_head(epoch=1)
    target = verify_state_head(answer, chain.anchor, verifier)
    heads = list(liar.heads(answer))
    false_heads = 0
    for head in heads:
        try:
            verify_state_head(head, chain.anchor, verifier)
        except VerificationError:
            continue
        false_heads += 1
    page = chain.state_page(target.header.height, FIRST_PATH)
    assert page is not None, "the chain keeps the version that it names"
    truth = page.encode()
    verify_page(truth, target, FIRST_PATH)
    lies = [*liar.pages(page), *_flipped(truth, seed)]
    told, false_pages = _believed(lies, _judge(target, is_checked=is_checked))
    return AttackResult(
        verdicts=(
            never("false versions believed", false_heads),
            never("false pages believed", false_pages),
        ),
        attempts=len(heads) + told,
    )


def _judge(target: SyncTarget, *, is_checked: bool) -> Callable[[bytes], object]:
    if is_checked:
        return lambda raw: verify_page(raw, target, FIRST_PATH)
    return decode_state_page


def _flipped(truth: bytes, seed: int) -> Iterable[bytes]:
    chance = random.Random(f"flips {seed}")  # noqa: S311 - replayed by seed, guards nothing
    for _ in range(FLIPS):
        place = chance.randrange(len(truth))
        bit = 1 << chance.randrange(8)
        yield truth[:place] + bytes((truth[place] ^ bit,)) + truth[place + 1 :]


def run_anchors(seed: int) -> AttackResult:
    """A gateway shows two stories of its receipts, then others are framed for it."""
    lab = make_lab(gateways=2)
    culprit, other = lab.gateways
    own = culprit.key(KeyPurpose.NODE)
    liar = ConflictingAnchorer(culprit.did, own, chain=lab.chain_id, era=0)
    thief = ConflictingAnchorer(other.did, own, chain=lab.chain_id, era=0)
    sizes = range(seed % 1000 + 1, seed % 1000 + 11)
    told = [liar.evidence(size, valid_until_ms=_UNTIL_MS) for size in sizes]
    framed = [thief.evidence(size, valid_until_ms=_UNTIL_MS) for size in sizes]
    convicted = sum(_convicts(lab, evidence, culprit) for evidence in told)
    innocent = sum(_convicts(lab, evidence, other) for evidence in (*told, *framed))
    return AttackResult(
        verdicts=(
            at_least("convicted by two stories", len(told), convicted),
            never("convicted by a signature not their own", innocent),
        ),
        attempts=len(told) + len(framed),
    )


def _convicts(lab: Lab, evidence: ConflictingAnchors, member: Member) -> bool:
    key = member.key(KeyPurpose.NODE).public
    try:
        verify_contradiction(evidence, member.did, key, chain=lab.chain_id, era=0)
    except LedgerError:
        return False
    return True
