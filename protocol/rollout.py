"""Staged rollouts: which share of a group's devices is offered a release, and when that grows.

A plan belongs to a group's policy. It names up to 16 stages; each offers the release to a larger
share of the devices than the one before. Which devices those are follows from the block that
authorised the release, so that neither its publisher nor its owners can pick them, and a device of
one stage is in every later one. The rules are docs/spec/rollout.md; R1 to R9 are kept here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from itertools import pairwise
from typing import Final

from protocol.digest import BlockId, tagged_digest
from protocol.encoding import Extensions, Fields, Value, check_extensions, check_range
from protocol.errors import EncodingError

STAGES_MAX: Final = 16
"""Stages of one plan: doubling from 1 in 10,000 takes 15."""
SHARE_WHOLE: Final = 10_000
"""Shares are parts of 10,000: integers, and one device in a fleet of 10,000 is expressible."""
PRIORITY_MAX: Final = 9
"""Highest priority; 0 is the lowest."""
SOAK_MS_MAX: Final = 366 * 24 * 3600 * 1000
"""Longest soak of one stage, milliseconds of header time: beyond a year it would be a slip."""
SITES_MAX: Final = 10_000
"""Largest count of sites a threshold may name; more would make it unreachable in any group."""
SAMPLE_MAX: Final = 1_000_000
"""Largest sample of devices a threshold may wait for."""
DEVICE_ID_BYTES_MAX: Final = 256
"""Longest device id that is hashed, bytes; as in the device interfaces."""
STAGE_TAG: Final = "swarmd/rollout-stage/1"
"""Domain of the hash that picks a stage's devices."""


class Promotion(IntEnum):
    """How a rollout moves to its next stage."""

    OWNERS = 1
    """By a command of owners only."""
    AUTOMATIC = 2
    """Also by itself, once a stage's conditions hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutStage:
    """One step of a rollout: how many devices, and what must or must not happen on them."""

    share: int
    """Devices that are offered the release, of 10,000."""
    soak_ms: int
    """Least header time in this stage before the next, milliseconds."""
    success_sites_min: int
    """Sites that must report a success before the next stage; 0: none."""
    failure_sites_max: int
    """Sites with a failure that are tolerated; one more halts the rollout."""
    failure_share_max: int
    """Failures tolerated, of 10,000 counted reports; more halt the rollout."""
    sample_min: int
    """Counted reports below which `failure_share_max` is not looked at, at least 1."""

    def __post_init__(self) -> None:
        """Refuses numbers out of range.

        Raises:
            EncodingError: one of them is.
        """
        check_range(self.share, "stage's share", minimum=1, maximum=SHARE_WHOLE)
        check_range(self.soak_ms, "stage's soak", maximum=SOAK_MS_MAX)
        check_range(self.success_sites_min, "stage's successful sites", maximum=SITES_MAX)
        check_range(self.failure_sites_max, "stage's failing sites", maximum=SITES_MAX)
        check_range(self.failure_share_max, "stage's failing share", maximum=SHARE_WHOLE)
        check_range(self.sample_min, "stage's sample", minimum=1, maximum=SAMPLE_MAX)

    def to_value(self) -> Value:
        """The wire form."""
        return {
            1: self.share,
            2: self.soak_ms,
            3: self.success_sites_min,
            4: self.failure_sites_max,
            5: self.failure_share_max,
            6: self.sample_min,
        }

    @classmethod
    def from_value(cls, value: Value) -> RolloutStage:
        """Reads the wire form; raises EncodingError."""
        fields = Fields(value, "rollout stage")
        stage = cls(
            share=fields.uint(1),
            soak_ms=fields.uint(2),
            success_sites_min=fields.uint(3),
            failure_sites_max=fields.uint(4),
            failure_share_max=fields.uint(5),
            sample_min=fields.uint(6),
        )
        if fields.finish():
            raise EncodingError("rollout stage: extensions are not allowed")
        return stage


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutPlan:
    """How releases of a group reach its devices (R1)."""

    stages: tuple[RolloutStage, ...]
    """1 to 16, shares strictly ascending, the last one 10,000."""
    priority: int = 0
    """0 to 9; where a device could take either of two releases, the higher goes first."""
    promotion: Promotion = Promotion.OWNERS
    """Who moves the rollout to its next stage."""
    extensions: Extensions = field(default_factory=dict, hash=False)
    """Unknown non-critical fields, kept because they are part of what is hashed."""

    def __post_init__(self) -> None:
        """Refuses a plan that could not run to its end.

        Raises:
            EncodingError: no stage or too many, shares that do not ascend to 10,000, a priority out
                of range.
        """
        check_range(len(self.stages), "rollout's stages", minimum=1, maximum=STAGES_MAX)
        check_range(self.priority, "rollout's priority", maximum=PRIORITY_MAX)
        shares = [stage.share for stage in self.stages]
        if any(later <= earlier for earlier, later in pairwise(shares)):
            raise EncodingError("rollout: shares of its stages do not ascend")
        if shares[-1] != SHARE_WHOLE:
            raise EncodingError(f"rollout: the last share is {shares[-1]}, expected {SHARE_WHOLE}")
        check_extensions(self.extensions, "rollout")

    def to_value(self) -> Value:
        """The wire form."""
        return {
            1: [stage.to_value() for stage in self.stages],
            2: self.priority,
            3: int(self.promotion),
            **self.extensions,
        }

    @classmethod
    def from_value(cls, value: Value) -> RolloutPlan:
        """Reads the wire form.

        Raises:
            EncodingError: malformed, or a plan that could not run to its end.
        """
        fields = Fields(value, "rollout")
        return cls(
            stages=fields.items(1, RolloutStage.from_value, minimum=1, maximum=STAGES_MAX),
            priority=fields.uint(2, maximum=PRIORITY_MAX),
            promotion=fields.enum(3, Promotion),
            extensions=fields.finish(),
        )


def device_position(block: BlockId, device: bytes) -> int:
    """Where a device stands in the order of a rollout, 0 to 9,999 (R2).

    Uniform up to 10,000 / 2^256. Only the block that authorises a release decides it, and that
    block's id is known to nobody who proposes or approves the release.

    Args:
        block: id of the block at whose height the release became authorised.
        device: the device's id, 1 to 256 bytes; text ids as UTF-8.

    Raises:
        EncodingError: the id is empty or too long.
    """
    check_range(len(device), "device id's length", minimum=1, maximum=DEVICE_ID_BYTES_MAX)
    digest = tagged_digest(STAGE_TAG, block + device)
    return int.from_bytes(digest, "big") % SHARE_WHOLE


def is_in_stage(block: BlockId, device: bytes, share: int) -> bool:
    """Tells whether a device belongs to a stage that takes `share` of 10,000 (R2).

    Raises:
        EncodingError: the id is empty or too long.
    """
    return device_position(block, device) < share
