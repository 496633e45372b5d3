"""A crowd in two processes is the same crowd."""

from __future__ import annotations

from typing import Any

import pytest

from protocol.errors import ConfigError
from protocol.exchange_messages import BitfieldMessage, Chunks, Have, Reject, RejectReason, Request
from protocol.limits import KIB, MIB
from protocol.runs import Runs
from swarmd.simulation.crowd import Crowd, CrowdFigures
from swarmd.simulation.crowd_halves import Codec
from swarmd.simulation.crowd_host import make_shared_release
from swarmd.simulation.frame_links import Frame, Hold, Parcel, Small
from tests.support.crowds import small_crowd


def crowd(**options: Any) -> Crowd:
    fixed: dict[str, Any] = {"nodes": 21, "is_relayed": False, "delay_s": 0.01}
    return Crowd(small_crowd(**{**fixed, **options}))


def figures(**options: Any) -> CrowdFigures:
    made = crowd(**options)
    made.run(60.0)
    return made.figures()


@pytest.mark.slow
def test_two_processes_give_one_run_for_one_seed_and_what_one_process_gives() -> None:
    one = figures()
    two, again = figures(processes=2), figures(processes=2)
    assert two == again
    assert two.is_complete
    assert len(two.finished_s) == 21
    assert two.trace_hash != figures(processes=2, seed=2).trace_hash
    # Six seeds of one process differ by as much.
    assert two.ratio(0.5) == pytest.approx(one.ratio(0.5), rel=0.2)
    assert two.ratio(0.99) == pytest.approx(one.ratio(0.99), rel=0.15)
    assert two.events == pytest.approx(one.events, rel=0.2)
    assert two.control_share == pytest.approx(one.control_share, rel=0.2)
    assert two.seeder_share == pytest.approx(one.seeder_share, rel=0.3)


@pytest.mark.slow
def test_two_processes_relay_as_well() -> None:
    one, two = figures(is_relayed=True), figures(is_relayed=True, processes=2)
    assert two.is_complete
    assert two.ratio(0.99) == pytest.approx(one.ratio(0.99), rel=0.1)


@pytest.mark.slow
def test_a_run_that_is_given_up_ends_in_both() -> None:
    made = crowd(processes=2, image_bytes=16 * MIB)
    shares: list[tuple[float, float]] = []
    tuned: list[float] = []
    made.run(
        0.6, lambda now, share: shares.append((now, share)), lambda: tuned.append(made.world.now)
    )
    assert made.world.now == pytest.approx(0.6)
    assert [now for now, _ in shares] == pytest.approx([0.25, 0.5, 0.6])
    assert tuned == pytest.approx([0.0, 0.25, 0.5])
    assert not made.figures().is_complete


def test_the_failure_of_the_second_process_is_one_of_the_run(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    made = crowd(processes=2, nodes=4)

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(made.nodes[1], "_dispatch", fail)  # the second process has the odd ones
    with pytest.raises(RuntimeError, match="the other half"):
        made.run(60.0)
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_parcels_are_the_same_behind_the_codec() -> None:
    release = make_shared_release(5 * 64 * KIB + 100, 64 * KIB)
    units, manifest_id = release.components[0], release.manifest_id
    whole = Runs([(0, 2), (5, 1)])
    bodies = [
        Chunks(
            request_id=7,
            indices=whole,
            lengths=(65_536, 65_536, 100),
            payload=(units[0], units[1], units[5]),
        ),
        Chunks(request_id=8, indices=Runs.run(1, 1), lengths=(3,), payload=(b"bad",)),
        Request(request_id=2**40, manifest_id=manifest_id, component=0, indices=whole),
        Have(manifest_id=manifest_id, component=0, indices=whole),
        BitfieldMessage(manifest_id=manifest_id, component=0, bits=b"\xfc"),
        Reject(request_id=1, indices=whole, reason=RejectReason.BUSY),
        None,
    ]
    parcels: list[Parcel] = [(0.5, Hold(1, 2, 3.5))]
    for number, body in enumerate(bodies):
        parcels.append((number / 7, Frame(1, 2, body, 100.5, 0.25)))
        parcels.append((number / 7, Small(1, (2, 3), body)))
    codec = Codec(release)
    back = codec.decode(codec.encode(parcels))
    assert [_fields(parcel) for parcel in back] == [_fields(parcel) for parcel in parcels]
    first = back[1][1]
    assert isinstance(first, Frame)
    assert isinstance(first.body, Chunks)
    assert first.body.payload[0] is units[0]


def _fields(parcel: Parcel) -> tuple[object, ...]:
    at, event = parcel
    names = type(event).__slots__
    return at, type(event), tuple(getattr(event, name) for name in names)


def test_crowds_need_a_delay() -> None:
    with pytest.raises(ConfigError, match="delay_s: must be above 0"):
        crowd(delay_s=0.0)
    with pytest.raises(ConfigError, match="processes: 3, expected 1 to 2"):
        crowd(processes=3)
