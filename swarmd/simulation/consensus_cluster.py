"""One simulated chain: its processes, the sets of its epochs, and the invariants.

What must always hold is in `swarmd.simulation.invariants`. Which processes sit in which epoch
follows from the seed.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Final

from ledger.certificate import Certificate, contradictions
from ledger.header import Header, genesis_header
from ledger.simplex.interface import Parameters
from ledger.validators import Validator, ValidatorSet
from ledger.vote import Signer
from protocol.digest import BlockId, ChainId, sha256
from protocol.merkle import EMPTY_ROOT
from swarmd.simulation.consensus_store import Disk
from swarmd.simulation.invariants import Watch
from swarmd.simulation.signatures import KeyRing
from swarmd.simulation.world import World

if TYPE_CHECKING:
    from swarmd.simulation.consensus_host import ConsensusHost

EPOCH_MS: Final = 1_700_000_000_000
"""Wall clock at simulated time 0, milliseconds since 1970."""
ERA: Final = 1
"""Era of every simulated chain."""
FIRST_EPOCH: Final = 1
"""Epoch that the genesis set votes in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Epochs:
    """How a simulated chain changes its validators."""

    length_ms: int
    """Header time after which an epoch ends, milliseconds."""
    reserves: int = 0
    """Processes that do not sit in the first epoch and replace others later."""
    may_change: float = 0.7
    """Probability that an epoch's set differs from the one before by a replaced seat."""
    empty_seats: bool = False
    """Whether up to f seats of an epoch may be empty; only where nobody lies."""


class Cluster:
    """One chain in a world: its validators, hosts and invariants."""

    def __init__(
        self,
        world: World,
        count: int,
        *,
        real_signatures: bool = False,
        wire: bool = False,
        parameters: Parameters | None = None,
        disk: Disk | None = None,
        epochs: Epochs | None = None,
    ) -> None:
        """Makes the chain; hosts are added by `ConsensusHost`.

        Args:
            world: where it lives; its seed also decides the keys.
            count: validators of each epoch.
            real_signatures: Ed25519 instead of the oracle.
            wire: encode and decode every message, as real hosts do.
            parameters: engine timers.
            disk: delays of disks and processors.
            epochs: how validators change; None: the first epoch never ends.
        """
        self.world: Final = world
        self.wire: Final = wire
        self.parameters: Final = parameters or Parameters()
        self.disk: Final = disk or Disk()
        self.epochs: Final = epochs
        self.chain: Final = ChainId(sha256(b"simulated chain"))
        seed = world.random.getrandbits(32)
        self.keys: Final = KeyRing(seed=seed, real=real_signatures)
        self._chance = random.Random(f"sets {seed}")  # noqa: S311 - replayed, guards nothing
        self._seats: dict[int, tuple[int, ...]] = {FIRST_EPOCH: tuple(range(count))}
        self._sets: dict[int, ValidatorSet] = {}
        self.verifier: Final = self.keys.verifier
        self.validators: Final = self.validators_of(FIRST_EPOCH)
        """The first set."""
        self.genesis: Final = genesis_header(
            chain=self.chain,
            era=ERA,
            time_ms=EPOCH_MS,
            log_size=0,
            log_root=EMPTY_ROOT,
            state_root=EMPTY_ROOT,
            validators=self.validators.digest,
        )
        self.hosts: list[ConsensusHost] = []
        processes = count + (0 if epochs is None else epochs.reserves)
        self.actors: list[list[int]] = [[] for _ in range(processes)]
        """Actors of each process; twins are two."""
        self.final: dict[int, BlockId] = {}
        """The first final block seen at each height."""
        self.convicted: dict[int, None] = {}
        """Processes that evidence was found against."""
        self.skew_ms_max = 0
        """The worst honest clock is off by so much, milliseconds."""
        self.watch: Final = Watch(self)
        """Checks the invariants."""
        self.violations: list[str] = []
        """What must never happen, and did."""

    # -- epochs --------------------------------------------------------------------------------

    def seats(self, epoch: int) -> tuple[int, ...]:
        """The processes that sit in an epoch, by index; changes at most f of the one before."""
        while max(self._seats) < epoch:
            newest = max(self._seats)
            self._seats[newest + 1] = self._draw_seats(self._seats[newest])
        return self._seats[epoch]

    def _draw_seats(self, before: tuple[int, ...]) -> tuple[int, ...]:
        epochs = self.epochs
        outside = [process for process in range(len(self.actors)) if process not in before]
        if epochs is None or not outside or self._chance.random() >= epochs.may_change:
            return before
        limit = min((len(before) - 1) // 3, len(outside))
        count = self._chance.randint(1, limit)
        leavers = self._chance.sample(before, count)
        newcomers = self._chance.sample(outside, count)
        following = [process for process in before if process not in leavers] + newcomers
        self._chance.shuffle(following)
        return tuple(following)

    def validators_of(self, epoch: int) -> ValidatorSet:
        """The set of an epoch."""
        known = self._sets.get(epoch)
        if known is None:
            seats = self.seats(epoch)
            empty: list[int] = []
            if self.epochs is not None and self.epochs.empty_seats and epoch > FIRST_EPOCH:
                count = self._chance.randint(0, (len(seats) - 1) // 3)
                empty = self._chance.sample(seats, count)
            members = tuple(
                Validator(
                    self.keys.did(process),
                    None if process in empty else self.keys.key(process, epoch),
                )
                for process in seats
            )
            known = self._sets[epoch] = ValidatorSet(epoch, members)
        return known

    def seat_of(self, process: int, epoch: int) -> int | None:
        """The index of a process in an epoch's set, or None."""
        seats = self.seats(epoch)
        return seats.index(process) if process in seats else None

    def signer(self, process: int, epoch: int) -> Signer:
        """What signs a process's votes in an epoch."""
        return self.keys.signer(process, epoch)

    @property
    def now_ms(self) -> int:
        """What a clock without error shows, milliseconds since 1970."""
        return EPOCH_MS + int(self.world.now * 1000) + 1_000

    def is_due(self, start: Header, time_ms: int) -> bool:
        """Whether a block with this time closes the epoch that began on `start`."""
        return self.epochs is not None and time_ms >= start.time_ms + self.epochs.length_ms

    # -- invariants ----------------------------------------------------------------------------

    @property
    def honest(self) -> list[ConsensusHost]:
        """Hosts that keep the rules."""
        return [host for host in self.hosts if host.is_honest]

    def is_honest(self, process: int) -> bool:
        """Tells whether all hosts of a process keep the rules."""
        return all(host.is_honest for host in self.hosts if host.index == process)

    def audit(self) -> list[int]:
        """Convicts from stored certificates alone, as an auditor does; returns the culprits."""
        by_view: dict[tuple[int, int], dict[bytes, Certificate]] = {}
        for host in self.honest:
            for certificate in host.store.audit:
                place = by_view.setdefault((certificate.epoch, certificate.view), {})
                place[certificate.digest] = certificate
        culprits = {
            self.seats(evidence.epoch)[evidence.signer]
            for certificates in by_view.values()
            for one, other in combinations(certificates.values(), 2)
            for evidence in contradictions(one, other)
        }
        return sorted(culprits)

    def violate(self, what: str) -> None:
        """Notes a broken invariant."""
        self.violations.append(f"{self.world.now:.3f}s: {what}")
