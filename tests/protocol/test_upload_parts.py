"""An upload whose manifest has offers: what is told is a part, what is asked for is served."""

from __future__ import annotations

from protocol.bitfield import Bitfield
from protocol.digest import ManifestId
from protocol.exchange_events import ChunksRead, PeerMessage, ReadChunks, Send, UploadEffect
from protocol.exchange_messages import (
    BitfieldMessage,
    Chunks,
    ExchangeMessage,
    Have,
    Interest,
    NotInterested,
    Request,
)
from protocol.runs import Runs
from protocol.upload import ServedManifest, Upload
from protocol.upload_offers import OPEN_PEERS, PART_CHUNKS_START, Offers

M = ManifestId(b"m" * 32)
COUNT = 40
INTEREST = Interest(manifest_id=M, components=(0,))


class Seeder:
    """All uploads of a node that holds everything."""

    def __init__(self, peers: int) -> None:
        self.allowed = True
        self.served = ServedManifest(
            manifest_id=M, possession=(Bitfield.full(COUNT),), offers=(Offers(COUNT),)
        )
        self.uploads = [
            Upload(peer=bytes([number]), library=self, may_serve=lambda _: self.allowed)
            for number in range(peers)
        ]
        self.asked = 0

    def find(self, manifest_id: ManifestId) -> ServedManifest | None:
        return self.served if manifest_id == M else None

    def say(self, peer: int, message: ExchangeMessage) -> list[UploadEffect]:
        return self.uploads[peer].handle(PeerMessage(peer=bytes([peer]), message=message), 0.0)

    def told_first(self, peer: int) -> int:
        (effect,) = self.say(peer, INTEREST)
        assert isinstance(effect, Send)
        assert isinstance(effect.message, BitfieldMessage)
        assert effect.served == M
        return Bitfield.decode(effect.message.bits, COUNT).bits

    def fetch(self, peer: int, indices: int) -> int:
        """Has a peer ask for chunks, sends them, and returns what else it was told."""
        self.asked += 1
        runs = Runs.of_bits(indices)
        effects = self.say(
            peer, Request(request_id=self.asked, manifest_id=M, component=0, indices=runs)
        )
        told = 0
        for effect in effects:
            if isinstance(effect, ReadChunks):
                found = [(index, b"x") for index in effect.indices]
                sent = self.uploads[peer].handle(ChunksRead.of(effect.request_id, found), 0.0)
                assert any(isinstance(e, Send) and isinstance(e.message, Chunks) for e in sent)
            elif isinstance(effect, Send) and isinstance(effect.message, Have):
                told |= effect.message.indices.bits
        return told


def test_the_first_see_everything_and_the_others_a_part_each() -> None:
    seeder = Seeder(OPEN_PEERS + 3)
    told = [seeder.told_first(number) for number in range(OPEN_PEERS + 3)]
    assert told[:OPEN_PEERS] == [Bitfield.full(COUNT).bits] * OPEN_PEERS
    union = 0
    for part in told[OPEN_PEERS:]:
        assert part.bit_count() == PART_CHUNKS_START
        assert not part & union
        union |= part


def test_who_asks_for_its_part_is_told_more_until_all_is_told() -> None:
    seeder = Seeder(OPEN_PEERS + 1)
    for number in range(OPEN_PEERS):
        seeder.told_first(number)
    told = part = seeder.told_first(OPEN_PEERS)
    while part:
        part = seeder.fetch(OPEN_PEERS, part)
        assert not part & told
        told |= part
    assert told == Bitfield.full(COUNT).bits


def test_what_was_not_told_is_served_all_the_same() -> None:
    seeder = Seeder(OPEN_PEERS + 1)
    for number in range(OPEN_PEERS):
        seeder.told_first(number)
    part = seeder.told_first(OPEN_PEERS)
    assert not part >> 30 & 1
    seeder.fetch(OPEN_PEERS, 1 << 30)  # asserts that it is sent


def test_who_repeats_its_interest_or_comes_after_one_copy_sees_everything() -> None:
    seeder = Seeder(OPEN_PEERS + 3)
    for number in range(OPEN_PEERS + 1):
        seeder.told_first(number)
    assert seeder.told_first(OPEN_PEERS) == Bitfield.full(COUNT).bits
    seeder.fetch(0, Bitfield.full(COUNT).bits)
    assert seeder.told_first(OPEN_PEERS + 1) == Bitfield.full(COUNT).bits


def test_who_may_not_be_served_is_told_no_part() -> None:
    seeder = Seeder(OPEN_PEERS + 1)
    for number in range(OPEN_PEERS):
        seeder.told_first(number)
    part = seeder.told_first(OPEN_PEERS)
    seeder.allowed = False
    effects = seeder.say(
        OPEN_PEERS, Request(request_id=9, manifest_id=M, component=0, indices=Runs.of_bits(part))
    )
    assert not any(isinstance(e, Send) and isinstance(e.message, Have) for e in effects)


def test_who_lost_interest_and_comes_back_sees_everything() -> None:
    seeder = Seeder(OPEN_PEERS + 1)
    for number in range(OPEN_PEERS):
        seeder.told_first(number)
    seeder.told_first(OPEN_PEERS)
    seeder.say(OPEN_PEERS, NotInterested(manifest_id=M))
    assert seeder.told_first(OPEN_PEERS) == Bitfield.full(COUNT).bits
