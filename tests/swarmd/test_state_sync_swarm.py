"""Daemons that come late to a chain whose first blocks nobody has any more.

Bodies are pruned everywhere, an epoch was handed over meanwhile, and among the peers are a forger
of pages, one that stalls and one that shows another history. A page holds few leaves here, so that
the small state of a laboratory takes many; so do the heights between two versions.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from ledger import state_range, state_sync
from ledger.bodies.validators import SetValidators, members_digest
from ledger.header import decode_header
from ledger.state_range import decode_state_page
from ledger.transition.validators import GOVERNANCE_GROUP, GOVERNANCE_POLICY
from protocol.approval import Action, Approval, sign_approval
from protocol.catchup import LedgerMessage
from protocol.digest import Digest, sha256
from protocol.manifest import SignedManifest
from protocol.state_messages import (
    ManifestsAnswer,
    ManifestsRequest,
    StateHeadAnswer,
    StateHeadRequest,
    StatePageAnswer,
    StatePageRequest,
)
from swarmd.datadir import load_key
from swarmd.net.address import PeerKey
from swarmd.peers import Offence
from swarmd.running_node import RunningNode
from swarmd.services import ledger_service
from swarmd.services.pruning import PruningService
from tests.support.commands import command
from tests.support.swarm import VALIDATORS, Swarm, swarm, until

pytestmark = pytest.mark.slow
INTERVAL = 8
PAGE_LEAVES = 8
SOURCES = (*VALIDATORS, "publisher-1", "gateway-1")
FORGER, STALLER, STRAYER = "publisher-1", "gateway-1", "validator-4"
LATE, SEATED, LATEST = "gateway-2", "validator-5", "gateway-9"
IMAGE = b"image of a chain that forgot " * 3000
Change = Callable[[LedgerMessage, LedgerMessage], Awaitable[LedgerMessage]]


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (state_range, state_sync):
        monkeypatch.setattr(module, "PAGE_LEAVES_MAX", PAGE_LEAVES)
    monkeypatch.setattr(ledger_service, "ANSWER_S_MAX", 2.0)


def epoch(lab: Swarm, name: str) -> int:
    return lab[name].ledger.chain.validators.epoch


def governed(lab: Swarm, action: Action, subject: Digest) -> tuple[bytes, ...]:
    """Approvals by the laboratory's whole governance root."""
    approval = Approval(
        era=0,
        action=action,
        subject=subject,
        group=GOVERNANCE_GROUP,
        policy=GOVERNANCE_POLICY,
        valid_until_ms=lab[VALIDATORS[0]].ledger.chain.head.time_ms + 3_600_000,
    )
    keys = [load_key(path) for path in sorted((lab.path / "keys").glob("governance-*.key"))]
    return tuple(sign_approval(approval, key, lab.chain).signed.raw for key in keys)


async def seat_newcomer(lab: Swarm) -> None:
    """Puts a validator that does not run yet in the place of the fourth; the epoch ends at once."""
    state = lab[VALIDATORS[0]].ledger.chain
    dids = [lab.did(name) for name in VALIDATORS]
    await until(
        lambda: all(state.state.validator(did).key_for(2) for did in dids), "keys certified"
    )
    join = lab.new_validator(SEATED, *VALIDATORS[:3])
    members = (*dids[:3], join.record.did)
    approvals = governed(lab, Action.VALIDATORS, members_digest(1, members))
    body = SetValidators(members=members, joins=(join.statement,), approvals=approvals)
    await lab.submit(body, by=VALIDATORS[1])
    await until(lambda: min(epoch(lab, name) for name in SOURCES) == 2, "the epoch ends")


async def forget(lab: Swarm, *names: str) -> None:
    """Every node drops the bodies that it may drop."""
    for name in names:
        assert await PruningService(lab[name].ledger, 1).prune() > 0
        assert lab[name].ledger.chain.first_block > INTERVAL, "nobody can deliver the beginning"


async def make_past(lab: Swarm) -> SignedManifest:
    """A chain with a release and a hand-over, of which only the newest blocks are left."""
    await lab.start(*SOURCES, snapshot_interval=INTERVAL)
    await lab.until_met(*SOURCES)
    signed = await lab.release(IMAGE)
    await lab.enrol(lab.new_gateway(LATEST, LATE))
    await seat_newcomer(lab)
    await lab.until_height(3 * INTERVAL, *SOURCES)
    await forget(lab, *SOURCES)
    return signed


@contextmanager
def answers(lab: Swarm, changes: dict[str, Change]) -> Iterator[None]:
    """Has nodes answer ledger requests otherwise than they should."""
    kept = {name: lab[name].ledger_service._reply for name in changes}

    def twisted(name: str) -> Callable[..., Awaitable[LedgerMessage]]:
        async def reply(peer: bytes, request: LedgerMessage) -> LedgerMessage:
            return await changes[name](request, await kept[name](peer, request))

        return reply

    for name in changes:
        lab[name].ledger_service._reply = twisted(name)
    yield
    for name, reply in kept.items():
        lab[name].ledger_service._reply = reply


async def forge(_request: LedgerMessage, reply: LedgerMessage) -> LedgerMessage:
    if not isinstance(reply, StatePageAnswer):
        return reply
    page = decode_state_page(reply.page)
    leaves = ((page.leaves[0][0], b"forged"), *page.leaves[1:])
    return StatePageAnswer(page=replace(page, leaves=leaves).encode())


async def stall(request: LedgerMessage, reply: LedgerMessage) -> LedgerMessage:
    if isinstance(request, StatePageRequest):
        await trio.sleep_forever()
    return reply


async def stray(request: LedgerMessage, reply: LedgerMessage) -> LedgerMessage:
    if not isinstance(request, StateHeadRequest) or not isinstance(reply, StateHeadAnswer):
        return reply
    header = decode_header(reply.headers[0])
    other = replace(header, state_root=sha256(b"another history"), height=header.height + 64)
    return replace(reply, headers=(other.encoded, *reply.headers[1:]))


async def crash_half_way(lab: Swarm) -> None:
    """A newcomer's machine dies after some pages."""
    pages = 0

    async def few(request: LedgerMessage, reply: LedgerMessage) -> LedgerMessage:
        nonlocal pages
        if isinstance(request, StatePageRequest):
            pages += 1
            if pages > 3:
                await trio.sleep_forever()
        return reply

    with answers(lab, dict.fromkeys(SOURCES, few)):
        await lab.start(LATE, snapshot_interval=INTERVAL)
        store = lab[LATE].state_sync._store
        await until(lambda: pages > 3 and store.plan.missing_ppm < 999_999, "some pages are here")
        assert lab.height(LATE) == 0, "nothing of it shows"
        await lab.crash(LATE)


class Arrival:
    """What a newcomer had at its start, and whom it blames."""

    def __init__(self) -> None:
        self.blamed: dict[PeerKey, list[str]] = {}

    def watch(self, services: RunningNode) -> None:
        store = services.state_sync._store
        assert store.target is not None, "the fetch goes on"
        assert 0 < store.plan.missing_ppm < 999_999
        services.registry.listen(self._blame)

    def _blame(self, peer: PeerKey, offence: Offence, _detail: str) -> None:
        self.blamed.setdefault(peer, []).append(offence.label)


async def test_late_daemons_fetch_the_state_among_liars_and_serve_it(tmp_path: Path) -> None:
    async with swarm(tmp_path, heartbeat_ms=1000, epoch_ms=60_000) as lab:
        signed = await make_past(lab)
        digest = signed.manifest.components[0].digest
        await crash_half_way(lab)
        lies = {FORGER: forge, STALLER: stall, STRAYER: stray}
        arrival = Arrival()
        with answers(lab, lies):
            await lab.start(LATE, snapshot_interval=INTERVAL, before=arrival.watch)
            await until(lambda: lab.height(LATE) >= lab.height(VALIDATORS[0]) > 0, "it caught up")
        assert arrival.blamed == {
            lab.peer(FORGER): ["forged"],
            lab.peer(STALLER): ["stalled"],
            lab.peer(STRAYER): ["forged"],
        }
        chain = lab[LATE].ledger.chain
        assert chain.first_block > INTERVAL, "it did not execute the beginning"
        await until(lambda: lab.holds(LATE, digest), "it has the image")
        await check_seated(lab)
        await check_serving(lab, signed)


async def check_seated(lab: Swarm) -> None:
    """The new validator fetches the state too, and the next epoch cannot go on without it."""
    await lab.start(SEATED, snapshot_interval=INTERVAL)
    consensus = lab[SEATED].consensus
    assert consensus is not None
    await until(lambda: lab.height(SEATED) >= lab.height(VALIDATORS[0]), "it caught up")
    assert lab[SEATED].ledger.chain.first_block > INTERVAL
    await until(lambda: consensus.status.may_vote and consensus.status.seat is not None, "it votes")
    await until(lambda: epoch(lab, SEATED) >= 3, "the next epoch")
    await until(lambda: consensus.status.may_vote, "it votes with its next key")
    await lab.crash(VALIDATORS[1])
    height = lab.height(SEATED)
    await until(lambda: lab.height(SEATED) > height + 1, "three of four go on")
    assert consensus.status.halted is None


async def check_serving(lab: Swarm, signed: SignedManifest) -> None:
    """Who fetched the state gives it on, with hand-overs, blocks, chunks and proofs."""
    chain = lab[LATE].ledger.chain
    assert [decode_header(step.header).epoch for step in chain.epoch_steps(1, 2)] == [1, 2]
    await lab.start(LATEST, snapshot_interval=INTERVAL)
    await until(lambda: lab.height(LATEST) >= lab.height(LATE) > 0, "the last one caught up")
    digest = signed.manifest.components[0].digest
    await until(lambda: lab.holds(LATEST, digest), "the last one has the image")
    assert lab[LATEST].ledger.chain.first_block > INTERVAL
    assert list(lab[LATEST].ledger.manifests) == [signed.manifest_id]
    for name in (LATE, LATEST):
        proof = lab.path / f"{name}.proof"
        folder = lab.directory(name).path
        ended = await command("prove", signed.manifest_id.hex(), "-o", proof, "-C", folder)
        assert ended.code == 0, ended
        image = lab.path / f"image-{signed.manifest.version}"
        genesis = lab.path / "genesis.cbor"
        ended = await command("verify", image, "--proof", proof, "--genesis", genesis)
        assert ended.code == 0, ended
        request = ManifestsRequest(manifests=(signed.manifest_id,))
        answer = await lab[name].ledger_service._reply(lab.peer(VALIDATORS[0]), request)
        assert answer == ManifestsAnswer(manifests=(signed.signed.raw,))
