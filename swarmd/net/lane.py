"""One bulk lane: a connection of its own that carries frames to and from an authenticated peer.

States: open -> ended (the peer said so, or the connection broke) -> closed (`reset`). To whoever
uses it a lane is a stream of frames; docs/spec/lane.md says how it comes about.

Who works where: steps run on the trio thread, because handing work to a thread costs as much as
decrypting 256 KiB with a processor that has AES instructions. Where a step turns out to take long,
the next of its direction runs in a worker thread. The two directions share nothing, so a step of
each may run at once; no step waits for anything.
"""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

import trio

from protocol.errors import SwarmError, TransportError
from protocol.exchange_messages import EXCHANGE_FRAME_BYTES_MAX
from protocol.limits import GIB, KIB, MIB
from swarmd.net.address import PeerKey, short_peer
from swarmd.net.keepalive import KEEPALIVE_IDLE_S
from swarmd.net.lane_buffers import FrameBuffers, RecordBuffers
from swarmd.net.lane_cipher import LaneCipher
from swarmd.net.lane_frames import FrameReceiver, FrameSender, Step
from swarmd.net.lane_rate import RateMeter, record_bytes_max, unsent_bytes_max
from swarmd.net.lane_socket import LaneSocket
from swarmd.net.send_gate import SendGate
from swarmd.net.uplink_window import PathState

INLINE_BYTES: Final = 256 * KIB
"""Work of one step on the trio thread: about 110 us, as much as a hop to a thread and back."""
INLINE_S: Final = 0.0005
"""A step that takes more processor time than this has the next one run in a thread, seconds: votes
and timers of the node wait for the trio thread. Reached by processors without AES instructions."""
STEP_BYTES: Final = 2 * MIB
"""Work of one step in a thread: 1 ms at the speed of one core, 60 ms without AES instructions;
bounds how long `reset` waits, and with the longest frame what is received ahead of the exchange."""
READABLE_BYTES_MAX: Final = 256 * KIB
"""The kernel wakes us no later than with this: decrypting goes on while more arrives."""
FRAME_S: Final = 120.0
"""A frame once begun is complete within this time and what `FRAME_BYTES_PER_S_MIN` asks for, or the
lane ends, seconds: twice what a sender waits for a frame to be taken."""
FRAME_BYTES_PER_S_MIN: Final = 1 * KIB
"""A sender held to the least rate there is (16 KiB/s) shares it among its peers: 16 at this one."""
LANE_BYTES_MAX: Final = 256 * GIB
"""Bytes in one direction before the lane gives way to a new one (B24): 2^34 blocks under one key of
AES-GCM, below the 2^34.5 that RFC 8446, section 5.5, allows; 2^24 records of 16 KiB."""


class LaneWorkers:
    """What all lanes of a node share: buffers, and as many threads as there are processors."""

    def __init__(self) -> None:
        """More threads would only queue for the interpreter's lock, the trio thread with them."""
        self.buffers: Final = FrameBuffers()
        """What frames are received into."""
        self.record_buffers: Final = RecordBuffers()
        """What records are kept in between socket and cipher."""
        self._limiter = trio.CapacityLimiter(os.cpu_count() or 1)

    async def run(self, work: Callable[[], tuple[Step, float]]) -> tuple[Step, float]:
        """Runs one step in a thread, once one is free."""
        return await trio.to_thread.run_sync(work, limiter=self._limiter)


class Lane:
    """See the module's docstring. One task may send while another receives."""

    def __init__(
        self,
        sock: socket.socket,
        peer: PeerKey,
        workers: LaneWorkers,
        cipher: LaneCipher,
        *,
        frame_bytes_max: int = EXCHANGE_FRAME_BYTES_MAX,
        idle_s: int = KEEPALIVE_IDLE_S,
    ) -> None:
        """Takes over a connection after handshake and claim.

        Args:
            sock: non-blocking; closed by `reset`.
            peer: who is at the other end, as handshake and claim have shown.
            workers: run large steps.
            cipher: what protects the bytes on the socket.
            frame_bytes_max: bytes of one frame's body in either direction.
            idle_s: idle seconds before TCP probes the peer.
        """
        self._peer: Final = peer
        self._sock = sock
        self._options = LaneSocket(sock, idle_s)
        self._workers = workers
        self._receiver = FrameReceiver(cipher, workers.buffers, frame_bytes_max=frame_bytes_max)
        self._sender = FrameSender(cipher, frame_bytes_max=frame_bytes_max)
        self._send_rate = RateMeter()
        self._sender.record_bytes_max = record_bytes_max(None)
        self._unsent_max = unsent_bytes_max(None)
        self._options.keep_unsent_below(self._unsent_max)
        self._is_costly: dict[FrameSender | FrameReceiver, bool] = {}
        self._stepping_count = 0
        self._stepped = trio.lowlevel.ParkingLot()
        self._is_broken_off = False
        self._is_closed = False
        self._frame_since: float | None = None
        self._admitted_bytes = 0
        self.gate: SendGate | None = None
        """Holds sending back, if set."""
        self.on_closed: Callable[[Lane], None] | None = None
        """Called once, when the lane was closed."""

    def __repr__(self) -> str:
        """Names the peer."""
        return f"Lane({short_peer(self._peer)})"

    @property
    def peer(self) -> PeerKey:
        """Who is at the other end."""
        return self._peer

    @property
    def remote_host(self) -> str:
        """IP address at the other end; empty once the lane is closed."""
        try:
            return str(self._sock.getpeername()[0])
        except OSError:
            return ""

    @property
    def is_broken_off(self) -> bool:
        """Whether the lane was ended here."""
        return self._is_broken_off

    @property
    def received_bytes(self) -> int:
        """Bytes of frames received, prefixes included."""
        return self._receiver.received_bytes

    @property
    def sent_bytes(self) -> int:
        """Bytes of frames handed to the connection, prefixes included."""
        return self._sender.sent_bytes

    @property
    def unsent_bytes(self) -> int:
        """Bytes that were given to `send_frame` and have not left this machine once."""
        return self._sender.queued_bytes + (
            0 if self._is_broken_off else self._options.unsent_bytes
        )

    @property
    def is_writable(self) -> bool:
        """Whether the connection would take bytes now: a sender prefers such a peer."""
        return not self._is_broken_off and self.unsent_bytes < self._unsent_max

    def path(self) -> PathState | None:
        """What the kernel knows of the connection; None where it does not tell."""
        return None if self._is_broken_off else self._options.path(self._sender.sent_bytes)

    def pace(self, bytes_per_s: int | None) -> None:
        """Has the kernel spread what is sent over time; None: no limit."""
        if not self._is_broken_off:
            self._options.pace(bytes_per_s)

    # Sending -------------------------------------------------------------------------------------

    async def send_frame(self, parts: Sequence[bytes | memoryview]) -> None:
        """Sends one frame whose body is the parts in order; they stay unchanged until it returns.

        A send that is cancelled breaks the lane off, since part of a frame may be gone.

        Raises:
            LocalProtocolError: the frame is empty or too long, or another is being sent.
            TransportError: the lane broke.
        """
        await trio.lowlevel.checkpoint()
        self._check_open()
        self._sender.put(parts)
        try:
            while (step := await self._send_step()) is not Step.DONE:
                if step is Step.WRITE:
                    await self._wait(trio.lowlevel.wait_writable)
        except BaseException:
            self.break_off()
            raise
        self._check(self._sender.failure)
        if self._sender.sent_bytes > LANE_BYTES_MAX:
            self.break_off()

    async def _send_step(self) -> Step:
        if self.gate is not None and self._admitted_bytes <= 0:
            self._admitted_bytes += await self.gate.admit(self._sender.queued_bytes)
        before_bytes = self._sender.sent_bytes
        step = await self._run(self._sender, None if self.gate is None else self._admitted_bytes)
        moved_bytes = self._sender.sent_bytes - before_bytes
        if self.gate is not None:
            self._admitted_bytes -= moved_bytes
        self._send_rate.note(moved_bytes, trio.current_time())
        self._sender.record_bytes_max = record_bytes_max(self._send_rate.bytes_per_s)
        self._unsent_max = unsent_bytes_max(self._send_rate.bytes_per_s)
        if not self._is_broken_off:
            self._options.keep_unsent_below(self._unsent_max)
        return step

    # Receiving -----------------------------------------------------------------------------------

    async def receive_frame(self) -> memoryview | None:
        """Waits for one frame; None when the peer ended the lane.

        The frame does not change while anybody has it or a slice of it.

        Raises:
            RemoteProtocolError: the frame is empty, over the bound, or cut off.
            TransportError: the lane broke, or the frame crept: a thin link is no offence.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while (frame := self._receiver.take()) is None:
            self._check(self._receiver.failure)
            if self._receiver.is_ended:
                return None
            step = await self._run(self._receiver)
            if step is Step.READ and not self._receiver.has_frame:
                await self._wait_for_data()
        self._frame_since = None
        return frame

    async def _wait_for_data(self) -> None:
        """Waits until a look at the socket is worth its price.

        What a record under way or a frame still lacks is certain to come, and nothing can be done
        before it is here.
        """
        self._check_open()
        certain_bytes = self._receiver.certain_bytes
        self._options.be_readable_at(max(1, min(READABLE_BYTES_MAX, certain_bytes)))
        deadline = self._frame_deadline(is_inside=certain_bytes > 0)
        if deadline == math.inf:
            await self._wait(trio.lowlevel.wait_readable)
            return
        with trio.move_on_at(deadline):
            await self._wait(trio.lowlevel.wait_readable)

    def _frame_deadline(self, *, is_inside: bool) -> float:
        """When the frame under way must be complete.

        Raises:
            TransportError: it is over.
        """
        if not is_inside:
            self._frame_since = None
            return math.inf
        now = trio.current_time()
        if self._frame_since is None:
            self._frame_since = now
        allowed_s = FRAME_S + self._receiver.body_bytes / FRAME_BYTES_PER_S_MIN
        if now >= self._frame_since + allowed_s:
            self.break_off()
            raise TransportError(f"a frame was not complete within {allowed_s:.0f} s")
        return self._frame_since + allowed_s

    # Both ----------------------------------------------------------------------------------------

    async def _run(
        self, machine: FrameSender | FrameReceiver, budget_bytes: int | None = None
    ) -> Step:
        """Runs one step where it is cheapest."""
        self._check_open()
        in_thread = self._is_costly.get(machine, False)
        most_bytes = STEP_BYTES if in_thread else INLINE_BYTES
        if budget_bytes is not None:
            most_bytes = min(most_bytes, budget_bytes)
        if in_thread:
            step, cost_s = await self._run_in_thread(machine, most_bytes)
        else:
            step, cost_s = _timed(machine.step, most_bytes)
        self._is_costly[machine] = cost_s > INLINE_S
        return step

    async def _run_in_thread(
        self, machine: FrameSender | FrameReceiver, most_bytes: int
    ) -> tuple[Step, float]:
        """Runs one step where it may take long; meanwhile the socket stays open."""
        self._stepping_count += 1
        try:
            return await self._workers.run(partial(_timed, machine.step, most_bytes))
        finally:
            self._stepping_count -= 1
            self._close_if_idle()
            self._stepped.unpark_all()

    async def _wait(self, wait: Callable[[int], Awaitable[None]]) -> None:
        self._check_open()
        try:
            await wait(self._sock.fileno())
        except trio.ClosedResourceError:
            self._check_open()
            raise

    def _check_open(self) -> None:
        if self._is_broken_off:
            raise TransportError(f"lane to {short_peer(self._peer)} was broken off")

    def _check(self, failure: SwarmError | None) -> None:
        if failure is not None:
            self.break_off()
            raise failure

    # Ending --------------------------------------------------------------------------------------

    def break_off(self) -> None:
        """Ends the lane in both directions at once; whoever waits on it is told. Never fails.

        What the kernel has not sent it throws away when the socket is closed: now, or when a step
        under way in a thread has ended, which takes milliseconds.
        """
        if self._is_broken_off:
            return
        self._is_broken_off = True
        self._options.break_off()
        trio.lowlevel.notify_closing(self._sock.fileno())
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        if self._is_broken_off and not self._stepping_count:
            self._sock.close()

    async def reset(self) -> None:
        """Breaks the lane off and returns once its socket is closed; never fails."""
        self.break_off()
        with trio.CancelScope(shield=True):
            while self._stepping_count:
                await self._stepped.park()
        if self._is_closed:
            return
        self._is_closed = True
        if self.on_closed is not None:
            self.on_closed(self)


def _timed(step: Callable[[int], Step], budget_bytes: int) -> tuple[Step, float]:
    """Runs a step; says what it took of the processor, seconds: waiting for others counts not."""
    started = time.thread_time()
    return step(budget_bytes), time.thread_time() - started
