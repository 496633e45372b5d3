"""The limits of a running node, on a virtual clock: sending, asking, orders, schedules."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from protocol.errors import ConfigError, EncodingError
from protocol.limits import KIB
from swarmd.limits.desk import TrafficDesk
from swarmd.limits.rates import RatePlan, Rates, parse_schedule
from swarmd.limits.service import (
    STATE_NAME,
    TrafficOrders,
    TrafficService,
    decode_orders,
    load_orders,
)
from swarmd.limits.traffic import Direction

PEERS = tuple(bytes([number]) * 32 for number in range(1, 9))
NEAR = PEERS[-1]
MONDAY_MS = 4 * 86_400_000


def service(
    folder: Path,
    rates: Rates,
    *,
    schedule: tuple[str, ...] = (),
    time_ms: Callable[[], int] = lambda: 0,
) -> TrafficService:
    plan = RatePlan(general=rates, schedule=parse_schedule(schedule, "schedule"))
    return TrafficService(plan, folder=folder, time_ms=time_ms, is_near=lambda peer: peer == NEAR)


class Sender:
    """A peer's stream that always has a frame to send."""

    def __init__(self, traffic: TrafficService, peer: bytes, frame_bytes: int) -> None:
        self.gate = traffic.gate(peer)
        self.frame_bytes = frame_bytes
        self.sent = 0

    async def run(self) -> None:
        while True:
            left = self.frame_bytes
            while left:
                count = await self.gate.admit(left)
                assert 0 < count <= left
                left -= count
                self.sent += count
            await trio.lowlevel.checkpoint()


@pytest.mark.slow
@pytest.mark.parametrize("kib_per_s", [16, 64, 1024, 16 * 1024])
@pytest.mark.parametrize("links", [1, 7])
async def test_sending_keeps_to_a_rate(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, kib_per_s: int, links: int
) -> None:
    """Frames are 256 KiB whatever the rate: they go in pieces."""
    traffic = service(tmp_path, Rates(up=kib_per_s * KIB))
    senders = [Sender(traffic, peer, 256 * KIB) for peer in PEERS[:links]]
    async with trio.open_nursery() as nursery:
        for sender in senders:
            nursery.start_soon(sender.run)
        await trio.sleep(3)
        for _ in range(2):
            before = sum(sender.sent for sender in senders)
            await trio.sleep(10)
            rate = (sum(sender.sent for sender in senders) - before) / 10 / KIB
            assert 0.95 * kib_per_s <= rate <= 1.05 * kib_per_s / (1 + 1 / 22)
        nursery.cancel_scope.cancel()
    shares = [sender.sent for sender in senders]
    assert max(shares) <= 2 * min(shares), "nobody is left behind"
    assert traffic.statistics().waiting == 0


async def test_asking_keeps_to_a_rate(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    traffic = service(tmp_path, Rates(down=512 * KIB, peer_down=400 * KIB))
    asked = dict.fromkeys(PEERS[:3], 0)
    until = trio.current_time() + 10
    while trio.current_time() < until:
        for peer in asked:
            room = traffic.room_bytes(peer, trio.current_time())
            if room > 0:
                size = max(16 * KIB, min(room, 256 * KIB))
                traffic.asked(peer, size, trio.current_time())
                asked[peer] += size
        await trio.sleep(0.05)
    assert sum(asked.values()) / 10 == pytest.approx(512 * KIB, rel=0.05)
    assert max(asked.values()) / 10 <= 1.05 * 400 * KIB


async def test_near_peers_do_not_wait(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    traffic = service(tmp_path, Rates(up=16 * KIB, down=16 * KIB))
    assert await traffic.gate(NEAR).admit(10**9) == 10**9
    assert traffic.room_bytes(NEAR, trio.current_time()) > 10**9
    assert await traffic.gate(PEERS[0]).admit(10**9) <= 4 * KIB
    assert trio.current_time() == 0.0


async def test_off_means_off_until_on(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    traffic = service(tmp_path, Rates())
    told: list[bool] = []
    traffic.on_switch = told.append
    sender = Sender(traffic, NEAR, 1000)
    await traffic.order(TrafficOrders(is_off=True))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender.run)
        await trio.sleep(3600)
        assert sender.sent == 0
        assert traffic.room_bytes(NEAR, trio.current_time()) == 0
        assert traffic.statistics().waiting == 1
        await traffic.order(TrafficOrders())
        while not sender.sent:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert told == [False, True]


async def test_a_lifted_limit_lets_go_at_once(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    autojump_clock.autojump_threshold = 0.05  # storing the order takes a thread
    traffic = service(tmp_path, Rates(up=16 * KIB, down=16 * KIB))
    gate = traffic.gate(PEERS[0])
    traffic._machine.take(Direction.UP, PEERS[0], 10**9, trio.current_time())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gate.admit, 10**6)
        await trio.testing.wait_all_tasks_blocked()
        await traffic.order(TrafficOrders(up=0))
    assert trio.current_time() < 3600, "at the old rate it would have taken 17 hours"
    assert await gate.admit(10**6) == 10**6


async def test_the_schedule_is_followed(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    traffic = service(
        tmp_path,
        Rates(up=1024 * KIB),
        schedule=("Mon 08:00-18:00 up=64",),
        time_ms=lambda: MONDAY_MS + 8 * 3_600_000 - 60_000 + round(trio.current_time() * 1000),
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(traffic.run)
        await trio.sleep(50)
        assert traffic.statistics().up == 1024 * KIB
        await trio.sleep(30)
        assert traffic.statistics().up == 64 * KIB
        await traffic.order(TrafficOrders(up=32 * KIB))
        assert (traffic.statistics().up, traffic.statistics().is_by_hand) == (32 * KIB, True)
        await trio.sleep(10 * 3600)
        assert traffic.statistics().up == 32 * KIB
        await traffic.order(TrafficOrders())
        assert traffic.statistics().up == 1024 * KIB
        nursery.cancel_scope.cancel()


async def test_orders_outlive_a_restart(tmp_path: Path) -> None:
    desk = TrafficDesk(service(tmp_path, Rates()))
    handlers = desk.handlers()
    silent: Any = lambda *_: None
    await handlers["traffic.limit"]({"up_kib_s": 64}, silent)
    shown = await handlers["traffic.switch"]({"to": "off"}, silent)
    assert isinstance(shown, dict)
    assert (shown["is_off"], shown["up"], shown["down"]) == (True, 64 * KIB, None)
    later = service(tmp_path, Rates(down=128 * KIB))
    assert later.is_off
    assert (later.statistics().up, later.statistics().down) == (64 * KIB, 128 * KIB)


@pytest.mark.parametrize("params", [{"up_kib_s": 1}, {"up_kib_s": -1}, {"sideways": 64}])
async def test_rates_out_of_range_are_refused(tmp_path: Path, params: dict[str, int]) -> None:
    desk = TrafficDesk(service(tmp_path, Rates()))
    with pytest.raises(ConfigError):
        await desk.handlers()["traffic.limit"](params, lambda *_: None)  # type: ignore[arg-type]


@pytest.mark.parametrize("stored", [b"", b"\xff", b"\xa0", bytes(500)])
def test_damaged_orders_are_none(tmp_path: Path, stored: bytes) -> None:
    (tmp_path / STATE_NAME).write_bytes(stored)
    assert load_orders(tmp_path) == TrafficOrders()
    with pytest.raises(EncodingError):
        decode_orders(stored)


def test_orders_are_read_as_written() -> None:
    for orders in (TrafficOrders(), TrafficOrders(is_off=True, up=0, down=5)):
        assert decode_orders(orders.encode()) == orders
