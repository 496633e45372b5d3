"""Manifests: bounds, one order, identifiers, signatures."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from protocol.cose import sign
from protocol.digest import DidId, Digest, ManifestId, sha256
from protocol.encoding import decode_canonical, encode_canonical
from protocol.errors import EncodingError, SignatureError
from protocol.limits import (
    CHUNK_BYTES_MAX,
    CHUNKS_PER_COMPONENT_MAX,
    COMPONENTS_MAX,
    GIB,
    IMAGE_BYTES_MAX,
    MANIFEST_BYTES_MAX,
    OBJECTS_MAX,
)
from protocol.manifest import (
    DEFAULT_CHUNKER,
    LARGE_CHUNKER,
    MANIFEST_TAG,
    ChunkerKind,
    ChunkerParameters,
    Component,
    Manifest,
    PatchReference,
    decode_manifest,
    parse_manifest,
    sign_manifest,
)
from tests.support.strategies import CHAIN, OTHER_CHAIN, key


def component(**changes: Any) -> Component:
    values = {
        "name": "rootfs",
        "size": 40_000,
        "digest": sha256(b"image"),
        "chunker": DEFAULT_CHUNKER,
        "chunk_count": 3,
        "recipe_root": sha256(b"recipe"),
    }
    return Component(**{**values, **changes})


def manifest(**changes: Any) -> Manifest:
    values = {
        "era": 0,
        "publisher": DidId(sha256(b"publisher")),
        "product": "gateway-os",
        "version": "1.2.3",
        "sequence": 7,
        "groups": ("edge", "lab"),
        "components": (component(),),
    }
    return Manifest(**{**values, **changes})


def patch(number: int = 0, **changes: Any) -> PatchReference:
    values = {
        "base": sha256(b"base %d" % number),
        "size": 3000,
        "digest": sha256(b"patch %d" % number),
        "chunker": fixed(1024),
        "chunk_count": 3,
        "recipe_root": sha256(b"recipe of patch"),
    }
    return PatchReference(**{**values, **changes})


def by_base(*patches: PatchReference) -> tuple[PatchReference, ...]:
    return tuple(sorted(patches, key=lambda one: one.base))


def fixed(size: int) -> ChunkerParameters:
    return ChunkerParameters(kind=ChunkerKind.FIXED, minimum=size, average=size, maximum=size)


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        (ChunkerKind.FASTCDC, (0, 1, 1)),
        (ChunkerKind.FASTCDC, (2, 1, 4)),
        (ChunkerKind.FASTCDC, (1, 4, 2)),
        (ChunkerKind.FASTCDC, (1, 3, 4)),
        (ChunkerKind.FASTCDC, (1, 1024, CHUNK_BYTES_MAX + 1)),
        (ChunkerKind.FIXED, (1, 2, 2)),
        (ChunkerKind.FIXED, (2, 2, 4)),
    ],
)
def test_chunker_sizes_agree(kind: ChunkerKind, sizes: tuple[int, int, int]) -> None:
    with pytest.raises(EncodingError):
        ChunkerParameters(kind=kind, minimum=sizes[0], average=sizes[1], maximum=sizes[2])


@pytest.mark.parametrize("kind", [0, 3, 2**20])
def test_unknown_chunkers_are_refused(kind: int) -> None:
    with pytest.raises(EncodingError, match="not known"):
        ChunkerParameters.from_value([kind, 1, 1, 1])


@pytest.mark.parametrize(
    "changes",
    [
        {"size": 0},
        {"size": IMAGE_BYTES_MAX + 1, "chunk_count": CHUNKS_PER_COMPONENT_MAX},
        {"chunk_count": 0},
        {"chunk_count": CHUNKS_PER_COMPONENT_MAX + 1, "size": 4 * GIB},
        {"size": 3 * 65536 + 1},  # three chunks of 64 KiB cannot hold it
        {"size": 8192},  # two full minimal chunks leave nothing for the third
        {"size": 2, "chunk_count": 3},
        {"chunker": fixed(1000), "size": 2000},
        {"chunker": fixed(1000), "size": 3001},
    ],
)
def test_sizes_and_counts_that_cannot_be(changes: dict[str, Any]) -> None:
    with pytest.raises(EncodingError):
        component(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"size": 3 * 65536},
        {"size": 8193},
        {"size": 1, "chunk_count": 1},
        {"chunker": fixed(1000), "size": 2001},
        {"chunker": LARGE_CHUNKER, "size": 16 * GIB, "chunk_count": CHUNKS_PER_COMPONENT_MAX},
    ],
)
def test_sizes_and_counts_at_their_bounds(changes: dict[str, Any]) -> None:
    assert component(**changes).chunk_count >= 1


@pytest.mark.parametrize(
    "name",
    ["", "../etc", "a/b", ".hidden", "-o", "a b", "a\u0308", "\u0430", "n" * 65, "a\n", "a."],
)
def test_component_and_product_names_are_identifiers(name: str) -> None:
    with pytest.raises(EncodingError):
        component(name=name)
    with pytest.raises(EncodingError):
        manifest(product=name)
    with pytest.raises(EncodingError):
        sign_manifest(manifest(dependencies=((name, 1),)), key(1), CHAIN)


@pytest.mark.parametrize("name", ["ESP32-C3", "micro:bit", "libstdc++", "a", "9", "x" * 64])
def test_usual_product_names_are_identifiers(name: str) -> None:
    assert manifest(product=name).product == name


A, B = ManifestId(b"a" * 32), ManifestId(b"b" * 32)


@pytest.mark.parametrize(
    "changes",
    [
        {"groups": ("lab", "edge")},
        {"groups": ("edge", "edge")},
        {"groups": ("Edge",)},
        {"groups": tuple(f"g{index:02}" for index in range(17))},
        {"components": (component(), component())},
        {"components": ()},
        {"stepping_stones": (B, A)},
        {"stepping_stones": (A, A)},
        {"dependencies": (("b", 1), ("a", 1))},
        {"dependencies": (("a", 1), ("a", 2))},
    ],
)
def test_lists_have_one_order_and_no_repetition(changes: dict[str, Any]) -> None:
    with pytest.raises(EncodingError):
        manifest(**changes)


def test_all_components_together_are_one_image() -> None:
    half = {"chunker": LARGE_CHUNKER, "chunk_count": CHUNKS_PER_COMPONENT_MAX}
    parts = (component(name="a", size=8 * GIB, **half), component(name="b", size=8 * GIB, **half))
    assert manifest(components=parts).size == IMAGE_BYTES_MAX
    with pytest.raises(EncodingError, match="image size"):
        manifest(components=(*parts, component(name="c")))


@pytest.mark.parametrize(
    "changes",
    [
        {"sequence": 0},
        {"sequence": 2**63},
        {"era": -1},
        {"expires_ms": -1},
        {"version": ""},
        {"version": "1.0\u202e"},
        {"version": "v" * 65},
        {"publisher": DidId(bytes(31))},
        {"groups": ()},
        {"metadata": {"": "x"}},
        {"metadata": {"k" * 65: "x"}},
        {"metadata": {"k": "x" * 513}},
        {"metadata": {"k": "line\nline"}},
        {"metadata": {"k\u200b": "x"}},
        {"metadata": {str(index): "" for index in range(33)}},
        {"metadata": {"k": 1}},
        {"sbom_digest": Digest(bytes(31))},
        {"components": tuple(component(name=f"c{index}") for index in range(17))},
        {"stepping_stones": tuple(ManifestId(bytes([index]) * 32) for index in range(17))},
        {"dependencies": tuple((f"p{index:02}", 1) for index in range(17))},
        {"components": (component(vendor_id=bytes(15)),)},
    ],
)
def test_what_cannot_be_read_cannot_be_signed(changes: dict[str, Any]) -> None:
    with pytest.raises(EncodingError):
        sign_manifest(manifest(**changes), key(1), CHAIN)


def test_the_largest_manifest_keeps_its_bound() -> None:
    parts = tuple(component(name=f"component-{index}") for index in range(COMPONENTS_MAX))
    made = sign_manifest(manifest(components=parts), key(1), CHAIN)
    assert len(made.signed.raw) < MANIFEST_BYTES_MAX // 4
    patched = tuple(
        component(
            name=f"component-{index}",
            patches=by_base(*(patch(4 * index + number) for number in range(4))),
        )
        for index in range(COMPONENTS_MAX)
    )
    made = sign_manifest(manifest(components=patched), key(1), CHAIN)
    assert len(made.manifest.objects) == OBJECTS_MAX
    assert len(made.signed.raw) < 13 * MANIFEST_BYTES_MAX // 16
    long = {f"key {index}": "x" * 512 for index in range(32)}
    with pytest.raises(EncodingError, match="at most 16384"):
        sign_manifest(manifest(metadata=long), key(1), CHAIN)


def test_patches_are_exchanged_behind_all_components() -> None:
    ours, theirs = by_base(patch(0), patch(1)), (patch(2),)
    parts = (
        component(name="z", patches=ours),
        component(name="y"),
        component(name="x", patches=theirs),
    )
    made = manifest(components=parts)
    assert made.objects == (*parts, *ours, *theirs)
    assert made.size == 3 * 40_000  # of the image, not of what helps to fetch it
    assert decode_manifest(made.encode()) == made


@pytest.mark.parametrize(
    "patches",
    [
        by_base(patch(0), patch(1))[::-1],
        (patch(0), patch(0, digest=sha256(b"x"))),
        by_base(*(patch(number) for number in range(5))),
        (patch(base=sha256(b"image")),),  # the component itself
        (patch(size=40_001, chunk_count=40),),
    ],
)
def test_patches_that_no_component_can_have(patches: tuple[PatchReference, ...]) -> None:
    with pytest.raises(EncodingError):
        component(patches=patches)


@pytest.mark.parametrize(
    "changes",
    [{"size": 0}, {"chunk_count": 2}, {"chunk_count": 4}, {"size": IMAGE_BYTES_MAX + 1}],
)
def test_sizes_of_a_patch_that_cannot_be(changes: dict[str, Any]) -> None:
    with pytest.raises(EncodingError):
        patch(**changes)


def test_a_patch_is_an_object_of_its_own() -> None:
    again = patch(1, digest=patch(0).digest)
    with pytest.raises(EncodingError, match="same object"):
        manifest(components=(component(patches=by_base(patch(0), again)),))
    with pytest.raises(EncodingError, match="same object"):
        manifest(components=(component(patches=(patch(digest=sha256(b"image")),)),))
    other = component(name="other", patches=(patch(3, digest=patch(0).digest),))
    with pytest.raises(EncodingError, match="same object"):
        manifest(components=(component(patches=(patch(0),)), other))


def test_components_and_patches_together_have_a_bound() -> None:
    sizes = {"chunker": LARGE_CHUNKER, "chunk_count": CHUNKS_PER_COMPONENT_MAX, "size": 8 * GIB}
    parts = (component(name="a", patches=(patch(**sizes),), **sizes),)
    assert len(manifest(components=parts).objects) == 2
    with pytest.raises(EncodingError, match="all objects"):
        manifest(components=(*parts, component(name="b")))


def extended_patch() -> dict[int, Any]:
    """A patch with a field that nobody knows."""
    return {**dict(patch().to_value()), 6: 1}  # type: ignore[arg-type]


@pytest.mark.parametrize("patches", [[], [1], None, [extended_patch()]])
def test_malformed_patches_are_refused(patches: Any) -> None:
    part = {**dict(component().to_value()), 9: patches}  # type: ignore[arg-type]
    with pytest.raises(EncodingError):
        decode_manifest(encode_canonical({**fields_of(manifest()), 7: [part]}))


def fields_of(value: Manifest) -> dict[int | str, Any]:
    decoded = decode_canonical(value.encode(), bytes_max=MANIFEST_BYTES_MAX)
    assert isinstance(decoded, dict)
    return dict(decoded)


@pytest.mark.parametrize(
    ("number", "value"),
    [
        (7, [{**dict(component().to_value()), 10: 1}]),  # type: ignore[arg-type]
        (7, [{**dict(component().to_value()), 2: [-43, bytes(48)]}]),  # type: ignore[arg-type]
        (7, [{**dict(component().to_value()), 6: None}]),  # type: ignore[arg-type]
        (10, [[b"product", 1]]),
        (10, [["product", -1]]),
        (11, None),
        (13, [["k", "v"]]),
        (13, {1: "x"}),
        (6, [1]),
    ],
)
def test_malformed_parts_are_refused(number: int, value: Any) -> None:
    with pytest.raises(EncodingError):
        decode_manifest(encode_canonical({**fields_of(manifest()), number: value}))


def test_extensions_are_signed_and_survive_at_every_level() -> None:
    part = {**dict(component().to_value()), -3: "later"}  # type: ignore[arg-type]
    payload = encode_canonical({**fields_of(manifest()), 7: [part], -1: 5})
    raw = sign(payload, key(1), tag=MANIFEST_TAG, chain=CHAIN, era=0)
    read = parse_manifest(raw)
    read.verify(key(1).public, CHAIN)
    assert read.manifest == manifest()
    assert read.signed.raw == raw
    assert read.manifest_id == sha256(raw) != sign_manifest(manifest(), key(1), CHAIN).manifest_id


def test_signatures_bind_publisher_chain_and_era() -> None:
    made = sign_manifest(manifest(), key(1), CHAIN)
    made.verify(key(1).public, CHAIN)
    with pytest.raises(SignatureError):
        made.verify(key(2).public, CHAIN)
    with pytest.raises(SignatureError):
        made.verify(key(1).public, OTHER_CHAIN)
    later = dataclasses.replace(made, manifest=manifest(era=1))
    with pytest.raises(SignatureError):
        later.verify(key(1).public, CHAIN)


def test_an_announcement_cannot_pass_for_a_manifest() -> None:
    payload = manifest().encode()
    raw = sign(payload, key(1), tag="swarmd/announcement/1", chain=CHAIN, era=0)
    with pytest.raises(SignatureError):
        parse_manifest(raw).verify(key(1).public, CHAIN)
