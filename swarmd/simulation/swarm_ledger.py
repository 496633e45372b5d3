"""The ledger of a simulated swarm: releases in the validators' blocks, and who follows them.

Validators run the production engine (`ConsensusHost`). A release is a transaction with its owners'
signatures; an honest validator neither proposes nor votes for one with too few. A follower takes
blocks only with a certificate of the validators and checks the owners' signatures once more: a
quorum alone cannot authorise an image.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from ledger.block import Block
from ledger.simplex.interface import Build
from protocol.digest import DIGEST_BYTES, Digest, ManifestId
from protocol.errors import VerificationError
from swarmd.simulation.consensus_cluster import ERA, FIRST_EPOCH, Cluster
from swarmd.simulation.consensus_host import ConsensusHost
from swarmd.simulation.consensus_store import Run, is_final_run

OWNERS: Final = 3
"""Owners of the simulated group."""
THRESHOLD: Final = 2
"""Of them, whose signatures authorise."""
_OWNER_PROCESS: Final = 1_000_000
"""Where owners' keys begin in the key ring; processes of validators are far below."""
_MAGIC: Final = b"release"
_HEAD: Final = struct.Struct(">7sB32sB")
_APPROVAL: Final = struct.Struct(">B64s")


class Action(IntEnum):
    """What owners decide about an image."""

    PUBLISH = 1
    """Gateways may keep and serve it."""
    REVOKE = 2
    """They may not, for ever."""


@dataclass(frozen=True, slots=True)
class Decision:
    """A transaction: what some owners decided."""

    action: Action
    """What."""
    manifest_id: ManifestId
    """About which image."""
    approvals: tuple[tuple[int, bytes], ...]
    """Owners by number, each with a signature of 64 bytes."""

    @property
    def signed(self) -> bytes:
        """What the owners sign."""
        return _MAGIC + bytes([self.action]) + self.manifest_id

    def encode(self) -> bytes:
        """The transaction's bytes."""
        head = _HEAD.pack(_MAGIC, self.action, self.manifest_id, len(self.approvals))
        return head + b"".join(_APPROVAL.pack(*each) for each in self.approvals)

    @classmethod
    def decode(cls, data: bytes) -> Decision | None:
        """Reads a transaction; None: it is none of these, such as a filler."""
        if len(data) < _HEAD.size or not data.startswith(_MAGIC):
            return None
        _, action, manifest_id, count = _HEAD.unpack_from(data)
        if len(data) != _HEAD.size + count * _APPROVAL.size or action not in list(Action):
            return None
        approvals = tuple(
            _APPROVAL.unpack_from(data, _HEAD.size + number * _APPROVAL.size)
            for number in range(count)
        )
        assert len(manifest_id) == DIGEST_BYTES, "the head says so"
        return cls(Action(action), ManifestId(Digest(manifest_id)), approvals)


@dataclass(frozen=True, slots=True)
class Submit:
    """A transaction on its way to a validator."""

    decision: Decision
    """What was decided."""


@dataclass(frozen=True, slots=True)
class Hint:
    """A validator tells followers that a decision is final; they ask it for the blocks."""

    height: int
    """Height of its last final block."""


class Owners:
    """The owners' keys, and the rule that two of three decide."""

    def __init__(self, cluster: Cluster) -> None:
        """Takes keys from the cluster's ring."""
        self._keys = cluster.keys

    def decide(self, action: Action, manifest_id: ManifestId, count: int = THRESHOLD) -> Decision:
        """Signs a decision by the first `count` owners."""
        bare = Decision(action, manifest_id, ())
        approvals = tuple(
            (owner, self._keys.signer(_OWNER_PROCESS + owner, FIRST_EPOCH).sign(bare.signed))
            for owner in range(count)
        )
        return Decision(action, manifest_id, approvals)

    def is_authorised(self, decision: Decision) -> bool:
        """Tells whether enough different owners signed, all of them rightly."""
        owners = [owner for owner, _ in decision.approvals]
        if len(set(owners)) != len(owners) or len(owners) < THRESHOLD:
            return False
        return all(
            owner < OWNERS
            and self._keys.verifier.verify(
                self._keys.key(_OWNER_PROCESS + owner, FIRST_EPOCH), signature, decision.signed
            )
            for owner, signature in decision.approvals
        )


@dataclass(slots=True)
class LedgerBook:
    """What the simulation itself notes of the ledger; no node looks at it."""

    owners: Owners
    """Who decides about images."""
    followers: list[int] = field(default_factory=list)
    """Actors that validators tell of final decisions."""
    final_s: dict[tuple[Action, ManifestId], float] = field(default_factory=dict)
    """When a decision was first final at an honest validator, simulated seconds."""
    heights: list[tuple[float, int]] = field(default_factory=list)
    """When each height was first final at an honest validator: (simulated seconds, height)."""
    unauthorised: list[tuple[float, ManifestId]] = field(default_factory=list)
    """Decisions with too few signatures that became final all the same, with the time."""


class ReleaseHost(ConsensusHost):
    """An honest validator whose blocks carry decisions about releases."""

    def __init__(self, cluster: Cluster, index: int, *, book: LedgerBook, skew_ms: int = 0) -> None:
        """Adds the host in the seat of process `index`."""
        self._book = book
        self._waiting: dict[bytes, Decision] = {}
        self._final: dict[bytes, None] = {}
        super().__init__(cluster, index, skew_ms=skew_ms)

    def crash(self) -> None:
        """Cuts the power; transactions that wait are forgotten."""
        super().crash()
        self._waiting.clear()

    def receive(self, source: int, message: object, now: float) -> None:
        """Takes a message of another actor."""
        if not isinstance(message, Submit):
            super().receive(source, message, now)
            return
        decision = message.decision
        data = decision.encode()
        if self.is_up and data not in self._final and self._book.owners.is_authorised(decision):
            self._waiting[data] = decision

    def draw_transactions(self, _request: Build) -> tuple[bytes, ...]:
        """All that waits."""
        return tuple(self._waiting)

    def are_valid(self, transactions: tuple[bytes, ...]) -> bool:
        """Whether every decision is one of enough owners."""
        decisions = [Decision.decode(data) for data in transactions]
        return all(each is None or self._book.owners.is_authorised(each) for each in decisions)

    def on_final(self, blocks: tuple[Block, ...], _run: Run) -> None:
        """Notes decisions, and tells followers that there are some."""
        world, book = self.cluster.world, self._book
        has_decision = False
        for block in blocks:
            height = block.header.height
            if not book.heights or height > book.heights[-1][1]:
                book.heights.append((world.now, height))
            for data in block.transactions:
                self._waiting.pop(data, None)
                self._final[data] = None
                decision = Decision.decode(data)
                if decision is not None:
                    has_decision = True
                    self._note(decision)
        if has_decision:
            for follower in book.followers:
                world.send(self.actor, follower, Hint(blocks[-1].header.height))

    def _note(self, decision: Decision) -> None:
        now, book = self.cluster.world.now, self._book
        if not book.owners.is_authorised(decision):
            book.unauthorised.append((now, decision.manifest_id))
        book.final_s.setdefault((decision.action, decision.manifest_id), now)


class Follower:
    """What a node that is no validator knows of the chain: verified blocks, owners' decisions."""

    def __init__(self, cluster: Cluster, owners: Owners) -> None:
        """Starts at genesis."""
        self._cluster = cluster
        self._owners = owners
        self._head: Block | None = None

    @property
    def height(self) -> int:
        """Height of its last block."""
        return 0 if self._head is None else self._head.header.height

    def follow(self, run: Run) -> list[Decision] | None:
        """Takes blocks above its last one.

        Returns:
            The authorised decisions in them; None if nothing was new or something was wrong.
        """
        blocks = tuple(block for block in run.blocks if block.header.height > self.height)
        if not blocks:
            return None
        cluster = self._cluster
        try:
            run.certificate.verify(cluster.validators, cluster.chain, ERA, cluster.verifier)
        except VerificationError:
            return None
        fresh = Run(blocks, run.fillers, run.certificate)
        head = cluster.genesis if self._head is None else self._head.header
        if not is_final_run(fresh, head, cluster.validators, certificate_ok=True):
            return None
        self._head = blocks[-1]
        return list(self._decisions(blocks))

    def _decisions(self, blocks: Iterable[Block]) -> Iterable[Decision]:
        for block in blocks:
            for data in block.transactions:
                decision = Decision.decode(data)
                if decision is not None and self._owners.is_authorised(decision):
                    yield decision
