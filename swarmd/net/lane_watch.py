"""Ends a connection whose TLS keeps one call of receiving busy and yields nothing.

OpenSSL works off KeyUpdates (RFC 8446, section 4.6.3) within a call that is to return data, as many
as come, 11 us for each 27 bytes. Whoever sends them without end, and before any claim that is
everybody who reaches the port, would hold the event loop's thread for ever, where no deadline of
its own helps. So a thread beside it looks at calls under way, while there are any.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Final

LOOK_S: Final = 0.1
"""Between two looks, seconds."""
LOOKS_MAX: Final = 5
"""Looks that may find the same call under way. An honest one takes microseconds; counting looks
instead of time forgives a process that was not scheduled."""


class ReceiveWatch:
    """Calls of receiving that are under way, by thread."""

    def __init__(self, *, look_s: float = LOOK_S) -> None:
        """Starts its thread with the first call."""
        self._look_s = look_s
        self._calls: dict[int, tuple[object, socket.socket]] = {}
        self._awake = threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def begins(self, sock: socket.socket) -> None:
        """Notes that this thread receives from a connection now."""
        self._calls[threading.get_ident()] = (object(), sock)
        if not self._awake.is_set():
            self._awake.set()
            self._start()

    def ends(self) -> None:
        """Notes that this thread's call has returned."""
        self._calls.pop(threading.get_ident(), None)

    def _start(self) -> None:
        with self._starting:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="lane-watch", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        pause = threading.Event()
        seen: dict[object, int] = {}
        while True:
            self._awake.wait()
            pause.wait(self._look_s)
            calls = tuple(self._calls.values())
            if not calls:
                self._awake.clear()
                if self._calls:  # begun meanwhile, and perhaps not seen to be asleep
                    self._awake.set()
            seen = {call: seen.get(call, 0) + 1 for call, _ in calls}
            for call, sock in calls:
                if seen[call] >= LOOKS_MAX:
                    with suppress(OSError):
                        # Not SSLSocket's: that would drop the TLS object under the call.
                        socket.socket.shutdown(sock, socket.SHUT_RDWR)


RECEIVE_WATCH: Final = ReceiveWatch()
"""The one of this process: threads are shared by all lanes."""
