"""A recovery is no offence: who is in another era says other things, and is not banned for it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger.block import Block
from ledger.chain import Chain
from protocol.catchup import (
    BlocksAnswer,
    Freshness,
    FreshnessAnswer,
    sign_freshness,
)
from protocol.digest import BlockId, sha256
from protocol.errors import SignatureError
from protocol.keys import PrivateKey
from protocol.merkle import leaf_hash, merkle_root
from swarmd.clock import ManualClock
from swarmd.freshness import FreshnessRound, ValidatorKeys
from swarmd.ledger_host import LedgerHost
from swarmd.net.address import PeerKey
from swarmd.peers import PeerRegistry
from swarmd.services.ledger_service import LedgerService
from tests.support.ledger import Lab, build_next, make_lab

NONCE = b"n" * 32


def test_a_statement_of_another_era_counts_as_not_made() -> None:
    """Both eras may number an epoch alike; the keys of its seats differ."""
    lab = make_lab()
    theirs = PrivateKey(sha256(b"key of the other era"))
    ours = tuple(PrivateKey(sha256(b"ours %d" % index)).public for index in range(4))
    content = Freshness(
        era=1,
        validator=0,
        epoch=2,
        height=9,
        block_id=BlockId(sha256(b"block")),
        nonces=merkle_root([leaf_hash(NONCE)]),
        time_ms=0,
    )
    validators = ValidatorKeys(epoch=2, keys=ours, fault_limit=1, era=0)
    question = FreshnessRound(NONCE, 0.0, validators)
    signed = sign_freshness(content, theirs, lab.chain_id)
    answer = FreshnessAnswer(statements=((signed.signed.raw, 0, (), 1),))
    question.add(answer, lab.chain_id)
    assert question.answer_count == 0
    assert question.highest == 0
    forged = sign_freshness(replace(content, era=0), theirs, lab.chain_id)
    with pytest.raises(SignatureError):
        question.add(FreshnessAnswer(statements=((forged.signed.raw, 0, (), 1),)), lab.chain_id)


async def test_blocks_of_another_era_are_passed_over() -> None:
    """A node beyond the recovery's header hears of heights that only the new era has."""
    lab = make_lab()
    chain = lab.open_chain()
    registry = PeerRegistry(lab.chain_id, ManualClock(), lambda *_: None)
    host = LedgerHost(chain, lambda: 0)
    service = LedgerService(
        network=None,  # type: ignore[arg-type]
        ledger=host,
        registry=registry,
        freshness=None,  # type: ignore[arg-type]
        on_pending=lambda: None,
    )
    other = lab.open_chain()
    block, certificate = _block_of_next_era(lab, other)
    peer = PeerKey(sha256(b"peer"))
    known = registry.connected(peer)
    answer = BlocksAnswer(blocks=(block,), certificate=certificate)
    assert not await service._adopt(peer, answer)
    assert known.offences == {}
    assert host.alarm is None
    assert chain.head.height == 0


def _block_of_next_era(lab: Lab, chain: Chain) -> tuple[bytes, bytes]:
    """A block as the validators of the next era certify it, keys aside."""
    block = build_next(chain)
    header = replace(block.header, era=block.header.era + 1)
    made = Block(header, (), (), ())
    certificate = replace(lab.certificate(block), block_id=header.block_id)
    return made.encoded, certificate.encode()
