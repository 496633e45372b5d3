"""Releases for exchange tests: images with recipes, and the authorised manifests that name them."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace

from chunks.store import ChunkStore
from protocol.authorised import AuthorisedManifest
from protocol.digest import BlockId, ChainId, DidId, Digest, ManifestId, PolicyId, sha256
from protocol.keys import PrivateKey
from protocol.manifest import (
    Component,
    Manifest,
    PatchReference,
    sign_manifest,
)
from swarmd.simulation.lab_image import LabImage


@dataclass(frozen=True)
class Image(LabImage):
    """One component's bytes, cut at a fixed size."""

    def reference(self, base: Digest) -> PatchReference:
        """These bytes as a patch for another image."""
        made = self.component("patch")
        return PatchReference(
            base=base,
            size=made.size,
            digest=made.digest,
            chunker=made.chunker,
            chunk_count=made.chunk_count,
            recipe_root=made.recipe_root,
        )


@dataclass(frozen=True)
class Release:
    """Images under one authorised manifest."""

    images: tuple[Image, ...]
    authorised: AuthorisedManifest
    patches: tuple[Image, ...] = ()

    @property
    def manifest_id(self) -> ManifestId:
        return self.authorised.manifest_id

    def hold(self, store: ChunkStore, *, component: int = 0, indices: range | None = None) -> None:
        """Puts all chunks of a component, or some, into a store."""
        image = self.images[component]
        download = store.begin(sha256(image.data), len(image.data), image.recipe)
        for index in indices if indices is not None else range(len(image.chunks)):
            store.write_chunk(download, index, image.chunks[index])
        if indices is None:
            store.finish(download)
        else:
            store.checkpoint(download)

    def hold_all(self, store: ChunkStore) -> None:
        for component in range(len(self.images)):
            self.hold(store, component=component)

    def hold_patches(self, store: ChunkStore) -> None:
        """Puts all patch objects into a store."""
        for patch in self.patches:
            download = store.begin(sha256(patch.data), len(patch.data), patch.recipe)
            for index, chunk in enumerate(patch.chunks):
                store.write_chunk(download, index, chunk)
            store.finish(download)


def make_release(
    seed: int, sizes: tuple[int, ...], *, chunk_bytes: int = 1024, group: str = "lab"
) -> Release:
    """Makes a release of random images; the same seed gives the same bytes."""
    generator = random.Random(seed)
    images = tuple(Image(generator.randbytes(size), chunk_bytes) for size in sizes)
    return release_of(1 + seed, images, group=group)


def release_of(
    sequence: int,
    images: tuple[Image, ...],
    *,
    digest: Digest | None = None,
    group: str = "lab",
    patches: tuple[tuple[Image, Digest], ...] = (),
) -> Release:
    """Makes a release of given images; `digest` lies about the first one.

    `patches` are objects for the first image, each with its base.
    """
    components = [image.component(f"c{i}") for i, image in enumerate(images)]
    references = sorted(
        (patch.reference(base) for patch, base in patches), key=lambda one: one.base
    )
    components[0] = replace(components[0], patches=tuple(references))
    if digest is not None:
        components[0] = replace(components[0], digest=digest)
    authorised = authorised_release(tuple(components), sequence=sequence, group=group)
    return Release(images, authorised, tuple(patch for patch, _ in patches))


def authorised_release(
    components: tuple[Component, ...],
    *,
    sequence: int = 1,
    group: str = "lab",
    metadata: Mapping[str, str] | None = None,
) -> AuthorisedManifest:
    """An authorised manifest that names components."""
    manifest = Manifest(
        era=0,
        publisher=DidId(sha256(b"publisher")),
        product="product",
        version="1",
        sequence=sequence,
        groups=(group,),
        components=components,
        metadata=metadata or {},
    )
    signed = sign_manifest(manifest, PrivateKey(bytes(32)), ChainId(sha256(b"chain")))
    return AuthorisedManifest(
        signed=signed,
        groups=(group,),
        policies=(PolicyId(sha256(b"policy")),),
        approvers=(("a", "b"),),
        height=1,
        block_id=BlockId(sha256(b"block")),
    )
