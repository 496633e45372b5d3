"""The limits of a running node: streams and downloads ask it, the operator and the hour change it.

Sending waits here until bytes may go; asking is told how much there is room for. The off switch and
rates set by hand outlive a restart; the schedule is read against the node's best notion of the time
(the ledger's while it is current, else the later of ledger and clock): a gateway whose clock says
1970 goes by the newest time that it knows from its ledger.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import trio

from protocol.encoding import Fields, Key, Value, decode_canonical, encode_canonical
from protocol.errors import EncodingError, StorageError
from protocol.exchange_events import PeerId
from protocol.limits import KIB
from swarmd.datadir import read_bounded, write_atomic
from swarmd.limits.rates import RatePlan, Rates
from swarmd.limits.traffic import Direction, Traffic
from swarmd.net.send_gate import SendGate

logger = logging.getLogger(__name__)

STATE_NAME: Final = "traffic.cbor"
"""In the data directory: the switch and the rates set by hand."""
STATE_BYTES_MAX: Final = 128
"""Longest such file."""
SCHEDULE_S: Final = 15.0
"""How often the schedule is looked at, seconds: windows begin at whole minutes."""
PIECE_S: Final = 0.05
"""Least that goes at a time, as seconds of the rate: smaller pieces cost more than they give."""
PIECE_BYTES_MIN: Final = 2 * KIB
PIECE_BYTES_MAX: Final = 64 * KIB
_RATE_MAX: Final = 1 << 40
ReadyAt = Callable[[Direction, PeerId, int, float], float]
"""Tells when bytes may go: (way, peer, bytes, now) to a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficOrders:
    """What an operator set by hand; it goes before the configuration."""

    is_off: bool = False
    """Whether no image bytes go in either direction."""
    up: int | None = None
    """Bytes per second to peers beyond the site; 0: no limit; None: as configured."""
    down: int | None = None
    """From them, likewise."""

    def encode(self) -> bytes:
        """Canonical bytes."""
        rates = ((2, self.up), (3, self.down))
        given: dict[Key, Value] = {key: rate for key, rate in rates if rate is not None}
        return encode_canonical({0: 1, 1: self.is_off, **given})


def decode_orders(data: bytes) -> TrafficOrders:
    """Reads stored orders.

    Raises:
        EncodingError: malformed.
    """
    fields = Fields(decode_canonical(data, bytes_max=STATE_BYTES_MAX), "traffic orders")
    fields.constant(0, 1)

    def rate(key: int) -> int:
        return fields.uint(key, maximum=_RATE_MAX)

    orders = TrafficOrders(
        is_off=fields.boolean(1), up=fields.optional(2, rate), down=fields.optional(3, rate)
    )
    fields.finish()
    return orders


def load_orders(folder: Path) -> TrafficOrders:
    """What was set by hand before the last stop; nothing where that is not readable."""
    path = folder / STATE_NAME
    if not path.exists():
        return TrafficOrders()
    try:
        return decode_orders(read_bounded(path, bytes_max=STATE_BYTES_MAX))
    except (EncodingError, StorageError) as error:
        logger.warning("traffic orders are not readable, none hold: %s", error)
        return TrafficOrders()


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficStatistics:
    """What the limits are and did."""

    is_off: bool
    """Whether no image bytes go at all."""
    up: int | None
    """Bytes per second to peers beyond the site; None: no limit."""
    down: int | None
    """From them."""
    is_by_hand: bool
    """Whether an operator's rates hold instead of the configured ones."""
    sent_bytes: int
    """Bytes of frames sent to peers."""
    asked_bytes: int
    """Chunk bytes asked of peers."""
    waiting: int
    """Streams that wait for their turn to send."""


class TrafficService:
    """See the module's docstring."""

    def __init__(
        self,
        plan: RatePlan,
        *,
        folder: Path,
        time_ms: Callable[[], int],
        is_near: Callable[[PeerId], bool],
    ) -> None:
        """Reads what was ordered before.

        Args:
            plan: the configured rates.
            folder: the data directory.
            time_ms: the best guess of the time, milliseconds since 1970.
            is_near: whether a peer is on the same site now.
        """
        self._plan = plan
        self._folder = folder
        self._time_ms = time_ms
        self._is_near = is_near
        self._orders = load_orders(folder)
        self._traffic: Traffic | None = None
        self._changed = trio.Event()
        self._waiting = 0
        self._turns = {is_near: trio.StrictFIFOLock() for is_near in (False, True)}
        self.on_switch: Callable[[bool], None] | None = None
        """Told when image traffic is allowed (True) or forbidden (False) from now on."""
        self.on_unasked: Callable[[], None] | None = None
        """Told when chunks that nobody asked for must not come from now on."""

    @property
    def is_off(self) -> bool:
        """Whether no image bytes may go."""
        return self._orders.is_off

    @property
    def _machine(self) -> Traffic:
        """The buckets, from the first use on: time counts from then."""
        if self._traffic is None:
            self._traffic = Traffic(self._rates(), trio.current_time())
        return self._traffic

    def _placed(self, peer: PeerId) -> Traffic:
        """The buckets, once they know where the peer is now."""
        self._machine.place(peer, is_near=self._is_near(peer))
        return self._machine

    def _rates(self) -> Rates:
        rates = self._plan.at(self._time_ms())
        if self._orders.up is not None:
            rates = replace(rates, up=self._orders.up or None)
        if self._orders.down is not None:
            rates = replace(rates, down=self._orders.down or None)
        return rates

    async def run(self) -> None:
        """Follows the schedule until cancelled."""
        while True:
            self._apply()
            await trio.sleep(SCHEDULE_S)

    def _apply(self) -> None:
        """Has the rates of the hour hold, and whoever waits look again."""
        rates = self._rates()
        if rates == self._machine.rates:
            return
        logger.info("limits are now %s", rates)
        took_pushes = self.takes_pushes
        self._machine.set_rates(rates, trio.current_time())
        self._wake()
        if took_pushes and not self.takes_pushes and self.on_unasked is not None:
            self.on_unasked()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    # Orders --------------------------------------------------------------------------------------

    async def order(self, orders: TrafficOrders) -> None:
        """Has an operator's orders hold at once and after a restart.

        Raises:
            StorageError: they cannot be stored; nothing has changed.
        """
        await trio.to_thread.run_sync(write_atomic, self._folder / STATE_NAME, orders.encode())
        was_off, self._orders = self._orders.is_off, orders
        self._apply()
        self._wake()
        if was_off != orders.is_off and self.on_switch is not None:
            self.on_switch(not orders.is_off)

    @property
    def orders(self) -> TrafficOrders:
        """What an operator set by hand."""
        return self._orders

    def statistics(self) -> TrafficStatistics:
        """What holds now."""
        machine = self._machine
        return TrafficStatistics(
            is_off=self._orders.is_off,
            up=machine.rates.up,
            down=machine.rates.down,
            is_by_hand=self._orders.up is not None or self._orders.down is not None,
            sent_bytes=machine.counted_bytes[Direction.UP],
            asked_bytes=machine.counted_bytes[Direction.DOWN],
            waiting=self._waiting,
        )

    # Sending -------------------------------------------------------------------------------------

    def gate(self, peer: PeerId) -> SendGate:
        """What a stream to a peer asks before it sends."""
        return _Gate(self, peer)

    def frame_s(self, peer: PeerId, size_bytes: int, *, links: int) -> float:
        """How long a frame may be held back when so many links send at once, seconds.

        Twice its share of the rate: turns are fair on average only.
        """
        rate = self._machine.slowest(Direction.UP, peer)
        return 0.0 if rate is None else 2 * size_bytes * max(1, links) / rate

    async def admit(self, peer: PeerId, wanted_bytes: int) -> int:
        """Waits until bytes may be sent to a peer, and counts them; returns how many.

        Peers of a kind take turns, a piece each while others wait. One that waits for its own rate
        keeps nobody else from the common one.
        """
        machine = self._placed(peer)
        rate = machine.slowest(Direction.UP, peer)
        if rate is None and not self._orders.is_off:
            machine.take(Direction.UP, peer, wanted_bytes, trio.current_time())
            return wanted_bytes
        piece_bytes = _UNLIMITED if rate is None else _piece_bytes(rate)
        least_bytes = min(wanted_bytes, piece_bytes)
        self._waiting += 1
        try:
            await self._wait_for_room(peer, least_bytes, machine.own_ready_at)
            turn = self._turns[machine.is_near(peer)]
            async with turn:
                await self._wait_for_room(peer, least_bytes, machine.ready_at)
                now = trio.current_time()
                room_bytes = machine.room_bytes(Direction.UP, peer, now)
                if turn.statistics().tasks_waiting:
                    room_bytes = min(room_bytes, piece_bytes)
                count = max(1, int(min(wanted_bytes, room_bytes)))
                machine.take(Direction.UP, peer, count, now)
                return count
        finally:
            self._waiting -= 1

    async def _wait_for_room(self, peer: PeerId, size_bytes: int, ready_at: ReadyAt) -> None:
        """Waits until so many bytes may go, by the buckets that `ready_at` looks at."""
        while True:
            now = trio.current_time()
            at = ready_at(Direction.UP, peer, size_bytes, now)
            if at <= now and not self._orders.is_off:
                return
            await self._wait_for_change(at)

    async def _wait_for_change(self, until: float) -> None:
        """Waits for a time, or for other limits; while off only for those."""
        changed = self._changed
        if self._orders.is_off:
            await changed.wait()
            return
        with trio.move_on_at(max(until, trio.current_time() + 0.001)):
            await changed.wait()

    @property
    def takes_pushes(self) -> bool:
        """Whether chunks may come that were not asked for; only asking can be held back."""
        rates = self._machine.rates
        return rates.down is None and rates.peer_down is None and rates.lan_down is None

    # Asking --------------------------------------------------------------------------------------

    def room_bytes(self, peer: PeerId, now: float) -> int:
        """Chunk bytes that may be asked of a peer now; see `download_board.Allowance`."""
        if self._orders.is_off:
            return 0
        machine = self._placed(peer)
        rate = machine.slowest(Direction.DOWN, peer)
        if rate is None:
            return _UNLIMITED
        room_bytes = int(machine.room_bytes(Direction.DOWN, peer, now))
        return room_bytes if room_bytes >= _piece_bytes(rate) else 0

    def asked(self, peer: PeerId, size_bytes: int, now: float) -> None:
        """Counts chunk bytes that are asked of a peer."""
        self._machine.take(Direction.DOWN, peer, size_bytes, now)


_UNLIMITED: Final = 1 << 62
"""More than any download asks for."""


class _Gate:
    """A peer's way to `TrafficService.admit`."""

    def __init__(self, service: TrafficService, peer: PeerId) -> None:
        self._service = service
        self._peer = peer

    async def admit(self, wanted_bytes: int) -> int:
        """Waits until something may go to the peer."""
        return await self._service.admit(self._peer, wanted_bytes)


def _piece_bytes(rate: int) -> int:
    """The least that goes at a time at a rate."""
    return min(PIECE_BYTES_MAX, max(PIECE_BYTES_MIN, int(rate * PIECE_S)))
