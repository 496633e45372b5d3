"""What a ledger costs as it grows: per transaction, at a start, in memory, on disk.

`python benchmarks/ledger_scale.py [KEYS...] [--json FILE]` builds ledgers of synthetic but
well-formed final blocks through the real store, 512 transactions a block and one state key a
transaction, and a manifest for every 50 of them; then it measures each in a process of its own.
Transactions are not executed, which costs no more in a larger ledger. The bulk goes in by ascending
path, which is faster and gives the same tree; what is measured comes after it in no order. Wall
time contains the wait for the disk, which depends on the disk and its other users; processor time
does not.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from ledger.block import Block, body_root
from ledger.block_store import BlockStore, Durability, FinalBlock
from ledger.chain import Chain
from ledger.log import Log
from ledger.records.manifest import ManifestRecord, ManifestStatus
from ledger.state_keys import manifest_key
from protocol.digest import PolicyId, TransactionId, sha256
from protocol.manifest import SignedManifest
from protocol.merkle import leaf_hash
from swarmd.authority import Authority
from swarmd.clock import SystemClock
from swarmd.floor import NO_FLOOR
from swarmd.freshness import FreshnessClock
from swarmd.ledger_host import LedgerHost
from swarmd.peers import PeerRegistry
from tests.support.ledger import FLEET, Lab, make_lab

BLOCK_TRANSACTIONS = 512
TRANSACTION_BYTES = 300
"""A signed anchor, the commonest transaction of a large fleet."""
VALUE_BYTES = 80
"""The record it writes."""
MANIFEST_SHARE = 50
"""There is a manifest for so many other transactions."""
BULK_OWNERS = 500
"""Other transactions in a block of the bulk; with their manifests they fill it."""
MANIFEST_BYTES = 1024
SINGLES = 257
"""Blocks of one transaction that are measured: some three checkpoints of the log."""
FULL_BLOCKS = 9
LOOKED_UP = 1000
KEEP_BLOCKS = 64
SIZES = (1_000, 10_000, 100_000, 1_000_000)


def transactions(first: int, count: int) -> list[bytes]:
    """Distinct bytes of a transaction's length; a block that fits its bound holds as many."""
    made = []
    for number in range(first, first + count):
        seed = hashlib.sha256(b"transaction %d" % number).digest()
        made.append((seed * (TRANSACTION_BYTES // 32 + 1))[:TRANSACTION_BYTES])
    return made


def owner_key(number: int) -> bytes:
    """The state key that a transaction writes."""
    return b"n/" + hashlib.sha256(b"owner %d" % number).digest()


def writes_of(owners: Sequence[int]) -> dict[bytes, bytes]:
    """A record for each owner."""
    keys = [owner_key(number) for number in owners]
    return {key: (key * 3)[:VALUE_BYTES] for key in keys}


def make_manifests(lab: Lab, first: int, count: int) -> list[SignedManifest]:
    """Distinct manifests of a usual size."""
    notes = {"notes": "n" * 400, "more": "m" * (MANIFEST_BYTES - 720)}
    return [
        lab.manifest(sequence=number + 1, metadata=notes) for number in range(first, first + count)
    ]


def record_of(signed: SignedManifest) -> tuple[bytes, bytes]:
    """Key and value of a proposed manifest in the state."""
    content = signed.manifest
    record = ManifestRecord(
        status=ManifestStatus.PROPOSED,
        publisher=content.publisher,
        product=content.product,
        sequence=content.sequence,
        policy=PolicyId(sha256(b"policy")),
        expires_ms=None,
        proposed_height=1,
        proposed_ms=1,
    )
    return manifest_key(signed.manifest_id, FLEET), record.encode()


@dataclass(frozen=True)
class Cost:
    """Seconds that one block took."""

    tree_s: float
    wall_s: float
    cpu_s: float


class Builder:
    """Adds blocks to a store, as a commit does."""

    def __init__(self, lab: Lab, store: BlockStore) -> None:
        self.chain = Chain.open(store, lab.genesis)
        self.store = store
        self.lab = lab
        self.header = self.chain.head
        self.tree = self.chain.state.tree
        self.log: Log = self.chain.state.log

    def add(self, owners: Sequence[int], manifests: Sequence[SignedManifest] = ()) -> Cost:
        """One block, a transaction an owner and a manifest; returns what tree and commit took."""
        raws = transactions(self.log.size, len(owners) + len(manifests))
        writes = writes_of(owners) | dict(map(record_of, manifests))
        leaves = tuple(leaf_hash(raw) for raw in raws)
        ids = tuple((TransactionId(sha256(raw)), "receipt.anchor") for raw in raws)
        began, used = time.perf_counter(), time.process_time()
        tree = self.tree.update(writes)
        tree_s, cpu_s = time.perf_counter() - began, time.process_time() - used
        log = self.log.extend(leaves)
        block = self._block(raws, tree.root, log)
        certificate = self.lab.certificate(block)
        item = FinalBlock(
            block=block,
            certificate=certificate,
            tree=tree,
            leaves=leaves,
            log=log,
            transactions=ids,
            manifests=tuple((signed.manifest_id, signed.signed.raw) for signed in manifests),
        )
        began, used = time.perf_counter(), time.process_time()
        self.store.commit([item])
        wall_s = tree_s + time.perf_counter() - began
        cpu_s += time.process_time() - used
        self.tree, self.log, self.header = tree, log, block.header
        return Cost(tree_s, wall_s, cpu_s)

    def _block(self, raws: list[bytes], state_root: Any, log: Log) -> Block:
        view = self.header.view + 1
        header = replace(
            self.header,
            view=view,
            height=self.header.height + 1,
            parent=self.header.block_id,
            parent_view=self.header.view,
            time_ms=self.header.time_ms + 1000,
            proposer=self.chain.validators.leader(view),
            body_root=body_root(raws, (), ()),
            log_size=log.size,
            log_root=log.root,
            state_root=state_root,
        )
        return Block(header, tuple(raws))


def build(path: Path, keys: int) -> dict[str, Any]:
    """Builds a ledger of so many transactions and measures the last hundredth at least."""
    lab = make_lab()
    store = BlockStore(path, Durability.FULL)
    builder = Builder(lab, store)
    began = time.perf_counter()
    order = sorted(range(keys), key=lambda number: sha256(owner_key(number)))
    for first in range(0, keys, BULK_OWNERS):
        owners = order[first : first + BULK_OWNERS]
        manifests = make_manifests(lab, first // MANIFEST_SHARE, len(owners) // MANIFEST_SHARE)
        builder.add(owners, manifests)
        store.prune_bodies(builder.header.height - KEEP_BLOCKS)
    build_s = time.perf_counter() - began
    store.rows("PRAGMA wal_checkpoint(TRUNCATE)")
    size = path.stat().st_size
    # From here on in no order, as transactions come; the first ones fill the caches.
    for number in range(SINGLES):
        builder.add([5 * keys + number])
    before = store.nodes.next_number
    single = [builder.add([keys + number]) for number in range(SINGLES)]
    rows = (store.nodes.next_number - before) / len(single)
    full = [
        builder.add(range(first, first + BLOCK_TRANSACTIONS))
        for first in range(
            2 * keys, 2 * keys + FULL_BLOCKS * BLOCK_TRANSACTIONS, BLOCK_TRANSACTIONS
        )
    ]
    store.close()
    each = BLOCK_TRANSACTIONS / 1e6
    return {
        "keys": keys,
        "build_s": round(build_s, 1),
        "rows_of_1": round(rows, 1),
        "tree_us_of_1": round(statistics.median(item.tree_s for item in single) * 1e6),
        "cpu_us_of_1": round(statistics.median(item.cpu_s for item in single) * 1e6),
        "wall_us_of_1": round(statistics.median(item.wall_s for item in single) * 1e6),
        "cpu_us_each_of_512": round(statistics.median(item.cpu_s for item in full) / each),
        "wall_us_each_of_512": round(statistics.median(item.wall_s for item in full) / each),
        "disk_bytes_per_transaction": round(size / keys),
    }


def open_ledger(path: Path) -> tuple[BlockStore, LedgerHost, Authority]:
    """What a daemon does with its ledger at a start."""
    lab = make_lab()
    store = BlockStore(path, Durability.BATCHED)
    chain = Chain.open(store, lab.genesis)
    chain.fetches()
    host = LedgerHost(chain, lambda: chain.head.time_ms)
    clock = SystemClock()
    authority = Authority(
        ledger=host,
        genesis=lab.genesis,
        age=FreshnessClock(None, now=clock.monotonic(), wall_ms=clock.wall_ms()),
        registry=PeerRegistry(lab.chain_id, clock, lambda *_: None),
        own_did=lab.gateways[0].did,
        own_groups=lambda: (FLEET,),
        floor=NO_FLOOR,
        monotonic=clock.monotonic,
        time_ms=lambda: chain.head.time_ms,
    )
    return store, host, authority


def per_call_us(calls: Sequence[Callable[[], object]]) -> float:
    """Mean microseconds of calls."""
    began = time.perf_counter()
    for call in calls:
        call()
    return (time.perf_counter() - began) / len(calls) * 1e6


def rss_mib() -> int:
    """The most memory this process ever had, MiB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def start(path: Path, size: int) -> dict[str, Any]:
    """Opens a ledger in a fresh process and asks it things, as a daemon does."""
    began, used = time.perf_counter(), time.process_time()
    store, host, authority = open_ledger(path)
    opened_s, opened_cpu_s = time.perf_counter() - began, time.process_time() - used
    opened_mib, chain = rss_mib(), host.chain
    keys = [owner_key(number * 97 % size) for number in range(10_000)]
    found: list[bytes | None] = []
    read_us = per_call_us(
        [partial(lambda key: found.append(chain.state.get(key)), k) for k in keys]
    )
    known = list(host.manifests)
    random.Random(1).shuffle(known)
    asked = known[:LOOKED_UP]
    manifest_us = per_call_us([partial(host.manifests.get, name) for name in asked])
    verdict_us = per_call_us([partial(authority.verdict, name) for name in asked])
    step = max(1, chain.head.log_size // 100)
    positions = range(0, chain.head.log_size, step)
    log_us = per_call_us([partial(chain.log_proof, position) for position in positions])
    for name in known:  # whoever asks for all of them
        authority.verdict(name)
    answer = {
        "manifests": len(known),
        "start_s": round(opened_s, 3),
        "start_cpu_s": round(opened_cpu_s, 3),
        "start_rss_mib": opened_mib,
        "read_us": round(read_us, 1),
        "reads_found": sum(value is not None for value in found),
        "manifest_us": round(manifest_us),
        "verdict_us": round(verdict_us),
        "log_proof_us": round(log_us),
        "state_proof_bytes": len(chain.state.tree.prove(keys[1]).encode()),
        "rss_mib": rss_mib(),
    }
    store.close()
    return answer


def measure(sizes: list[int]) -> Iterator[dict[str, Any]]:
    """One row a size; building and opening are processes of their own."""
    with tempfile.TemporaryDirectory() as folder:
        for keys in sizes:
            path = Path(folder) / f"{keys}.db"
            row: dict[str, Any] = {}
            for step in ("build", "start"):
                command = [sys.executable, __file__, f"--{step}", str(path), str(keys)]
                answer = subprocess.run(command, check=True, capture_output=True, text=True)
                row |= json.loads(answer.stdout)
            yield row


def table(rows: list[dict[str, Any]]) -> str:
    """A markdown table of rows with equal columns."""
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(str(row[name]) for name in names) + " |" for row in rows]
    return "\n".join(lines)


def main() -> None:
    """Measures and prints a table; with --json also writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("keys", nargs="*", type=int)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--build", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--start", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.build is not None:
        print(json.dumps(build(arguments.build, arguments.keys[0])))
    elif arguments.start is not None:
        print(json.dumps(start(arguments.start, arguments.keys[0])))
    else:
        rows = list(measure(arguments.keys or list(SIZES)))
        print(table(rows))
        if arguments.json is not None:
            arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
