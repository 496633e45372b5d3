"""The command line's side of the control protocol: blocking, one request at a time."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from protocol.errors import RemoteProtocolError, TransportError
from swarmd.control.protocol import (
    ANSWER_BYTES_MAX,
    HEARTBEAT_S,
    JSON,
    Failure,
    Progress,
    Request,
    Result,
    decode_answer,
    encode_request,
)
from swarmd.control.unix import short_socket_address

SILENCE_S: Final = 12 * HEARTBEAT_S
"""Seconds without any line after which the daemon counts as hung: it would have missed 11 beats."""
_RECEIVE_BYTES: Final = 65536

OnProgress = Callable[[Mapping[str, object]], None]
"""Told each progress line that is not a mere heartbeat."""


class ControlClient:
    """A connection to the daemon of one data directory; a context manager."""

    def __init__(self, socket_path: Path) -> None:
        """Connects to the socket at `socket_path`.

        Raises:
            TransportError: no daemon runs there, or it may not be spoken to by this user.
        """
        self._buffer = bytearray()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(SILENCE_S)
        directory = socket_path.parent.parent
        try:
            with short_socket_address(socket_path) as address:
                self._socket.connect(address)
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
            self._socket.close()
            raise TransportError(
                f"no daemon runs on {directory}; start it with: swarmd run -C {directory}"
            ) from None
        except OSError as error:
            self._socket.close()
            raise TransportError(f"daemon of {directory}: {error.strerror or error}") from error

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Hangs up; a request under way is cancelled."""
        self._socket.close()

    def call(
        self, method: str, params: Mapping[str, JSON], on_progress: OnProgress | None = None
    ) -> JSON:
        """Makes one request and waits for its end.

        Returns:
            The method's result.

        Raises:
            ControlError: the daemon refused or failed; its code says what to do next.
            TransportError: the daemon went away or hangs.
            RemoteProtocolError: what answers is not a daemon of this version.
        """
        with self._transport_errors():
            # A daemon that hangs up first (too many clients) leaves its reason to be read.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self._socket.sendall(encode_request(Request(method, params)))
            while True:
                match decode_answer(self._next_line()):
                    case Progress(fields):
                        if fields and on_progress is not None:
                            on_progress(fields)
                    case Result(value):
                        return value
                    case Failure() as failure:
                        raise failure.to_error()

    @contextlib.contextmanager
    def _transport_errors(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError:
            raise TransportError(f"the daemon has been silent for {SILENCE_S:g} s") from None
        except OSError as error:
            raise TransportError(f"connection to the daemon: {error.strerror or error}") from error

    def _next_line(self) -> bytes:
        while (end := self._buffer.find(b"\n")) < 0:
            data = self._socket.recv(_RECEIVE_BYTES)
            if not data:
                raise TransportError("the daemon ended before it answered")
            self._buffer += data
            if len(self._buffer) > ANSWER_BYTES_MAX + _RECEIVE_BYTES:
                raise RemoteProtocolError(f"answer line over {ANSWER_BYTES_MAX} bytes")
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line
