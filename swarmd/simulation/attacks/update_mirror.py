"""Arbitrary software: a mirror that sends wrong blocks, manifests, recipe pages and chunks."""

from __future__ import annotations

import random
from functools import partial
from typing import Final

from chunks.memory_store import MemoryStore
from chunks.recipe_page import decode_recipe_page, verify_page
from chunks.store import ImageState
from protocol.did import KeyPurpose
from protocol.keys import PublicKey
from protocol.manifest import parse_manifest
from swarmd.simulation.attacks.attack import Attack, AttackResult, Family, at_least, never
from swarmd.simulation.attacks.trials import Trials
from swarmd.simulation.attacks.trusting_store import TrustingStore
from swarmd.simulation.byzantine.malicious_mirror import MaliciousMirror
from swarmd.simulation.lab import make_lab
from swarmd.simulation.lab_chain import authorise
from swarmd.simulation.lab_gateway import LabGateway, run_of
from swarmd.simulation.lab_image import LabImage

_TRIES: Final = 10_000
_TRIES_LONG: Final = 100_000
_CHUNK_BYTES: Final = 256
_CHUNK_COUNT: Final = 60
_HUNDREDTHS: Final = {"blocks": 5, "manifests": 5, "pages": 10, "chunks": 80}
"""Shares of what is sent, of 100."""


class _Mirrored:
    """A gateway and the mirror that is its only peer at first."""

    def __init__(self, seed: int, store: MemoryStore) -> None:
        self.chance = random.Random(seed)  # noqa: S311 - replayed by seed, guards nothing
        self.mirror = MaliciousMirror(self.chance)
        self.image, self.other = (
            LabImage.drawn(self.chance, chunk_count=_CHUNK_COUNT, chunk_bytes=_CHUNK_BYTES)
            for _ in range(2)
        )
        self.lab = make_lab()
        self.origin = self.lab.open_chain()
        self.manifest = self.lab.manifest(components=(self.image.component(),))
        authorise(self.lab, self.origin, self.manifest)
        self.store = store
        self.gateway = LabGateway(self.lab, store=store)
        self.trials = Trials()

    def lie(self, tries: int) -> None:
        """Sends wrong objects of every kind."""
        for kind, share in _HUNDREDTHS.items():
            send = getattr(self, f"_send_{kind}")
            for _ in range(tries * share // 100):
                send(kind)

    def _send_blocks(self, kind: str) -> None:
        body = self.mirror.altered(run_of(self.origin, 1))
        self.trials.offer(kind, self.gateway.take, body)

    def _send_manifests(self, kind: str) -> None:
        key = self.lab.publisher.key(KeyPurpose.PERSON).public
        self.trials.offer(kind, self._check, self.mirror.altered(self.manifest.signed.raw), key)

    def _check(self, raw: bytes, key: PublicKey) -> None:
        parse_manifest(raw).verify(key, self.lab.chain_id)

    def _send_pages(self, kind: str) -> None:
        recipe = self.image.recipe
        raw = self.mirror.instead(self.image.pages, 0, self.other.pages)
        self.trials.offer(
            kind, lambda: verify_page(decode_recipe_page(raw), recipe.root, recipe.chunk_count)
        )

    def _send_chunks(self, kind: str) -> None:
        download = self.image.begin(self.store)
        index = self.chance.randrange(_CHUNK_COUNT)
        data = self.mirror.instead(self.image.chunks, index, self.other.chunks)
        self.trials.offer(kind, self.store.write_chunk, download, index, data)

    def is_served_by_honest_peers(self) -> bool:
        """Whether all the lies keep the gateway from nothing afterwards."""
        self.gateway.follow(self.origin)
        if not self.gateway.may_fetch(self.manifest.manifest_id):
            return False
        self.image.hold(self.store)
        record = self.store.record(self.image.digest)
        return record.state is ImageState.COMPLETE


def _run(seed: int, *, tries: int) -> AttackResult:
    world = _Mirrored(seed, MemoryStore())
    world.lie(tries)
    counted = [never(f"wrong {kind} taken", count) for kind, count in world.trials.taken.items()]
    completes = at_least("completed later", 1, world.is_served_by_honest_peers())
    return AttackResult(verdicts=(*counted, completes), attempts=world.trials.attempts)


def _control(seed: int, *, tries: int) -> AttackResult:
    world = _Mirrored(seed, TrustingStore())
    world.lie(tries)
    taken = world.trials.taken["chunks"]
    return AttackResult(verdicts=(never("wrong chunks taken", taken),), attempts=tries)


def _attack(name: str, tries: int, *, is_long: bool) -> Attack:
    return Attack(
        name=name,
        family=Family.UPDATE,
        known_as="arbitrary software installation, malicious mirror: TUF 1.5.2; arbitrary software:"
        " Uptane",
        attacker="a mirror, the only peer at first, alters, cuts, repeats and exchanges blocks,"
        " manifests, recipe pages and chunks",
        counter="blocks need a certificate and execute to their roots (L31, C31); a manifest is its"
        " signed bytes (P60); pages lead to the manifest's root (chunks.md, P1 to P3); a chunk is"
        " hashed before it is written (X25, S3)",
        run=partial(_run, tries=tries),
        control=partial(_control, tries=1000),
        is_long=is_long,
    )


MIRROR_ATTACKS: Final = (
    _attack("arbitrary-software", _TRIES, is_long=False),
    _attack("arbitrary-software-long", _TRIES_LONG, is_long=True),
)
"""Short and long."""
