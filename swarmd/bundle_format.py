"""The form of offline bundles and of have-files: sections, their bounds, and how they are read.

A bundle is one file that is only ever read forwards: a magic number, then sections of a kind, a
length and a body, each bounded by its kind before a byte of it is taken. Nothing in it is believed
for its place in the file; docs/spec/bundle.md says by what each section is checked. A have-file is
what a cut-off gateway sends out: how far its ledger is, a nonce, and which chunks it has.
"""

from __future__ import annotations

import hashlib
import os
import stat
from bisect import bisect_left
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, BinaryIO, Final

from protocol.catchup import LEDGER_FRAME_BYTES_MAX, NONCE_BYTES
from protocol.digest import ChainId, Digest, ManifestId
from protocol.encoding import (
    Fields,
    Value,
    as_array,
    as_bytes,
    as_digest,
    check_range,
    decode_canonical,
    encode_canonical,
)
from protocol.errors import EncodingError, VerificationError
from protocol.governance import CHECKPOINT_BYTES_MAX
from protocol.limits import CHUNK_BYTES_MAX, CHUNKS_PER_COMPONENT_MAX, COMPONENTS_MAX, KIB, MIB
from protocol.sealing_ring import RING_FILE_BYTES_MAX
from swarmd.proof_file import PROOF_FILE_BYTES_MAX

if TYPE_CHECKING:
    from hashlib import _Hash as HASH

MAGIC: Final = b"swarmd bundle\x00\x00\x01"
"""First 16 bytes; the last one is the version."""
HAVE_MAGIC: Final = b"swarmd have\x00\x00\x00\x00\x01"
"""First 16 bytes of a have-file."""
PREFIX_BYTES: Final = 5
"""Kind and length before each section's body."""
MANIFESTS_MAX: Final = 64
"""Manifests in one bundle."""
RINGS_MAX: Final = MANIFESTS_MAX * COMPONENTS_MAX
"""Ring files in one bundle: at most one for each component."""
HAVE_PREFIX_BYTES: Final = 8
"""Bytes of a chunk's digest in a have-file: with 2^20 chunks held and 2^18 wanted, two that differ
share them with probability 2^-26. The chunk would be left out, and comes in a whole bundle."""
HAVE_CHUNKS_MAX: Final = 2**20
"""Chunks in a have-file, of the newest images first."""
HAVE_IMAGES_MAX: Final = 1024
"""Images in a have-file."""
HAVE_FILE_BYTES_MAX: Final = HAVE_CHUNKS_MAX * HAVE_PREFIX_BYTES + HAVE_IMAGES_MAX * 48 + KIB
"""The whole have-file: 8 MiB."""
_READ_BYTES: Final = 1 * MIB


class SectionKind(IntEnum):
    """What a section holds; in a bundle they come in ascending order, but for what repeats."""

    HEAD = 1
    """What the bundle is; the first section, once."""
    CHECKPOINT = 2
    """The newest governance checkpoint; at most once."""
    BLOCKS = 3
    """A run of final blocks and its certificate, as on the ledger stream."""
    FRESHNESS = 4
    """Validators' statements about the have-file's nonce; at most once."""
    PROOF = 5
    """A proof file of one manifest's authorisation."""
    RING = 6
    """A ring file of a sealed component."""
    OBJECT = 7
    """A component begins: its pages and chunks follow."""
    PAGE = 8
    """The next page of its recipe."""
    CHUNK = 9
    """Index, 4 bytes, and bytes of a chunk."""
    END = 10
    """Count and SHA-256 of everything before; the last section, once."""


SECTION_BYTES_MAX: Final[Mapping[SectionKind, int]] = MappingProxyType(
    {
        SectionKind.HEAD: 4 * KIB,
        SectionKind.CHECKPOINT: CHECKPOINT_BYTES_MAX,
        SectionKind.BLOCKS: LEDGER_FRAME_BYTES_MAX,
        SectionKind.FRESHNESS: 64 * KIB,
        SectionKind.PROOF: PROOF_FILE_BYTES_MAX,
        SectionKind.RING: RING_FILE_BYTES_MAX,
        SectionKind.OBJECT: 128,
        SectionKind.PAGE: 40 * KIB,
        SectionKind.CHUNK: 4 + CHUNK_BYTES_MAX,
        SectionKind.END: 128,
    }
)
"""Longest body of each kind."""


class BundleError(VerificationError):
    """A bundle is cut off, altered, or not in the order of the format."""


@dataclass(frozen=True, slots=True)
class Section:
    """One section, as it was read; its body is not checked yet."""

    kind: SectionKind
    """What it is."""
    body: bytes
    """Its bytes."""
    end: int
    """Offset in the file just behind it."""


class SectionReader:
    """Reads sections one after the other; memory for one at a time. May block on the file."""

    def __init__(self, file: BinaryIO) -> None:
        """Reads the magic number.

        Raises:
            BundleError: it is another one.
        """
        self._file = file
        self._hasher = hashlib.sha256()
        self._count = 0
        self.offset = 0
        """Bytes taken so far."""
        if self._take(len(MAGIC)) != MAGIC:
            raise BundleError("not an offline bundle of this version")

    def _take(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) != size:
            raise BundleError(f"the bundle ends at byte {self.offset + len(data)}, in a section")
        self._hasher.update(data)
        self.offset += size
        return data

    def next(self) -> Section:
        """Reads the next section; after END there must be nothing.

        Raises:
            BundleError: cut off, an unknown kind, a body over its bound, or a wrong END.
        """
        digest, count = self._hasher.digest(), self._count
        prefix = self._take(PREFIX_BYTES)
        size = int.from_bytes(prefix[1:], "big")
        try:
            kind = SectionKind(prefix[0])
        except ValueError:
            raise BundleError(f"section of unknown kind {prefix[0]}") from None
        if not 0 < size <= SECTION_BYTES_MAX[kind]:
            raise BundleError(f"section {kind.name} of {size} bytes")
        body = self._take(size)
        self._count += 1
        if kind is SectionKind.END:
            if body != encode_end(count, Digest(digest)):
                raise BundleError("the bundle's last section is not about this bundle")
            if self._file.read(1):
                raise BundleError("there is something behind the bundle's last section")
        return Section(kind, body, self.offset)


class SectionWriter:
    """Writes sections to a file; made by `begin_bundle` or `resume_bundle`."""

    def __init__(self, file: BinaryIO, hasher: HASH, count: int) -> None:
        """Appends to `file`, of which `hasher` has seen everything, `count` sections."""
        self._file = file
        self._hasher = hasher
        self._count = count

    def _put(self, data: bytes) -> None:
        self._file.write(data)
        self._hasher.update(data)

    def write(self, kind: SectionKind, *parts: bytes) -> None:
        """Appends a section whose body is the parts."""
        size = sum(map(len, parts))
        assert 0 < size <= SECTION_BYTES_MAX[kind], f"section {kind.name} of {size} bytes"
        self._put(bytes((kind,)) + size.to_bytes(4, "big"))
        for part in parts:
            self._put(part)
        self._count += 1

    def finish(self) -> None:
        """Appends the last section."""
        self.write(SectionKind.END, encode_end(self._count, Digest(self._hasher.digest())))


def begin_bundle(file: BinaryIO) -> SectionWriter:
    """Writes the magic number into an empty file."""
    file.write(MAGIC)
    return SectionWriter(file, hashlib.sha256(MAGIC), 0)


def resume_bundle(file: BinaryIO, end: int, count: int) -> SectionWriter:
    """Goes on behind the first `count` sections, which end at `end`; the rest is cut off.

    Raises:
        BundleError: the file became shorter meanwhile.
    """
    hasher = hashlib.sha256()
    file.seek(0)
    left = end
    while left:
        data = file.read(min(left, _READ_BYTES))
        if not data:
            raise BundleError("the file became shorter while it was read")
        hasher.update(data)
        left -= len(data)
    file.truncate(end)
    file.seek(end)
    return SectionWriter(file, hasher, count)


def encode_end(count: int, digest: Digest) -> bytes:
    """The body of END."""
    return encode_canonical({0: count, 1: digest})


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleHead:
    """What a bundle is."""

    chain: ChainId
    """Of which chain."""
    era: int
    """Era at its making."""
    from_height: int
    """First height whose block is inside; one more than `to_height` if none is."""
    to_height: int
    """Height that the blocks reach."""
    manifests: tuple[ManifestId, ...]
    """The manifests whose images are inside, in order, each once."""
    have: Digest | None
    """SHA-256 of the have-file it was made for; None: it holds every chunk."""

    def __post_init__(self) -> None:
        """Refuses numbers and lists out of range; raises EncodingError."""
        check_range(self.from_height, "first height", minimum=1, maximum=self.to_height + 1)
        if len(self.manifests) > MANIFESTS_MAX or len(set(self.manifests)) < len(self.manifests):
            raise EncodingError(f"{len(self.manifests)} manifests, at most 64, each once")

    def encode(self) -> bytes:
        """Canonical bytes."""
        return encode_canonical(
            {
                0: 1,
                1: self.chain,
                2: self.era,
                3: self.from_height,
                4: self.to_height,
                5: list(self.manifests),
                6: self.have,
            }
        )


def decode_head(data: bytes) -> BundleHead:
    """Reads the body of HEAD; raises EncodingError."""
    fields = Fields(
        decode_canonical(data, bytes_max=SECTION_BYTES_MAX[SectionKind.HEAD]), "bundle head"
    )
    fields.constant(0, 1)
    head = BundleHead(
        chain=ChainId(fields.digest(1)),
        era=fields.uint(2),
        from_height=fields.uint(3, minimum=1),
        to_height=fields.uint(4),
        manifests=tuple(ManifestId(item) for item in fields.digests(5, maximum=MANIFESTS_MAX)),
        have=None if fields.value(6) is None else fields.digest(6),
    )
    fields.finish()
    return head


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleObject:
    """Which component begins."""

    manifest: ManifestId
    """Of which manifest."""
    component: int
    """Its number there."""

    def encode(self) -> bytes:
        """Canonical bytes."""
        return encode_canonical({0: self.manifest, 1: self.component})


def decode_object(data: bytes) -> BundleObject:
    """Reads the body of OBJECT; raises EncodingError."""
    fields = Fields(decode_canonical(data, bytes_max=128), "bundle object")
    found = BundleObject(
        manifest=ManifestId(fields.digest(0)),
        component=fields.uint(1, maximum=COMPONENTS_MAX - 1),
    )
    fields.finish()
    return found


def chunk_index(body: bytes) -> int:
    """The index at the start of CHUNK's body.

    Raises:
        BundleError: no component has such a chunk, or no bytes follow.
    """
    index = int.from_bytes(body[:4], "big")
    if len(body) <= 4 or index >= CHUNKS_PER_COMPONENT_MAX:
        raise BundleError(f"chunk section of {len(body)} bytes, index {index}")
    return index


@dataclass(frozen=True, slots=True, kw_only=True)
class HaveFile:
    """What a gateway says of itself when it asks for a bundle."""

    chain: ChainId
    """Its chain."""
    era: int
    """Its era."""
    height: int
    """Its newest final block."""
    epoch: int
    """Epoch of that."""
    nonce: bytes
    """32 bytes for validators to sign."""
    images: tuple[tuple[Digest, bytes], ...]
    """Images it has something of, newest first, each with the first 8 bytes of the digest of every
    chunk held that no earlier one names, concatenated."""

    def __post_init__(self) -> None:
        """Refuses more than a have-file may name; raises EncodingError."""
        if len(self.images) > HAVE_IMAGES_MAX:
            raise EncodingError(f"have-file of {len(self.images)} images")
        if any(len(chunks) % HAVE_PREFIX_BYTES for _, chunks in self.images):
            raise EncodingError("have-file: a chunk is cut off")
        if self.chunk_count > HAVE_CHUNKS_MAX:
            raise EncodingError(f"have-file of {self.chunk_count} chunks")

    @property
    def chunk_count(self) -> int:
        """Chunks of all images."""
        return sum(len(chunks) for _, chunks in self.images) // HAVE_PREFIX_BYTES

    def encode(self) -> bytes:
        """The file's bytes."""
        return HAVE_MAGIC + encode_canonical(
            {
                0: 1,
                1: self.chain,
                2: self.era,
                3: self.height,
                4: self.epoch,
                5: self.nonce,
                6: [[image, chunks] for image, chunks in self.images],
            }
        )


class HeldChunks:
    """Chunks of some images of a have-file, 8 bytes each in memory."""

    def __init__(self, have: HaveFile, images: Collection[Digest]) -> None:
        """Counts on those of `images` only."""
        joined = b"".join(chunks for image, chunks in have.images if image in images)
        view = _Prefixes(joined)
        self._view = _Prefixes(b"".join(sorted(view[place] for place in range(len(view)))))

    def __contains__(self, digest: bytes) -> bool:
        """Whether the gateway has a chunk."""
        wanted = digest[:HAVE_PREFIX_BYTES]
        place = bisect_left(self._view, wanted)
        return place < len(self._view) and self._view[place] == wanted


class _Prefixes:
    """Concatenated prefixes as a sequence."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data) // HAVE_PREFIX_BYTES

    def __getitem__(self, place: int) -> bytes:
        start = place * HAVE_PREFIX_BYTES
        return self._data[start : start + HAVE_PREFIX_BYTES]


def decode_have(data: bytes) -> HaveFile:
    """Reads a have-file.

    Raises:
        EncodingError: malformed or over its bounds.
    """
    if len(data) > HAVE_FILE_BYTES_MAX or data[: len(HAVE_MAGIC)] != HAVE_MAGIC:
        raise EncodingError("not a have-file of this version")
    fields = Fields(
        decode_canonical(data[len(HAVE_MAGIC) :], bytes_max=HAVE_FILE_BYTES_MAX), "have-file"
    )
    fields.constant(0, 1)
    have = HaveFile(
        chain=ChainId(fields.digest(1)),
        era=fields.uint(2),
        height=fields.uint(3),
        epoch=fields.uint(4),
        nonce=fields.bytes(5, size=NONCE_BYTES),
        images=fields.items(6, _read_held, maximum=HAVE_IMAGES_MAX),
    )
    fields.finish()
    return have


def _read_held(value: Value) -> tuple[Digest, bytes]:
    image, chunks = as_array(value, "have-file's image", size=2)
    maximum = HAVE_CHUNKS_MAX * HAVE_PREFIX_BYTES
    return as_digest(image, "have-file's image"), as_bytes(chunks, "chunks", maximum=maximum)


def check_regular(file: BinaryIO) -> int:
    """Refuses devices, pipes and folders; returns the size, bytes.

    Raises:
        BundleError: it is no regular file.
    """
    found = os.fstat(file.fileno())
    if not stat.S_ISREG(found.st_mode):
        raise BundleError("not a regular file")
    return found.st_size
