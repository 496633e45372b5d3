"""Bodies of `rollout.*`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from ledger.bodies.codec import MapValue, read_approval, read_approvals
from protocol.digest import Digest, ManifestId, tagged_digest
from protocol.encoding import Fields, encode_canonical
from protocol.errors import EncodingError
from protocol.group import OWNERS_MAX, check_group_name
from protocol.rollout import PRIORITY_MAX

COMMAND_TAG: Final = "swarmd/rollout-command/1"
"""Domain of what owners agree to when they command a rollout."""


class Command(IntEnum):
    """What to do with a rollout."""

    PROMOTE = 1
    """Go on to the next stage."""
    RESUME = 2
    """Offer again, after a pause or a halt."""
    PRIORITY = 3
    """Change its priority."""
    PAUSE = 4
    """Offer to nobody, for a look."""
    HALT = 5
    """Offer to nobody until enough owners resume it."""


STOPPING: Final = (Command.PAUSE, Command.HALT)
"""Commands that only ever take offers away."""


def command_digest(
    manifest: ManifestId, group: str, command: Command, *, priority: int, sequence: int
) -> Digest:
    """What an owner approves who commands a rollout (R20)."""
    value = encode_canonical([manifest, group, int(command), priority, sequence])
    return tagged_digest(COMMAND_TAG, value)


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandRollout:
    """`rollout.command`: promotes, resumes or ranks a rollout."""

    manifest: ManifestId
    """Of which release."""
    group: str
    """In which group."""
    command: Command
    """What to do; not PAUSE or HALT, which are `StopRollout`."""
    priority: int
    """The new priority; 0 with any other command."""
    sequence: int
    """The rollout's steps so far, as the owners saw it."""
    approvals: tuple[bytes, ...]
    """ROLLOUT approvals, at most 32; none: an automatic promotion that is due."""

    def to_value(self) -> MapValue:
        """The wire form."""
        return {
            0: self.manifest,
            1: self.group,
            2: int(self.command),
            3: self.priority,
            4: self.sequence,
            5: list(self.approvals),
        }

    @classmethod
    def read(cls, fields: Fields) -> CommandRollout:
        """Reads the wire form; raises EncodingError."""
        body = cls(
            manifest=ManifestId(fields.digest(0)),
            group=check_group_name(fields.name(1)),
            command=fields.enum(2, Command),
            priority=fields.uint(3, maximum=PRIORITY_MAX),
            sequence=fields.uint(4),
            approvals=fields.items(5, read_approval, maximum=OWNERS_MAX),
        )
        if body.command in STOPPING:
            raise EncodingError(f"{body.command.name.lower()} is a rollout.stop")
        if body.command is not Command.PRIORITY and body.priority:
            raise EncodingError(f"{body.command.name.lower()} has no priority")
        return body

    @property
    def subject(self) -> Digest:
        """What owners approve."""
        return command_digest(
            self.manifest,
            self.group,
            self.command,
            priority=self.priority,
            sequence=self.sequence,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRollout:
    """`rollout.stop`: pauses or halts a rollout."""

    manifest: ManifestId
    """Of which release."""
    group: str
    """In which group."""
    command: Command
    """PAUSE or HALT."""
    sequence: int
    """The rollout's steps when the owners decided; automatic ones since then do not matter."""
    approvals: tuple[bytes, ...]
    """ROLLOUT approvals, 1 to 32."""

    def to_value(self) -> MapValue:
        """The wire form."""
        return {
            0: self.manifest,
            1: self.group,
            2: int(self.command),
            3: self.sequence,
            4: list(self.approvals),
        }

    @classmethod
    def read(cls, fields: Fields) -> StopRollout:
        """Reads the wire form; raises EncodingError."""
        body = cls(
            manifest=ManifestId(fields.digest(0)),
            group=check_group_name(fields.name(1)),
            command=fields.enum(2, Command),
            sequence=fields.uint(3),
            approvals=read_approvals(fields, 4),
        )
        if body.command not in STOPPING:
            raise EncodingError(f"{body.command.name.lower()} is a rollout.command")
        return body

    @property
    def subject(self) -> Digest:
        """What owners approve."""
        return command_digest(
            self.manifest, self.group, self.command, priority=0, sequence=self.sequence
        )
