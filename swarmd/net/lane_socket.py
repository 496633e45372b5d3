"""What a lane asks of its socket beyond sending and receiving; all of it may be missing.

`SO_RCVLOWAT` keeps the kernel from waking us for less than can be used, `TCP_NOTSENT_LOWAT` keeps
what is sent but not on its way small, so that the choice of what to send next stays late, and
`SO_MAX_PACING_RATE` spreads packets. Elsewhere than on Linux they do nothing, and lanes work.
"""

from __future__ import annotations

import array
import fcntl
import socket
import struct
import sys
import termios
from typing import Final

from swarmd.net.keepalive import KEEPALIVE_IDLE_S
from swarmd.net.uplink_window import PathState
from swarmd.net.wire import tune_keepalive

_IS_LINUX: Final = sys.platform == "linux"
_NOTSENT_LOWAT: Final = getattr(socket, "TCP_NOTSENT_LOWAT", 25)
_SO_MAX_PACING_RATE: Final = 47
"""asm-generic/socket.h."""
_SIOCOUTQNSD: Final = 0x894B
"""linux/sockios.h: bytes in the send queue that were never sent."""
_INFO_BYTES: Final = 152
"""Bytes of `struct tcp_info` up to its shortest round trip (linux/tcp.h, since 4.6)."""
_MIN_RTT_OFFSET: Final = 148
_NO_RTT: Final = 0xFFFFFFFF
_U32: Final = struct.Struct("=I")
_PACING_OFF: Final = 0xFFFFFFFF
"""tcp(7): no limit."""
_ROUND_TRIP_LOOKS: Final = 64
"""The shortest round trip is asked for once in so many looks at a path, about once a second: it
hardly changes, and asking costs as much as all else of a look."""


class LaneSocket:
    """The options of one connection; remembers what is set, so that setting it again is free."""

    def __init__(self, sock: socket.socket, idle_s: int = KEEPALIVE_IDLE_S) -> None:
        """Turns keepalive on and Nagle's delay off: frames are written in few large pieces.

        Args:
            sock: the connection.
            idle_s: idle seconds before the peer is probed.
        """
        self._sock = sock
        self._readable_at = 1
        self._unsent_max = 0
        self._pace: int | None = None
        self._unacked = array.array("i", [0])
        self._round_trip_s = 0.0
        self._looks_left = 0
        tune_keepalive(sock, idle_s)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def be_readable_at(self, size_bytes: int) -> None:
        """Has the socket be readable only with that many bytes, or at its end."""
        if _IS_LINUX and size_bytes != self._readable_at:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size_bytes)
            self._readable_at = size_bytes

    def keep_unsent_below(self, size_bytes: int) -> None:
        """Has the socket take no more once that many bytes wait to be sent for the first time."""
        if _IS_LINUX and size_bytes != self._unsent_max:
            self._sock.setsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT, size_bytes)
            self._unsent_max = size_bytes

    def pace(self, bytes_per_s: int | None) -> None:
        """Spreads packets so that no more than that leaves per second; None: no limit."""
        if _IS_LINUX and bytes_per_s != self._pace:
            self._pace = bytes_per_s
            rate = _PACING_OFF if bytes_per_s is None else min(bytes_per_s, _PACING_OFF - 1)
            value = rate.to_bytes(4, sys.byteorder)
            self._sock.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, value)

    @property
    def unsent_bytes(self) -> int:
        """Bytes the kernel holds that have not been sent once; 0 where it does not tell."""
        if not _IS_LINUX:
            return 0
        answer = array.array("i", [0])
        try:
            fcntl.ioctl(self._sock, _SIOCOUTQNSD, answer)
        except (OSError, ValueError):
            return 0
        return answer[0]

    def path(self, sent_bytes: int) -> PathState | None:
        """What the kernel knows of the connection, `sent_bytes` of which its user has given to it;
        None where it does not tell.
        """
        if not _IS_LINUX:
            return None
        try:
            fcntl.ioctl(self._sock, termios.TIOCOUTQ, self._unacked)
            if not self._looks_left:
                self._round_trip_s = self._shortest_round_trip_s()
                self._looks_left = _ROUND_TRIP_LOOKS if self._round_trip_s else 1
        except (OSError, ValueError):
            return None
        self._looks_left -= 1
        return PathState(self._unacked[0], self._round_trip_s, sent_bytes)

    def _shortest_round_trip_s(self) -> float:
        """Seconds; 0 as long as there was none, or the kernel does not tell."""
        info = self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
        if len(info) < _INFO_BYTES:
            return 0.0
        (least_us,) = _U32.unpack_from(info, _MIN_RTT_OFFSET)
        # All ones until there was a round trip (linux/win_minmax.h).
        return 0.0 if least_us == _NO_RTT else least_us / 1e6

    def break_off(self) -> None:
        """Ends the connection in both directions; closing it throws away what was not sent."""
        try:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # the peer was faster
