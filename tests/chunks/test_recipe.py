"""Recipes and their pages: round trips, bounds, and everything a lying peer may send."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chunks.recipe import Recipe, RecipeBuilder, recipe_leaf, recipe_leaves
from chunks.recipe_page import (
    RECIPE_PAGE_BYTES_MAX,
    RecipeAssembler,
    RecipeContradictionError,
    RecipePage,
    RecipePager,
    decode_recipe_page,
    make_page,
    make_pages,
    page_count,
    verify_page,
)
from protocol.digest import Digest, sha256
from protocol.encoding import encode_canonical
from protocol.errors import EncodingError, LocalProtocolError, SwarmError, VerificationError
from protocol.limits import (
    CHUNK_BYTES_MAX,
    CHUNKS_PER_COMPONENT_MAX,
    IMAGE_BYTES_MAX,
    RECIPE_PAGE_LEAVES,
)
from protocol.merkle import leaf_hash, merkle_root
from tests.chunks.chunk_images import FIXED_1000, SMALL_CDC, Sample, generated, recipe_of

VECTORS = Path(__file__).parents[1] / "vectors" / "chunks"


@lru_cache(maxsize=16)
def made_up(count: int) -> Recipe:
    """A recipe of `count` chunks whose bytes nobody has seen."""
    return Recipe(
        (1 + (7 * index) % 1_000 for index in range(count)),
        generated(f"recipe {count}", 32 * count),
    )


def assembler(recipe: Recipe, **changes: int) -> RecipeAssembler:
    numbers = {"chunk_count": recipe.chunk_count, "size_bytes": recipe.size_bytes} | changes
    return RecipeAssembler(root=recipe.root, **numbers)


# --- recipes ---


def test_what_a_recipe_tells() -> None:
    data = generated("image", 2_500)
    recipe = recipe_of(data, FIXED_1000)
    assert (recipe.chunk_count, recipe.size_bytes) == (3, 2_500)
    assert [recipe.offset(i) for i in range(3)] == [0, 1_000, 2_000]
    assert list(recipe.lengths) == [recipe.length(i) for i in range(3)] == [1_000, 1_000, 500]
    assert recipe.digest(2) == sha256(data[2_000:])
    assert [recipe.index_at(o) for o in (0, 999, 1_000, 2_499)] == [0, 0, 1, 2]
    for offset in (-1, 2_500):
        with pytest.raises(LocalProtocolError):
            recipe.index_at(offset)
    for index in (-1, 3):
        with pytest.raises(LocalProtocolError):
            recipe.digest(index)
    assert recipe == recipe_of(data)
    assert hash(recipe) == hash(recipe_of(data))
    assert recipe != recipe_of(data, SMALL_CDC)
    assert recipe != "recipe"


def test_the_root_is_the_tree_of_rfc_6962_over_the_leaves() -> None:
    recipe = made_up(5)
    leaves = [
        leaf_hash(encode_canonical([recipe.length(i), bytes(recipe.digest(i))])) for i in range(5)
    ]
    assert recipe.leaves() == leaves
    assert recipe.root == merkle_root(leaves)


def test_repeats() -> None:
    recipe = recipe_of(bytes(2_000) + generated("x", 1_000) + bytes(1_000) + bytes(10))
    assert {chunk: list(found) for chunk, found in recipe.repeats.items()} == {
        sha256(bytes(1_000)): [0, 1, 3]
    }
    assert Recipe([1, 2], 2 * sha256(b"x")).repeats == {}


@pytest.mark.parametrize(
    ("lengths", "digests"),
    [
        ([], b""),
        ([0], bytes(32)),
        ([5, 0], bytes(64)),
        ([-1], bytes(32)),
        ([CHUNK_BYTES_MAX + 1], bytes(32)),
        ([1], bytes(31)),
        ([1], bytes(64)),
        ([1, 1], bytes(32)),
    ],
)
def test_recipes_that_cannot_be(lengths: list[int], digests: bytes) -> None:
    with pytest.raises(VerificationError):
        Recipe(lengths, digests)


@pytest.mark.slow
def test_recipes_at_their_bounds() -> None:
    count = CHUNKS_PER_COMPONENT_MAX
    digests = bytes(32 * count)
    assert Recipe([65_536] * count, digests).size_bytes == IMAGE_BYTES_MAX
    with pytest.raises(VerificationError, match="bytes"):
        Recipe([65_536] * (count - 1) + [65_537], digests)
    with pytest.raises(VerificationError, match="chunks"):
        Recipe([1] * (count + 1), digests + bytes(32))


def test_an_endless_list_of_lengths_is_cut_off() -> None:
    taken = 0

    def endless() -> object:
        nonlocal taken
        while True:
            taken += 1
            yield 0 if taken > 3 else 1

    with pytest.raises(VerificationError, match="chunk 3 of 0 bytes"):
        Recipe(endless(), b"")  # type: ignore[arg-type]
    assert taken == 4


def test_builder() -> None:
    builder = RecipeBuilder()
    builder.add(3, sha256(b"abc"))
    assert builder.chunk_count == 1
    assert builder.build() == Recipe([3], sha256(b"abc"))


# --- pages ---

COUNTS = [1, 2, 1_023, 1_024, 1_025, 2_048, 2_049, 5_000]


@pytest.mark.parametrize("count", COUNTS)
def test_pages_there_and_back(count: int) -> None:
    recipe = made_up(count)
    pages = make_pages(recipe)
    assert len(pages) == page_count(count)
    collector = assembler(recipe)
    for page in reversed(pages):
        encoded = page.encode()
        assert len(encoded) <= RECIPE_PAGE_BYTES_MAX
        decoded = decode_recipe_page(encoded)
        assert decoded == page
        assert page.page_index in collector.missing()
        assert collector.add(decoded) is True
        assert collector.add(decoded) is False
    assert collector.is_complete
    assert collector.missing() == ()
    assert collector.recipe() == recipe


def test_a_pager_gives_the_recipes_root() -> None:
    for count in COUNTS:
        assert RecipePager(made_up(count)).root == made_up(count).root


@pytest.mark.slow
def test_the_largest_page_fits_its_bound() -> None:
    count = CHUNKS_PER_COMPONENT_MAX
    recipe = Recipe([65_536] * count, generated("largest", 32 * 1024) * 256)
    pager = RecipePager(recipe)
    for index in (0, 128, 255):
        encoded = pager.page(index).encode()
        assert RECIPE_PAGE_BYTES_MAX - 32 < len(encoded) <= RECIPE_PAGE_BYTES_MAX
        verify_page(decode_recipe_page(encoded), pager.root, count)
        assert len(pager.page(index).proof) == 8


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40_000), st.integers(0, 500))
def test_from_bytes_to_chunks_to_pages_and_back(size: int, seed: int) -> None:
    image = Sample(generated(f"whole {seed}", size), SMALL_CDC)
    collector = RecipeAssembler(
        root=image.recipe.root,
        chunk_count=image.recipe.chunk_count,
        size_bytes=size,
        chunk_bytes_max=SMALL_CDC.maximum,
    )
    for page in make_pages(image.recipe):
        collector.add(decode_recipe_page(page.encode()))
    assert collector.recipe() == image.recipe


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@given(st.data())
def test_any_altered_byte_is_refused(data: st.DataObject) -> None:
    recipe = made_up(data.draw(st.sampled_from([2, 40, 1_025, 2_060])))
    pages = make_pages(recipe)
    encoded = bytearray(pages[-1].encode())
    position = data.draw(st.integers(0, len(encoded) - 1))
    encoded[position] ^= data.draw(st.integers(1, 255))
    collector = assembler(recipe)
    with pytest.raises(VerificationError):
        collector.add(decode_recipe_page(bytes(encoded)))
    assert collector.missing() == tuple(range(len(pages)))


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_truncated_and_extended_pages_are_refused(data: st.DataObject) -> None:
    encoded = make_page(made_up(30), 0).encode()
    end = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(EncodingError):
        decode_recipe_page(encoded[:end])
    with pytest.raises(EncodingError):
        decode_recipe_page(encoded + data.draw(st.binary(min_size=1, max_size=9)))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(EncodingError):
        decode_recipe_page(data)


def replaced(page: RecipePage, **changes: object) -> RecipePage:
    values = {name: getattr(page, name) for name in ("page_index", "lengths", "digests", "proof")}
    return RecipePage(**(values | changes))


def test_pages_in_the_wrong_place() -> None:
    recipe, other = made_up(2_060), made_up(2_061)
    first, second, last = make_pages(recipe)
    wrong = [
        replaced(first, page_index=1),
        replaced(first, page_index=2),
        replaced(first, page_index=3),
        replaced(first, proof=second.proof),
        replaced(first, proof=()),
        replaced(first, proof=first.proof[:-1]),
        replaced(first, proof=(*first.proof, first.proof[0])),
        replaced(first, lengths=second.lengths),
        replaced(first, digests=second.digests),
        replaced(last, lengths=last.lengths[:-1], digests=last.digests[:-32]),
        replaced(last, page_index=0),
        make_pages(other)[0],
        make_pages(other)[2],
    ]
    for page in wrong:
        with pytest.raises(VerificationError):
            verify_page(page, recipe.root, recipe.chunk_count)
    for root, count in (
        (other.root, 2_060),
        (recipe.root, 1_024),
        (Digest(b""), 2_060),
    ):
        with pytest.raises(VerificationError):
            verify_page(first, root, count)
    with pytest.raises(VerificationError):
        verify_page(last, recipe.root, 2_061)


def encoded_page(**changes: object) -> bytes:
    fields: dict[object, object] = {0: 0, 1: bytes((0, 0, 0, 9)), 2: bytes(32), 3: []}
    fields |= {int(name[1:].replace("m", "-")): value for name, value in changes.items()}
    present = {key: value for key, value in fields.items() if value is not None}
    return encode_canonical(present)  # type: ignore[arg-type]


def test_the_smallest_page_is_accepted() -> None:
    assert decode_recipe_page(encoded_page()).lengths == (9,)
    assert decode_recipe_page(encoded_page(_m1=b"extension")).lengths == (9,)


@pytest.mark.parametrize(
    "changes",
    [
        {"_0": None},
        {"_1": None},
        {"_2": None},
        {"_3": None},
        {"_0": 256},
        {"_0": -1},
        {"_0": b"0"},
        {"_4": 1},
        {"_1": b""},
        {"_1": bytes(3)},
        {"_1": bytes(5)},
        {"_1": bytes(4)},
        {"_1": [9]},
        {"_1": (CHUNK_BYTES_MAX + 1).to_bytes(4, "big")},
        {"_1": bytes((0, 0, 0, 9)) * 2},
        {"_2": bytes(31)},
        {"_2": bytes(64)},
        {"_2": "text"},
        {"_3": [bytes(31)]},
        {"_3": [1]},
        {"_3": [bytes(32)] * 9},
        {"_3": bytes(32)},
        {"_1": bytes((0, 0, 0, 9)) * 1_025, "_2": bytes(32 * 1_025)},
    ],
)
def test_pages_with_one_thing_wrong(changes: dict[str, object]) -> None:
    with pytest.raises(EncodingError):
        decode_recipe_page(encoded_page(**changes))


def test_a_page_over_its_bound_is_not_even_parsed() -> None:
    with pytest.raises(EncodingError, match=f"at most {RECIPE_PAGE_BYTES_MAX}"):
        decode_recipe_page(bytes(RECIPE_PAGE_BYTES_MAX + 1))


def test_pages_that_cannot_be_made() -> None:
    with pytest.raises(LocalProtocolError):
        make_page(made_up(5), 1)
    for changes in (
        {"page_index": 256},
        {"page_index": -1},
        {"lengths": (), "digests": b""},
        {"proof": (sha256(b""),) * 9},
    ):
        with pytest.raises(EncodingError):
            replaced(make_page(made_up(5), 0), **changes)


# --- assembling ---


def test_sizes_that_contradict_the_manifest() -> None:
    recipe = made_up(2_060)
    for size in (recipe.size_bytes - 1, recipe.size_bytes + 1):
        collector = assembler(recipe, size_bytes=size)
        first, second, last = make_pages(recipe)
        collector.add(first)
        collector.add(second)
        with pytest.raises(RecipeContradictionError):
            collector.add(last)
        assert not collector.is_complete
    # Too much is noticed on the first page, not after the last.
    collector = assembler(recipe, size_bytes=2_060)
    with pytest.raises(RecipeContradictionError):
        collector.add(make_page(recipe, 1))
    collector = assembler(recipe, chunk_bytes_max=999)
    with pytest.raises(RecipeContradictionError, match="999"):
        collector.add(make_page(recipe, 0))


@pytest.mark.parametrize(
    ("count", "size"),
    [
        (0, 10),
        (-1, 10),
        (CHUNKS_PER_COMPONENT_MAX + 1, IMAGE_BYTES_MAX),
        (2, 1),
        (1, 0),
        (1, IMAGE_BYTES_MAX + 1),
    ],
)
def test_numbers_no_manifest_carries(count: int, size: int) -> None:
    with pytest.raises(LocalProtocolError):
        RecipeAssembler(root=sha256(b""), chunk_count=count, size_bytes=size)


def test_a_recipe_before_its_last_page() -> None:
    recipe = made_up(2_060)
    collector = assembler(recipe)
    collector.add(make_page(recipe, 1))
    assert collector.missing() == (0, 2)
    with pytest.raises(LocalProtocolError, match="2 recipe pages"):
        collector.recipe()


def test_errors_are_of_the_project() -> None:
    assert issubclass(RecipeContradictionError, SwarmError)
    assert RECIPE_PAGE_LEAVES == 1_024


# --- vectors ---


@pytest.mark.parametrize(
    "vector",
    json.loads((VECTORS / "recipes.json").read_text()),
    ids=lambda vector: str(vector["name"]),
)
def test_vectors(vector: dict[str, object]) -> None:
    count = int(str(vector["chunk_count"]))
    seed = str(vector["seed"])
    recipe = Recipe((1 + (7 * i) % 1_000 for i in range(count)), generated(seed, 32 * count))
    assert recipe_leaf(recipe.length(0), recipe.digest(0)).hex() == vector["first_leaf"]
    assert recipe.root.hex() == vector["root"]
    assert recipe.size_bytes == vector["size"]
    encoded = [page.encode() for page in make_pages(recipe)]
    assert [sha256(page).hex() for page in encoded] == vector["page_digests"]
    if vector["page"] is not None:
        assert encoded[0].hex() == vector["page"]


@pytest.mark.parametrize("length", [1, 23, 24, 255, 256, 65535, 65536, 2**20])
def test_many_leaves_are_hashed_as_one_is(length: int) -> None:
    digests = bytes(range(64))
    expected = [recipe_leaf(length, digests[:32]), recipe_leaf(7, digests[32:])]
    assert recipe_leaves([length, 7], digests) == expected
