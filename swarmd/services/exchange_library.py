"""What this node may serve: manifests, their possession, their recipe pages, their chunks.

Possession lives here in memory and follows the store; the blocking calls are for worker threads.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from chunks.compression import ChunkPacker
from chunks.recipe_page import RecipePager
from chunks.store import ChunkStore, ImageMissingError
from protocol.authorised import AuthorisedManifest
from protocol.bitfield import Bitfield
from protocol.digest import Digest, ManifestId
from protocol.errors import StorageError, VerificationError
from protocol.exchange_events import ChunksRead, ReadChunks, ReadPage
from protocol.manifest import ContentObject
from protocol.runs import NO_CHUNKS, Runs
from protocol.upload import ServedManifest
from protocol.upload_offers import Offers
from swarmd.services.exchange_payload import read_answer

PAGERS_MAX: Final = 8
"""Recipes kept ready for paging; each takes 44 bytes a chunk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedRead:
    """What a read of chunks found."""

    answer: ChunksRead
    """What the upload is told."""
    rotten: Runs
    """Indices the store dropped because they no longer match."""


class ServedLibrary:
    """The manifests open for serving; the `Library` of every upload."""

    def __init__(self, store: ChunkStore, *, tells_parts: bool = False) -> None:
        """Starts empty over a store; it may tell parts of what is held completely (X50)."""
        self._store = store
        self._tells_parts = tells_parts
        self._served: dict[ManifestId, ServedManifest] = {}
        self._authorised: dict[ManifestId, AuthorisedManifest] = {}
        self._pagers: OrderedDict[Digest, RecipePager] = OrderedDict()

    def find(self, manifest_id: ManifestId) -> ServedManifest | None:
        """The possession of a manifest that is open for serving."""
        return self._served.get(manifest_id)

    def authorised(self, manifest_id: ManifestId) -> AuthorisedManifest | None:
        """The manifest as it was opened."""
        return self._authorised.get(manifest_id)

    def opened(self) -> tuple[AuthorisedManifest, ...]:
        """The manifests that are open for serving."""
        return tuple(self._authorised.values())

    def open(self, authorised: AuthorisedManifest, possession: tuple[Bitfield, ...]) -> None:
        """Opens a manifest for serving; opening it again replaces the possession."""
        self._authorised[authorised.manifest_id] = authorised
        has_parts = self._tells_parts and all(field.is_full for field in possession)
        self._served[authorised.manifest_id] = ServedManifest(
            manifest_id=authorised.manifest_id,
            possession=possession,
            offers=tuple(Offers(field.size) for field in possession) if has_parts else None,
        )

    def close(self, manifest_id: ManifestId) -> bool:
        """Ends the serving of a manifest at once; tells whether it was open."""
        self._authorised.pop(manifest_id, None)
        return self._served.pop(manifest_id, None) is not None

    def gained(self, manifest_id: ManifestId, component: int, indices: Runs) -> None:
        """Notes that chunks can be read."""
        served = self._served.get(manifest_id)
        if served is not None:
            served.possession[component].include(indices.bits)

    def lost(self, manifest_id: ManifestId, component: int, indices: Iterable[int]) -> None:
        """Notes that chunks cannot be read any more."""
        served = self._served.get(manifest_id)
        if served is not None:
            served.possession[component].exclude(Runs.of(indices).bits)

    # Blocking: for worker threads ----------------------------------------------------------------

    def read_possession(self, authorised: AuthorisedManifest) -> tuple[Bitfield, ...]:
        """Asks the store what it holds of each component; nothing of one it does not know."""
        held = []
        for component in authorised.manifest.objects:
            try:
                record = self._store.record(component.digest)
                if record.recipe_root != component.recipe_root:
                    raise ImageMissingError("held under another recipe")
                field = Bitfield.decode(self._store.have(component.digest), component.chunk_count)
            except (StorageError, VerificationError):  # the manifest may lie about its own recipe
                field = Bitfield(component.chunk_count)
            held.append(field)
        return tuple(held)

    def read_chunks(
        self, effect: ReadChunks, image: Digest, packer: ChunkPacker | None = None
    ) -> ServedRead:
        """Reads chunks until the effect's bound.

        Args:
            effect: which.
            image: where from.
            packer: packs those for which it pays; None: none is packed.
        """
        try:
            outcome = self._store.read_chunks(image, effect.indices, bytes_max=effect.bytes_max)
            answer = read_answer(
                effect.request_id,
                outcome,
                image=image,
                recipe=lambda: self._store.recipe(image),
                packer=packer,
            )
        except StorageError:  # deleted meanwhile, or not readable
            absent = [(index, None) for index in effect.indices]
            return ServedRead(answer=ChunksRead.of(effect.request_id, absent), rotten=NO_CHUNKS)
        return ServedRead(answer=answer, rotten=outcome.rotten)

    def read_page(self, effect: ReadPage, component: ContentObject) -> bytes | None:
        """Makes a recipe page; None if the store does not hold the image under this recipe."""
        pager = self._pagers.get(component.recipe_root)
        if pager is None:
            try:
                recipe = self._store.recipe(component.digest)
            except StorageError:
                return None
            pager = RecipePager(recipe)
            if pager.root != component.recipe_root:
                return None
            self._pagers[component.recipe_root] = pager
            while len(self._pagers) > PAGERS_MAX:
                self._pagers.popitem(last=False)
        if effect.page >= pager.page_count:
            return None  # the manifest lies about how many chunks the recipe has
        return pager.page(effect.page).encode()
