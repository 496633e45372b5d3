"""Sizes of proof files and the time to check them, for sets of validators and sizes of state.

    python benchmarks/proofs.py [--keys 1000 10000 100000 1000000] [--validators 4 7 16 32]

The state is filled with keys of 34 bytes; every proof is sampled for several of them. Sizes are the
largest seen. The time to check a file is given in bare Ed25519 verifications
timed in the same run. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from ledger.block import Block
from ledger.header import Header
from ledger.light import TrustAnchor
from ledger.proof import ProofFile, decode_proof
from ledger.proof_facts import StateFacts
from ledger.proof_verify import verify_authorisation, verify_proof
from ledger.state_keys import latest_key, manifest_key, subject_key
from ledger.state_tree import StateTree
from protocol.keys import PublicKey
from protocol.merkle import leaf_hash
from tests.support.ledger import FLEET, PRODUCT, make_key
from tests.support.proofs import ProofWorld, make_world

SAMPLES = 8
"""States each proof is made over: they differ in one key, hence in all siblings' depths."""
ROUNDS = 30
"""Timed checks; the fastest counts, for the proof and for the bare verification alike."""


def filler(count: int) -> dict[bytes, bytes]:
    """Keys and values like those of gateways' anchors."""
    digests = (hashlib.sha256(b"%d" % number).digest() for number in range(count))
    return {b"a/" + digest: digest + b"anchor" for digest in digests}


def certified(world: ProofWorld, tree: StateTree) -> tuple[bytes, bytes]:
    """A header over a state, and its certificate."""
    block = world.chain.block(world.chain.head.block_id)
    assert block is not None, "the head's body is never pruned"
    header: Header = replace(block.header, state_root=tree.root)
    forged = Block(header, block.transactions, block.evidence, block.skips)
    return header.encoded, world.lab.certificate(forged).encode()


def least_us(call: Callable[[], object]) -> float:
    """Least time of a call, microseconds: what the work costs while nobody else wants the core."""
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return min(times) * 1e6


def bare_verification_us() -> float:
    """One Ed25519 verification."""
    key = make_key("benchmark")
    public: PublicKey = key.public
    message = bytes(200)
    signature = key.sign(message)
    return least_us(lambda: public.verify(signature, message))


def measure(world: ProofWorld, tree: StateTree) -> dict[str, float]:
    """Sizes in bytes and times in microseconds, over one state."""
    header, certificate = certified(world, tree)
    full = decode_proof(world.files["image"])
    key = manifest_key(world.manifest.manifest_id, FLEET)

    def file(*keys: bytes, consents: bool = False, manifests: bool = False) -> ProofFile:
        facts = StateFacts.of([tree.prove(item) for item in (key, *keys)])
        place = [fact.key for fact in facts.facts].index(key)
        (consent,) = full.consents
        return ProofFile(
            header=header,
            certificate=certificate,
            facts=facts,
            consents=(replace(consent, fact=place),) if consents else (),
            manifests=full.manifests if manifests else (),
        )

    core = len(file().encode())
    latest, subject = latest_key(FLEET, PRODUCT), subject_key(world.did)
    absent = subject_key(hashlib.sha256(b"nobody").digest())
    whole = file(latest, consents=True, manifests=True).encode()
    genesis, bare, agreed = world.lab.genesis, file().encode(), file(consents=True).encode()
    anchor = TrustAnchor.of_genesis(genesis)
    return {
        "core": core,
        "consent": len(file(consents=True).encode()),
        "latest": len(file(latest).encode()) - core,
        "subject": len(file(subject).encode()) - core,
        "absent": len(file(absent).encode()) - core,
        "image": len(whole),
        "check_core": least_us(lambda: verify_proof(bare, genesis, anchor=anchor)),
        "check_consent": least_us(lambda: verify_proof(agreed, genesis, anchor=anchor)),
        "check": least_us(lambda: verify_authorisation(whole, genesis, anchor=anchor)),
    }


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, nargs="+", default=[10**3, 10**4, 10**5, 10**6])
    parser.add_argument("--validators", type=int, nargs="+", default=[4, 7, 16, 32])
    arguments = parser.parse_args()
    worlds = {count: make_world(count) for count in arguments.validators}
    names = ("core", "consent", "latest", "subject", "absent", "image")
    times = ("check_core", "check_consent", "check")
    print(f"| n | keys | {' | '.join(names)} | core check | consent check | image check |")
    print("|---" * (len(names) + 5) + "|")
    for keys in arguments.keys:
        base = StateTree().update(filler(keys))
        for count, world in worlds.items():
            own = dict(world.chain.state.tree.items())
            found = [
                measure(
                    world, base.update({**own, b"sample/%d" % number: leaf_hash(b"%d" % number)})
                )
                for number in range(SAMPLES)
            ]
            sizes = [str(int(max(item[name] for item in found))) for name in names]
            bare_us = bare_verification_us()
            ratios = [f"{min(item[name] for item in found) / bare_us:.1f}" for name in times]
            print(f"| {count} | {keys} | {' | '.join([*sizes, *ratios])} |", flush=True)
    print(f"\nOne Ed25519 verification: {bare_verification_us():.0f} µs.")


if __name__ == "__main__":
    main()
