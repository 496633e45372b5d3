"""Read-only HTTP for devices behind this gateway: images by digest, on a local address.

`GET` or `HEAD /v1/images/<sha256>` gives an authorised image, with `Range` for one range and the
digest as `ETag` (RFC 9110). Every chunk is asked for from the store, which hashes what it has not
verified since boot, and the authority is asked again before each is sent, so that a revocation
ends a transfer under way. Refusals are 404 without saying whether the image exists; the receipt
log has the reason.

A sealed image is served as it is stored, by the SHA-256 of its ciphertext. Where the configuration
says so and this node holds the key, the salted plain digest of the manifest names the plain bytes,
which were opened and checked as a whole before the first request is answered.

A device that names itself (`Swarmd-Device`, and what it runs: `Swarmd-Sequence`,
`Swarmd-Manifest`) is offered staged releases when its turn comes; one that does not, only what
every device may have. `POST /v1/images/<sha256>/outcome` with `{"result": "installed"}` (or
`"failed"`) tells what became of a release; that goes into the receipt log and, counted, into the
ledger.
"""

from __future__ import annotations

import json
import logging
import re
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio
from hypercorn.config import Config as HypercornConfig
from hypercorn.config import Sockets
from hypercorn.trio import serve
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from chunks.recipe import Recipe
from chunks.store import ChunkStore, ImageMissingError, ImageState
from ledger.offer import Device
from protocol.authorised import AuthorisedManifest
from protocol.digest import Digest, ManifestId
from protocol.errors import StorageError, VerificationError
from protocol.rollout import DEVICE_ID_BYTES_MAX
from swarmd.config import Endpoint
from swarmd.control.server import Started
from swarmd.questions import Denial
from swarmd.receipts import ReceiptKind
from swarmd.services.plain import PlainImage
from swarmd.services.receipts import ReceiptService

logger = logging.getLogger(__name__)

TRANSFERS_MAX: Final = 32
"""Transfers at a time; more get 503 with Retry-After."""
STALL_S: Final = 30.0
"""A device that takes nothing for this long loses its connection, seconds."""
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_RANGE: Final = re.compile(r"bytes=(\d{1,12})?-(\d{1,12})?")
_SEQUENCE: Final = re.compile(r"\d{1,18}")
OUTCOME_BYTES_MAX: Final = 256
"""Longest body of an outcome."""
PermitForDigest = Callable[[Digest, Device], AuthorisedManifest | Denial]
NoteOutcome = Callable[[Digest, bytes, bool], bool]
"""(image, device id, whether it runs) -> whether a release of it is known here."""


class _ServerConfig(HypercornConfig):
    """Hypercorn's, on sockets that give up devices which stopped reading.

    Its sends cannot be cancelled: one device would hold its slot, and the stop of the daemon, for
    as long as it likes.
    """

    def create_sockets(self) -> Sockets:
        """Binds; what is accepted inherits the bound."""
        sockets = super().create_sockets()
        for listening in sockets.insecure_sockets:
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(STALL_S * 1000))
        return sockets


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a device asked for."""

    digest: Digest
    """Of the image as stored."""
    name: Digest
    """What it was asked for by."""
    recipe: Recipe
    device: Device
    plain: PlainImage | None

    @property
    def size(self) -> int:
        return self.recipe.size_bytes if self.plain is None else self.plain.layout.size_bytes

    def offset(self, index: int) -> int:
        layout = self.recipe if self.plain is None else self.plain.layout
        return layout.offset(index)

    def index_at(self, offset: int) -> int:
        layout = self.recipe if self.plain is None else self.plain.layout
        return layout.index_at(offset)


class ImageServer:
    """The HTTP application and its server."""

    def __init__(
        self,
        *,
        endpoint: Endpoint,
        store: ChunkStore,
        permit: PermitForDigest,
        receipts: ReceiptService,
        note_outcome: NoteOutcome,
        find_plain: Callable[[Digest], PlainImage | None] = lambda _digest: None,
    ) -> None:
        """Wires the server; it listens once `run` is called.

        `find_plain` gives sealed images that may be served plain, by their salted plain digest.
        """
        self._find_plain = find_plain
        self._note_outcome = note_outcome
        self._endpoint = endpoint
        self._store = store
        self._permit = permit
        self._receipts = receipts
        self._slots = trio.Semaphore(TRANSFERS_MAX)
        self.application: Final = Starlette(
            routes=[
                Route("/v1/images/{digest}", self._image, methods=["GET", "HEAD"]),
                Route("/v1/images/{digest}/outcome", self._outcome, methods=["POST"]),
                Route("/v1/health", self._health, methods=["GET"]),
            ]
        )
        self.url: str | None = None
        """Where it listens, once it does."""

    async def run(self, *, task_status: Started = trio.TASK_STATUS_IGNORED) -> None:
        """Listens and serves until cancelled."""
        config = _ServerConfig()
        config.bind = [str(self._endpoint)]
        config.accesslog = None
        config.errorlog = logger
        config.include_server_header = False
        config.h11_max_incomplete_size = 16 * 1024
        config.keep_alive_timeout = 15
        async with trio.open_nursery() as nursery:
            never = trio.sleep_forever
            binds = await nursery.start(
                partial(
                    serve,
                    self.application,  # type: ignore[arg-type]  # its Scope is a MutableMapping
                    config,
                    shutdown_trigger=never,
                )
            )
            self.url = binds[0]
            logger.info("devices are served at %s", self.url)
            task_status.started()

    async def _health(self, _request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _image(self, request: Request) -> Response:
        text = request.path_params["digest"]
        if not _DIGEST.fullmatch(text):
            return _refusal(400, "not a sha256 in 64 lower-case hex digits")
        name = Digest(bytes.fromhex(text))
        plain = self._find_plain(name)
        digest = name if plain is None else plain.component.digest
        device = _described(request)
        if device is None:
            return _refusal(400, "not a device id, sequence or manifest id in the Swarmd- headers")
        permit = self._permit(digest, device)
        if isinstance(permit, Denial):
            self._receipts.note_once(
                ReceiptKind.REFUSED, subject=_device(request), detail=permit.rule
            )
            return _refusal(404, "no such image")
        try:
            recipe = await trio.to_thread.run_sync(self._complete_recipe, digest)
        except StorageError:
            return _refusal(404, "no such image")
        what = _Wanted(digest, name, recipe, device, plain)
        wanted = request.headers.get("range") if request.method == "GET" else None
        if wanted is None or not wanted.strip().startswith("bytes="):
            # RFC 9110, 14.2: other units are ignored
            return self._respond(request, permit, what, None)
        span = _span(wanted, what.size)
        if span is None:
            return Response(status_code=416, headers={"Content-Range": f"bytes */{what.size}"})
        return self._respond(request, permit, what, span)

    async def _outcome(self, request: Request) -> Response:
        text = request.path_params["digest"]
        device = _described(request)
        if not _DIGEST.fullmatch(text) or device is None or device.device_id is None:
            return _refusal(400, "expected a sha256 in the path and the header Swarmd-Device")
        result = _result(await _body(request))
        if result is None:
            return _refusal(400, 'expected {"result": "installed"} or {"result": "failed"}')
        if not self._note_outcome(Digest(bytes.fromhex(text)), device.device_id, result):
            return _refusal(404, "no such image")
        return Response(status_code=204)

    def _complete_recipe(self, digest: Digest) -> Recipe:
        """The recipe of an image that is whole and was checked; a download is not offered."""
        if self._store.record(digest).state is not ImageState.COMPLETE:
            raise ImageMissingError("the image is not complete")
        return self._store.recipe(digest)

    def _respond(
        self,
        request: Request,
        permit: AuthorisedManifest,
        wanted: _Wanted,
        span: tuple[int, int] | None,
    ) -> Response:
        start, end = (0, wanted.size) if span is None else span
        device = _device(request)
        headers = {
            "ETag": f'"{wanted.name.hex()}"',
            "Accept-Ranges": "bytes",
            "Content-Length": str(end - start),
            "Content-Type": "application/octet-stream",
        }
        if span is not None:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{wanted.size}"
        status = 200 if span is None else 206
        if request.method == "HEAD":
            return Response(status_code=status, headers=headers)
        try:
            self._slots.acquire_nowait()
        except trio.WouldBlock:
            return Response(status_code=503, headers={"Retry-After": "10"})
        body = self._chunks(wanted, start, end, partial(self._done, permit, device))
        return _Transfer(body, status_code=status, headers=headers, release=self._slots.release)

    async def _chunks(
        self, wanted: _Wanted, start: int, end: int, done: Callable[[], None]
    ) -> AsyncGenerator[bytes, None]:
        digest = wanted.digest
        try:
            for index in range(wanted.index_at(start), wanted.index_at(end - 1) + 1):
                data = await trio.to_thread.run_sync(self._read, wanted, index)
                if isinstance(self._permit(digest, wanted.device), Denial):
                    raise StorageError("the authorisation ended during the transfer")
                offset = wanted.offset(index)
                yield data[max(start - offset, 0) : end - offset]
            done()
        except (StorageError, VerificationError) as error:
            logger.warning("transfer of %s cut off: %s", digest.hex()[:8], error)
            raise

    def _read(self, wanted: _Wanted, index: int) -> bytes:
        data = self._store.read_chunk(wanted.digest, index)
        return data if wanted.plain is None else wanted.plain.opener.open(data)

    def _done(self, permit: AuthorisedManifest, device: str) -> None:
        self._receipts.note_once(
            ReceiptKind.OFFERED, manifest=permit.manifest_id, subject=device, detail="http"
        )


class _Transfer(StreamingResponse):
    """A streamed image; gives its slot back however it ends, even if it never began.

    Starlette cancels the sending task when the server reports the end of the exchange. Hypercorn
    reports it from within the last `send`, which must not be cancelled: the connection would never
    be used again, nor closed. So a device that leaves is noticed between two chunks instead.
    """

    def __init__(
        self,
        body: AsyncGenerator[bytes, None],
        *,
        status_code: int,
        headers: dict[str, str],
        release: Callable[[], None],
    ) -> None:
        super().__init__(body, status_code=status_code, headers=headers)
        self._body = body
        self._release = release
        self._is_gone = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Sends the response."""
        try:
            async with aclosing(self._body), trio.open_nursery() as nursery:
                nursery.start_soon(self._watch, receive)
                await self.stream_response(send)
                nursery.cancel_scope.cancel()
        finally:
            self._release()

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._is_gone = True

    async def stream_response(self, send: Send) -> None:
        """Sends head and body, until the device leaves."""
        head = {"type": "http.response.start", "status": self.status_code}
        await send({**head, "headers": self.raw_headers})
        async for chunk in self._body:
            if self._is_gone:
                return
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _device(request: Request) -> str:
    return "unknown" if request.client is None else request.client.host


def _described(request: Request) -> Device | None:
    """What a device says of itself; None if that is malformed. It is believed: R91."""
    name, sequence, manifest = (
        request.headers.get(f"swarmd-{field}") for field in ("device", "sequence", "manifest")
    )
    device_id = None if name is None else name.encode("latin-1")
    if device_id is not None and not 1 <= len(device_id) <= DEVICE_ID_BYTES_MAX:
        return None
    if sequence is not None and not _SEQUENCE.fullmatch(sequence):
        return None
    if manifest is not None and not _DIGEST.fullmatch(manifest):
        return None
    return Device(
        device_id=device_id,
        installed_sequence=None if sequence is None else int(sequence),
        installed=None if manifest is None else ManifestId(bytes.fromhex(manifest)),
    )


async def _body(request: Request) -> bytes:
    """The request's body, or its first bytes if it is too long to be an outcome."""
    body = b""
    async with aclosing(request.stream()) as parts:
        async for part in parts:
            body += part[: OUTCOME_BYTES_MAX + 1]
            if len(body) > OUTCOME_BYTES_MAX:
                break
    return body


def _result(body: bytes) -> bool | None:
    """Whether a device runs the release it was handed; None if the body does not say."""
    if len(body) > OUTCOME_BYTES_MAX:
        return None
    try:
        document = json.loads(body)
    except ValueError:
        return None
    results = {"installed": True, "failed": False}
    result = document.get("result") if isinstance(document, dict) else None
    return results.get(result) if isinstance(result, str) else None


def _refusal(status: int, message: str) -> Response:
    return JSONResponse({"error": message}, status_code=status)


def _span(header: str, size: int) -> tuple[int, int] | None:
    """The half-open byte range a request wants; None when it cannot be satisfied."""
    match = _RANGE.fullmatch(header.strip())
    if match is None or (match.group(1) is None and match.group(2) is None):
        return None
    first, last = match.group(1), match.group(2)
    if first is None:
        return (max(0, size - int(last)), size) if int(last) > 0 else None
    start = int(first)
    end = size if last is None else min(int(last) + 1, size)
    return (start, end) if start < end else None
