"""Eavesdropping on sealed images, by who is not in their ring."""

from __future__ import annotations

import random
from typing import Final

from chunks.sealing import OpeningPass, SealingPass
from protocol.did import KeyPurpose
from protocol.digest import Digest, sha256
from protocol.keys import PrivateKey
from protocol.sealing import ContentKey, RingName, Sealing
from protocol.sealing_ring import RingFile, SignedRing, ring_members, sign_ring
from swarmd.keys.sealing_key import SealingKey, wrap_key
from swarmd.simulation.attacks.attack import Attack, AttackResult, Family, at_least, never
from swarmd.simulation.byzantine.eavesdropper import Eavesdropper, public_values
from swarmd.simulation.lab import FLEET, Lab, make_lab
from swarmd.simulation.lab_image import LabImage

_CHUNKS: Final = 64
_CHUNK_BYTES: Final = 512


class _Sealed:
    """A sealed release, and what of it everybody sees."""

    def __init__(self, seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311 - replayed by seed, guards nothing
        self.lab: Lab = make_lab()
        self.plain = LabImage.drawn(chance, chunk_count=_CHUNKS, chunk_bytes=_CHUNK_BYTES)
        self.member = SealingKey(chance.randbytes(32))
        self.outsider = Eavesdropper(SealingKey(chance.randbytes(32)))
        publisher = self.lab.publisher
        self.name = RingName(
            chain=self.lab.chain_id, publisher=publisher.did, group=FLEET, generation=1
        )
        self.key = ContentKey(chance.randbytes(32), self.name)
        self.sealing = Sealing(ring=self.key.ring(), generation=1, nonce=chance.randbytes(16))
        work = SealingPass(self.key, self.sealing)
        self.sealed = [work.seal(memoryview(chunk)) for chunk in self.plain.chunks]
        self.plain_digest = work.plain_digest()
        self.ring = self._ring(publisher.key(KeyPurpose.PERSON))

    def _ring(self, signer: PrivateKey) -> SignedRing:
        wraps = [wrap_key(self.key, self.lab.gateways[0].did, self.member.public)]
        file = RingFile(
            era=0,
            publisher=self.name.publisher,
            group=FLEET,
            generation=1,
            version=1,
            check=self.key.check(),
            members=ring_members(wraps),
        )
        return sign_ring(file, signer, self.lab.chain_id)

    def shown(self, stored: list[bytes]) -> list[Digest]:
        """Digests that manifest and recipe show."""
        whole = sha256(b"".join(stored))
        return [self.plain_digest, whole, *(sha256(chunk) for chunk in stored)]

    def opens_for_members(self) -> bool:
        """Whether a member gets the image back."""
        (entry,) = self.ring.file.members
        key = self.member.unwrap(entry, self.name, self.ring.file.check)
        opening = OpeningPass(key, self.sealing, self.plain_digest)
        plain = b"".join(opening.open(chunk) for chunk in self.sealed)
        return opening.finish() == sha256(self.plain.data) and plain == self.plain.data


def _result(world: _Sealed, stored: list[bytes]) -> AttackResult:
    outsider, plain = world.outsider, world.plain
    public = public_values(world.sealing, world.ring)
    kept = [*stored, world.ring.signed.raw, b"".join(world.shown(stored))]
    candidates = [plain.data, *plain.chunks]
    guesses = sum(
        outsider.confirmed_guesses(candidate, public, world.shown(stored))
        for candidate in candidates
    )
    verdicts = (
        never("plain text found", outsider.plain_finds(plain.data, kept)),
        never("wraps opened", outsider.opened_wraps(world.ring, world.name)),
        never("chunks opened", outsider.opened_chunks(world.name, public, stored[0])),
        never("guesses confirmed", guesses),
        at_least("opened by a member", 1, world.opens_for_members()),
    )
    ways = 1 + 2 * len(public)
    return AttackResult(verdicts=verdicts, attempts=len(candidates) * ways + len(public) + 1)


def _run(seed: int) -> AttackResult:
    world = _Sealed(seed)
    return _result(world, world.sealed)


def _control(seed: int) -> AttackResult:
    """The same release without a seal."""
    world = _Sealed(seed)
    return _result(world, list(world.plain.chunks))


EAVESDROP: Final = Attack(
    name="eavesdropping",
    family=Family.UPDATE,
    known_as="eavesdrop: Uptane, 4.2 (read updates)",
    attacker="who is not in the ring keeps manifest, ring file, recipe and sealed chunks, and knows"
    " the image it wants to recognise",
    counter="AES-SIV per chunk under a key wrapped by HPKE to members only, salted plain digests"
    " (Z4, Z7, Z12); sizes and equal chunks stay visible (Z33, Z34)",
    run=_run,
    control=_control,
)
"""See its fields."""
