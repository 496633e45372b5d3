"""Packed chunks and patches that make something else, or too much."""

from __future__ import annotations

import random
from typing import Final

import zstandard

from chunks.compression import ChunkUnpacker
from chunks.memory_store import MemoryStore
from chunks.patch import PatchError
from chunks.patch_apply import PatchApplication
from chunks.store import ImageState
from protocol.errors import SwarmError
from protocol.limits import MIB
from swarmd.simulation.attacks.attack import Attack, AttackResult, Family, at_least, never
from swarmd.simulation.attacks.trials import Trials
from swarmd.simulation.attacks.trusting_store import TrustingStore, wrong_images
from swarmd.simulation.byzantine.bomb_maker import BombMaker
from swarmd.simulation.byzantine.patch_liar import PatchLiar
from swarmd.simulation.lab_image import LabImage

_SIZES: Final = (1, 100, 4096, 16_384, 65_536, MIB)
"""Lengths of chunks that bombs are made for, bytes."""
_BOMB_BYTES: Final = 16 * MIB
_PATCHES: Final = 4
"""Pairs of images that are patched."""
_CHUNK_BYTES: Final = 512


def _run_bomb(seed: int) -> AttackResult:
    chance = random.Random(seed)  # noqa: S311 - replayed by seed, guards nothing
    trials, unpacker = Trials(), ChunkUnpacker()
    refused_honest = 0
    for size in _SIZES:
        honest = (chance.randbytes(size // 2 + 1) * 2)[:size]
        for frame in BombMaker(size, bomb_bytes=_BOMB_BYTES).frames(honest).values():
            trials.offer("bombs", unpacker.unpack, frame, size)
        packed = zstandard.ZstdCompressor(level=3, write_checksum=False).compress(honest)
        refused_honest += unpacker.unpack(packed, size) != honest
    verdicts = (
        never("bombs decoded", trials.taken["bombs"]),
        never("honest frames refused after a bomb", refused_honest),
    )
    return AttackResult(verdicts=verdicts, attempts=trials.attempts)


def _control_bomb(seed: int) -> AttackResult:
    """A decoder that takes the header's word."""
    chance = random.Random(seed)  # noqa: S311 - replayed by seed, guards nothing
    trials, plain = Trials(), zstandard.ZstdDecompressor()
    size = _SIZES[2]
    for frame in BombMaker(size, bomb_bytes=_BOMB_BYTES).frames(chance.randbytes(size)).values():
        try:
            made = plain.decompress(frame, max_output_size=size)
        except zstandard.ZstdError:
            made = b""
        trials.note("bombs", is_taken=len(made) > size)
    verdicts = (never("bombs decoded", trials.taken["bombs"]),)
    return AttackResult(verdicts=verdicts, attempts=trials.attempts)


BOMB: Final = Attack(
    name="decompression-bomb",
    family=Family.UPDATE,
    known_as="decompression bomb: CWE-409",
    attacker="a peer packs 16 MiB as a chunk of 1 byte to 1 MiB, under true and false sizes, with"
    " wide windows, without sizes, with frames before and behind",
    counter="the header is compared with the recipe before a byte is decoded: size, window of at"
    " most 1 MiB, no dictionary, no checksum; one frame and nothing behind it (W3, W4)",
    run=_run_bomb,
    control=_control_bomb,
)
"""See its fields."""


# Patches ------------------------------------------------------------------------------------------


class _Patched:
    """A gateway that holds one image and is to make the next by a patch."""

    def __init__(self, chance: random.Random, store: MemoryStore) -> None:
        self.store = store
        self.base = LabImage.drawn(chance, chunk_count=24, chunk_bytes=_CHUNK_BYTES)
        data = bytearray(self.base.data)
        for _ in range(6):
            place = chance.randrange(len(data))
            data[place] ^= 0x40
        self.target = LabImage(bytes(data), _CHUNK_BYTES)
        self.base.hold(store)

    def apply(self, patch: bytes) -> bool:
        """Applies a patch as the fetch does; returns whether it was found to be bad."""
        held = LabImage(patch, _CHUNK_BYTES)
        held.hold(self.store)
        download = self.target.begin(self.store)
        try:
            application = PatchApplication(
                self.store, download, patch=held.digest, base=self.base.digest
            )
            while not application.step().is_done:
                pass
            self.store.finish(download)
        except PatchError:
            return True
        return False

    def completes(self) -> bool:
        """Whether what is missing can be fetched as chunks, and makes the image."""
        try:
            self.target.hold(self.store)
        except SwarmError:
            return False
        is_complete = self.store.record(self.target.digest).state is ImageState.COMPLETE
        self.store.remove(self.target.digest)
        return is_complete


def _apply_all(seed: int, store_type: type[MemoryStore]) -> tuple[Trials, int]:
    """Applies every wrong patch; returns the tries, and how many images completed afterwards."""
    chance = random.Random(seed)  # noqa: S311 - replayed by seed, guards nothing
    liar, trials, completed = PatchLiar(chance), Trials(), 0
    for _ in range(_PATCHES):
        store = store_type()
        world = _Patched(chance, store)
        for patch in liar.patches(world.base.data, world.target.data).values():
            before = wrong_images(store)
            is_bad = world.apply(patch)
            trials.note("wrong images", is_taken=wrong_images(store) > before)
            trials.note("bad patches", is_taken=not is_bad)
            completed += world.completes()
    return trials, completed


def _run_patch(seed: int) -> AttackResult:
    trials, completed = _apply_all(seed, MemoryStore)
    patches = trials.attempts // 2
    verdicts = (
        never("wrong images made", trials.taken["wrong images"]),
        never("bad patches not noticed", trials.taken["bad patches"]),
        at_least("completed by chunks afterwards", patches, completed),
    )
    return AttackResult(verdicts=verdicts, attempts=patches)


def _control_patch(seed: int) -> AttackResult:
    """A store that keeps what a patch makes without comparing it with the recipe."""
    trials, _ = _apply_all(seed, TrustingStore)
    verdicts = (never("wrong images made", trials.taken["wrong images"]),)
    return AttackResult(verdicts=verdicts, attempts=trials.attempts // 2)


WRONG_PATCH: Final = Attack(
    name="wrong-patch",
    family=Family.UPDATE,
    known_as="arbitrary software by a delta: Uptane, delta images",
    attacker="a publisher whose authorised manifest names patches that make another image, one bit"
    " of it, nothing, or a bomb",
    counter="what a patch makes goes the way of a received chunk (W22, X25); whatever is wrong"
    " makes it bad, and the component is fetched as chunks (W16)",
    run=_run_patch,
    control=_control_patch,
)
"""See its fields."""
