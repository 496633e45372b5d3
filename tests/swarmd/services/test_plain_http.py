"""Opened images over HTTP: by the plain digest, in ranges, and not at all without leave."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from chunks.file_store import FileStore
from chunks.layout import fixed_parameters
from chunks.sealing import ChunkOpener, PlainLayout, SealingPass
from ledger.offer import Device
from protocol.digest import ChainId, DidId, Digest, sha256
from protocol.manifest import Component
from protocol.sealing import ContentKey, RingName, Sealing
from swarmd.config import Endpoint
from swarmd.ledger_host import LedgerHost
from swarmd.questions import Denial
from swarmd.receipts import ReceiptLog
from swarmd.services.image_http import ImageServer
from swarmd.services.plain import PlainImage
from swarmd.services.receipts import ReceiptService
from tests.support.ledger import make_lab

IMAGE = hashlib.shake_256(b"plain").digest(50_500)
NAME = RingName(
    chain=ChainId(sha256(b"chain")), publisher=DidId(sha256(b"p")), group="fleet", generation=1
)
KEY = ContentKey(b"\7" * 32, NAME)
SEALING = Sealing(ring=KEY.ring(), generation=1, nonce=bytes(16))


class Bench:
    """A server over a store with one sealed image."""

    def __init__(self, path: Path, key: ContentKey = KEY) -> None:
        lab = make_lab()
        self.manifest = lab.manifest()
        self.store = FileStore.open(path / "images")
        source = path / "image"
        source.write_bytes(IMAGE)
        sealing = SealingPass(KEY, SEALING)
        staged = self.store.stage(source, fixed_parameters(1000), sealing)
        self.store.promote(staged.image)
        self.stored, self.plain_digest = staged.image, sealing.plain_digest()
        component = Component(
            name="image",
            size=staged.size_bytes,
            digest=staged.image,
            chunker=fixed_parameters(1000),
            chunk_count=staged.recipe.chunk_count,
            recipe_root=staged.recipe.root,
            plain_digest=self.plain_digest,
            sealing=SEALING,
        )
        self.plain = PlainImage(
            component=component, layout=PlainLayout(staged.recipe), opener=ChunkOpener(key)
        )
        self.permits = 10**6
        self.asked: list[Digest] = []
        self.log = ReceiptLog(path / "receipts.db", lab.chain_id)
        self.server = ImageServer(
            endpoint=Endpoint("127.0.0.1", 0),
            store=self.store,
            permit=self.permit,  # type: ignore[arg-type]
            receipts=ReceiptService(
                log=self.log,
                ledger=LedgerHost(lab.open_chain(), lambda: 0),
                own_did=lab.gateways[0].did,
                time_ms=lambda: 0,
            ),
            note_outcome=lambda *_: False,
            find_plain=lambda digest: self.plain if digest == self.plain_digest else None,
        )

    def permit(self, digest: Digest, _device: Device) -> object:
        self.asked.append(digest)
        self.permits -= 1
        return self.manifest if self.permits >= 0 else Denial("manifest.revoked", "revoked")

    async def get(self, digest: bytes, *headers: str) -> tuple[int, str, bytes]:
        assert self.server.url is not None
        host, port = self.server.url.removeprefix("http://").split(":")
        lines = [f"GET /v1/images/{digest.hex()} HTTP/1.1", "Host: x", "Connection: close"]
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            await stream.send_all(("\r\n".join([*lines, *headers]) + "\r\n\r\n").encode())
            answer = b"".join([data async for data in stream])
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), head.decode().lower(), body


@asynccontextmanager
async def serving(path: Path, key: ContentKey = KEY) -> AsyncIterator[Bench]:
    bench = Bench(path, key)
    async with trio.open_nursery() as nursery:
        await nursery.start(bench.server.run)
        with trio.fail_after(30):
            yield bench
        nursery.cancel_scope.cancel()
    bench.store.close()
    bench.log.close()


@pytest.mark.parametrize(
    ("wanted", "start", "end"),
    [
        ("0-0", 0, 1),
        ("999-1000", 999, 1001),
        ("1000-1999", 1000, 2000),
        ("50499-", 50_499, 50_500),
        ("50000-99999", 50_000, 50_500),
        ("-600", 49_900, 50_500),
    ],
)
async def test_ranges_are_those_of_the_plain_image(
    tmp_path: Path, wanted: str, start: int, end: int
) -> None:
    async with serving(tmp_path) as bench:
        status, head, body = await bench.get(bench.plain_digest, f"Range: bytes={wanted}")
        assert (status, body) == (206, IMAGE[start:end])
        assert f"content-range: bytes {start}-{end - 1}/{len(IMAGE)}" in head
        assert f'etag: "{bench.plain_digest.hex()}"' in head


async def test_both_digests_are_asked_about_as_the_stored_image(tmp_path: Path) -> None:
    async with serving(tmp_path) as bench:
        status, _, body = await bench.get(bench.plain_digest)
        assert (status, body) == (200, IMAGE)
        status, _, body = await bench.get(bench.stored)
        assert (status, sha256(body)) == (200, bench.stored)
        assert set(bench.asked) == {bench.stored}
        beyond = f"Range: bytes={len(IMAGE)}-"
        assert (await bench.get(bench.plain_digest, beyond))[0] == 416
        assert (await bench.get(bench.stored, beyond))[0] == 206, "the stored image is longer"


async def test_a_revocation_ends_a_plain_transfer(tmp_path: Path) -> None:
    async with serving(tmp_path) as bench:
        bench.permits = 5
        status, _, body = await bench.get(bench.plain_digest)
        assert (status, IMAGE.startswith(body)) == (200, True)
        assert len(body) <= 4000
        assert (await bench.get(bench.plain_digest))[0] == 404


async def test_nothing_comes_from_chunks_that_do_not_open(tmp_path: Path) -> None:
    async with serving(tmp_path, ContentKey(b"\x08" * 32, NAME)) as bench:
        status, _, body = await bench.get(bench.plain_digest)
        assert (status, body) == (200, b"")


async def test_what_is_not_whole_any_more_is_not_opened(tmp_path: Path) -> None:
    async with serving(tmp_path) as bench:
        await trio.to_thread.run_sync(bench.store.withdraw, bench.stored)
        assert (await bench.get(bench.plain_digest))[0] == 404
