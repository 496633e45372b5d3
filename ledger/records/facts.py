"""`mf/`: what rules may ask of a manifest's content, kept because bodies of blocks are pruned."""

from __future__ import annotations

from dataclasses import dataclass

from ledger.records.codec import RECORD_SCHEMA, close_record, open_record
from protocol.digest import Digest
from protocol.encoding import encode_canonical
from protocol.image import image_digest
from protocol.limits import COMPONENTS_MAX, DEPENDENCIES_MAX, IMAGE_BYTES_MAX, TARGET_GROUPS_MAX
from protocol.manifest import Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestFacts:
    """`mf/<manifest id>`: a function of the manifest alone, the same in every group."""

    image: Digest
    """What builders attest; see `protocol.image`."""
    version: str
    """Version text."""
    size: int
    """Bytes of all components as stored."""
    components: int
    """How many."""
    target_groups: int
    """How many."""
    stepping_stones: int
    """How many."""
    dependencies: int
    """How many."""
    has_sbom: bool
    """Whether it names a software bill of materials."""
    has_suit: bool
    """Whether it names a SUIT envelope."""
    is_sealed: bool
    """Whether any component is sealed."""

    @classmethod
    def of(cls, manifest: Manifest) -> ManifestFacts:
        """The facts of a manifest."""
        return cls(
            image=image_digest(manifest),
            version=manifest.version,
            size=manifest.size,
            components=len(manifest.components),
            target_groups=len(manifest.groups),
            stepping_stones=len(manifest.stepping_stones),
            dependencies=len(manifest.dependencies),
            has_sbom=manifest.sbom_digest is not None,
            has_suit=manifest.suit_digest is not None,
            is_sealed=any(one.plain_digest is not None for one in manifest.components),
        )

    def encode(self) -> bytes:
        """The canonical bytes."""
        return encode_canonical(
            {
                0: RECORD_SCHEMA,
                1: self.image,
                2: self.version,
                3: self.size,
                4: self.components,
                5: self.target_groups,
                6: self.stepping_stones,
                7: self.dependencies,
                8: self.has_sbom,
                9: self.has_suit,
                10: self.is_sealed,
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> ManifestFacts:
        """Reads the canonical bytes; raises EncodingError."""
        fields = open_record(data, "manifest facts")
        record = cls(
            image=fields.digest(1),
            version=fields.name(2),
            size=fields.uint(3, maximum=IMAGE_BYTES_MAX),
            components=fields.uint(4, minimum=1, maximum=COMPONENTS_MAX),
            target_groups=fields.uint(5, minimum=1, maximum=TARGET_GROUPS_MAX),
            stepping_stones=fields.uint(6, maximum=DEPENDENCIES_MAX),
            dependencies=fields.uint(7, maximum=DEPENDENCIES_MAX),
            has_sbom=fields.boolean(8),
            has_suit=fields.boolean(9),
            is_sealed=fields.boolean(10),
        )
        close_record(fields, "manifest facts")
        return record
