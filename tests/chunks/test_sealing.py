"""Sealed chunks: what a thief, a forger and a careless publisher run into."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunks.file_store import FileStore
from chunks.layout import fixed_parameters
from chunks.memory_store import MemoryStore
from chunks.recipe import Recipe
from chunks.room import StoreLimits
from chunks.sealing import ChunkOpener, OpeningPass, PlainLayout, SealError, SealingPass
from chunks.store import ChunkStore, DiskFullError
from protocol.digest import ChainId, DidId, Digest, sha256
from protocol.errors import DigestMismatchError, LocalProtocolError, PolicyError, VerificationError
from protocol.manifest import ChunkerKind, ChunkerParameters
from protocol.sealing import CHUNK_OVERHEAD_BYTES, ContentKey, RingName, Sealing, plain_prefix

NAME = RingName(
    chain=ChainId(sha256(b"chain")), publisher=DidId(sha256(b"p")), group="fleet", generation=1
)
KEY = ContentKey(b"\7" * 32, NAME)
OTHER = ContentKey(b"\7" * 32, replace(NAME, generation=2))
SEALING = Sealing(ring=KEY.ring(), generation=1, nonce=bytes(16))
IMAGE = hashlib.shake_256(b"plain").digest(5000)
CDC = ChunkerParameters(kind=ChunkerKind.FASTCDC, minimum=64, average=256, maximum=1024)


def sealed(image: bytes = IMAGE, size: int = 1000) -> tuple[list[bytes], Digest]:
    """The chunks of an image, cut every `size` bytes, and its plain digest."""
    sealing = SealingPass(KEY, SEALING)
    chunks = [
        sealing.seal(memoryview(image)[start : start + size])
        for start in range(0, len(image), size)
    ]
    return chunks, sealing.plain_digest()


def opened(chunks: list[bytes], plain_digest: Digest, key: ContentKey = KEY) -> bytes:
    opening = OpeningPass(key, SEALING, plain_digest)
    plain = b"".join(opening.open(chunk) for chunk in chunks)
    assert opening.finish() == sha256(plain)
    return plain


@given(st.binary(min_size=1, max_size=3000), st.integers(1, 700))
def test_what_was_sealed_opens(image: bytes, size: int) -> None:
    chunks, plain_digest = sealed(image, size)
    assert all(image not in chunk or len(image) < 4 for chunk in chunks)
    assert opened(chunks, plain_digest) == image


def test_equal_chunks_stay_equal_under_one_ring_and_nowhere_else() -> None:
    block = memoryview(b"the same block" * 10)
    passes = [SealingPass(KEY, SEALING) for _ in range(2)]
    first, again = passes[0].seal(block), passes[0].seal(block)
    assert first == again == passes[1].seal(block)
    elsewhere = Sealing(ring=OTHER.ring(), generation=2, nonce=bytes(16))
    assert SealingPass(OTHER, elsewhere).seal(block) != first
    with pytest.raises(SealError):
        ChunkOpener(OTHER).open(first)


def test_the_plain_digest_confirms_no_guess_without_the_key() -> None:
    """All that is public (ring, nonce, digests) gives no way to test a candidate image."""
    _, plain_digest = sealed()
    public = [b"", bytes(32), SEALING.ring, SEALING.nonce, SEALING.nonce * 2, KEY.check()]
    guesses = [sha256(salt + IMAGE) for salt in public]
    guesses += [sha256(plain_prefix(salt) + IMAGE) for salt in public if len(salt) == 32]
    assert plain_digest not in guesses
    assert plain_digest == sha256(plain_prefix(KEY.salt(SEALING)) + IMAGE)
    other_release = Sealing(ring=KEY.ring(), generation=1, nonce=b"\1" * 16)
    again = SealingPass(KEY, other_release)
    again.seal(memoryview(IMAGE))
    assert again.plain_digest() != plain_digest  # nor do two releases of one image show as one


@given(st.integers(0, 1015), st.integers(1, 255))
def test_no_altered_byte_opens(place: int, flip: int) -> None:
    (first, *_), _ = sealed()
    altered = bytearray(first)
    altered[place] ^= flip
    with pytest.raises(SealError):
        ChunkOpener(KEY).open(bytes(altered))


@pytest.mark.parametrize("cut", [0, 1, CHUNK_OVERHEAD_BYTES, 500, 1015])
def test_no_shortened_chunk_opens(cut: int) -> None:
    (first, *_), _ = sealed()
    with pytest.raises(SealError):
        ChunkOpener(KEY).open(first[:cut])


def test_moved_missing_and_doubled_chunks_are_found_at_the_end() -> None:
    """Each chunk is genuine, so each opens; what they make is not the image."""
    chunks, plain_digest = sealed()
    foreign, _ = sealed(b"another release" * 100)
    for wrong in (
        chunks[::-1],
        [chunks[1], chunks[0], *chunks[2:]],
        chunks[:-1],
        chunks[1:],
        [*chunks, chunks[0]],
        [*chunks[:2], chunks[1], *chunks[2:]],
        [foreign[0], *chunks[1:]],
        [],
    ):
        opening = OpeningPass(KEY, SEALING, plain_digest)
        for chunk in wrong:
            opening.open(chunk)
        with pytest.raises(DigestMismatchError):
            opening.finish()


def test_a_key_of_another_ring_begins_nothing() -> None:
    with pytest.raises(VerificationError, match="another ring"):
        SealingPass(OTHER, SEALING)
    with pytest.raises(VerificationError, match="another ring"):
        OpeningPass(OTHER, SEALING, sha256(b""))


@given(st.lists(st.integers(17, 200), min_size=1, max_size=40))
def test_the_plain_layout_is_that_of_the_opened_chunks(lengths: list[int]) -> None:
    layout = PlainLayout(Recipe(lengths, bytes(32 * len(lengths))))
    ends = [0]
    for length in lengths:
        ends.append(ends[-1] + length - CHUNK_OVERHEAD_BYTES)
    assert layout.size_bytes == ends[-1]
    for index, (start, end) in enumerate(pairwise(ends)):
        assert layout.offset(index) == start
        assert layout.index_at(start) == layout.index_at(end - 1) == index
    for outside in (-1, ends[-1]):
        with pytest.raises(LocalProtocolError):
            layout.index_at(outside)


def test_a_recipe_of_too_short_chunks_has_no_plain_layout() -> None:
    with pytest.raises(SealError, match="too short"):
        PlainLayout(Recipe([100, 16], bytes(64)))


# -- staging ------------------------------------------------------------------------------------


def stores(path: Path, quota_bytes: int | None = None) -> list[ChunkStore]:
    return [
        FileStore.open(path / "store", limits=StoreLimits(quota_bytes=quota_bytes)),
        MemoryStore(quota_bytes=quota_bytes),
    ]


def test_stores_stage_what_the_sealer_makes_cut_on_plain_bytes(tmp_path: Path) -> None:
    source = tmp_path / "image"
    source.write_bytes(IMAGE)
    made = []
    for store in stores(tmp_path):
        sealing = SealingPass(KEY, SEALING)
        plain = store.stage(source, CDC)
        staged = store.stage(source, CDC, sealing)
        assert [length + 16 for length in plain.recipe.lengths] == list(staged.recipe.lengths)
        chunks = [
            store.read_chunk(staged.image, index, staged=True)
            for index in range(staged.recipe.chunk_count)
        ]
        assert sha256(b"".join(chunks)) == staged.image
        assert staged.size_bytes == len(IMAGE) + 16 * len(chunks)
        assert opened(chunks, sealing.plain_digest()) == IMAGE
        made.append((staged.image, staged.recipe))
        store.close()
    assert made[0] == made[1]


def test_a_small_change_leaves_most_sealed_chunks_as_they_were(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(IMAGE)
    new.write_bytes(IMAGE[:2500] + b"inserted" + IMAGE[2500:])
    store = MemoryStore()
    sets = []
    for source in (old, new):
        staged = store.stage(source, CDC, SealingPass(KEY, SEALING))
        sets.append({staged.recipe.digest(i) for i in range(staged.recipe.chunk_count)})
    assert len(sets[0] & sets[1]) >= len(sets[1]) - 4


def test_the_quota_counts_the_tags_before_anything_is_written(tmp_path: Path) -> None:
    source = tmp_path / "image"
    source.write_bytes(IMAGE)
    for store in stores(tmp_path, quota_bytes=len(IMAGE) + 79):
        with pytest.raises(DiskFullError):
            store.stage(source, fixed_parameters(1000), SealingPass(KEY, SEALING))
        assert store.staged_images() == ()
        store.stage(source, fixed_parameters(1000))
        store.close()


def test_an_empty_image_is_not_sealed(tmp_path: Path) -> None:
    source = tmp_path / "image"
    source.touch()
    for store in stores(tmp_path):
        with pytest.raises(PolicyError):
            store.stage(source, CDC, SealingPass(KEY, SEALING))
        store.close()
