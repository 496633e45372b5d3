"""Opening sealed images: nothing half-checked leaves, whatever ends the work leaves no file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock

from chunks.layout import fixed_parameters
from chunks.memory_store import MemoryStore
from chunks.recipe import Recipe
from chunks.sealing import SealError, SealingPass
from chunks.store import ChunkRottenError, DiskFullError
from protocol.digest import ChainId, DidId, Digest, sha256
from protocol.errors import DigestMismatchError, PolicyError, StorageError, VerificationError
from protocol.manifest import Component
from protocol.sealing import ContentKey, RingName, Sealing
from swarmd.services import plain as plain_module
from swarmd.services.plain import COPIES_MAX, COPY_S, REVIEW_S, PlainService
from tests.support.authority import make_bench

IMAGE = hashlib.shake_256(b"plain").digest(50_000)
NAME = RingName(
    chain=ChainId(sha256(b"chain")), publisher=DidId(sha256(b"p")), group="fleet", generation=1
)
KEY = ContentKey(b"\7" * 32, NAME)
SEALING = Sealing(ring=KEY.ring(), generation=1, nonce=bytes(16))
SIZE = 1000


def allow() -> None:
    """A right that nothing ends."""


class Case:
    def __init__(self, path: Path, *, quota_bytes: int = 10**6) -> None:
        self.path = path
        self.store = MemoryStore()
        self.bench = make_bench()
        self.key: ContentKey | None = KEY
        self.service = PlainService(
            data=path,
            store=self.store,
            ledger=self.bench.ledger,
            content_key=lambda _component: self.key,
            quota_bytes=quota_bytes,
        )

    def stage(self, image: bytes = IMAGE) -> Component:
        source = self.path / "source"
        source.write_bytes(image)
        sealing = SealingPass(KEY, SEALING)
        staged = self.store.stage(source, fixed_parameters(SIZE), sealing)
        self.store.promote(staged.image)
        return self._component(staged.image, staged.recipe, sealing.plain_digest())

    def _component(self, image: Digest, recipe: Recipe, plain_digest: Digest) -> Component:
        return Component(
            name="image",
            size=recipe.size_bytes,
            digest=image,
            chunker=fixed_parameters(SIZE),
            chunk_count=recipe.chunk_count,
            recipe_root=recipe.root,
            plain_digest=plain_digest,
            sealing=SEALING,
        )

    def spoilt(self, change: Callable[[list[bytes]], list[bytes]]) -> Component:
        """What a publisher could sign: genuine chunks, another order than was hashed."""
        right = self.stage()
        chunks = [self.store.read_chunk(right.digest, i) for i in range(right.chunk_count)]
        changed = change(chunks)
        recipe = Recipe(map(len, changed), b"".join(map(sha256, changed)))
        image = sha256(b"".join(changed))
        download = self.store.begin(image, recipe.size_bytes, recipe)
        for index, chunk in enumerate(changed):
            self.store.write_chunk(download, index, chunk)
        self.store.finish(download)
        assert right.plain_digest is not None
        return self._component(image, recipe, right.plain_digest)

    @property
    def files(self) -> list[Path]:
        return sorted((self.path / "sealing" / "plain").iterdir())


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


async def test_a_copy_is_private_whole_and_taken_back(case: Case) -> None:
    copy = await case.service.hand_out(case.stage(), allow)
    assert (copy.digest, copy.size_bytes) == (sha256(IMAGE), len(IMAGE))
    assert copy.path.read_bytes() == IMAGE
    assert copy.path.stat().st_mode & 0o777 == 0o600
    assert copy.path.parent.stat().st_mode & 0o777 == 0o700
    for _ in range(2):
        await case.service.take_back(copy.ticket)
        assert case.files == []
    await case.service.take_back("../../lock")


@pytest.mark.parametrize(
    "change",
    [
        lambda chunks: chunks[::-1],
        lambda chunks: chunks[:-1],
        lambda chunks: [*chunks, chunks[0]],
        lambda chunks: [chunks[0], chunks[0], *chunks[2:]],
    ],
)
async def test_an_image_that_is_not_what_was_hashed_leaves_nothing(
    case: Case, change: Callable[[list[bytes]], list[bytes]]
) -> None:
    component = case.spoilt(change)
    with pytest.raises(DigestMismatchError):
        await case.service.hand_out(component, allow)
    with pytest.raises(DigestMismatchError):
        await case.service.verify(component, allow)
    assert component.plain_digest is not None
    assert (case.files, case.service.find(component.plain_digest)) == ([], None)


async def test_foreign_bytes_among_the_chunks_open_nothing(case: Case) -> None:
    component = case.spoilt(lambda chunks: [bytes(1016), *chunks[1:]])
    with pytest.raises(SealError):
        await case.service.hand_out(component, allow)
    assert case.files == []


async def test_without_a_key_or_with_another_nothing_opens(case: Case) -> None:
    component = case.stage()
    case.key = None
    with pytest.raises(PolicyError, match=r"sealing\.key"):
        await case.service.hand_out(component, allow)
    case.key = ContentKey(b"\x08" * 32, NAME)
    with pytest.raises(VerificationError, match="another ring"):
        await case.service.hand_out(component, allow)
    assert case.files == []


async def test_rot_on_the_way_leaves_nothing(case: Case) -> None:
    component = case.stage()

    class Rotten(MemoryStore):
        def read_chunk(self, image: Digest, index: int, *, staged: bool = False) -> bytes:
            if index == 30:
                raise ChunkRottenError(image, (index,))
            return case.store.read_chunk(image, index, staged=staged)

    case.service._store = Rotten()
    with pytest.raises(ChunkRottenError):
        await case.service.hand_out(component, allow)
    assert case.files == []


async def test_a_right_that_ends_half_way_ends_the_copy(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plain_module, "BATCH_BYTES", 10 * SIZE)
    component = case.stage()
    for last in range(6):  # five batches, and once more before it is handed out
        asked = 0

        def check(last: int = last) -> None:
            nonlocal asked
            asked += 1
            if asked > last:
                raise PolicyError("manifest.revoked", "revoked meanwhile")

        with pytest.raises(PolicyError, match="revoked"):
            await case.service.hand_out(component, check)
        assert case.files == []
    assert await case.service.hand_out(component, allow)


async def test_cancelling_leaves_nothing(case: Case) -> None:
    component = case.stage()
    with trio.CancelScope() as scope:
        await case.service.hand_out(component, scope.cancel)
    assert scope.cancelled_caught
    assert case.files == []


async def test_what_a_crash_left_is_deleted_at_start(tmp_path: Path) -> None:
    case = Case(tmp_path)
    await case.service.hand_out(case.stage(), allow)
    (tmp_path / "sealing" / "plain" / "half").write_bytes(b"secret")
    assert len(case.files) == 2
    assert Case(tmp_path).files == []


async def test_copies_are_bounded_in_number_bytes_and_time(
    tmp_path: Path, mock_clock: MockClock, nursery: trio.Nursery
) -> None:
    case = Case(tmp_path, quota_bytes=10**6)
    component = case.stage()
    nursery.start_soon(lambda: case.service.run(serve_plain=False))
    for _ in range(COPIES_MAX):
        await case.service.hand_out(component, allow)
    with pytest.raises(PolicyError, match=r"sealing\.copies"):
        await case.service.hand_out(component, allow)
    mock_clock.jump(COPY_S + REVIEW_S)
    case.service._quota_bytes = component.size + 2 * len(IMAGE) - 1
    while case.files:
        await trio.lowlevel.checkpoint()
    await case.service.hand_out(component, allow)
    with pytest.raises(DiskFullError):
        await case.service.hand_out(component, allow)
    assert len(case.files) == 1
    nursery.cancel_scope.cancel()


async def test_a_disk_without_room_is_said_before_anything_is_opened(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int, _offset: int, _size: int) -> None:
        raise OSError(28, "no space")

    component = case.stage()
    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(DiskFullError):
        await case.service.hand_out(component, allow)
    assert case.files == []


async def test_devices_get_only_what_was_opened_whole(
    case: Case, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    right, wrong = case.stage(), case.spoilt(lambda chunks: chunks[::-1])
    other = case.stage(IMAGE[::-1])
    for sequence, component in enumerate((wrong, right, other), start=1):
        await case.bench.propose(
            case.bench.lab.manifest(sequence=sequence, components=(component,))
        )
    assert right.plain_digest == wrong.plain_digest
    assert right.plain_digest is not None
    assert other.plain_digest is not None
    case.store.remove(right.digest)
    nursery.start_soon(lambda: case.service.run(serve_plain=True))
    while case.service.find(other.plain_digest) is None:  # noqa: ASYNC110 - in a thread
        await trio.sleep(0.001)
    while "contradicts its manifest" not in caplog.text:  # noqa: ASYNC110 - in a thread
        await trio.sleep(0.001)
    assert case.service.find(right.plain_digest) is None
    image = case.service.find(other.plain_digest)
    assert image is not None
    plain = image.opener.open(case.store.read_chunk(other.digest, 7))
    start = image.layout.offset(7)
    assert IMAGE[::-1][start : start + SIZE] == plain
    case.store.remove(other.digest)
    case.service.wake()
    while case.service.find(other.plain_digest) is not None:  # noqa: ASYNC110 - in a thread
        await trio.sleep(0.001)
    nursery.cancel_scope.cancel()


async def test_a_folder_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "sealing").write_bytes(b"")
    with pytest.raises(StorageError):
        Case(tmp_path)


async def test_copies_that_are_being_written_count_each(case: Case) -> None:
    component = case.stage()
    refused: list[str] = []

    async def take() -> None:
        try:
            await case.service.hand_out(component, allow)
        except PolicyError as error:
            refused.append(error.rule)

    async with trio.open_nursery() as nursery:
        for _ in range(COPIES_MAX + 2):
            nursery.start_soon(take)
    assert refused == ["sealing.copies"] * 2
    assert len(case.files) == COPIES_MAX


async def test_who_leaves_while_a_copy_is_taken_back_leaves_no_file(case: Case) -> None:
    copy = await case.service.hand_out(case.stage(), allow)
    with trio.CancelScope() as scope:
        scope.cancel()
        await case.service.take_back(copy.ticket)
    assert case.files == []
