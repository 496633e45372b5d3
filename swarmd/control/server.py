"""The daemon's side of the control protocol.

Bounded in connections, line length and waiting; only the daemon's own user and root are served.
Whatever a client sends, it gets an error line and the daemon lives; whatever a handler raises
becomes an error line too, with a traceback in the log if it is a defect.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final, Protocol

import trio

from protocol.errors import RemoteProtocolError, StorageError, SwarmError
from swarmd.control.protocol import (
    HEARTBEAT_S,
    JSON,
    LINE_BYTES_MAX,
    Answer,
    ErrorCode,
    Failure,
    Progress,
    Request,
    Result,
    decode_request,
    encode_answer,
    failure_of,
    one_line,
)
from swarmd.control.unix import CREDENTIALS_BYTES, listen_unix, peer_uid, remove_socket

CONNECTIONS_MAX: Final = 32
"""Clients at a time; a person and a few scripts need no more."""
IDLE_S: Final = 60.0
"""Seconds a client may take between requests before it is hung up on."""
SEND_S: Final = 30.0
"""Seconds a client may take to accept an answer line."""
_RECEIVE_BYTES: Final = 65536
_GONE: Final = (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError)

Report = Callable[[Mapping[str, JSON]], Awaitable[None]]
"""Sends one progress line to the client. Cutting it short by a timeout ends the connection."""
Handler = Callable[[Mapping[str, object], Report], Awaitable[JSON]]
"""A method: parameters and a way to report progress in, a JSON-able result out.

Raises `SwarmError` to refuse. It is cancelled when its client hangs up, so it must leave things in
order when cancelled at any await.
"""

_log = logging.getLogger(__name__)


class Started(Protocol):
    """What `Nursery.start` passes as `task_status`."""

    def started(self) -> None:
        """Says that the task is ready for use."""
        ...


async def serve_control(
    path: Path,
    handlers: Mapping[str, Handler],
    *,
    may_operate: Callable[[int], bool] = lambda uid: uid in (0, os.geteuid()),
    task_status: Started = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves the control socket at `path` until cancelled, then removes it.

    Args:
        path: where the socket shall be; its directory exists and only the caller writes to it.
        handlers: methods by name.
        may_operate: whether a user id, as the kernel tells it, may use the socket.
        task_status: started once clients can connect.

    Raises:
        StorageError: the socket cannot be made.
    """
    try:
        bound = listen_unix(path, backlog=CONNECTIONS_MAX)
    except OSError as error:
        raise StorageError(f"control socket {path}: {error.strerror}") from error
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(bound))
    slots = trio.CapacityLimiter(CONNECTIONS_MAX)

    async def serve_client(stream: trio.SocketStream) -> None:
        await _serve_client(_Connection(stream, handlers, may_operate), slots)

    try:
        task_status.started()
        await trio.serve_listeners(serve_client, [listener])
    finally:
        remove_socket(path)


async def _serve_client(connection: _Connection, slots: trio.CapacityLimiter) -> None:
    """Serves one client to its end; no error of the client or of a handler leaves here."""
    try:
        slots.acquire_on_behalf_of_nowait(connection)
    except trio.WouldBlock:
        await connection.end_with(Failure(ErrorCode.REFUSED, "control.busy", "too many clients"))
        return
    try:
        await connection.serve()
    except _GONE:
        _log.debug("control client went away")
    finally:
        slots.release_on_behalf_of(connection)


class _Connection:
    """One client: reads requests, runs handlers, writes answers."""

    def __init__(
        self,
        stream: trio.SocketStream,
        handlers: Mapping[str, Handler],
        may_operate: Callable[[int], bool],
    ) -> None:
        self._stream = stream
        self._handlers = handlers
        self._may_operate = may_operate
        self._buffer = bytearray()
        self._sending = trio.Lock()

    async def serve(self) -> None:
        """Answers requests until the client ends, stalls or breaks the protocol."""
        uid = peer_uid(
            self._stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS_BYTES)
        )
        if not self._may_operate(uid):
            _log.warning("control connection by user id %d refused", uid)
            message = f"user id {uid} may not control this daemon"
            await self.end_with(Failure(ErrorCode.REFUSED, "control.user", message))
            return
        try:
            while (line := await self._next_line()) is not None:
                if not await self._answer(decode_request(line)):
                    return
        except RemoteProtocolError as error:
            await self.end_with(Failure(ErrorCode.USAGE, "control.protocol", one_line(str(error))))

    async def end_with(self, failure: Failure) -> None:
        """Tells the client why nothing follows; a client that does not listen is no matter."""
        try:
            await self._send(failure)
            await self._stream.send_eof()
        except _GONE:
            _log.debug("control client left before its error: %s", failure.message)

    async def _send(self, answer: Answer) -> None:
        """Sends one line; if it is cut short, the connection ends, for nothing may follow it."""
        line = encode_answer(answer)
        async with self._sending:
            try:
                with trio.fail_after(SEND_S):
                    await self._stream.send_all(line)
            except BaseException:
                self._stream.socket.close()
                raise

    async def _next_line(self) -> bytes | None:
        """The next request line, or None when the client ended or was silent for too long."""
        with trio.move_on_after(IDLE_S):
            while b"\n" not in self._buffer and await self._receive():
                pass
        line, newline, rest = self._buffer.partition(b"\n")
        if not newline:
            return None
        self._buffer = rest
        return bytes(line)

    async def _receive(self) -> bool:
        """Adds what arrived to the buffer; False at the end of the stream."""
        data = await self._stream.receive_some(_RECEIVE_BYTES)
        self._buffer += data
        if len(self._buffer) > LINE_BYTES_MAX:
            raise RemoteProtocolError(f"request line over {LINE_BYTES_MAX} bytes")
        return bool(data)

    async def _answer(self, request: Request) -> bool:
        """Runs one request; False when the client hung up meanwhile, which cancels the handler."""
        work = _Work()
        async with trio.open_nursery() as nursery:
            work.scope = nursery.cancel_scope
            nursery.start_soon(self._watch, work)
            nursery.start_soon(self._beat, work)
            nursery.start_soon(self._run_handler, request, work)
        if work.overrun is not None:
            raise work.overrun
        if work.ending is None:
            return False
        await self._send(work.ending)
        return True

    async def _watch(self, work: _Work) -> None:
        """Waits for the client to hang up; what it sends meanwhile is its next request."""
        try:
            while await self._receive():
                pass
        except RemoteProtocolError as error:
            work.overrun = error
        except _GONE:
            _log.debug("control client hung up")
        work.scope.cancel()

    async def _beat(self, work: _Work) -> None:
        """Says "still at work" until the work is done."""
        while True:
            await trio.sleep(HEARTBEAT_S)
            await self._report({}, work)

    async def _report(self, fields: Mapping[str, JSON], work: _Work) -> None:
        try:
            await self._send(Progress(fields))
        except _GONE:
            work.scope.cancel()
            await trio.lowlevel.checkpoint()

    async def _run_handler(self, request: Request, work: _Work) -> None:
        """Runs the handler to its end; whatever it raises becomes the request's ending."""
        handler = self._handlers.get(request.method)
        if handler is None:
            message = one_line(f"unknown method {request.method!r}")
            work.ending = Failure(ErrorCode.USAGE, "control.method", message)
        else:

            async def report(fields: Mapping[str, JSON]) -> None:
                await self._report(fields, work)

            try:
                work.ending = Result(await handler(request.params, report))
            except Exception as error:  # noqa: BLE001  (the edge where defects become answers)
                work.ending = _failure(request.method, error)
        # Not in the middle of a heartbeat: the ending must find the connection in order.
        async with self._sending:
            work.scope.cancel()


class _Work:
    """What the tasks around one request share."""

    __slots__ = ("ending", "overrun", "scope")

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.ending: Answer | None = None
        self.overrun: RemoteProtocolError | None = None


def _failure(method: str, error: Exception) -> Failure:
    """The answer to a failed handler; a nursery's group around a single error is looked through."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    if isinstance(error, SwarmError):
        return failure_of(error)
    _log.error("control method %s failed", method, exc_info=error)
    message = f"internal error in {method}: {type(error).__name__}; see the daemon's log"
    return Failure(ErrorCode.INTERNAL, "", message)
