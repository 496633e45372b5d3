"""Scrubbing over a real store on a virtual clock: rate, position, rot, load, restarts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
import trio.testing

from chunks.memory_store import MemoryStore
from chunks.store import ChunkStore
from protocol.digest import Digest
from protocol.errors import StorageError
from swarmd.receipts import ReceiptKind
from swarmd.services import scrub
from swarmd.services.scrub import (
    BUSY_BYTES,
    BUSY_S,
    BUSY_S_MAX,
    DAY_S,
    RATE_BYTES_MIN,
    SAVE_S,
    TRUST_S,
    ScrubService,
    load_position,
)
from tests.chunks.chunk_images import Sample, generated
from tests.support.exchange_nodes import run_in_place

SIZE = 40_000


class Bench:
    """A service with what it speaks to."""

    def __init__(self, path: Path, store: ChunkStore, *, days: int = 1, rate: int = 2**30) -> None:
        self.path = path / "scrub.cbor"
        self.store = store
        self.moved = 0
        self.lost: list[tuple[Digest, tuple[int, ...]]] = []
        self.notes: list[tuple[ReceiptKind, bytes, str, str]] = []
        self.service = ScrubService(
            store=store,
            receipts=self,
            path=self.path,
            days=days,
            bytes_per_s_max=rate,
            exchanged_bytes=lambda: self.moved,
            on_rot=self.on_rot,
            run_blocking=run_in_place,
        )

    async def note(
        self, kind: ReceiptKind, *, manifest: bytes = b"", subject: str = "", detail: str = ""
    ) -> None:
        self.notes.append((kind, manifest, subject, detail))
        await trio.lowlevel.checkpoint()

    def on_rot(self, image: Digest, indices: Sequence[int]) -> bytes:
        self.lost.append((image, tuple(indices)))
        return b"m" * 32

    async def run_for(self, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await self.service.run()


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrub, "STEP_BYTES", 4_000)


def stored(*seeds: str, size: int = SIZE) -> tuple[MemoryStore, list[Sample]]:
    store = MemoryStore()
    samples = [Sample(generated(seed, size)) for seed in seeds]
    for sample in samples:
        sample.install(store)
    return store, sorted(samples, key=lambda one: one.image)


async def test_everything_is_read_within_the_days_and_not_faster_than_allowed(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    store, _ = stored("a", "b", "c")
    bench = Bench(tmp_path, store)
    await bench.run_for(120_000 / RATE_BYTES_MIN)
    checked = bench.service.statistics().checked_bytes
    # The floor: a small store is not spread over a day.
    assert checked == pytest.approx(120_000, rel=0.05)
    slow = Bench(tmp_path / "slow", store, rate=5_000)
    (tmp_path / "slow").mkdir()
    await slow.run_for(20)
    assert slow.service.statistics().checked_bytes == pytest.approx(100_000, rel=0.05)
    assert slow.service.statistics().rate_bytes_per_s == 5_000


@pytest.mark.slow
async def test_a_large_store_is_read_in_the_days_set(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrub, "RATE_BYTES_MIN", 0)
    store, _ = stored("a", "b", size=20_000)
    bench = Bench(tmp_path, store, days=7)
    await bench.run_for(7 * DAY_S)
    assert bench.service.statistics().checked_bytes == pytest.approx(40_000, rel=0.11)
    await bench.run_for(7 * DAY_S)
    assert bench.service.statistics().passes in {1, 2}


async def test_rot_is_dropped_told_and_noted_once(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    store, (first, second, third) = stored("a", "b", "c")
    for sample, index in ((second, 0), (second, 3), (third, 39)):
        store.rot(sample.image, index)
    bench = Bench(tmp_path, store)
    await bench.run_for(30)
    assert bench.lost == [(second.image, (0, 3)), (third.image, (39,))]
    assert bench.notes == [
        (ReceiptKind.ROTTED, b"m" * 32, second.image.hex()[:16], "chunks: 2"),
        (ReceiptKind.ROTTED, b"m" * 32, third.image.hex()[:16], "chunks: 1"),
    ]
    assert second.missing(store) == [0, 3]
    assert first.missing(store) == []
    assert bench.service.statistics().rotten_chunks == 3


async def test_a_restart_goes_on_where_it_was(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, samples = stored("a", "b", "c")
    bench = Bench(tmp_path, store, rate=100)
    await bench.run_for(SAVE_S + 401)
    saved = load_position(bench.path)
    at = sum(1 for sample in samples if sample.image < saved.image) * 40 + saved.chunk
    assert at * 1_000 == saved.checked_bytes > 0
    again = Bench(tmp_path, store, rate=100)
    seen: list[tuple[Digest, int]] = []
    verify = store.verify_range

    def watched(image: Digest, start: int, stop: int) -> tuple[int, ...]:
        seen.append((image, start))
        return verify(image, start, stop)

    monkeypatch.setattr(store, "verify_range", watched)
    await again.service.step()
    assert seen == [(saved.image, saved.chunk)]


@pytest.mark.slow
async def test_it_waits_while_peers_are_busy_and_not_for_ever(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    store, _ = stored("a")
    bench = Bench(tmp_path, store)

    async def busy() -> None:
        while True:
            bench.moved += int(BUSY_BYTES * 3)
            await trio.sleep(2.0)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(busy)
        await trio.sleep(BUSY_S + 0.5)
        await bench.run_for(BUSY_S_MAX - 10)
        assert bench.service.statistics().checked_bytes == 0
        assert bench.service.statistics().is_waiting
        await bench.run_for(60)
        assert bench.service.statistics().checked_bytes > SIZE
        nursery.cancel_scope.cancel()
    before = bench.service.statistics().checked_bytes
    await bench.run_for(3 * BUSY_S)
    assert not bench.service.statistics().is_waiting
    assert bench.service.statistics().checked_bytes > before


@pytest.mark.slow
async def test_images_may_come_and_go_during_a_pass(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    store, samples = stored("a", "b", "c", "d")
    bench = Bench(tmp_path, store)
    await bench.service.step()
    store.remove(samples[0].image)
    store.remove(samples[-1].image)
    extra = Sample(generated("e", SIZE))
    extra.install(store)
    await bench.run_for(60)
    assert bench.service.statistics().passes > 3
    store.rot(extra.image, 7)
    await bench.run_for(30)
    assert bench.lost == [(extra.image, (7,))]
    for record in store.images():
        store.remove(record.image)
    await bench.run_for(300)
    extra.install(store)
    before = bench.service.statistics().checked_bytes
    await bench.run_for(120)
    assert bench.service.statistics().checked_bytes > before


class Failing(MemoryStore):
    """A store that fails for a while."""

    fails = False

    def verify_range(self, image: Digest, start: int, stop: int) -> tuple[int, ...]:
        if self.fails:
            raise StorageError("the disk is gone")
        return super().verify_range(image, start, stop)


@pytest.mark.slow
async def test_a_failing_store_ends_nothing(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    store = Failing()
    Sample(generated("a", SIZE)).install(store)
    bench = Bench(tmp_path, store)
    store.fails = True
    await bench.run_for(200)
    assert bench.service.statistics().checked_bytes == 0
    store.fails = False
    await bench.run_for(70)
    assert bench.service.statistics().checked_bytes > 0


async def test_what_was_verified_is_distrusted_after_a_while(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    calls: list[float] = []

    class Watched(MemoryStore):
        def distrust(self) -> None:
            calls.append(trio.current_time())

    bench = Bench(tmp_path, Watched(), days=0)
    begun = trio.current_time()
    await bench.run_for(3 * TRUST_S + 1)
    assert [round(at - begun) for at in calls] == [TRUST_S, 2 * TRUST_S, 3 * TRUST_S]
    assert bench.service.statistics().checked_bytes == 0


@pytest.mark.parametrize("damage", [b"", b"junk", b"\xa0", b"x" * 5_000])
def test_a_damaged_position_begins_a_pass(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "scrub.cbor"
    path.write_bytes(damage)
    position = load_position(path)
    assert (position.image, position.chunk, position.passes) == (b"", 0, 0)


def test_the_position_reads_back(tmp_path: Path) -> None:
    position = scrub.ScrubPosition(
        image=b"i" * 32, chunk=2**18, passes=3, checked_bytes=2**50, rotten_chunks=9
    )
    (tmp_path / "scrub.cbor").write_bytes(position.encode())
    assert load_position(tmp_path / "scrub.cbor") == position
