"""The tables of manifests: order, look-ups by image, repeated entries, what readers see."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ledger.block_store import BlockStore, Durability
from protocol.digest import ManifestId, sha256
from protocol.errors import EncodingError
from protocol.manifest import SignedManifest
from tests.support.ledger import Lab, make_lab


@pytest.fixture
def lab() -> Lab:
    return make_lab()


@pytest.fixture
def store() -> BlockStore:
    return BlockStore(Path(":memory:"), Durability.BATCHED)


def naming(lab: Lab, *images: bytes, sequence: int = 1) -> SignedManifest:
    """A manifest with a component for each image."""
    component = lab.manifest().manifest.components[0]
    components = tuple(
        replace(component, name=f"part-{number}", digest=sha256(image))
        for number, image in enumerate(images)
    )
    return lab.manifest(sequence=sequence, components=components)


def keep(store: BlockStore, *manifests: SignedManifest) -> list[ManifestId]:
    with store.transaction() as database:
        store.manifests.insert(
            database, [(item.manifest_id, item.signed.raw) for item in manifests]
        )
    return [item.manifest_id for item in manifests]


def test_they_come_in_the_order_in_which_they_came_and_count_once(lab, store):
    made = [naming(lab, b"image %d" % number, sequence=number + 1) for number in range(300)]
    first = keep(store, *made[:200])
    assert keep(store, *made[150:]) == [item.manifest_id for item in made[150:]]
    names = [item.manifest_id for item in made]
    assert first == names[:200]
    assert len(store.manifests) == 300
    assert [*store.manifests.page(0), *store.manifests.page(256)] == names
    assert store.manifests.page(300) == ()
    assert store.manifests.newest(3) == tuple(reversed(names[-3:]))
    assert store.manifests.raw(names[7]) == made[7].signed.raw


def test_an_image_leads_to_all_that_name_it(lab, store):
    one = naming(lab, b"boot", b"system", sequence=1)
    two = naming(lab, b"system", b"system", sequence=2)  # twice in one manifest
    keep(store, one, two)
    assert store.manifests.naming(sha256(b"boot")) == (one.manifest_id,)
    assert store.manifests.naming(sha256(b"system")) == (one.manifest_id, two.manifest_id)
    assert store.manifests.naming(sha256(b"other")) == ()


def test_what_is_not_here_is_not_here(store):
    nothing = ManifestId(sha256(b"nothing"))
    assert nothing not in store.manifests
    assert store.manifests.raw(nothing) is None
    assert len(store.manifests) == 0
    assert store.manifests.newest(5) == ()


def test_a_malformed_one_enters_with_nothing_else(lab, store):
    good = naming(lab, b"image")
    with pytest.raises(EncodingError), store.transaction() as database:
        store.manifests.insert(
            database, [(good.manifest_id, good.signed.raw), (ManifestId(sha256(b"x")), b"x")]
        )
    assert good.manifest_id not in store.manifests
    assert store.manifests.naming(sha256(b"image")) == ()


def test_readers_see_what_is_committed_only(lab, tmp_path):
    store = BlockStore(tmp_path / "ledger.db", Durability.BATCHED)
    made = naming(lab, b"image")
    with store.transaction() as database:
        store.manifests.insert(database, [(made.manifest_id, made.signed.raw)])
        assert made.manifest_id not in store.manifests
    assert made.manifest_id in store.manifests
    store.close()
