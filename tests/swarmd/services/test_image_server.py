"""HTTP for devices over a real store and a real socket, without a network of nodes."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from chunks.file_store import FileStore
from ledger.offer import UNKNOWN_DEVICE, Device
from protocol.digest import Digest, ManifestId
from protocol.manifest import DEFAULT_CHUNKER
from swarmd.config import Endpoint
from swarmd.ledger_host import LedgerHost
from swarmd.questions import Denial
from swarmd.receipts import ReceiptKind, ReceiptLog
from swarmd.services.image_http import TRANSFERS_MAX, ImageServer, _span
from swarmd.services.receipts import ReceiptService
from tests.support.ledger import make_lab

IMAGE = hashlib.shake_256(b"image").digest(300_000)


class Bench:
    def __init__(self, path: Path) -> None:
        self.lab = make_lab()
        self.chain = self.lab.open_chain()
        self.manifest = self.lab.manifest()
        self.store = FileStore.open(path / "images")
        self.path = path / "image"
        self.path.write_bytes(IMAGE)
        self.log = ReceiptLog(path / "receipts.db", self.lab.chain_id)
        self.receipts = ReceiptService(
            log=self.log,
            ledger=LedgerHost(self.chain, lambda: 0),
            own_did=self.lab.gateways[0].did,
            time_ms=lambda: 0,
        )
        self.denial: Denial | None = None
        self.questions = 0
        self.server = ImageServer(
            endpoint=Endpoint("127.0.0.1", 0),
            store=self.store,
            permit=self.permit,  # type: ignore[arg-type]
            receipts=self.receipts,
            note_outcome=self.note_outcome,
        )
        self.devices: list[Device] = []
        self.outcomes: list[tuple[bytes, bool]] = []

    def note_outcome(self, digest: Digest, device: bytes, runs: bool) -> bool:
        if digest != hashlib.sha256(IMAGE).digest():
            return False
        self.outcomes.append((device, runs))
        return True

    def permit(self, digest: Digest, device: Device) -> object:
        self.questions += 1
        self.devices.append(device)
        if self.denial is not None:
            return self.denial
        if digest != hashlib.sha256(IMAGE).digest():
            return Denial("image.unknown", "no")
        return self.manifest  # has the manifest_id that receipts name


@asynccontextmanager
async def serving(path: Path, *, is_complete: bool = True) -> AsyncIterator[Bench]:
    bench = Bench(path)
    if is_complete:
        staged = bench.store.stage(bench.path, DEFAULT_CHUNKER)
        bench.store.promote(staged.image)
    async with trio.open_nursery() as nursery:
        await nursery.start(bench.server.run)
        with trio.fail_after(30):
            yield bench
        nursery.cancel_scope.cancel()
    bench.store.close()
    bench.log.close()


async def connect(bench: Bench) -> trio.SocketStream:
    assert bench.server.url is not None
    host, port = bench.server.url.removeprefix("http://").split(":")
    return await trio.open_tcp_stream(host, int(port))


async def get(bench: Bench, digest: bytes = hashlib.sha256(IMAGE).digest()) -> tuple[int, bytes]:
    async with await connect(bench) as stream:
        head = f"GET /v1/images/{digest.hex()} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        await stream.send_all(head.encode())
        answer = b"".join([data async for data in stream])
    start, _, body = answer.partition(b"\r\n\r\n")
    return int(start.split()[1]), body


async def test_an_image_is_served_and_noted_once(tmp_path: Path) -> None:
    async with serving(tmp_path) as bench:
        for _ in range(3):
            assert await get(bench) == (200, IMAGE)
        assert (await get(bench, bytes(32)))[0] == 404
        await bench.receipts.flush()
        noted = [(entry.kind, entry.detail) for entry in bench.log.entries(newest=9)]
        assert noted == [
            (ReceiptKind.OFFERED, "http"),
            (ReceiptKind.REFUSED, "image.unknown"),
            (ReceiptKind.UNLISTED, "2 more: offered http"),
        ]


async def ask(bench: Bench, method: str, path: str, headers: str = "", body: bytes = b"") -> int:
    """Sends one request about the image; returns the status."""
    digest = hashlib.sha256(IMAGE).hexdigest()
    head = f"{method} /v1/images/{digest}{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    async with await connect(bench) as stream:
        length = f"Content-Length: {len(body)}\r\n\r\n"
        await stream.send_all((head + headers + length).encode() + body)
        answer = b"".join([data async for data in stream])
    return int(answer.split()[1])


async def test_a_device_says_who_it_is_and_what_it_runs(tmp_path: Path) -> None:
    manifest = "ab" * 32
    headers = f"Swarmd-Device: pump-7\r\nSwarmd-Sequence: 4\r\nSwarmd-Manifest: {manifest}\r\n"
    async with serving(tmp_path) as bench:
        assert await ask(bench, "GET", "", headers) == 200
        described = Device(
            device_id=b"pump-7",
            installed_sequence=4,
            installed=ManifestId(bytes.fromhex(manifest)),
        )
        assert bench.devices
        assert all(device == described for device in bench.devices)
        assert await ask(bench, "GET", "") == 200
        assert bench.devices[-1] == UNKNOWN_DEVICE


@pytest.mark.parametrize(
    "header",
    [
        "Swarmd-Device: " + "x" * 257,
        "Swarmd-Device: ",
        "Swarmd-Sequence: -1",
        "Swarmd-Sequence: 1" + "0" * 18,
        "Swarmd-Manifest: abcd",
    ],
)
async def test_what_a_device_says_is_read_strictly(tmp_path: Path, header: str) -> None:
    async with serving(tmp_path) as bench:
        assert await ask(bench, "GET", "", header + "\r\n") == 400
        assert bench.questions == 0


async def test_a_device_tells_what_became_of_a_release(tmp_path: Path) -> None:
    name = "Swarmd-Device: pump-7\r\n"
    async with serving(tmp_path) as bench:
        for body, status in (
            (b'{"result": "installed"}', 204),
            (b'{"result": "failed"}', 204),
            (b'{"result": "fine"}', 400),
            (b'{"result": 1}', 400),
            (b"[]", 400),
            (b"{", 400),
            (b"", 400),
            (b'{"result": "failed"}' + b" " * 300, 400),
        ):
            assert await ask(bench, "POST", "/outcome", name, body) == status, body
        assert await ask(bench, "POST", "/outcome", "", b'{"result": "failed"}') == 400
        assert bench.outcomes == [(b"pump-7", True), (b"pump-7", False)]


async def test_a_download_is_not_offered(tmp_path: Path) -> None:
    async with serving(tmp_path, is_complete=False) as bench:
        source = FileStore.open(tmp_path / "source")
        staged = source.stage(bench.path, DEFAULT_CHUNKER)
        source.close()
        bench.store.begin(staged.image, len(IMAGE), staged.recipe)
        assert (await get(bench))[0] == 404


async def test_a_revocation_cuts_a_transfer_off(tmp_path: Path) -> None:
    async with serving(tmp_path) as bench:
        real = bench.permit

        def revoke_later(digest: Digest, device: Device) -> object:
            if bench.questions == 5:
                bench.denial = Denial("manifest.revoked", "no")
            return real(digest, device)

        bench.server._permit = revoke_later  # type: ignore[assignment]
        status, body = await get(bench)
        assert status == 200
        assert len(body) < len(IMAGE)
        assert IMAGE.startswith(body)
        assert (await get(bench))[0] == 404
        await bench.receipts.flush()
        assert [entry.detail for entry in bench.log.entries(newest=9)] == ["manifest.revoked"]


async def test_transfers_are_bounded_and_their_slots_come_back(tmp_path: Path) -> None:
    async with serving(tmp_path) as bench:
        for _ in range(TRANSFERS_MAX):
            bench.server._slots.acquire_nowait()
        assert (await get(bench))[0] == 503
        bench.server._slots.release()
        for _ in range(3):  # leavers must not keep the only slot
            stream = await connect(bench)
            path = f"/v1/images/{hashlib.sha256(IMAGE).hexdigest()}"
            await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            await stream.aclose()
            while bench.server._slots.value == 0:
                await trio.lowlevel.checkpoint()
        while True:
            status, body = await get(bench)
            if status == 200:
                break
        assert body == IMAGE


@pytest.mark.parametrize(
    ("header", "span"),
    [
        ("bytes=0-", (0, 10)),
        ("bytes=2-4", (2, 5)),
        (" bytes=9-9 ", (9, 10)),
        ("bytes=3-99", (3, 10)),
        ("bytes=-3", (7, 10)),
        ("bytes=-99", (0, 10)),
        ("bytes=10-", None),
        ("bytes=4-2", None),
        ("bytes=-0", None),
        ("bytes=-", None),
        ("bytes=1-2,4-5", None),
        ("bytes=+1-2", None),
        ("bytes=1-2-3", None),
        ("bytes=" + "9" * 13 + "-", None),
    ],
)
def test_ranges(header: str, span: tuple[int, int] | None) -> None:
    assert _span(header, 10) == span
