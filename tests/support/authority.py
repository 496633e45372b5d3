"""An authority over a laboratory's chain of which the test holds every key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ledger.chain import Chain
from ledger.records.manifest import ManifestRecord
from ledger.state import LedgerState
from ledger.state_keys import manifest_key
from protocol.manifest import SignedManifest
from protocol.transaction import SignedTransaction
from swarmd.authority import Authority
from swarmd.clock import ManualClock
from swarmd.floor import NO_FLOOR, Floor
from swarmd.freshness import FreshnessClock
from swarmd.ledger_host import LedgerHost
from swarmd.net.address import PeerKey
from swarmd.peers import PeerRegistry
from swarmd.questions import Denial
from swarmd.witnesses import WitnessBook
from tests.support.ledger import FLEET, Lab, advance, make_lab

PEER = PeerKey(b"p" * 32)


@dataclass
class Bench:
    """An authority over a chain of which the test holds every key."""

    lab: Lab
    chain: Chain
    ledger: LedgerHost
    clock: ManualClock
    age: FreshnessClock
    registry: PeerRegistry
    authority: Authority
    groups: tuple[str, ...] = (FLEET,)

    async def propose(self, manifest: SignedManifest) -> SignedManifest:
        await self.commit(lambda: (advance(self.lab, self.chain, [self.lab.propose(manifest)]),))
        return manifest

    async def authorise(self, manifest: SignedManifest) -> SignedManifest:
        await self.propose(manifest)
        approval = self.lab.approve(manifest.manifest_id)
        await self.commit(lambda: (advance(self.lab, self.chain, [approval]),))
        return manifest

    async def apply(self, *transactions: SignedTransaction) -> None:
        """Makes transactions final in one block."""
        await self.commit(lambda: (advance(self.lab, self.chain, transactions),))

    async def commit(self, call: Callable[[], object]) -> None:
        await self.ledger.run_commit(call)

    def poison(self, writes: dict[bytes, bytes]) -> None:
        """Makes the final state say what no transaction wrote."""
        tip = self.chain._tip
        state = LedgerState(tip.final.state.tree.update(writes), tip.final.state.log)
        outcome = replace(tip.final.outcome, state=state)
        self.chain._tip = replace(tip, final=replace(tip.final, outcome=outcome))
        self.authority._cache.clear()

    def keep(self, manifest: SignedManifest) -> None:
        """Puts a manifest into the copy's tables that nobody proposed."""
        store = self.chain._store
        with store.transaction() as database:
            store.manifests.insert(database, [(manifest.manifest_id, manifest.signed.raw)])

    def record(self, manifest: SignedManifest) -> ManifestRecord:
        record = self.chain.state.manifest(manifest.manifest_id, FLEET)
        assert record is not None
        return record

    def claim(self, manifest: SignedManifest, **changes: object) -> None:
        """Poisons a manifest's record."""
        changed = replace(self.record(manifest), **{"root_version": 1, **changes})
        self.poison({manifest_key(manifest.manifest_id, FLEET): changed.encode()})

    def refusal(self, manifest: SignedManifest) -> str:
        verdict = self.authority.verdict(manifest.manifest_id)
        assert isinstance(verdict, Denial)
        return verdict.rule


def make_bench(
    lab: Lab | None = None, *, floor: Floor = NO_FLOOR, witnesses: WitnessBook | None = None
) -> Bench:
    lab = lab or make_lab()
    chain = lab.open_chain()
    clock = ManualClock()
    ledger = LedgerHost(chain, lambda: chain.head.time_ms)
    age = FreshnessClock(None, now=0.0, wall_ms=0)
    age.confirm(0.0)
    registry = PeerRegistry(lab.chain_id, clock, lambda *_: None)
    authority = Authority(
        ledger=ledger,
        genesis=lab.genesis,
        age=age,
        registry=registry,
        own_did=lab.gateways[0].did,
        own_groups=lambda: bench.groups,
        floor=floor,
        witnesses=witnesses,
        monotonic=clock.monotonic,
        time_ms=lambda: chain.head.time_ms + round(clock.monotonic() * 1000),
    )
    ledger.listen(authority.on_commit)
    bench = Bench(lab, chain, ledger, clock, age, registry, authority)
    return bench
