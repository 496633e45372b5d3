"""Offline bundles of a laboratory: made section by section, and imported by the production code."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import trio

from ledger.chain import Chain
from protocol.digest import Digest, ManifestId
from protocol.errors import SwarmError
from protocol.manifest import SignedManifest
from swarmd.bundle_format import (
    BundleHead,
    BundleObject,
    SectionKind,
    SectionReader,
    begin_bundle,
)
from swarmd.services.bundle_import import BundleImport, Outcome, Surroundings
from swarmd.simulation.lab_gateway import LabGateway, run_of
from swarmd.simulation.lab_image import LabImage

Section = tuple[SectionKind, bytes]
"""One section: its kind and its body."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabRelease:
    """A manifest and the images of its components."""

    signed: SignedManifest
    """The manifest."""
    images: tuple[LabImage, ...]
    """In the order of its components."""

    @property
    def manifest_id(self) -> ManifestId:
        """Its id."""
        return self.signed.manifest_id


def head_of(origin: Chain, manifests: Sequence[ManifestId]) -> Section:
    """The first section of a bundle with all blocks of a chain."""
    head = BundleHead(
        chain=origin.rules.chain,
        era=origin.rules.era,
        from_height=1,
        to_height=origin.head.height,
        manifests=tuple(manifests),
        have=None,
    )
    return SectionKind.HEAD, head.encode()


def blocks_of(origin: Chain) -> Section:
    """All blocks of a chain."""
    return SectionKind.BLOCKS, run_of(origin, 1)


def object_of(release: LabRelease, number: int) -> Section:
    """The section that names a component."""
    named = BundleObject(manifest=release.manifest_id, component=number)
    return SectionKind.OBJECT, named.encode()


def pages_of(image: LabImage) -> list[Section]:
    """The recipe of an image."""
    return [(SectionKind.PAGE, page) for page in image.pages]


def chunks_of(image: LabImage) -> list[Section]:
    """All chunks of an image."""
    return [
        (SectionKind.CHUNK, index.to_bytes(4, "big") + chunk)
        for index, chunk in enumerate(image.chunks)
    ]


def component_of(release: LabRelease, number: int) -> list[Section]:
    """A whole component."""
    image = release.images[number]
    return [object_of(release, number), *pages_of(image), *chunks_of(image)]


def bundle(sections: Sequence[Section]) -> bytes:
    """The file of these sections, with a right end."""
    file = io.BytesIO()
    writer = begin_bundle(file)
    for kind, body in sections:
        writer.write(kind, body)
    writer.finish()
    return file.getvalue()


def take_bundle(gateway: LabGateway, data: bytes) -> Outcome | SwarmError:
    """Has a gateway import a bundle.

    Returns:
        What it did, or the error with which it ended; what came before that stays.
    """
    try:
        return trio.run(_import, gateway, data)
    except SwarmError as error:
        return error


async def _import(gateway: LabGateway, data: bytes) -> Outcome:
    around = Surroundings(
        ledger=gateway.ledger,
        genesis=gateway.lab.genesis,
        authority=gateway.authority,
        store=gateway.store,
        take_ring=_no_rings,
        confirm=lambda _: False,
        wake=lambda: None,
        note_use=_note_nothing,
    )
    limiter = trio.CapacityLimiter(1)
    reader = await trio.to_thread.run_sync(partial(SectionReader, io.BytesIO(data)))
    return await BundleImport(around, reader, limiter).run(_go_on)


async def _no_rings(_ring: bytes) -> None:
    """A gateway of the laboratory keeps no rings."""


async def _go_on(_bytes_read: int) -> None:
    """Nobody looks at the progress."""


def _note_nothing(_image: Digest) -> None:
    """Nothing is collected here."""
