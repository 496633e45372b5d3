"""A gateway whose only peer is a malicious member does not act on old knowledge for long.

The clock of the gateway stands at 1970; only its monotonic clock moves.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from chunks.store import ImageState
from ledger.bodies.manifest import ApproveManifest, ProposeManifest, RevokeManifest
from protocol.approval import Action
from protocol.catchup import FreshnessAnswer
from protocol.digest import BlockId, Digest, sha256
from protocol.group import OFFER_FRESHNESS_MS
from protocol.manifest import SignedManifest
from swarmd.clock import ManualClock, SystemClock
from swarmd.freshness import SAVE_INTERVAL_S
from swarmd.net.address import PeerKey
from swarmd.publisher import Release
from swarmd.questions import Denial, Permit
from swarmd.services.freshness import Statement
from tests.support.forge import Forge
from tests.support.swarm import GROUP, PRODUCT, Swarm, swarm, until

IMAGE = hashlib.shake_256(b"good").digest(60_000)
VICTIM, EVIL = "gateway-1", "publisher-1"
Answer = Callable[[bytes], FreshnessAnswer]


class Eclipse:
    """The victim, its only peer, and the validators behind it."""

    def __init__(self, lab: Swarm) -> None:
        self.lab = lab
        self.forge = Forge(lab)
        self.clock = ManualClock(wall_ms=SystemClock().wall_ms(), monotonic_s=100.0)
        self.asked: list[bytes] = []
        self.answer: Answer = self.forge.state
        self.signed: SignedManifest

    async def start(self) -> None:
        await self.lab.start(VICTIM, clock=self.clock)
        await until(lambda: self.lab.class_of(VICTIM, EVIL) > 0, "they met")

    async def restart(self) -> None:
        """Power fails; the monotonic clock begins anew, the wall clock has a battery."""
        await self.lab.crash(VICTIM)
        self.clock = ManualClock(wall_ms=self.clock.wall_ms(), monotonic_s=5.0)
        await self.start()

    async def relay(self, _asker: PeerKey, nonce: bytes) -> tuple[Statement, ...]:
        """What the malicious member passes on instead of asking the validators."""
        await trio.lowlevel.checkpoint()
        self.asked.append(nonce)
        return self.answer(nonce).statements

    async def asked_again(self) -> None:
        """Waits until the victim has asked and made up its mind."""
        before = len(self.asked)
        self.victim.freshness.hurry()
        await until(lambda: len(self.asked) > before, "the victim asks")

    @property
    def victim(self):  # type: ignore[no-untyped-def]
        return self.lab[VICTIM]

    def offers(self) -> bool:
        return isinstance(self.victim._authority.may_offer(self.signed.manifest_id), Permit)

    def serves(self) -> bool:
        peer = self.lab.peer(EVIL)
        return isinstance(self.victim._authority.may_serve(peer, self.signed.manifest_id), Permit)

    def age_s(self) -> float:
        age = self.victim.time.age.age_ms(self.clock.monotonic())
        assert age is not None
        return float(age) / 1000


@asynccontextmanager
async def eclipsed(tmp_path: Path) -> AsyncIterator[Eclipse]:
    """The victim has an authorised image, and a revocation has just become final without it."""
    async with swarm(tmp_path, gateways=1) as lab:
        lab.isolate(VICTIM, EVIL)
        case = Eclipse(lab)
        forge = case.forge
        await lab.start(EVIL)
        evil = lab[EVIL]
        evil.time.age.confirm(evil._clock.monotonic())
        evil.ledger_service._relay_freshness = case.relay  # type: ignore[method-assign]
        assert evil.publisher is not None
        path = lab.path / "image"
        path.write_bytes(IMAGE)
        signed = case.signed = await evil.publisher.stage(
            Release(path=path, product=PRODUCT, version="1.0", groups=(GROUP,), metadata={})
        )
        approvals = lab.approvals(Action.AUTHORISE, signed.manifest_id)
        authorise = ApproveManifest(manifest=signed.manifest_id, group=GROUP, approvals=approvals)
        runs = [
            forge.advance(ProposeManifest(manifest=signed.signed.raw)),
            forge.advance(authorise),
        ]
        await forge.give(evil, *runs)
        await case.start()
        digest = signed.manifest.components[0].digest
        await until(lambda: lab.holds(VICTIM, digest), "the victim holds the image")
        await until(case.offers, "and offers it")
        revoke = RevokeManifest(
            manifest=signed.manifest_id,
            group=GROUP,
            approvals=lab.approvals(Action.REVOKE, signed.manifest_id),
        )
        forge.advance(revoke)  # withheld from now on
        yield case
        forge.close()


@pytest.mark.slow
async def test_silence_ends_offers_then_serving_across_restarts(tmp_path: Path) -> None:
    async with eclipsed(tmp_path) as case:
        case.answer = lambda _nonce: FreshnessAnswer(statements=())
        assert case.offers()
        case.clock.advance(OFFER_FRESHNESS_MS / 2000)
        assert case.offers()
        await case.lab.stop(VICTIM)  # orderly: the age is saved as it is
        case.clock = ManualClock(wall_ms=case.clock.wall_ms(), monotonic_s=5.0)
        await case.start()
        assert case.age_s() >= OFFER_FRESHNESS_MS / 2000
        assert case.offers()
        case.clock.advance(OFFER_FRESHNESS_MS / 2000)
        assert not case.offers()
        assert case.serves()
        digest = Digest(case.signed.manifest.components[0].digest)
        assert isinstance(case.victim.images.permit_for_digest(digest), Denial)
        await case.asked_again()
        assert not case.offers()
        await case.lab.stop(VICTIM)
        case.clock = ManualClock(wall_ms=0, monotonic_s=5.0)
        await case.start()
        # Its clock fell back to 1970: how long it was away nobody knows, and so nothing is fresh.
        assert not case.offers()
        assert not case.serves()
        # Old knowledge is a reason to wait, not to delete.
        states = {record.state for record in case.victim.store.images()}
        assert states == {ImageState.COMPLETE}


@pytest.mark.slow
async def test_power_cycles_do_not_keep_it_young(tmp_path: Path) -> None:
    async with eclipsed(tmp_path) as case:
        case.answer = lambda _nonce: FreshnessAnswer(statements=())
        ages = [case.age_s()]
        for _ in range(3):
            # Right before the next save: what the last one wrote is all that remains.
            saved = case.victim._data.path / "freshness.cbor"
            await until(saved.exists, "the age was saved")
            case.clock.advance(SAVE_INTERVAL_S - 1)
            await case.restart()
            ages.append(case.age_s())
        assert all(
            later >= earlier + SAVE_INTERVAL_S - 1 for earlier, later in itertools.pairwise(ages)
        )


FORK = BlockId(sha256(b"fork"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attack", "is_blamed"),
    [("f only", False), ("beyond", False), ("fork", False), ("replayed", True), ("forged", True)],
)
async def test_answers_that_do_not_count(
    tmp_path: Path, attack: str, is_blamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swarmd.services.freshness.ADVANCE_S", 0.05)
    async with eclipsed(tmp_path) as case:
        forge, old = case.forge, case.asked[-1]
        height = case.lab.height(VICTIM)

        def answer(nonce: bytes) -> FreshnessAnswer:
            match attack:
                case "f only":
                    return forge.state(nonce, validators=[2], height=height)
                case "beyond":
                    return forge.state(nonce)
                case "fork":
                    return forge.state(nonce, height=height, block_id=FORK)
                case "replayed":
                    return forge.state(old, height=height)
                case _:
                    real = forge.keys
                    forge.keys = [real[3]] * 4
                    forged = forge.state(nonce, height=height)
                    forge.keys = real
                    return forged

        case.answer = answer
        case.clock.advance(3 * 3600)
        before = case.age_s()
        await case.asked_again()
        evil = case.lab.peer(EVIL)
        if is_blamed:
            await until(lambda: case.victim.registry.is_banned(evil), "the culprit is sent away")
        else:
            # The same statements from validators that hold no more than the victim would count.
            await case.asked_again()
            assert not case.victim.registry.is_banned(evil)
        assert case.age_s() >= before
        case.clock.advance(OFFER_FRESHNESS_MS / 1000)
        assert not case.offers()
        assert case.lab.is_alive(VICTIM)


@pytest.mark.slow
async def test_an_honest_relay_brings_offers_back_until_the_revocation_is_here(
    tmp_path: Path,
) -> None:
    async with eclipsed(tmp_path) as case:
        case.clock.advance(OFFER_FRESHNESS_MS / 1000 + 1)
        assert not case.offers()
        height = case.lab.height(VICTIM)
        block_id = case.victim.ledger.chain.head.block_id
        case.answer = lambda nonce: case.forge.state(
            nonce, validators=[0, 1], height=height, block_id=block_id
        )
        await case.asked_again()
        await until(case.offers, "f+1 validators vouch for the copy")
        head = case.forge.chain.head.height
        (raw,), certificate = case.forge.chain.blocks(head, 1)
        assert certificate is not None
        from ledger.block import decode_block

        await case.forge.give(case.victim, (decode_block(raw), certificate))
        assert not case.offers()
        assert not case.serves()
        await until(lambda: not case.victim.store.images(), "the bytes are gone")
