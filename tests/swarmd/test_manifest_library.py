"""Manifests as a mapping over the database: bounded, lazy, strict about damage."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.block_store import BlockStore, Durability
from protocol.digest import ManifestId, sha256
from protocol.errors import StorageError
from protocol.manifest import SignedManifest
from swarmd import manifest_library
from swarmd.ledger_host import LedgerHost
from swarmd.manifest_library import ManifestLibrary
from swarmd.recent_map import RecentMap
from tests.support.ledger import Lab, advance, authorise, make_lab


@pytest.fixture
def lab() -> Lab:
    return make_lab()


@pytest.fixture
def store() -> BlockStore:
    return BlockStore(Path(":memory:"), Durability.BATCHED)


def keep(store: BlockStore, *manifests: SignedManifest) -> None:
    with store.transaction() as database:
        store.manifests.insert(
            database, [(item.manifest_id, item.signed.raw) for item in manifests]
        )


def test_it_is_the_mapping_of_what_was_proposed(lab, store):
    library = ManifestLibrary(store.manifests)
    made = [lab.manifest(sequence=number + 1) for number in range(5)]
    keep(store, *made)
    assert dict(library) == {item.manifest_id: item for item in made}
    assert list(library) == [item.manifest_id for item in made]
    assert len(library) == 5
    nothing = ManifestId(sha256(b"nothing"))
    assert nothing not in library
    assert library.get(nothing) is None
    assert "text" not in library
    assert library.newest(1) == (made[4].manifest_id,)


def test_memory_is_bounded_whatever_is_asked_for(lab, store, monkeypatch):
    made = [lab.manifest(sequence=number + 1) for number in range(40)]
    size = len(made[0].signed.raw)
    monkeypatch.setattr(manifest_library, "PARSED_BYTES_MAX", 8 * size)
    library = ManifestLibrary(store.manifests)
    keep(store, *made)
    for item in made * 2:
        assert library[item.manifest_id] == item
        assert len(library._parsed) <= 17


def test_what_is_used_stays_at_hand(lab, store):
    library = ManifestLibrary(store.manifests)
    made = lab.manifest()
    keep(store, made)
    assert library[made.manifest_id] is library[made.manifest_id]


@pytest.mark.parametrize("raw", [b"", b"junk", None])
def test_damage_is_told(lab, store, raw):
    made, other = lab.manifest(sequence=1), lab.manifest(sequence=2)
    keep(store, made)
    with store.transaction() as database:
        database.execute("UPDATE manifests SET manifest = ?", (raw or other.signed.raw,))
    with pytest.raises(StorageError, match="damaged manifest"):
        ManifestLibrary(store.manifests)[made.manifest_id]


async def test_a_host_knows_what_its_chain_proposed_and_after_a_start_too(lab, tmp_path):
    path = tmp_path / "ledger.db"
    chain = lab.open_chain(path)
    host = LedgerHost(chain, lambda: chain.head.time_ms)
    first, second = lab.manifest(sequence=1), lab.manifest(sequence=2)
    authorise(lab, chain, first)
    await host.run_commit(lambda: (advance(lab, chain, [lab.propose(second)]),))
    expected = [first.manifest_id, second.manifest_id]
    assert list(host.manifests) == expected
    digest = first.manifest.components[0].digest
    assert first.manifest_id in host.manifests_of(digest)
    again = lab.open_chain(path)
    known = LedgerHost(again, lambda: again.head.time_ms).manifests
    assert list(known) == expected
    assert len(known._parsed) == 0, "a start parses none"


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 5),
    st.lists(
        st.tuples(st.sampled_from(["put", "get", "pop"]), st.integers(0, 9), st.integers(1, 3))
    ),
)
def test_a_recent_map_never_lies_nor_outgrows_its_bound(weight_max, steps):
    model: dict[int, tuple[int, int]] = {}
    recent: RecentMap[int, int] = RecentMap(weight_max)
    for count, (step, key, weight) in enumerate(steps):
        if step == "put":
            recent.put(key, count, weight)
            model[key] = (count, weight)
        elif step == "pop":
            recent.pop(key)
            model.pop(key, None)
            assert recent.get(key) is None
        else:
            found = recent.get(key)
            assert found is None or found == model[key][0]
        for held in (recent._young, recent._aged):
            assert sum(weight for _, weight in held.values()) < weight_max + 3
    recent.clear()
    assert len(recent) == 0
