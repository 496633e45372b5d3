"""The table of those who wait for owners: bounds, restarts, damage, and who leaves it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ledger.records.seat import SeatRecord
from ledger.state import Draft
from ledger.state_keys import seat_key
from protocol.errors import NotYetError, StorageError
from swarmd.enrolment_request import EnrolmentRequest
from swarmd.newcomers import (
    NEWCOMERS_MAX,
    STRANGERS_MAX,
    STRANGERS_PER_SEAT_MAX,
    Newcomers,
)
from tests.support.ledger import FLEET, GENESIS_MS, HOUR_MS, Bench, Member, make_bench
from tests.support.seats import NEWCOMER, make_seat

NOW_MS = GENESIS_MS + HOUR_MS


@pytest.fixture(scope="module")
def bench() -> Bench:
    return make_bench()


def request(bench: Bench, number: int = 0, seat: int = 0) -> EnrolmentRequest:
    """What a newcomer hands in who needs owners to confirm it."""
    member = Member(label=f"gw-{number}", kind=NEWCOMER.kind, groups=(FLEET,))
    claim = make_seat(bench.lab.chain_id, member, seat_id=seat.to_bytes(16), confirmed=True)
    return EnrolmentRequest(join=member.join, seat=claim)


def test_it_survives_a_restart_with_its_confirmations(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "newcomers.cbor"
    table = Newcomers(path)
    assert list(table) == []
    first, second = request(bench, 1), request(bench, 2)
    table.add(first, by_itself=True)
    table.add(second, by_itself=False)
    table.confirm(first.did, {FLEET: b"approval"})
    table.add(first, by_itself=True)  # it asks again: nothing is lost
    again = Newcomers(path)
    assert [(item.request, item.by_itself, item.missing) for item in again] == [
        (first, True, ()),
        (second, False, (FLEET,)),
    ]
    known = again.get(first.did)
    assert known is not None
    assert known.approvals == {FLEET: b"approval"}
    again.remove(first.did)
    assert [item.request for item in Newcomers(path)] == [second]
    assert path.stat().st_mode & 0o777 == 0o600


def test_strangers_have_few_places_and_never_take_another_ones(
    bench: Bench, tmp_path: Path
) -> None:
    table = Newcomers(tmp_path / "newcomers.cbor")
    for number in range(STRANGERS_PER_SEAT_MAX):
        table.add(request(bench, number), by_itself=True)
    with pytest.raises(NotYetError, match="the same seat"):
        table.add(request(bench, 90), by_itself=True)
    for number in range(STRANGERS_PER_SEAT_MAX, STRANGERS_MAX):
        table.add(request(bench, number, seat=number), by_itself=True)
    with pytest.raises(NotYetError, match="wait here already"):
        table.add(request(bench, 91, seat=91), by_itself=True)
    strangers = [item.request.did for item in table]
    # Operators' newcomers give way to each other, and never push out one that came by itself.
    for number in range(100, 100 + NEWCOMERS_MAX):
        table.add(request(bench, number), by_itself=False)
    assert len(table) == NEWCOMERS_MAX
    assert [item.request.did for item in table if item.by_itself] == strangers
    assert table.get(request(bench, 100).did) is None, "the oldest of them gave way"
    assert len(Newcomers(tmp_path / "newcomers.cbor")) == NEWCOMERS_MAX


def test_who_is_in_too_late_or_without_a_seat_leaves(bench: Bench, tmp_path: Path) -> None:
    table = Newcomers(tmp_path / "newcomers.cbor")
    waiting, taken = request(bench, 1, seat=1), request(bench, 2, seat=2)
    table.add(waiting, by_itself=True)
    table.add(taken, by_itself=True)
    draft = Draft(bench.state)
    table.sweep(draft, NOW_MS)
    assert len(table) == 2
    draft.put(seat_key(taken.claims.seat), SeatRecord(did=taken.did, height=1).encode())
    table.sweep(draft, NOW_MS)
    assert [item.request for item in table] == [waiting]
    table.sweep(draft, (waiting.claims.expiry_s + 1) * 1000)
    assert len(table) == 0


@pytest.mark.parametrize(
    "damage", [b"", b"junk", b"\xa2\x00\x02\x01\x80", b"\xa2\x00\x01\x01\x81\x00"]
)
def test_a_damaged_file_says_what_to_do(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "newcomers.cbor"
    path.write_bytes(damage)
    with pytest.raises(StorageError, match="remove it"):
        Newcomers(path)


def test_a_forged_request_in_the_file_is_not_believed(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "newcomers.cbor"
    good = request(bench, 1)
    join = replace(good.join, signatures=good.join.signatures[::-1])
    table = Newcomers(path)
    table.add(replace(good, join=join), by_itself=True)
    with pytest.raises(StorageError):
        Newcomers(path)


def test_what_cannot_be_kept_is_not_told_as_kept(bench: Bench, tmp_path: Path) -> None:
    table = Newcomers(tmp_path / "no-such-folder" / "newcomers.cbor")
    with pytest.raises(StorageError):
        table.add(request(bench, 1), by_itself=True)
    assert len(table) == 0
