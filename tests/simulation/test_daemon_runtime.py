"""Whole daemons are replayable only if time, order, chance and threads are."""

from __future__ import annotations

import random
import threading
import time

import pytest
import trio

from swarmd.simulation.daemons.runtime import START_MS, SimulatedClock, run_simulated


def test_time_is_simulated_and_costs_nothing() -> None:
    async def main() -> tuple[float, float, float, int]:
        before = time.monotonic()
        await trio.sleep(10_000)
        return time.monotonic() - before, time.time(), SimulatedClock().monotonic(), time.time_ns()

    begun = time.perf_counter()
    elapsed, wall, monotonic, wall_ns = run_simulated(main, seed=1)
    assert (elapsed, monotonic) == (10_000.0, 10_000.0)
    assert wall == START_MS / 1000 + 10_000
    assert wall_ns == round(wall * 1e9)
    assert time.perf_counter() - begun < 5_000


def test_everything_is_as_before_afterwards() -> None:
    names = (time.time, time.monotonic, time.time_ns, trio.to_thread.run_sync)
    state = random.getstate()

    async def main() -> None:
        assert time.time is not names[0]
        random.random()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_simulated(main, seed=1)
    assert (time.time, time.monotonic, time.time_ns, trio.to_thread.run_sync) == names
    assert random.getstate() == state


def test_a_thread_of_a_librarys_own_sees_real_time() -> None:
    seen: list[float] = []

    async def main() -> None:
        thread = threading.Thread(target=lambda: seen.append(time.monotonic()))
        thread.start()
        thread.join()

    before = time.monotonic()
    run_simulated(main, seed=1)
    assert before <= seen[0] <= time.monotonic()


def order_of_tasks(seed: int) -> list[int]:
    order: list[int] = []

    async def main() -> None:
        async def task(number: int) -> None:
            for _ in range(5):
                await trio.lowlevel.checkpoint()
                order.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(task, number)

    run_simulated(main, seed=seed)
    return order


def test_the_seed_decides_the_order_of_tasks() -> None:
    assert order_of_tasks(7) == order_of_tasks(7)
    assert order_of_tasks(7) != order_of_tasks(8)


def test_work_for_threads_is_done_where_it_is_called() -> None:
    async def main() -> tuple[int, float]:
        before = trio.current_time()
        ident = await trio.to_thread.run_sync(threading.get_ident, abandon_on_cancel=True)
        return ident, trio.current_time() - before

    assert run_simulated(main, seed=1) == (threading.get_ident(), 0.0)


def test_wall_clocks_may_be_wrong() -> None:
    async def main() -> tuple[int, int, float]:
        ahead, fast = SimulatedClock(skew_s=3600), SimulatedClock(drift=0.01)
        await trio.sleep(1_000)
        return ahead.wall_ms(), fast.wall_ms(), fast.monotonic()

    ahead, fast, monotonic = run_simulated(main, seed=1)
    assert ahead == START_MS + 1_000_000 + 3_600_000
    assert fast == START_MS + 1_010_000
    assert monotonic == 1_000.0
