"""Read-only HTTP for devices behind this gateway: images by digest, on a local address.

`GET` or `HEAD /v1/images/<sha256>` gives an authorised image, with `Range` for one range and the
digest as `ETag` (RFC 9110). Every chunk is asked for from the store, which hashes what it has not
verified since boot, and the authority is asked again before each is sent, so that a revocation
ends a transfer under way. Refusals are 404 without saying whether the image exists; the receipt
log has the reason.
"""

from __future__ import annotations

import logging
import re
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
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
from protocol.authorised import AuthorisedManifest
from protocol.digest import Digest
from protocol.errors import StorageError
from swarmd.config import Endpoint
from swarmd.control.server import Started
from swarmd.questions import Denial
from swarmd.receipts import ReceiptKind
from swarmd.services.receipts import ReceiptService

logger = logging.getLogger(__name__)

TRANSFERS_MAX: Final = 32
"""Transfers at a time; more get 503 with Retry-After."""
STALL_S: Final = 30.0
"""A device that takes nothing for this long loses its connection, seconds."""
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_RANGE: Final = re.compile(r"bytes=(\d{1,12})?-(\d{1,12})?")
PermitForDigest = Callable[[Digest], AuthorisedManifest | Denial]


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


class ImageServer:
    """The HTTP application and its server."""

    def __init__(
        self,
        *,
        endpoint: Endpoint,
        store: ChunkStore,
        permit: PermitForDigest,
        receipts: ReceiptService,
    ) -> None:
        """Wires the server; it listens once `run` is called."""
        self._endpoint = endpoint
        self._store = store
        self._permit = permit
        self._receipts = receipts
        self._slots = trio.Semaphore(TRANSFERS_MAX)
        self.application: Final = Starlette(
            routes=[
                Route("/v1/images/{digest}", self._image, methods=["GET", "HEAD"]),
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
        digest = Digest(bytes.fromhex(text))
        permit = self._permit(digest)
        if isinstance(permit, Denial):
            self._receipts.note_once(
                ReceiptKind.REFUSED, subject=_device(request), detail=permit.rule
            )
            return _refusal(404, "no such image")
        try:
            recipe = await trio.to_thread.run_sync(self._complete_recipe, digest)
        except StorageError:
            return _refusal(404, "no such image")
        size = recipe.size_bytes
        wanted = request.headers.get("range") if request.method == "GET" else None
        if wanted is None or not wanted.strip().startswith("bytes="):
            return self._respond(request, permit, digest, recipe, None)  # RFC 9110, 14.2: ignored
        span = _span(wanted, size)
        if span is None:
            return Response(status_code=416, headers={"Content-Range": f"bytes */{size}"})
        return self._respond(request, permit, digest, recipe, span)

    def _complete_recipe(self, digest: Digest) -> Recipe:
        """The recipe of an image that is whole and was checked; a download is not offered."""
        if self._store.record(digest).state is not ImageState.COMPLETE:
            raise ImageMissingError("the image is not complete")
        return self._store.recipe(digest)

    def _respond(
        self,
        request: Request,
        permit: AuthorisedManifest,
        digest: Digest,
        recipe: Recipe,
        span: tuple[int, int] | None,
    ) -> Response:
        start, end = (0, recipe.size_bytes) if span is None else span
        device = _device(request)
        headers = {
            "ETag": f'"{digest.hex()}"',
            "Accept-Ranges": "bytes",
            "Content-Length": str(end - start),
            "Content-Type": "application/octet-stream",
        }
        if span is not None:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{recipe.size_bytes}"
        status = 200 if span is None else 206
        if request.method == "HEAD":
            return Response(status_code=status, headers=headers)
        try:
            self._slots.acquire_nowait()
        except trio.WouldBlock:
            return Response(status_code=503, headers={"Retry-After": "10"})
        body = self._chunks(digest, recipe, start, end, partial(self._done, permit, device))
        return _Transfer(body, status_code=status, headers=headers, release=self._slots.release)

    async def _chunks(
        self, digest: Digest, recipe: Recipe, start: int, end: int, done: Callable[[], None]
    ) -> AsyncGenerator[bytes, None]:
        try:
            for index in range(recipe.index_at(start), recipe.index_at(end - 1) + 1):
                data = await trio.to_thread.run_sync(self._store.read_chunk, digest, index)
                if isinstance(self._permit(digest), Denial):
                    raise StorageError("the authorisation ended during the transfer")
                offset = recipe.offset(index)
                yield data[max(start - offset, 0) : end - offset]
            done()
        except StorageError as error:
            logger.warning("transfer of %s cut off: %s", digest.hex()[:8], error)
            raise

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
