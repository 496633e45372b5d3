"""Speed of sealing: candidate ciphers for chunks, the whole way of an image, wraps of a ring.

    python benchmarks/sealing.py [--mib 256] [--rounds 5]

Ciphers are measured in processor seconds of one thread over chunks of 4, 16 and 64 KiB, all of them
in every round; the median counts. `keyed` draws a key for each chunk from its own digest
(convergent keys), which costs a hash and a key schedule. The image is staged by the real store,
plain and sealed in turns, and opened again. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESGCMSIV, AESSIV

from chunks.file_store import FileStore
from chunks.sealing import OpeningPass, SealingPass
from protocol.digest import ChainId, DidId
from protocol.limits import KIB, MIB
from protocol.manifest import DEFAULT_CHUNKER
from protocol.sealing import ContentKey, RingName, Sealing
from swarmd.keys.sealing_key import SealingKey, wrap_key

DATA = [b"swarmd benchmark"]
SAMPLE_BYTES = 16 * MIB
"""Bytes through each cipher in a round."""
WRAPS = 500
NAME = RingName(chain=ChainId(bytes(32)), publisher=DidId(bytes(32)), group="g", generation=1)
KEY = ContentKey(b"\7" * 32, NAME)
SEALING = Sealing(ring=KEY.ring(), generation=1, nonce=bytes(16))

Cipher = Callable[[bytes], bytes]


def convergent(chunk: bytes) -> bytes:
    """A key of its own for each chunk; the key table it needs is not counted."""
    return AESGCM(hashlib.sha256(KEY.secret() + chunk).digest()).encrypt(bytes(12), chunk, DATA[0])


def ciphers() -> dict[str, Cipher]:
    """Those that make equal ciphertext of equal chunks, and AES-GCM as the bound."""
    siv256, siv128 = AESSIV(bytes(range(64))), AESSIV(bytes(range(32)))
    gcm_siv, gcm = AESGCMSIV(bytes(range(32))), AESGCM(bytes(range(32)))
    return {
        "AES-256-SIV (RFC 5297)": lambda chunk: siv256.encrypt(chunk, DATA),
        "AES-128-SIV": lambda chunk: siv128.encrypt(chunk, DATA),
        "AES-256-GCM-SIV (RFC 8452), fixed nonce": lambda chunk: gcm_siv.encrypt(
            bytes(12), chunk, DATA[0]
        ),
        "AES-256-GCM, keyed by the chunk": convergent,
        "(AES-256-GCM under one nonce: not safe)": lambda chunk: gcm.encrypt(
            bytes(12), chunk, DATA[0]
        ),
        "(SHA-256)": lambda chunk: hashlib.sha256(chunk).digest(),
    }


def rate(cipher: Cipher, size: int) -> float:
    """MiB per processor second."""
    chunk = hashlib.shake_256(b"chunk").digest(size)
    began = time.process_time()
    for _ in range(SAMPLE_BYTES // size):
        cipher(chunk)
    return SAMPLE_BYTES / MIB / (time.process_time() - began)


def cipher_table(rounds: int) -> None:
    """Prints the rates of all ciphers."""
    sizes = (4 * KIB, 16 * KIB, 64 * KIB)
    found: dict[str, dict[int, list[float]]] = {}
    for _ in range(rounds):
        for name, cipher in ciphers().items():
            for size in sizes:
                found.setdefault(name, {}).setdefault(size, []).append(rate(cipher, size))
    print("| MiB per CPU second, chunks of | 4 KiB | 16 KiB | 64 KiB |\n|---|---|---|---|")
    for name, rates in found.items():
        cells = " | ".join(f"{statistics.median(rates[size]):.0f}" for size in sizes)
        print(f"| {name} | {cells} |")


def threads_table() -> None:
    """Prints whether two threads seal faster than one."""
    chunk = hashlib.shake_256(b"chunk").digest(16 * KIB)
    cipher = AESSIV(bytes(range(64)))

    def work() -> None:
        for _ in range(SAMPLE_BYTES // len(chunk)):
            cipher.encrypt(chunk, DATA)

    times = []
    for count in (1, 2):
        threads = [threading.Thread(target=work) for _ in range(count)]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        times.append((time.perf_counter() - began) / count)
    print(f"\ntwo threads seal {times[0] / times[1]:.2f} times what one does")


def image_table(mib: int, rounds: int, folder: Path) -> None:
    """Prints what staging costs plain and sealed, and opening."""
    source = folder / "image"
    with source.open("wb") as file:
        for part in range(mib // 16):
            file.write(hashlib.shake_256(b"part %d" % part).digest(16 * MIB))
    store = FileStore.open(folder / "store")
    found: dict[str, list[tuple[float, float]]] = {"plain": [], "sealed": [], "opened": []}
    for _ in range(rounds):
        for name in ("plain", "sealed"):
            sealer = None if name == "plain" else SealingPass(KEY, SEALING)
            began = (time.perf_counter(), time.process_time())
            staged = store.stage(source, DEFAULT_CHUNKER, sealer)
            found[name].append((time.perf_counter() - began[0], time.process_time() - began[1]))
            if sealer is None:
                store.remove(staged.image, staged=True)
        assert sealer is not None, "the last one was sealed"
        opening = OpeningPass(KEY, SEALING, sealer.plain_digest())
        began = (time.perf_counter(), time.process_time())
        for index in range(staged.recipe.chunk_count):
            opening.open(store.read_chunk(staged.image, index, staged=True))
        opening.finish()
        found["opened"].append((time.perf_counter() - began[0], time.process_time() - began[1]))
        store.remove(staged.image, staged=True)
    store.close()
    print(f"\n| {mib} MiB | seconds | CPU seconds | MiB/s |\n|---|---|---|---|")
    for name, pairs in found.items():
        wall, cpu = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(f"| {name} | {wall:.2f} | {cpu:.2f} | {mib / wall:.0f} |")


def wrap_table() -> None:
    """Prints what a ring costs, for each member."""
    member = SealingKey(b"\1" * 32)
    began = time.process_time()
    entries = [wrap_key(KEY, DidId(bytes(32)), member.public) for _ in range(WRAPS)]
    wrapping = time.process_time() - began
    began = time.process_time()
    for entry in entries:
        member.unwrap(entry, NAME, KEY.check())
    opening = time.process_time() - began
    print(f"\nwrap {wrapping / WRAPS * 1e6:.0f} us, unwrap {opening / WRAPS * 1e6:.0f} us a member")


def main() -> None:
    """Runs all of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    cipher_table(options.rounds)
    threads_table()
    with tempfile.TemporaryDirectory() as folder:
        image_table(options.mib, options.rounds, Path(folder))
    wrap_table()


if __name__ == "__main__":
    main()
