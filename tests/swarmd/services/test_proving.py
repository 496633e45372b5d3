"""What the control methods about proofs answer, over a real ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ledger.block import decode_block
from ledger.proof_verify import verify_authorisation, verify_proof
from ledger.state_keys import subject_key
from protocol.catchup import LedgerMessage
from protocol.did import KeyPurpose
from protocol.digest import sha256
from protocol.errors import NotYetError, PolicyError, StorageError, TransportError
from protocol.keys import PrivateKey
from protocol.tlog import NoteKey, SignatureType, parse_note, validator_name, verify_witnesses
from swarmd.clock import ManualClock
from swarmd.control.params import Params
from swarmd.ledger_host import LedgerHost
from swarmd.net.address import PeerKey
from swarmd.peers import PeerRegistry
from swarmd.receipts import ReceiptLog, decode_receipt
from swarmd.services.cosigning import CosigningService
from swarmd.services.proving import ProvingService
from swarmd.services.receipts import ReceiptService
from tests.support.ledger import FLEET, advance, make_key, make_lab
from tests.support.proof_eras import recovery_from
from tests.support.proofs import IMAGE, ProofWorld, make_world


async def nobody(peer: PeerKey, _request: LedgerMessage) -> LedgerMessage:
    raise TransportError(f"{peer.hex()} is nobody")


class Desk:
    """A node's ledger and receipt log, asked as an operator asks."""

    def __init__(self, folder: Path) -> None:
        self.world: ProofWorld = make_world()
        self.host = host = LedgerHost(self.world.chain, lambda: self.world.chain.head.time_ms)
        log = ReceiptLog(folder / "receipts.db", self.world.lab.chain_id)
        log.append([decode_receipt(entry) for entry in self.world.receipts])
        self.receipts = receipts = ReceiptService(
            log=log, ledger=host, own_did=self.world.did, time_ms=lambda: 1_700_000_000_000
        )
        self.service = ProvingService(host, receipts)

    async def prove(self, **params: object) -> Any:
        return await self.service.prove(Params(params))

    async def shown(self, **params: object) -> Any:
        answer = await self.prove(**params)
        return verify_proof(bytes.fromhex(answer["proof"]), self.world.lab.genesis)


async def test_everything_that_may_be_asked_is_proved(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    world = desk.world
    manifest = world.manifest.manifest_id.hex()
    answer: Any = await desk.prove(manifest=manifest)
    proof = bytes.fromhex(answer["proof"])
    assert verify_authorisation(proof, world.lab.genesis, sha256(IMAGE)).group == FLEET
    assert answer["group"] == FLEET
    core = await desk.shown(manifest=manifest, group=FLEET, core=True)
    assert core.manifests[0].consent is None
    receipt = (await desk.shown(receipt=3)).receipts[0]
    assert receipt.entry == world.receipts[3]
    did = world.lab.publisher.did
    assert set((await desk.shown(did=did.hex())).facts) == {subject_key(did)}
    entry = (await desk.shown(transaction=world.anchored.transaction_id.hex())).entries[0]
    assert entry.entry == world.anchored.signed.raw
    assert (await desk.shown(absent=[b"g/none".hex()])).facts == {b"g/none": None}


async def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    nothing = "ab" * 32
    for params in ({"manifest": nothing}, {"did": nothing}, {"transaction": nothing}):
        with pytest.raises(NotYetError):
            await desk.prove(**params)
    with pytest.raises((NotYetError, StorageError)):
        await desk.prove(receipt=5)
    with pytest.raises(PolicyError, match=r"proof\.present"):
        await desk.prove(absent=[b"g/fleet".hex()])


async def test_blocks_and_the_heads_cosignature_are_given(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    chain = desk.world.chain
    answer: Any = await desk.service.blocks(Params({"from": 2, "to": 3}))
    heights = [decode_block(bytes.fromhex(raw)).header.height for raw in answer["blocks"]]
    assert heights == [2, 3]
    member = desk.world.lab.validators[1]
    key = member.key(KeyPurpose.VALIDATOR)
    registry = PeerRegistry(desk.world.lab.chain_id, ManualClock(), lambda *_: None)
    seats: list[tuple[PrivateKey, int]] = [(key, 1)]
    cosigning = CosigningService(
        ledger=desk.host, registry=registry, seat=lambda: seats[0] if seats else None
    )
    head: Any = await desk.service.checkpoint(Params({}), cosigning, nobody)
    note = parse_note(f"{head['text']}\n{head['signatures'][0]}\n".encode())
    origin = head["text"].splitlines()[0]
    name = validator_name(origin, member.did)
    cosigner = NoteKey(name=name, kind=SignatureType.COSIGNATURE, key=key.public)
    checkpoint, (witnessed,) = verify_witnesses(note, [cosigner], 1, origin=origin)
    assert (checkpoint.size, checkpoint.root) == (chain.head.log_size, chain.head.log_root)
    assert witnessed.time_s == chain.head.time_ms // 1000
    seats.clear()
    alone: Any = await desk.service.checkpoint(Params({}), cosigning, nobody)
    assert alone["signatures"] == []


async def test_the_first_block_of_an_era_is_given_like_any_other(tmp_path: Path) -> None:
    lab = make_lab()
    chain = lab.open_chain()
    advance(lab, chain)
    certificate = chain.certificate
    assert certificate is not None
    recovery = recovery_from(
        lab, chain.head, certificate.encode(), keys=lambda one: make_key(f"{one.label}/era")
    )
    begun = chain.recover(recovery)
    host = LedgerHost(chain, lambda: chain.head.time_ms)
    desk = Desk(tmp_path)
    service = ProvingService(host, desk.receipts)
    for height in (1, 2):
        answer: Any = await service.blocks(Params({"from": height, "to": 9}))
        (raw,) = answer["blocks"]
        assert decode_block(bytes.fromhex(raw)).header.height == height
    assert decode_block(bytes.fromhex(raw)).header == begun
    nothing: Any = await service.blocks(Params({"from": 3, "to": 9}))
    assert (nothing["blocks"], nothing["first"]) == ([], 1)
