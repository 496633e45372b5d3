"""`ro/`: how far a release has come in a group."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from ledger.records.codec import RECORD_SCHEMA, close_record, open_record
from protocol.encoding import encode_canonical
from protocol.rollout import PRIORITY_MAX, STAGES_MAX


class RolloutStatus(IntEnum):
    """What a rollout does at present."""

    RUNNING = 1
    """Devices of its stage are offered the release."""
    PAUSED = 2
    """Nobody is; an owner stopped it for a look."""
    HALTED = 3
    """Nobody is; failures or enough owners stopped it."""
    DONE = 4
    """Every device is offered it, and the last stage's conditions hold."""


class HaltCause(IntEnum):
    """Why a rollout was halted."""

    NONE = 0
    """It is not halted."""
    OWNERS = 1
    """By command."""
    FAILING_SITES = 2
    """More sites had failures than its stage tolerates."""
    FAILING_SHARE = 3
    """More of the counted reports were failures than its stage tolerates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRecord:
    """`ro/<manifest><group>`: how far a release has come in a group (R10)."""

    status: RolloutStatus
    """What it does at present."""
    stage: int
    """Index of its stage in the plan, from 0."""
    started_ms: int
    """Header time from which this stage's soak counts, milliseconds."""
    priority: int
    """0 to 9."""
    sequence: int = 0
    """Steps so far, owners' and automatic ones: what the next command must name."""
    sequence_floor: int = 0
    """Steps up to the owners' last one: a stopping command may name any from here on."""
    period: int = 0
    """Counting periods so far; each begins with zero counters."""
    success_sites: int = 0
    """Sites that reported a success in this period."""
    failure_sites: int = 0
    """Sites that reported a failure in this period."""
    successes: int = 0
    """Successes in this period, each site's capped."""
    failures: int = 0
    """Failures in this period, each site's capped."""
    cause: HaltCause = HaltCause.NONE
    """Why it is halted."""

    @property
    def is_offering(self) -> bool:
        """Whether devices of its stage are offered the release."""
        return self.status in (RolloutStatus.RUNNING, RolloutStatus.DONE)

    def encode(self) -> bytes:
        """The canonical bytes."""
        return encode_canonical(
            {
                0: RECORD_SCHEMA,
                1: int(self.status),
                2: self.stage,
                3: self.started_ms,
                4: self.priority,
                5: self.sequence,
                6: self.sequence_floor,
                7: self.period,
                8: self.success_sites,
                9: self.failure_sites,
                10: self.successes,
                11: self.failures,
                12: int(self.cause),
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> RolloutRecord:
        """Reads the canonical bytes; raises EncodingError."""
        fields = open_record(data, "rollout")
        sequence = fields.uint(5)
        record = cls(
            status=fields.enum(1, RolloutStatus),
            stage=fields.uint(2, maximum=STAGES_MAX - 1),
            started_ms=fields.uint(3),
            priority=fields.uint(4, maximum=PRIORITY_MAX),
            sequence=sequence,
            sequence_floor=fields.uint(6, maximum=sequence),
            period=fields.uint(7),
            success_sites=fields.uint(8),
            failure_sites=fields.uint(9),
            successes=fields.uint(10),
            failures=fields.uint(11),
            cause=fields.enum(12, HaltCause),
        )
        close_record(fields, "rollout")
        return record
