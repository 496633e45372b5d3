"""Bundle mixer: a courier that makes new bundles out of the sections of honest ones.

Every section is genuine, and every file ends as the format wants it. What is wrong is which
sections stand together, what is left out, and what is added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ledger.chain import Chain
from swarmd.bundle_format import SectionKind
from swarmd.simulation.lab_bundle import (
    LabRelease,
    Section,
    blocks_of,
    bundle,
    chunks_of,
    component_of,
    head_of,
    object_of,
    pages_of,
)

_REPEATS = 200


@dataclass(frozen=True, slots=True)
class Mixture:
    """One bundle."""

    name: str
    """What is wrong with it."""
    data: bytes
    """The file."""


class BundleMixer:
    """Mixes two releases of one shape, each of two components, with others nobody asked for."""

    def __init__(self, origin: Chain, one: LabRelease, two: LabRelease) -> None:
        """Knows a chain and what it authorised."""
        self._origin = origin
        self._one = one
        self._two = two

    def honest(self) -> bytes:
        """A bundle with both releases, as an export makes it."""
        return self._file(
            (self._one, self._two),
            [
                section
                for release in (self._one, self._two)
                for number in range(len(release.images))
                for section in component_of(release, number)
            ],
        )

    def _file(self, releases: Sequence[LabRelease], sections: Sequence[Section]) -> bytes:
        head = head_of(self._origin, [release.manifest_id for release in releases])
        return bundle([head, blocks_of(self._origin), *sections])

    def mixtures(self, others: Sequence[LabRelease]) -> list[Mixture]:
        """All mixtures; `others` are releases that the gateway may not have."""
        return [*self._mixed(), *self._partial(), *self._extraneous(others), *self._disordered()]

    def _mixed(self) -> list[Mixture]:
        one, two = self._one, self._two
        first, second = one.images
        named, rest = object_of(one, 0), component_of(one, 1)
        half = len(first.chunks) // 2
        spliced = chunks_of(first)[:half] + chunks_of(two.images[0])[half:]
        parts = {
            "chunks of another release": [named, *pages_of(first), *chunks_of(two.images[0])],
            "recipe and chunks of another": [
                named, *pages_of(two.images[0]), *chunks_of(two.images[0]),
            ],
            "components exchanged": [named, *pages_of(second), *chunks_of(second)],
            "half of one, half of another": [named, *pages_of(first), *spliced],
            "one component of each": [*component_of(one, 0), *component_of(two, 1)],
        }  # fmt: skip
        mixed = [
            Mixture(name, self._file((one,), [*sections, *rest]))
            for name, sections in parts.items()
            if name != "one component of each"
        ]
        both = self._file((one, two), parts["one component of each"])
        return [*mixed, Mixture("one component of each", both)]

    def _partial(self) -> list[Mixture]:
        one = self._one
        image = one.images[0]
        named, pages, chunks = object_of(one, 0), pages_of(image), chunks_of(image)
        parts = {
            "a component left out": component_of(one, 0),
            "the last chunk left out": [named, *pages, *chunks[:-1], *component_of(one, 1)],
            "every other chunk left out": [named, *pages, *chunks[::2], *component_of(one, 1)],
            "the recipe left out": [named, *chunks, *component_of(one, 1)],
            "nothing but names": [named, object_of(one, 1)],
        }
        return [Mixture(name, self._file((one,), sections)) for name, sections in parts.items()]

    def _extraneous(self, others: Sequence[LabRelease]) -> list[Mixture]:
        one = self._one
        found = [
            Mixture("a component that is not there", self._file((one,), [object_of(one, 7)])),
            Mixture("a release that the head does not name", self._unnamed()),
        ]
        for other in others:
            sections = [section for number in (0, 1) for section in component_of(other, number)]
            found.append(Mixture("a release for others", self._file((other,), sections)))
            swapped = [object_of(one, 0), *component_of(other, 0)[1:]]
            found.append(Mixture("their images under my name", self._file((one,), swapped)))
        return found

    def _unnamed(self) -> bytes:
        return self._file((self._one,), component_of(self._two, 0))

    def _disordered(self) -> list[Mixture]:
        one = self._one
        image = one.images[0]
        named, pages, chunks = object_of(one, 0), pages_of(image), chunks_of(image)
        far = (SectionKind.CHUNK, (2**32 - 1).to_bytes(4, "big") + image.chunks[0])
        parts = {
            "chunks in the wrong order": [named, *pages, *reversed(chunks)],
            "one chunk for ever": [named, *pages, *(chunks[:1] * _REPEATS)],
            "a chunk far beyond": [named, *pages, *chunks[:-1], far],
            "a component twice": [*component_of(one, 0), *component_of(one, 0)],
            "pages behind chunks": [named, *chunks, *pages],
            "blocks behind images": [*component_of(one, 0), blocks_of(self._origin)],
            "a second head": [head_of(self._origin, []), *component_of(one, 0)],
        }
        return [Mixture(name, self._file((one,), sections)) for name, sections in parts.items()]
