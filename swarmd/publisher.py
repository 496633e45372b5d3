"""Publishing: an image becomes chunks, a recipe, a signed manifest and a proposal.

The image stays in `staging/`, invisible to peers and devices, until the ledger and the owners have
authorised the manifest.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import trio

from chunks.sealing import SealingPass
from chunks.store import ChunkStore, StagedImage
from ledger.bodies.manifest import ProposeManifest
from protocol.digest import DidId, Digest, TransactionId
from protocol.encoding import check_text
from protocol.errors import ConfigError, EncodingError, PolicyError, StorageError
from protocol.keys import PrivateKey
from protocol.limits import CHUNKS_PER_COMPONENT_MAX, NAME_BYTES_MAX
from protocol.manifest import (
    DEFAULT_CHUNKER,
    LARGE_CHUNKER,
    ChunkerParameters,
    Component,
    Manifest,
    SignedManifest,
    sign_manifest,
)
from protocol.sealing import NONCE_BYTES, Sealing
from swarmd.entropy import Entropy
from swarmd.ledger_host import LedgerHost
from swarmd.patch_making import LATEST, MadePatch, PatchMaker
from swarmd.sealing_rings import RingShelf
from swarmd.services.submission import SubmissionService

COMPONENT_NAME: Final = "image"
"""Name of the only component that `publish` makes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """What a publisher wants released."""

    path: Path
    """The image."""
    product: str
    """What it is for."""
    version: str
    """For people."""
    groups: tuple[str, ...]
    """Target groups."""
    sequence: int | None = None
    """None: one more than the newest known of the product in any target group."""
    metadata: Mapping[str, str]
    """Free text."""
    patch_from: tuple[str, ...] = ()
    """Images to make patches from: `latest`, manifest ids in hex, absolute paths of files."""
    seal: str | None = None
    """Ring to seal it under: a group, its newest generation, or `GROUP/GENERATION`."""

    def size(self) -> int:
        """Bytes of the image.

        Raises:
            ConfigError: no readable regular file.
        """
        try:
            if not self.path.is_file():
                raise ConfigError(f"{self.path} is no file")
            return self.path.stat().st_size
        except OSError as error:
            raise ConfigError(f"{self.path}: {error.strerror}") from error


class Seals:
    """Finds the key that a release shall be sealed under."""

    def __init__(self, shelf: RingShelf, did: DidId, entropy: Entropy) -> None:
        """Looks on `shelf` for rings of the publisher `did`; `entropy` draws nonces."""
        self._shelf = shelf
        self._did = did
        self._entropy = entropy

    def begin(self, release: Release) -> tuple[SealingPass, Sealing] | None:
        """What seals a release while it is cut, and what its manifest says; None: nothing does.

        Raises:
            PolicyError: no such ring (`sealing.ring`), its key is not at hand (`sealing.key`), or
                the release is for other groups, too (`sealing.group`).
        """
        if release.seal is None:
            return None
        group, _, number = release.seal.partition("/")
        ring = self._shelf.newest_of(self._did, group, int(number) if number.isdigit() else None)
        if ring is None or (number and not number.isdigit()):
            raise PolicyError("sealing.ring", f"no ring {release.seal!r}: see swarmd sealing ring")
        if set(release.groups) != {group}:
            raise PolicyError("sealing.group", f"sealed for {group!r}, released to others, too")
        identifier = ring.file.ring(self._shelf.chain)
        key = self._shelf.content_key(identifier)
        if key is None:
            raise PolicyError("sealing.key", f"the wrap in ring {release.seal!r} does not open")
        sealing = Sealing(
            ring=identifier,
            generation=ring.file.generation,
            nonce=self._entropy.token(NONCE_BYTES),
        )
        return SealingPass(key, sealing), sealing


class Publisher:
    """Stages, signs and proposes releases."""

    def __init__(
        self,
        *,
        ledger: LedgerHost,
        store: ChunkStore,
        submission: SubmissionService,
        did: DidId,
        key: PrivateKey,
        seals: Seals,
        patches: PatchMaker,
        make_room: Callable[[int], Awaitable[None]],
    ) -> None:
        """Wires the publisher.

        `key` is its person key, which signs manifests; `make_room` has older images deleted so that
        so many bytes more fit.
        """
        self._make_room = make_room
        self._patches = patches
        self._building = trio.Lock()
        self._seals = seals
        self._ledger = ledger
        self._store = store
        self._submission = submission
        self._did = did
        self._key = key

    async def stage(self, release: Release) -> SignedManifest:
        """Cuts and stages an image and its patches, and signs its manifest.

        Raises:
            ConfigError: the image, or a file to make a patch from, is no readable file.
            EncodingError: a text or number the manifest cannot carry.
            PolicyError: the image is empty or too large, a group is unknown, or an image to make a
                patch from is not held.
            StorageError: staging failed.
        """
        signed, _ = await self.stage_with_patches(release)
        return signed

    async def stage_with_patches(
        self, release: Release
    ) -> tuple[SignedManifest, tuple[MadePatch, ...]]:
        """As `stage`; also tells what became of each patch asked for."""
        size = release.size()
        check_text(release.product, "product", maximum=NAME_BYTES_MAX, empty=False)
        check_text(release.version, "version", maximum=NAME_BYTES_MAX, empty=False)
        state = self._ledger.chain.state
        for group in release.groups:
            if state.group(group) is None:
                raise PolicyError("group.unknown", f"the ledger knows no group {group!r}")
        parameters = chunker_for(size)
        await self._make_room(size)
        bases = await self._bases(release)
        seal = self._seals.begin(release)
        stage = partial(
            self._store.stage, release.path, parameters, None if seal is None else seal[0]
        )
        staged = await trio.to_thread.run_sync(stage)
        made: tuple[MadePatch, ...] = ()
        try:
            async with self._building:
                made = await trio.to_thread.run_sync(self._patches.make, bases, staged, parameters)
            component = _component(staged, parameters, seal, made)
            manifest = self._manifest(release, component)
            return sign_manifest(manifest, self._key, self._ledger.chain_id), made
        except (EncodingError, ConfigError, StorageError):
            await self._discard(staged.image)
            await trio.to_thread.run_sync(self._patches.discard, made)
            raise

    async def _bases(self, release: Release) -> tuple[Digest | Path, ...]:
        """The images to make patches from; of sealed images a patch would save nothing."""
        if release.seal is not None and any(text != LATEST for text in release.patch_from):
            raise PolicyError("patch.sealed", "a sealed image has no patches: its bytes differ")
        if release.seal is not None:
            return ()
        return await trio.to_thread.run_sync(
            partial(
                self._patches.bases,
                release.patch_from,
                product=release.product,
                groups=release.groups,
                component=COMPONENT_NAME,
            )
        )

    def _manifest(self, release: Release, component: Component) -> Manifest:
        return Manifest(
            era=self._ledger.chain.head.era,
            publisher=self._did,
            product=release.product,
            version=release.version,
            sequence=release.sequence or self._next_sequence(release),
            groups=tuple(sorted(set(release.groups))),
            components=(component,),
            metadata=dict(release.metadata),
        )

    async def discard(self, signed: SignedManifest) -> None:
        """Frees what was staged for a manifest that the ledger refused."""
        for item in signed.manifest.objects:
            await self._discard(item.digest)

    async def _discard(self, image: Digest) -> None:
        """Removes a staged image unless a manifest in the ledger waits for it."""
        if self._ledger.manifests_of(image):
            return
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(partial(self._store.remove, image, staged=True))

    def _next_sequence(self, release: Release) -> int:
        state = self._ledger.chain.state
        newest = [state.latest(group, release.product) for group in release.groups]
        return max((latest.sequence for latest in newest if latest is not None), default=0) + 1

    async def propose(self, signed: SignedManifest) -> TransactionId:
        """Submits the proposal of a staged release.

        Raises:
            PolicyError: the ledger refuses it.
        """
        return await self._submission.submit(ProposeManifest(manifest=signed.signed.raw))


def chunker_for(size: int) -> ChunkerParameters:
    """The chunker for an image: 16 KiB on average, 64 KiB where that would be too many chunks."""
    few = size // DEFAULT_CHUNKER.minimum < CHUNKS_PER_COMPONENT_MAX
    return DEFAULT_CHUNKER if few else LARGE_CHUNKER


def _component(
    staged: StagedImage,
    parameters: ChunkerParameters,
    seal: tuple[SealingPass, Sealing] | None,
    made: Sequence[MadePatch],
) -> Component:
    return Component(
        name=COMPONENT_NAME,
        size=staged.size_bytes,
        digest=staged.image,
        chunker=parameters,
        chunk_count=staged.recipe.chunk_count,
        recipe_root=staged.recipe.root,
        plain_digest=None if seal is None else seal[0].plain_digest(),
        sealing=None if seal is None else seal[1],
        patches=tuple(one.reference for one in made if one.reference is not None),
    )
