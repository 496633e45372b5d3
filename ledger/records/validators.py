"""`c/epoch` and `vk/`: the current epoch, and what each validator may vote with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ledger.records.codec import RECORD_SCHEMA, close_record, open_record
from protocol.digest import DidId
from protocol.encoding import Fields, Value, as_array, as_uint, check_range, encode_canonical
from protocol.errors import EncodingError
from protocol.genesis import Parameters
from protocol.keys import PublicKey
from protocol.limits import VALIDATORS_MAX, VALIDATORS_MIN

CERTIFY_AHEAD_MAX: Final = 4
"""Epochs ahead for which a validator may certify a key: it can sleep through so many."""
VERSION_MAX: Final = 65_535
"""Highest protocol version that can be named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRecord:
    """`c/epoch`: what holds in this epoch, and what is decided for the next one."""

    epoch: int
    """Number of the epoch, from 1."""
    start_ms: int
    """Header time of the block that closed the one before, or of genesis, milliseconds."""
    start_height: int
    """Height of that block."""
    version: int
    """Protocol version in force; a node that lacks it follows no further (E50)."""
    parameters: Parameters
    """Numbers of the chain in force."""
    next_members: tuple[DidId, ...] | None
    """Set named by governance for the next epoch; None: the same seats go on."""
    next_parameters: Parameters | None
    """Numbers from the next epoch on; None: the same."""
    upgrade: tuple[int, int] | None
    """(version, first epoch) decided by governance; None: none is coming."""

    def encode(self) -> bytes:
        """The canonical bytes."""
        return encode_canonical(
            {
                0: RECORD_SCHEMA,
                1: self.epoch,
                2: self.start_ms,
                3: self.start_height,
                4: self.version,
                5: self.parameters.to_value(),
                6: None if self.next_members is None else list(self.next_members),
                7: None if self.next_parameters is None else self.next_parameters.to_value(),
                8: self.upgrade,
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> EpochRecord:
        """Reads the canonical bytes; raises EncodingError."""
        fields = open_record(data, "epoch")
        upgrade = fields.value(8)
        record = cls(
            epoch=fields.uint(1),
            start_ms=fields.uint(2),
            start_height=fields.uint(3),
            version=fields.uint(4, maximum=VERSION_MAX),
            parameters=Parameters.from_value(fields.value(5)),
            next_members=_read_members(fields, 6),
            next_parameters=(
                None if fields.value(7) is None else Parameters.from_value(fields.value(7))
            ),
            upgrade=None if upgrade is None else _read_upgrade(upgrade),
        )
        close_record(fields, "epoch")
        return record


def _read_members(fields: Fields, key: int) -> tuple[DidId, ...] | None:
    if fields.value(key) is None:
        return None
    found = fields.digests(key, minimum=VALIDATORS_MIN, maximum=VALIDATORS_MAX)
    return tuple(DidId(item) for item in found)


def _read_upgrade(value: Value) -> tuple[int, int]:
    version, epoch = as_array(value, "upgrade", size=2)
    return as_uint(version, "version", maximum=VERSION_MAX), as_uint(epoch, "upgrade epoch")


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidatorRecord:
    """`vk/<did>`: a validator's certified keys and whether it was convicted."""

    keys: tuple[tuple[int, PublicKey], ...] = ()
    """(epoch, vote key) for this epoch and later ones, ascending by epoch."""
    convicted: int | None = None
    """Epoch in which it contradicted itself; its seats stay empty. None: it never did."""

    def __post_init__(self) -> None:
        """Refuses unordered or too many keys.

        Raises:
            EncodingError: they are.
        """
        check_range(len(self.keys), "certified keys", maximum=CERTIFY_AHEAD_MAX + 1)
        epochs = [epoch for epoch, _ in self.keys]
        if epochs != sorted(dict.fromkeys(epochs)):
            raise EncodingError("certified keys are not ascending by epoch")

    def key_for(self, epoch: int) -> PublicKey | None:
        """The key certified for an epoch, or None; None also for whoever is convicted."""
        if self.convicted is not None:
            return None
        return next((key for at, key in self.keys if at == epoch), None)

    def with_key(self, epoch: int, key: PublicKey, *, current: int) -> ValidatorRecord:
        """Adds a key for an epoch that has none; forgets those of epochs before `current`."""
        kept = [entry for entry in self.keys if entry[0] >= current]
        keys = tuple(sorted([*kept, (epoch, key)], key=lambda entry: entry[0]))
        return ValidatorRecord(keys=keys, convicted=self.convicted)

    def encode(self) -> bytes:
        """The canonical bytes."""
        keys: list[Value] = [[epoch, key.to_value()] for epoch, key in self.keys]
        return encode_canonical({0: RECORD_SCHEMA, 1: keys, 2: self.convicted})

    @classmethod
    def decode(cls, data: bytes) -> ValidatorRecord:
        """Reads the canonical bytes; raises EncodingError."""
        fields = open_record(data, "validator")
        record = cls(
            keys=fields.items(1, _read_key, maximum=CERTIFY_AHEAD_MAX + 1),
            convicted=None if fields.value(2) is None else fields.uint(2),
        )
        close_record(fields, "validator")
        return record


def _read_key(value: Value) -> tuple[int, PublicKey]:
    epoch, key = as_array(value, "certified key", size=2)
    return as_uint(epoch, "certified key's epoch"), PublicKey.from_value(key)


def seats_replaced(old: Sequence[DidId], new: Sequence[DidId]) -> int:
    """How many seats a set change replaces: leavers or newcomers, whichever are more (E31)."""
    leavers = sum(1 for did in old if did not in new)
    newcomers = sum(1 for did in new if did not in old)
    return max(leavers, newcomers)
