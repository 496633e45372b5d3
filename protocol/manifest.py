"""Firmware manifests: the signed description of one release.

A manifest is at most 16 KiB. The signed bytes are the object: `ManifestId` is their SHA-256, and
they are stored and passed on as they came, never encoded again. So extensions (negative keys, at
any level) survive although this version does not read them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from protocol.cose import Signed, parse_signed, sign
from protocol.did import check_groups, read_groups
from protocol.digest import SHA256_ALGORITHM, ChainId, DidId, Digest, ManifestId, sha256
from protocol.encoding import (
    Fields,
    Key,
    Value,
    as_array,
    as_digest,
    as_uint,
    check_identifier,
    check_range,
    check_sorted_unique,
    check_text,
    decode_canonical,
    encode_canonical,
)
from protocol.errors import EncodingError
from protocol.keys import PublicKey, Signer
from protocol.limits import (
    CHUNK_BYTES_MAX,
    CHUNKS_PER_COMPONENT_MAX,
    COMPONENTS_MAX,
    DEPENDENCIES_MAX,
    IMAGE_BYTES_MAX,
    MANIFEST_BYTES_MAX,
    METADATA_ENTRIES_MAX,
    NAME_BYTES_MAX,
    PATCHES_PER_COMPONENT_MAX,
)
from protocol.sealing import Sealing

MANIFEST_TAG: Final = "swarmd/manifest/1"
"""Domain of a publisher's signature."""
IDENTIFIER_BYTES: Final = 16
"""Vendor and class ids are UUIDs (RFC 9124, section 3.4)."""


class ChunkerKind(IntEnum):
    """How a component was cut into chunks."""

    FIXED = 1
    FASTCDC = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkerParameters:
    """How to cut a component; all sizes in bytes. FIXED has three equal sizes."""

    kind: ChunkerKind
    """Which algorithm cuts."""
    minimum: int
    """No chunk but the last is smaller."""
    average: int
    """Aimed size; a power of two for FASTCDC."""
    maximum: int
    """No chunk is larger."""

    def __post_init__(self) -> None:
        """Refuses sizes that contradict each other or exceed the chunk bound."""
        if not 1 <= self.minimum <= self.average <= self.maximum <= CHUNK_BYTES_MAX:
            raise EncodingError(
                f"chunker sizes {self.minimum}/{self.average}/{self.maximum} are not ascending "
                f"within {CHUNK_BYTES_MAX}"
            )
        if self.kind is ChunkerKind.FIXED and self.minimum != self.maximum:
            raise EncodingError("a fixed chunker has one size")
        if self.kind is ChunkerKind.FASTCDC and self.average & (self.average - 1):
            raise EncodingError("FastCDC's average size must be a power of two")

    def to_value(self) -> Value:
        """The wire form: [kind, minimum, average, maximum]."""
        return [int(self.kind), self.minimum, self.average, self.maximum]

    @classmethod
    def from_value(cls, value: Value) -> ChunkerParameters:
        """Reads the wire form."""
        kind, minimum, average, maximum = (
            as_uint(item, "chunker", maximum=CHUNK_BYTES_MAX)
            for item in as_array(value, "chunker", size=4)
        )
        if kind not in (ChunkerKind.FIXED, ChunkerKind.FASTCDC):
            raise EncodingError(f"chunker {kind} is not known")
        return cls(kind=ChunkerKind(kind), minimum=minimum, average=average, maximum=maximum)


DEFAULT_CHUNKER: Final = ChunkerParameters(
    kind=ChunkerKind.FASTCDC, minimum=4096, average=16384, maximum=65536
)
"""16 KiB on average: small enough for thin links, large enough for 4 GiB within the chunk bound."""
LARGE_CHUNKER: Final = ChunkerParameters(
    kind=ChunkerKind.FASTCDC, minimum=16384, average=65536, maximum=262144
)
"""64 KiB on average, for images that would exceed 2^18 chunks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentObject:
    """Bytes that peers exchange chunk by chunk under a recipe: a component, or a patch for one."""

    size: int
    """Bytes as stored, 1 to 16 GiB."""
    digest: Digest
    """SHA-256 of the bytes as stored (ciphertext if sealed)."""
    chunker: ChunkerParameters
    """How the recipe was cut."""
    chunk_count: int
    """Chunks of the recipe, 1 to 2^18."""
    recipe_root: Digest
    """RFC 6962 root over the recipe's leaves."""

    def __post_init__(self) -> None:
        """Refuses sizes and counts that cannot belong together.

        Raises:
            EncodingError: a size or count out of range or impossible under the chunker (every
                chunk but the last has its minimum, none exceeds its maximum).
        """
        if not 1 <= self.size <= IMAGE_BYTES_MAX:
            raise EncodingError(f"object of {self.size} bytes, allowed 1 to {IMAGE_BYTES_MAX}")
        if not 1 <= self.chunk_count <= min(self.size, CHUNKS_PER_COMPONENT_MAX):
            raise EncodingError(f"{self.chunk_count} chunks cannot make {self.size} bytes")
        plain = self.plain_size
        if self.chunk_bytes_max > CHUNK_BYTES_MAX:
            raise EncodingError(f"chunks of up to {self.chunk_bytes_max} bytes once sealed")
        if self.chunk_count * self.chunker.maximum < plain:
            raise EncodingError(f"{self.chunk_count} chunks are too few for {plain} bytes")
        if (self.chunk_count - 1) * self.chunker.minimum >= plain:
            raise EncodingError(f"{self.chunk_count} chunks are too many for {plain} bytes")

    @property
    def overhead_bytes(self) -> int:
        """By how much each chunk as stored is longer than the one that was cut: 0 if not sealed."""
        return 0

    @property
    def plain_size(self) -> int:
        """Bytes that were cut; `size` if it is not sealed."""
        return self.size - self.chunk_count * self.overhead_bytes

    @property
    def chunk_bytes_max(self) -> int:
        """Longest chunk as stored."""
        return self.chunker.maximum + self.overhead_bytes

    def _content_fields(self, first: int) -> dict[Key, Value]:
        """The wire form of these five fields, under the keys from `first` on."""
        return {
            first: self.size,
            first + 1: _digest_value(self.digest),
            first + 2: self.chunker.to_value(),
            first + 3: self.chunk_count,
            first + 4: self.recipe_root,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchReference(ContentObject):
    """A patch object: makes its component's bytes from those of another image (updates.md)."""

    base: Digest
    """SHA-256 of the image, as stored, that it applies to."""

    def to_value(self) -> Value:
        """The wire form."""
        return {0: _digest_value(self.base), **self._content_fields(1)}

    @classmethod
    def from_value(cls, value: Value) -> PatchReference:
        """Reads the wire form."""
        fields = Fields(value, "patch")
        patch = cls(
            base=_read_digest(fields.value(0)),
            size=fields.uint(1),
            digest=_read_digest(fields.value(2)),
            chunker=ChunkerParameters.from_value(fields.value(3)),
            chunk_count=fields.uint(4),
            recipe_root=fields.digest(5),
        )
        fields.finish()
        return patch


@dataclass(frozen=True, slots=True, kw_only=True)
class Component(ContentObject):
    """One image of a release."""

    name: str
    """Identifier, unique within the manifest, such as `rootfs`."""
    plain_digest: Digest | None = None
    """If sealed: salted SHA-256 of the plain bytes (`protocol.sealing.plain_prefix`)."""
    vendor_id: bytes | None = None
    """UUID as in SUIT."""
    class_id: bytes | None = None
    """UUID as in SUIT."""
    patches: tuple[PatchReference, ...] = ()
    """Ways to make it from other images, at most 4, ascending by base, one for each."""
    sealing: Sealing | None = None
    """Under what it is sealed; None: it is stored as it is."""

    def __post_init__(self) -> None:
        """Refuses a component that cannot be.

        Raises:
            EncodingError: a bad name, sizes that cannot belong together (`ContentObject`), a plain
                digest without a sealing or the other way round, or patches that are unsorted,
                larger than the component, or for the component itself.
        """
        ContentObject.__post_init__(self)  # `super()` does not work in classes with slots
        check_identifier(self.name, "component")
        if (self.plain_digest is None) != (self.sealing is None):
            raise EncodingError("a sealed component has a sealing and a plain digest, others none")
        if len(self.patches) > PATCHES_PER_COMPONENT_MAX:
            raise EncodingError(
                f"{len(self.patches)} patches, at most {PATCHES_PER_COMPONENT_MAX} are allowed"
            )
        check_sorted_unique((patch.base for patch in self.patches), "bases of patches")
        for patch in self.patches:
            if patch.base == self.digest:
                raise EncodingError("a patch has the component itself as its base")
            if patch.size > self.size:
                raise EncodingError(f"patch of {patch.size} bytes for {self.size} bytes")

    @property
    def overhead_bytes(self) -> int:
        """By how much sealing made each chunk longer."""
        return 0 if self.sealing is None else self.sealing.overhead_bytes

    def to_value(self) -> Value:
        """The wire form."""
        value: dict[Key, Value] = {
            0: self.name,
            **self._content_fields(1),
        }
        if self.plain_digest is not None:
            value[6] = _digest_value(self.plain_digest)
        if self.vendor_id is not None:
            value[7] = self.vendor_id
        if self.class_id is not None:
            value[8] = self.class_id
        if self.patches:
            value[9] = [patch.to_value() for patch in self.patches]
        if self.sealing is not None:
            value[10] = self.sealing.to_value()
        return value

    @classmethod
    def from_value(cls, value: Value) -> Component:
        """Reads the wire form."""
        fields = Fields(value, "component")
        component = cls(
            name=fields.identifier(0),
            size=fields.uint(1),
            digest=_read_digest(fields.value(2)),
            chunker=ChunkerParameters.from_value(fields.value(3)),
            chunk_count=fields.uint(4),
            recipe_root=fields.digest(5),
            plain_digest=fields.optional(6, lambda key: _read_digest(fields.value(key))),
            vendor_id=fields.optional(7, lambda key: fields.bytes(key, size=IDENTIFIER_BYTES)),
            class_id=fields.optional(8, lambda key: fields.bytes(key, size=IDENTIFIER_BYTES)),
            patches=fields.optional(9, lambda key: _read_patches(fields, key)) or (),
            sealing=fields.optional(10, lambda key: Sealing.from_value(fields.value(key))),
        )
        fields.finish()
        return component


def _read_patches(fields: Fields, key: int) -> tuple[PatchReference, ...]:
    return fields.items(
        key, PatchReference.from_value, minimum=1, maximum=PATCHES_PER_COMPONENT_MAX
    )


def _digest_value(digest: Digest) -> Value:
    return [SHA256_ALGORITHM, digest]


def _read_digest(value: Value) -> Digest:
    algorithm, digest = as_array(value, "digest", size=2)
    if algorithm != SHA256_ALGORITHM:
        raise EncodingError(f"digest algorithm {algorithm!r} is not SHA-256")
    return as_digest(digest, "digest")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The content of a manifest."""

    era: int
    """Era of the chain it was signed for."""
    publisher: DidId
    """Who signed it."""
    product: str
    """Identifier of what it is for; sequences are counted for each product and group."""
    version: str
    """For people, 1 to 64 bytes."""
    sequence: int
    """Strictly rises with each release of a product in a group (anti-rollback)."""
    groups: tuple[str, ...]
    """Target groups, ascending, 1 to 16."""
    components: tuple[Component, ...]
    """1 to 16, distinct names."""
    expires_ms: int | None = None
    """Header time after which it is no longer authorised, milliseconds."""
    stepping_stones: tuple[ManifestId, ...] = ()
    """A device must run one of these first, ascending; empty: any."""
    dependencies: tuple[tuple[str, int], ...] = ()
    """(product, least sequence) that must be installed, ascending by product, each once."""
    sbom_digest: Digest | None = None
    """SHA-256 of a software bill of materials."""
    suit_digest: Digest | None = None
    """SHA-256 of a SUIT envelope for devices that speak it."""
    metadata: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Free text, at most 32 entries."""

    def __post_init__(self) -> None:
        """Refuses parts that contradict each other or are not in their one order.

        Raises:
            EncodingError: bad product or group names, repeated component names, unsorted or
                repeated entries of a list, more bytes in all than one image may have, or a patch
                that is the same object as a component or another patch.
        """
        check_identifier(self.product, "product")
        check_groups(self.groups)
        if len({component.name for component in self.components}) != len(self.components):
            raise EncodingError("two components share a name")
        check_range(self.size, "image size", minimum=1, maximum=IMAGE_BYTES_MAX)
        self._check_patches()
        check_sorted_unique(self.stepping_stones, "stepping stones")
        check_sorted_unique((product.encode() for product, _ in self.dependencies), "dependencies")

    def _check_patches(self) -> None:
        objects = self.objects
        total = sum(one.size for one in objects)
        check_range(total, "size of all objects", maximum=IMAGE_BYTES_MAX)
        seen = {component.digest: None for component in self.components}
        for patch in objects[len(self.components) :]:
            if patch.digest in seen:
                raise EncodingError("a patch is the same object as a component or another patch")
            seen[patch.digest] = None

    @property
    def size(self) -> int:
        """Bytes of all components."""
        return sum(component.size for component in self.components)

    @property
    def objects(self) -> tuple[ContentObject, ...]:
        """What peers exchange by number: the components, then the patches of each in turn."""
        patches = (patch for component in self.components for patch in component.patches)
        return (*self.components, *patches)

    def encode(self) -> bytes:
        """Canonical bytes of the payload."""
        metadata: dict[Key, Value] = dict(self.metadata.items())
        value: dict[Key, Value] = {
            0: 1,
            1: self.era,
            2: self.publisher,
            3: self.product,
            4: self.version,
            5: self.sequence,
            6: list(self.groups),
            7: [component.to_value() for component in self.components],
            8: self.expires_ms,
            9: list(self.stepping_stones),
            10: [[product, sequence] for product, sequence in self.dependencies],
            13: metadata,
        }
        if self.sbom_digest is not None:
            value[11] = _digest_value(self.sbom_digest)
        if self.suit_digest is not None:
            value[12] = _digest_value(self.suit_digest)
        return encode_canonical(value)


def _read_dependency(value: Value) -> tuple[str, int]:
    product, sequence = as_array(value, "dependency", size=2)
    if not isinstance(product, str):
        raise EncodingError("dependency's product is not text")
    check_identifier(product, "dependency's product")
    return product, as_uint(sequence, "dependency's sequence")


def _read_metadata(value: Value) -> dict[str, str]:
    if not isinstance(value, Mapping) or len(value) > METADATA_ENTRIES_MAX:
        raise EncodingError(f"metadata is not a map of at most {METADATA_ENTRIES_MAX} entries")
    metadata: dict[str, str] = {}
    for key, text in value.items():
        if not isinstance(key, str) or not isinstance(text, str):
            raise EncodingError("metadata is not text to text")
        check_text(key, "metadata key", maximum=NAME_BYTES_MAX, empty=False)
        metadata[key] = check_text(text, "metadata")
    return metadata


def decode_manifest(payload: bytes) -> Manifest:
    """Reads a manifest's payload.

    Raises:
        EncodingError: malformed, over a bound, or with deceptive characters in a text.
    """
    fields = Fields(decode_canonical(payload, bytes_max=MANIFEST_BYTES_MAX), "manifest")
    fields.constant(0, 1)
    manifest = Manifest(
        era=fields.uint(1),
        publisher=DidId(fields.digest(2)),
        product=fields.identifier(3),
        version=fields.name(4),
        sequence=fields.uint(5, minimum=1),
        groups=read_groups(fields, 6, minimum=1),
        components=fields.items(7, Component.from_value, minimum=1, maximum=COMPONENTS_MAX),
        expires_ms=None if fields.value(8) is None else fields.uint(8),
        stepping_stones=tuple(ManifestId(d) for d in fields.digests(9, maximum=DEPENDENCIES_MAX)),
        dependencies=fields.items(10, _read_dependency, maximum=DEPENDENCIES_MAX),
        sbom_digest=fields.optional(11, lambda key: _read_digest(fields.value(key))),
        suit_digest=fields.optional(12, lambda key: _read_digest(fields.value(key))),
        metadata=_read_metadata(fields.value(13)),
    )
    fields.finish()
    return manifest


@dataclass(frozen=True, slots=True)
class SignedManifest:
    """A parsed manifest with its original bytes; not verified until `verify` was called."""

    manifest_id: ManifestId
    """SHA-256 of `signed.raw`."""
    manifest: Manifest
    """The content."""
    signed: Signed
    """The COSE_Sign1 it came in."""

    def verify(self, key: PublicKey, chain: ChainId) -> None:
        """Checks the publisher's signature.

        Raises:
            SignatureError: another key, chain or era, or altered bytes.
        """
        self.signed.verify(key, tag=MANIFEST_TAG, chain=chain, era=self.manifest.era)


def parse_manifest(raw: bytes) -> SignedManifest:
    """Parses signed manifest bytes, without checking the signature.

    Raises:
        EncodingError: malformed or over 16 KiB.
    """
    signed = parse_signed(raw, bytes_max=MANIFEST_BYTES_MAX)
    return SignedManifest(ManifestId(sha256(raw)), decode_manifest(signed.payload), signed)


def sign_manifest(manifest: Manifest, key: Signer, chain: ChainId) -> SignedManifest:
    """Signs a manifest with a publisher's person key.

    Raises:
        EncodingError: the content is not valid, or over 16 KiB once signed.
    """
    raw = sign(manifest.encode(), key, tag=MANIFEST_TAG, chain=chain, era=manifest.era)
    return parse_manifest(raw)
