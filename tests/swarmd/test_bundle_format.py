"""The form of bundles and have-files: one way to read, bounds before bytes, going on exactly."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.digest import ChainId, Digest, ManifestId, sha256
from protocol.encoding import decode_canonical, encode_canonical
from protocol.errors import EncodingError
from swarmd.bundle_format import (
    HAVE_CHUNKS_MAX,
    HAVE_MAGIC,
    MAGIC,
    SECTION_BYTES_MAX,
    BundleError,
    BundleHead,
    BundleObject,
    HaveFile,
    HeldChunks,
    Section,
    SectionKind,
    SectionReader,
    begin_bundle,
    check_regular,
    chunk_index,
    decode_have,
    decode_head,
    decode_object,
    resume_bundle,
)

CHAIN = ChainId(sha256(b"chain"))
BODIES = st.lists(
    st.tuples(st.sampled_from([kind for kind in SectionKind if kind != 10]), st.binary(min_size=1)),
    max_size=6,
)


def written(parts: list[tuple[SectionKind, bytes]]) -> bytes:
    file = io.BytesIO()
    writer = begin_bundle(file)
    for kind, body in parts:
        writer.write(kind, body)
    writer.finish()
    return file.getvalue()


def read(data: bytes) -> list[Section]:
    reader = SectionReader(io.BytesIO(data))
    found = [reader.next()]
    while found[-1].kind is not SectionKind.END:
        found.append(reader.next())
    assert reader.offset == len(data) == found[-1].end
    return found


small = BODIES.map(lambda parts: [(kind, body[: SECTION_BYTES_MAX[kind]]) for kind, body in parts])


@given(small)
def test_what_was_written_is_read(parts: list[tuple[SectionKind, bytes]]) -> None:
    assert [(one.kind, one.body) for one in read(written(parts))[:-1]] == parts


@given(small, st.data())
def test_every_cut_and_every_flipped_bit_is_noticed(
    parts: list[tuple[SectionKind, bytes]], data: st.DataObject
) -> None:
    whole = written(parts)
    for spoilt in (
        whole[: data.draw(st.integers(0, len(whole) - 1))],
        whole + b"\0",
        _flipped(whole, data.draw(st.integers(0, 8 * len(whole) - 1))),
    ):
        with pytest.raises(BundleError):
            read(spoilt)


def _flipped(data: bytes, bit: int) -> bytes:
    out = bytearray(data)
    out[bit >> 3] ^= 1 << (bit & 7)
    return bytes(out)


@given(small, st.integers(0, 6), st.binary(max_size=20))
def test_going_on_gives_the_same_file(
    parts: list[tuple[SectionKind, bytes]], kept: int, rest: bytes
) -> None:
    whole = written(parts)
    kept = min(kept, len(parts))
    ends = [len(MAGIC), *(section.end for section in read(whole))]
    file = io.BytesIO(whole[: ends[kept]] + rest)
    writer = resume_bundle(file, ends[kept], kept)
    for kind, body in parts[kept:]:
        writer.write(kind, body)
    writer.finish()
    assert file.getvalue() == whole


def test_a_file_that_shrinks_meanwhile_is_not_gone_on_with() -> None:
    with pytest.raises(BundleError, match="shorter"):
        resume_bundle(io.BytesIO(MAGIC), 100, 3)


class Counting(io.BytesIO):
    """Notes the largest read that was asked for."""

    largest = 0

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        self.largest = max(self.largest, size)
        return super().read(size)


@pytest.mark.parametrize("kind", list(SectionKind))
def test_no_length_beyond_its_kind_is_waited_for(kind: SectionKind) -> None:
    for size in (SECTION_BYTES_MAX[kind] + 1, 2**32 - 1, 0):
        file = Counting(MAGIC + bytes((kind,)) + size.to_bytes(4, "big") + bytes(100))
        with pytest.raises(BundleError, match=f"section {kind.name} of {size} bytes"):
            SectionReader(file).next()
        assert file.largest <= 16, "nothing was taken for it"


@pytest.mark.parametrize("data", [b"", MAGIC[:-1], MAGIC[:-1] + b"\x02", HAVE_MAGIC])
def test_other_files_are_no_bundles(data: bytes) -> None:
    with pytest.raises(BundleError):
        SectionReader(io.BytesIO(data))


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    with path.open("rb") as file:
        assert check_regular(file) == 5
    with Path("/dev/null").open("rb") as file, pytest.raises(BundleError):
        check_regular(file)


# -- heads, objects, chunks ---------------------------------------------------------------------

HEAD = BundleHead(
    chain=CHAIN,
    era=0,
    from_height=5,
    to_height=9,
    manifests=(ManifestId(sha256(b"m")),),
    have=sha256(b"have"),
)


def test_heads_and_objects_survive_their_encoding() -> None:
    assert decode_head(HEAD.encode()) == HEAD
    named = BundleObject(manifest=HEAD.manifests[0], component=15)
    assert decode_object(named.encode()) == named


@pytest.mark.parametrize(
    "change",
    [
        {0: 2},
        {1: b"x"},
        {3: 0},
        {3: 11},
        {5: [bytes(32)] * 2},
        {5: [bytes([number, *bytes(31)]) for number in range(65)]},
        {6: b"x"},
        {7: 1},
    ],
)
def test_malformed_heads_are_refused(change: dict[int, object]) -> None:
    value = decode_canonical(HEAD.encode(), bytes_max=4096)
    assert isinstance(value, dict)
    with pytest.raises(EncodingError):
        decode_head(encode_canonical({**value, **change}))  # type: ignore[dict-item]


def test_objects_and_chunk_indices_are_bounded() -> None:
    with pytest.raises(EncodingError):
        decode_object(encode_canonical({0: bytes(32), 1: 16}))
    assert chunk_index((2**18 - 1).to_bytes(4, "big") + b"x") == 2**18 - 1
    for body in ((2**18).to_bytes(4, "big") + b"x", bytes(4), b"\1"):
        with pytest.raises(BundleError):
            chunk_index(body)


# -- have-files ---------------------------------------------------------------------------------


def have(images: tuple[tuple[Digest, bytes], ...]) -> HaveFile:
    return HaveFile(chain=CHAIN, era=0, height=7, epoch=1, nonce=bytes(32), images=images)


@given(
    st.lists(
        st.tuples(st.binary(min_size=32, max_size=32), st.lists(st.integers(0, 2**20))), max_size=4
    )
)
def test_a_have_file_holds_what_was_put_in(images: list[tuple[bytes, list[int]]]) -> None:
    made = have(
        tuple(
            (Digest(image), b"".join(sha256(b"%d" % one)[:8] for one in chunks))
            for image, chunks in images
        )
    )
    assert decode_have(made.encode()) == made
    kept = {Digest(image) for image, _ in images[:2]}
    held = HeldChunks(made, kept)
    inside = {one for image, chunks in images if image in kept for one in chunks}
    for one in {*range(20), *inside}:
        assert (sha256(b"%d" % one) in held) is (one in inside)


BAD: list[Callable[[bytes], bytes]] = [
    lambda raw: raw[:-1],
    lambda raw: raw + b"\0",
    lambda raw: MAGIC + raw[len(MAGIC) :],
    lambda _raw: HAVE_MAGIC,
    lambda _raw: b"",
]


@pytest.mark.parametrize("spoil", BAD)
def test_malformed_have_files_are_refused(spoil: Callable[[bytes], bytes]) -> None:
    raw = have(((sha256(b"image"), bytes(16)),)).encode()
    with pytest.raises(EncodingError):
        decode_have(spoil(raw))


def test_have_files_are_bounded() -> None:
    for images in (
        ((sha256(b"image"), bytes(15)),),
        tuple((sha256(b"%d" % number), b"") for number in range(1025)),
        ((sha256(b"image"), bytes(8 * HAVE_CHUNKS_MAX + 8)),),
    ):
        with pytest.raises(EncodingError):
            have(images)
