"""Fetching a state at the ledger's level: whom to believe, pages, crashes, what comes after."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ledger.block import decode_block
from ledger.block_store import BlockStore, Durability
from ledger.bodies.receipt import AnchorReceipts
from ledger.certificate import decode_certificate
from ledger.chain import Chain
from ledger.light import verify_header
from ledger.state_range import FIRST_PATH, PAGE_BYTES_MAX, decode_state_page, make_page
from ledger.state_sync import (
    REGIONS_MAX,
    SyncPlan,
    bridge_epochs,
    decode_sync_plan,
    decode_sync_target,
    verify_page,
    verify_state_head,
)
from ledger.state_tree import StateTree
from ledger.sync_store import SyncStore
from ledger.vote import Ed25519Verifier
from protocol.digest import sha256
from protocol.errors import (
    EncodingError,
    LocalProtocolError,
    StorageError,
    VerificationError,
)
from protocol.merkle import verify_inclusion
from protocol.state_messages import StateHeadAnswer
from tests.support.ledger import advance, authorise, build_next, make_lab

INTERVAL = 4
VERIFIER = Ed25519Verifier()


def open_chain(lab, path: Path | str = ":memory:") -> Chain:
    store = BlockStore(Path(path), Durability.BATCHED, snapshot_interval=INTERVAL)
    return Chain.open(store, lab.genesis)


def anchor(lab, size, index=0):
    return lab.transaction(
        lab.gateways[index], AnchorReceipts(size=size, root=sha256(b"%d" % size))
    )


@pytest.fixture(scope="module")
def source():
    """A chain of 10 blocks with two manifests; versions 4 and 8 are kept."""
    lab = make_lab()
    chain = open_chain(lab)
    for sequence in (1, 2):
        authorise(lab, chain, lab.manifest(sequence=sequence))
    for size in range(1, 7):
        advance(lab, chain, [anchor(lab, size)])
    assert chain.head.height == 10
    return lab, chain


def head_of(lab, chain):
    answer = chain.state_head(epoch=1)
    return answer, verify_state_head(answer, chain.anchor, VERIFIER)


def fetch(chain, sync, pages_max=1000):
    """Pulls pages until all are there or so many came; returns how many."""
    for count in range(pages_max):
        start = sync.plan.take()
        if start is None:
            return count
        raw = chain.state_page(sync.target.header.height, start).encode()
        sync.add_page(start, verify_page(raw, sync.target, start))
    return pages_max


def complete(chain, sync):
    fetch(chain, sync)
    wanted = sync.missing_manifests(16)
    sync.add_manifests(list(zip(wanted, chain.manifests(wanted), strict=True)))
    (raw, *_), _ = chain.blocks(sync.target.header.height, 1)
    sync.finish(decode_block(raw))


def test_a_newcomer_fetches_the_state_and_follows_by_blocks(source, tmp_path):
    lab, chain = source
    _, target = head_of(lab, chain)
    assert target.header.height == 8
    newcomer = open_chain(lab, tmp_path / "ledger.db")
    sync = SyncStore(newcomer._store)
    sync.begin(target)
    complete(chain, sync)
    (result,) = newcomer.adopt_fetched(decode_certificate(target.certificate))
    assert newcomer.head == target.header == result.header
    assert len(result.manifests) == 2
    assert set(result.groups) == {"fleet"}
    assert dict(newcomer.state.tree.items()) == dict(
        chain._store.nodes.snapshots()[-1].tree.items()
    )
    for change in result.manifests:
        assert newcomer.manifest_bytes(change.manifest_id) is not None
    blocks, certificate = chain.blocks(9, 10**6)
    newcomer.follow([decode_block(raw) for raw in blocks], certificate)
    assert newcomer.head == chain.head
    assert newcomer.state.tree.root == chain.state.tree.root
    newcomer._store.check()
    newcomer._store.close()
    again = open_chain(lab, tmp_path / "ledger.db")
    assert again.head == chain.head
    assert again.first_block == 8


def test_what_was_fetched_proves_and_serves_like_any_copy(source):
    lab, chain = source
    _, target = head_of(lab, chain)
    newcomer = open_chain(lab)
    sync = SyncStore(newcomer._store)
    sync.begin(target)
    complete(chain, sync)
    newcomer.adopt_fetched(decode_certificate(target.certificate))
    assert newcomer.state_head(1) == chain.state_head(1)
    for position in range(target.header.log_size, chain.head.log_size):
        with pytest.raises(LocalProtocolError):
            newcomer.log_proof(position)
    blocks, certificate = chain.blocks(9, 10**6)
    newcomer.follow([decode_block(raw) for raw in blocks], certificate)
    position = target.header.log_size
    leaf, proof = newcomer.log_proof(position)
    verify_inclusion(
        leaf, index=position, size=newcomer.head.log_size, proof=proof, root=newcomer.head.log_root
    )
    assert newcomer._store.entries.entry_place(position) == (9, 0)
    assert newcomer.finality(8) == chain.finality(8)
    for name in chain._store.state_items():
        assert newcomer.state.tree.prove(name) == chain.state.tree.prove(name)


def test_old_blocks_of_the_same_chain_are_no_fork_after_a_fetch(source):
    lab, chain = source
    _, target = head_of(lab, chain)
    newcomer = open_chain(lab)
    sync = SyncStore(newcomer._store)
    sync.begin(target)
    complete(chain, sync)
    newcomer.adopt_fetched(decode_certificate(target.certificate))
    blocks, certificate = chain.blocks(1, 10**6)
    assert len(newcomer.follow([decode_block(raw) for raw in blocks], certificate)) == 2
    assert newcomer.follow([decode_block(raw) for raw in blocks[:3]], chain.finality(3)[1]) == ()


def test_a_version_final_by_a_descendant_is_shown_by_the_headers_between():
    lab = make_lab()
    chain = open_chain(lab)
    parent = None
    for _ in range(6):
        parent = build_next(chain, parent=parent)
    chain.commit(parent.block_id, lab.certificate(parent))
    answer, target = head_of(lab, chain)
    assert [len(answer.headers), target.header.height] == [3, 4]
    newcomer = open_chain(lab)
    sync = SyncStore(newcomer._store)
    sync.begin(target)
    complete(chain, sync)
    newcomer.adopt_fetched(decode_certificate(target.certificate))
    assert (newcomer.head.height, newcomer.certificate) == (4, None)
    assert Chain.open(newcomer._store, lab.genesis).head.height == 4, "a start accepts it"
    assert newcomer.state_head(1).headers == (), "nothing to show until a certificate follows"
    blocks, certificate = chain.blocks(5, 10**6)
    newcomer.follow([decode_block(raw) for raw in blocks], certificate)
    assert newcomer.state_head(1) == answer


@pytest.mark.slow
def test_a_crash_costs_no_page_that_was_stored(source, tmp_path):
    lab, _ = source
    big = grown_chain(lab)
    answer = big.state_head(epoch=1)
    target = verify_state_head(answer, big.anchor, VERIFIER)
    pages, path = 0, tmp_path / "ledger.db"
    while True:
        store = BlockStore(path, Durability.FULL, snapshot_interval=INTERVAL)
        Chain.open(store, lab.genesis)
        sync = SyncStore(store)
        sync.begin(target)
        got = fetch(big, sync, pages_max=2)
        pages += got
        if sync.plan.is_complete:
            break
        left = sync.plan.missing_ppm
        store.close()
        again = BlockStore(path, Durability.FULL, snapshot_interval=INTERVAL)
        assert SyncStore(again).plan.missing_ppm == left
        again.close()
    once = open_chain(lab)
    other = SyncStore(once._store)
    other.begin(target)
    assert pages == fetch(big, other), "no page was fetched twice"
    (raw, *_), _ = big.blocks(target.header.height, 1)
    sync.finish(decode_block(raw))
    assert store.nodes.tree().root == target.header.state_root
    store.check()
    store.close()


def grown_chain(lab, count=6000):
    """A chain whose state takes many pages; its genesis-like keys enter behind the rules' back."""
    chain = open_chain(lab)
    for _ in range(3):
        advance(lab, chain)
    base = chain.state.tree.update({b"z/%d" % number: bytes(200) for number in range(count)})
    chain._tip.final.state.tree.__init__(base.root_node)  # type: ignore[misc]
    chain._tip.final.state.tree._base, chain._tip.final.state.tree._writes = (
        base._base,
        base._writes,
    )
    advance(lab, chain)
    return chain


def test_the_whole_is_refused_while_a_part_is_missing(source):
    lab, chain = source
    _, target = head_of(lab, chain)
    newcomer = open_chain(lab)
    sync = SyncStore(newcomer._store)
    (raw, *_), _ = chain.blocks(8, 1)
    block = decode_block(raw)
    with pytest.raises(LocalProtocolError, match="not complete"):
        sync.finish(block)
    sync.begin(target)
    with pytest.raises(LocalProtocolError, match="not complete"):
        sync.finish(block)
    fetch(chain, sync)
    with pytest.raises(LocalProtocolError, match="not complete"):
        sync.finish(block)
    wanted = sync.missing_manifests(16)
    assert len(wanted) == 2
    with pytest.raises(VerificationError, match="other bytes"):
        sync.add_manifests([(wanted[0], b"forged")])
    sync.add_manifests(list(zip(wanted, chain.manifests(wanted), strict=True)))
    (other, *_), _ = chain.blocks(7, 1)
    with pytest.raises(LocalProtocolError, match="not the block"):
        sync.finish(decode_block(other))
    sync.finish(block)


def test_a_chain_that_moved_beyond_is_not_turned_back(source):
    lab, chain = source
    _, target = head_of(lab, chain)
    newcomer = open_chain(lab)
    sync = SyncStore(newcomer._store)
    sync.begin(target)
    fetch(chain, sync)
    wanted = sync.missing_manifests(16)
    sync.add_manifests(list(zip(wanted, chain.manifests(wanted), strict=True)))
    blocks, certificate = chain.blocks(1, 10**6)
    newcomer.follow([decode_block(raw) for raw in blocks], certificate)
    (raw, *_), _ = chain.blocks(8, 1)
    with pytest.raises(StorageError, match="beyond"):
        sync.finish(decode_block(raw))
    assert newcomer.head == chain.head
    newcomer._store.check()
    sync.abort()
    newcomer._store.check()
    assert Chain.open(newcomer._store, lab.genesis).head == chain.head


def test_another_version_starts_over_and_leaves_nothing(source):
    lab, chain = source
    _, target = head_of(lab, chain)
    newcomer = open_chain(lab)
    before = newcomer._store.rows("SELECT * FROM nodes")
    sync = SyncStore(newcomer._store)
    sync.begin(target)
    fetch(chain, sync)
    header = replace(target.header, time_ms=target.header.time_ms + 1)
    sync.begin(replace(target, header=header))
    assert sync.plan.missing_ppm == 1_000_000
    assert newcomer._store.rows("SELECT * FROM nodes") == before
    assert SyncStore(newcomer._store).target.header == header


def test_blocks_go_on_beside_a_fetch(source, tmp_path):
    """Numbers of a fetched state's rows are its own, across a restart too."""
    lab, chain = source
    _, target = head_of(lab, chain)
    newcomer = open_chain(lab, tmp_path / "ledger.db")
    sync = SyncStore(newcomer._store)
    sync.begin(target)
    blocks, _ = chain.blocks(1, 10**6)
    newcomer.follow([decode_block(blocks[0])], chain.finality(1)[1])
    fetch(chain, sync)
    newcomer.follow([decode_block(blocks[1])], chain.finality(2)[1])
    newcomer._store.close()
    newcomer = open_chain(lab, tmp_path / "ledger.db")
    newcomer.follow([decode_block(blocks[2])], chain.finality(3)[1])
    newcomer._store.nodes.check()
    sync = SyncStore(newcomer._store)
    complete(chain, sync)
    newcomer.adopt_fetched(decode_certificate(target.certificate))
    newcomer._store.check()
    later, certificate = chain.blocks(9, 10**6)
    newcomer.follow([decode_block(raw) for raw in later], certificate)
    newcomer._store.check()
    assert newcomer.head == chain.head


# Whom to believe.


def refuse_head(answer, chain, match):
    with pytest.raises(VerificationError, match=match):
        verify_state_head(answer, chain.anchor, VERIFIER)


def test_forged_heads_are_refused(source):
    lab, chain = source
    answer, _ = head_of(lab, chain)
    header = chain.header_at(8)
    forged = replace(header, state_root=sha256(b"mine"))
    refuse_head(replace(answer, headers=(forged.encoded,)), chain, "no finalize certificate")
    refuse_head(replace(answer, headers=(chain.header_at(7).encoded,)), chain, "no finalize")
    gap = (chain.header_at(6).encoded, header.encoded)
    refuse_head(replace(answer, headers=gap), chain, "does not follow")
    tail = (header.encoded, chain.header_at(7).encoded)
    refuse_head(replace(answer, headers=tail), chain, "does not follow")
    other_log = chain._store.nodes.snapshots()[0].log.encode()
    refuse_head(replace(answer, log=other_log), chain, "another log")
    refuse_head(replace(answer, log=b"\xa0"), chain, "log")
    votes = decode_certificate(answer.certificate)
    fewer = replace(answer, certificate=lab.certificate(build_next(chain)).encode())
    refuse_head(fewer, chain, "no finalize certificate")
    assert votes.block_id == header.block_id
    other = make_lab(gateways=3)
    strange = open_chain(other)
    for _ in range(4):
        advance(other, strange)
    refuse_head(strange.state_head(1), chain, "another chain")
    with pytest.raises(EncodingError, match="belong together"):
        StateHeadAnswer(steps=(), headers=answer.headers, certificate=b"", log=answer.log)
    with pytest.raises(VerificationError, match="without a header"):
        verify_state_head(
            StateHeadAnswer(steps=(), headers=(), certificate=b"", log=b""), chain.anchor, VERIFIER
        )
    assert verify_header(answer.headers[0], answer.certificate, chain.anchor, VERIFIER) == header


def test_epochs_that_cannot_be_bridged_are_refused(source):
    _, chain = source
    with pytest.raises(VerificationError):
        bridge_epochs(chain.anchor, [b"\x80"], VERIFIER)
    assert bridge_epochs(chain.anchor, [], VERIFIER) == chain.anchor
    assert chain.state_head(epoch=2).headers == (), "an asker ahead of the version gets nothing"


@pytest.mark.slow
def test_pages_of_liars_are_refused(source):
    lab, _ = source
    big = grown_chain(lab)
    target = verify_state_head(big.state_head(1), big.anchor, VERIFIER)
    tree = big._store.nodes.snapshots()[-1].tree
    honest = make_page(tree, FIRST_PATH)
    assert verify_page(honest.encode(), target, FIRST_PATH) == honest
    assert not honest.is_last
    older = StateTree().update({b"old": b"state"})
    with pytest.raises(VerificationError, match="expected root"):
        verify_page(make_page(older, FIRST_PATH).encode(), target, FIRST_PATH)
    with pytest.raises(VerificationError, match="cut short"):
        verify_page(make_page(tree, FIRST_PATH, bytes_max=1).encode(), target, FIRST_PATH)
    short = make_page(tree, FIRST_PATH, bytes_max=PAGE_BYTES_MAX - 20_000)
    with pytest.raises(VerificationError, match="cut short"):
        verify_page(short.encode(), target, FIRST_PATH)
    with pytest.raises(VerificationError):
        verify_page(honest.encode(), target, sha256(b"elsewhere"))
    with pytest.raises(VerificationError):
        verify_page(b"", target, FIRST_PATH)
    assert big.state_page(3, FIRST_PATH) is None, "no version at this height is kept"


# The plan.


@pytest.mark.slow
def test_regions_are_worked_on_side_by_side_and_given_back():
    tree = StateTree().update({b"%d" % number: bytes(100) for number in range(60_000)})
    plan = SyncPlan()
    start = plan.take()
    assert (start, plan.take()) == (FIRST_PATH, None), "the first page tells how much there is"
    plan.give_back(FIRST_PATH)
    start = plan.take()
    plan.done(start, make_page(tree, start))
    starts = []
    while (start := plan.take()) is not None:
        starts.append(start)
    assert 4 <= len(starts) <= REGIONS_MAX
    assert len(set(starts)) == len(starts)
    copy = decode_sync_plan(plan.encode())
    assert copy.missing_ppm == plan.missing_ppm < 1_000_000
    plan.give_back(starts[2])
    assert (plan.take(), plan.take()) == (starts[2], None)
    keys: dict[bytes, bytes] = dict(make_page(tree, FIRST_PATH).leaves)
    pending = list(starts)
    while pending:
        start = pending.pop(0)
        page = decode_state_page(make_page(tree, start).encode())
        keys.update(page.leaves)
        plan.done(start, page)
        pending += [item for item in [plan.take()] if item is not None]
    assert plan.is_complete
    assert plan.missing_ppm == 0
    assert keys == dict(tree.items())


@pytest.mark.parametrize("raw", ["", "a0", "8100", "818100", "81824000", "f6"])
def test_stored_plans_and_targets_are_read_strictly(raw):
    with pytest.raises(EncodingError):
        decode_sync_plan(bytes.fromhex(raw))
    with pytest.raises(EncodingError):
        decode_sync_target(bytes.fromhex(raw))


def test_a_damaged_progress_is_told(source):
    lab, chain = source
    _, target = head_of(lab, chain)
    newcomer = open_chain(lab)
    SyncStore(newcomer._store).begin(target)
    newcomer._store._database.execute("UPDATE sync SET value = x'00' WHERE name = 'plan'")
    with pytest.raises(StorageError, match="sync plan"):
        SyncStore(newcomer._store)


def test_bodies_that_a_newcomer_needs_are_not_pruned(source):
    lab = make_lab()
    chain = open_chain(lab)
    for _ in range(11):
        advance(lab, chain)
    assert chain.prune(1) == 3
    assert chain.prune(1) == 0
    assert chain.first_block == 4
    assert chain.blocks(3, 10**6) == ((), None)
    advance(lab, chain)
    assert chain.prune(1) == 4, "the version at 4 gave way to that at 12"
    assert chain.header_at(2) is not None, "headers stay"


def test_pruning_takes_small_steps(source, monkeypatch):
    monkeypatch.setattr("ledger.block_store.PRUNED_MAX", 2)
    lab = make_lab()
    store = BlockStore(Path(":memory:"), Durability.BATCHED)
    chain = Chain.open(store, lab.genesis)
    for _ in range(6):
        advance(lab, chain)
    assert [chain.prune(2) for _ in range(3)] == [2, 2, 0]
    assert chain.first_block == 5
