"""Pins: kept through restarts, bounded, and damage is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from protocol.digest import ManifestId, sha256
from protocol.errors import PolicyError, StorageError
from swarmd.pins import PINS_MAX, Pins

ONE, OTHER = (ManifestId(sha256(name)) for name in (b"one", b"other"))


def test_pins_survive_a_restart(tmp_path: Path) -> None:
    pins = Pins(tmp_path / "pins.cbor")
    assert list(pins) == []
    assert [pins.add(ONE), pins.add(OTHER), pins.add(ONE)] == [True, True, False]
    again = Pins(tmp_path / "pins.cbor")
    assert list(again) == [ONE, OTHER]
    assert [again.remove(ONE), again.remove(ONE)] == [True, False]
    assert ONE not in Pins(tmp_path / "pins.cbor")
    assert OTHER in Pins(tmp_path / "pins.cbor")


def test_pins_are_bounded(tmp_path: Path) -> None:
    pins = Pins(tmp_path / "pins.cbor")
    pins._write({ManifestId(sha256(b"%d" % number)): None for number in range(PINS_MAX)})
    assert len(list(Pins(tmp_path / "pins.cbor"))) == PINS_MAX
    with pytest.raises(PolicyError, match="unpin one"):
        pins.add(ONE)


@pytest.mark.parametrize("damage", [b"", b"junk", b"\xa2\x00\x01\x01\x81\x41a", b"x" * 100_000])
def test_a_damaged_file_is_not_taken_for_no_pins(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "pins.cbor").write_bytes(damage)
    with pytest.raises(StorageError):
        Pins(tmp_path / "pins.cbor")


def test_a_pin_that_cannot_be_written_is_no_pin(tmp_path: Path) -> None:
    pins = Pins(tmp_path / "gone" / "pins.cbor")
    with pytest.raises(StorageError):
        pins.add(ONE)
    assert ONE not in pins
