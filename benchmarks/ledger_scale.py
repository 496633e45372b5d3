"""What a ledger costs as it grows: per transaction, at a start, in memory, on disk.

`python benchmarks/ledger_scale.py [KEYS...] [--json FILE]` builds ledgers of synthetic but
well-formed final blocks through the real store, 512 transactions a block and one state key a
transaction, then measures each in a process of its own. Transactions are not executed, which costs
no more in a larger ledger. The bulk goes in by ascending path, which is faster and gives the same
tree; what is measured comes after it in no order.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from ledger.block import Block, body_root
from ledger.block_store import BlockStore, Durability, FinalBlock
from ledger.chain import Chain
from ledger.log import Log
from protocol.digest import TransactionId, sha256
from protocol.merkle import leaf_hash
from tests.support.ledger import Lab, make_lab

BLOCK_TRANSACTIONS = 512
TRANSACTION_BYTES = 300
"""A signed anchor, the commonest transaction of a large fleet."""
VALUE_BYTES = 80
"""The record it writes."""
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


class Builder:
    """Adds blocks to a store, as a commit does."""

    def __init__(self, lab: Lab, store: BlockStore) -> None:
        self.chain = Chain.open(store, lab.genesis)
        self.store = store
        self.lab = lab
        self.header = self.chain.head
        self.tree = self.chain.state.tree
        self.log: Log = self.chain.state.log

    def add(self, owners: Sequence[int]) -> tuple[float, float]:
        """One block, a transaction an owner; returns the seconds for the tree, and with commit."""
        raws = transactions(self.log.size, len(owners))
        writes = writes_of(owners)
        leaves = tuple(leaf_hash(raw) for raw in raws)
        ids = tuple((TransactionId(sha256(raw)), "receipt.anchor") for raw in raws)
        began = time.perf_counter()
        tree = self.tree.update(writes)
        tree_s = time.perf_counter() - began
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
            manifests=(),
        )
        began = time.perf_counter()
        self.store.commit([item])
        commit_s = time.perf_counter() - began
        self.tree, self.log, self.header = tree, log, block.header
        return tree_s, tree_s + commit_s

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
    for first in range(0, keys, BLOCK_TRANSACTIONS):
        builder.add(order[first : first + BLOCK_TRANSACTIONS])
        store.prune_bodies(builder.header.height - KEEP_BLOCKS)
    build_s = time.perf_counter() - began
    store.rows("PRAGMA wal_checkpoint(TRUNCATE)")
    size = path.stat().st_size
    # From here on in no order, as transactions come.
    before = store.nodes.next_number
    single = [builder.add([keys + number]) for number in range(129)]
    rows = (store.nodes.next_number - before) / len(single)
    full = [
        builder.add(range(first, first + BLOCK_TRANSACTIONS))
        for first in range(2 * keys, 2 * keys + 5 * BLOCK_TRANSACTIONS, BLOCK_TRANSACTIONS)
    ]
    store.close()
    return {
        "keys": keys,
        "build_s": round(build_s, 1),
        "rows_of_1": round(rows, 1),
        "tree_us_of_1": round(statistics.median(item[0] for item in single) * 1e6),
        "commit_us_of_1": round(statistics.median(item[1] for item in single) * 1e6),
        "us_each_of_512": round(statistics.median(i[1] for i in full) / BLOCK_TRANSACTIONS * 1e6),
        "disk_bytes_per_transaction": round(size / keys),
    }


def start(path: Path, size: int) -> dict[str, Any]:
    """Opens a ledger in a fresh process, as a daemon does."""
    began = time.perf_counter()
    store = BlockStore(path, Durability.BATCHED)
    chain = Chain.open(store, make_lab().genesis)
    opened_s = time.perf_counter() - began
    keys = [owner_key(number * 97 % size) for number in range(10_000)]
    began = time.perf_counter()
    found = sum(chain.state.get(key) is not None for key in keys)
    read_us = (time.perf_counter() - began) / len(keys) * 1e6
    proof = len(chain.state.tree.prove(keys[1]).encode())
    began = time.perf_counter()
    for position in range(100):
        chain.log_proof(position * (chain.head.log_size // 100))
    log_us = (time.perf_counter() - began) / 100 * 1e6
    store.close()
    return {
        "start_s": round(opened_s, 3),
        "read_us": round(read_us, 1),
        "reads_found": found,
        "log_proof_us": round(log_us),
        "state_proof_bytes": proof,
        "rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


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
