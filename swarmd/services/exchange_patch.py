"""Patches within a fetch: which one to use, how far it is, and which ones are no good.

A component may be made from an image that is held already by a patch object that its manifest
names (docs/spec/updates.md). Whether that pays is decided once the component's recipe is known and
everything that can be copied from held images was copied: then it is known exactly what is missing.
A patch is fetched like any object; while it is, the component waits. It never has to: whatever goes
wrong with a patch, the component is fetched as chunks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from chunks.bitmap import Bitmap
from chunks.compression import ChunkPacker
from chunks.patch_apply import PatchApplication
from chunks.recipe import Recipe
from chunks.store import ChunkStore, ImageState
from protocol.digest import Digest
from protocol.errors import StorageError
from protocol.manifest import Manifest, PatchReference

PATIENCE_S: Final = 30.0
"""How long a patch may make no progress while there are peers, before its component is fetched as
chunks, seconds: the longest patience with one request."""
CHECK_S: Final = 5.0
"""How often that is looked at, seconds."""
SAMPLES: Final = 16
"""Chunks that went out of the base and are packed, to guess how well what came instead would."""
BAD_MAX: Final = 256
"""Bad patches remembered; the oldest is forgotten first, and then tried once more at worst."""


class BadPatches:
    """Patches that made wrong bytes here, or could not be read: not used again."""

    def __init__(self) -> None:
        """Starts with none."""
        self._digests: dict[Digest, None] = {}

    def add(self, patch: Digest) -> None:
        """Notes a bad one."""
        self._digests[patch] = None
        if len(self._digests) > BAD_MAX:
            del self._digests[next(iter(self._digests))]

    def __contains__(self, patch: Digest) -> bool:
        return patch in self._digests

    def __len__(self) -> int:
        return len(self._digests)


class PatchPhase(Enum):
    """How far the patch for a component is."""

    FETCHING = 1
    """It is being fetched; its component waits."""
    APPLYING = 2
    """It is complete, and is or will be applied."""
    GIVEN_UP = 3
    """It does not come; its component is about to be prepared without it."""
    OVER = 4
    """It did what it could."""


@dataclass(slots=True)
class ComponentPatch:
    """The patch chosen for one component."""

    component: int
    """Position of the component in the manifest."""
    number: int
    """Position of the patch in the manifest's objects."""
    patch: PatchReference
    """The patch."""
    progress_at: float
    """When it last got on, seconds, monotonic."""
    phase: PatchPhase = PatchPhase.FETCHING
    """How far it is."""
    application: PatchApplication | None = None
    """Once it is being applied."""


@dataclass(slots=True)
class PatchBoard:
    """The patches of one fetch."""

    bad: BadPatches
    """Shared by all fetches."""
    _chosen: dict[int, ComponentPatch] = field(default_factory=dict)

    def begin(self, chosen: ComponentPatch) -> None:
        """Notes that a component waits for a patch."""
        self._chosen[chosen.component] = chosen

    def of_component(self, component: int) -> ComponentPatch | None:
        """The patch chosen for a component."""
        return self._chosen.get(component)

    def of_object(self, number: int) -> ComponentPatch | None:
        """The choice that this object is the patch of."""
        return next((one for one in self._chosen.values() if one.number == number), None)

    def fetching(self) -> Iterator[ComponentPatch]:
        """Patches that are still being fetched."""
        return (one for one in tuple(self._chosen.values()) if one.phase is PatchPhase.FETCHING)


def choose_patch(
    store: ChunkStore, manifest: Manifest, component: int, bad: BadPatches
) -> tuple[int, PatchReference] | None:
    """Chooses the patch that saves most, if any saves something; blocks.

    Args:
        store: has begun the component, and copied what it could.
        manifest: names the patches.
        component: position of the component.
        bad: patches not to use.

    Returns:
        Position among the manifest's objects, and the patch.
    """
    image = manifest.components[component]
    missing_bytes = _missing_bytes(store, image.digest)
    first = len(manifest.components) + sum(
        len(one.patches) for one in manifest.components[:component]
    )
    best: tuple[int, int, PatchReference] | None = None
    for number, patch in enumerate(image.patches, first):
        if patch.digest in bad or not _is_complete(store, patch.base):
            continue
        cost = patch.size - _held_bytes(store, patch.digest)
        if best is None or cost < best[0]:
            best = (cost, number, patch)
    if best is None:
        return None
    cost, number, patch = best
    wire_bytes = _packed_bytes(store, store.recipe(image.digest), patch.base, missing_bytes)
    if cost >= min(missing_bytes, wire_bytes):
        return None
    return number, patch


def _is_complete(store: ChunkStore, image: Digest) -> bool:
    try:
        return store.record(image).state is ImageState.COMPLETE
    except StorageError:
        return False


def _missing_bytes(store: ChunkStore, image: Digest) -> int:
    """Bytes of the chunks of an image that is being fetched which are not held."""
    recipe = store.recipe(image)
    return recipe.size_bytes - _held_of(store, image, recipe)


def _held_bytes(store: ChunkStore, image: Digest) -> int:
    """Bytes held of an image, 0 if the store does not know it."""
    try:
        return _held_of(store, image, store.recipe(image))
    except StorageError:
        return 0


def _held_of(store: ChunkStore, image: Digest, recipe: Recipe) -> int:
    bitmap = Bitmap.decode(store.have(image), recipe.chunk_count)
    return sum(recipe.length(index) for index in range(recipe.chunk_count) if index in bitmap)


def _packed_bytes(store: ChunkStore, target: Recipe, base: Digest, plain_bytes: int) -> int:
    """What so many missing bytes may take on the wire.

    They are compared with the chunks of the base that the target does not have: what was replaced
    is most like what replaced it. The rest of an image may be anything, such as empty space.
    """
    recipe = store.recipe(base)
    kept = {target.digest(index): None for index in range(target.chunk_count)}
    gone = [index for index in range(recipe.chunk_count) if recipe.digest(index) not in kept]
    packer = ChunkPacker(cache_bytes_max=0)
    plain = packed = 0
    for index in gone[:: max(1, len(gone) // SAMPLES)]:
        try:
            data = store.read_chunk(base, index)
        except StorageError:
            continue
        frame = packer.pack(data, image=base, chunk=Digest(recipe.digest(index)))
        plain += len(data)
        packed += len(data if frame is None else frame)
    return plain_bytes * packed // plain if plain else plain_bytes
