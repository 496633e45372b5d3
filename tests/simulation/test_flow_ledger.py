"""What a fleet costs chain and anchors: real sizes, levels, sums, refusals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ledger.bodies.receipt import AnchorReceipts
from protocol.announcement import Announcement, sign_announcement
from protocol.catchup import (
    BlocksAnswer,
    BlocksRequest,
    Freshness,
    FreshnessAnswer,
    FreshnessRequest,
    encode_ledger_message,
    sign_freshness,
)
from protocol.digest import sha256
from protocol.errors import ConfigError
from protocol.keys import PrivateKey
from swarmd.simulation.flow_ledger import FormatSizes, LedgerScenario, level_sizes, run_ledger
from tests.support.ledger import GENESIS_MS, Lab, advance, build_next, make_lab


def freshness_answer(lab: Lab, count: int, siblings: int) -> FreshnessAnswer:
    raw = sign_freshness(
        Freshness(
            era=0,
            validator=0,
            epoch=3,
            height=100_000,
            block_id=sha256(b"block"),  # type: ignore[arg-type]
            nonces=sha256(b"nonces"),
            time_ms=GENESIS_MS,
        ),
        PrivateKey(b"k" * 32),
        lab.chain_id,
    ).signed.raw
    path = tuple(sha256(b"%d" % number) for number in range(siblings))
    return FreshnessAnswer(statements=((raw, 5, path, 1000),) * count)


def measured(validators: int) -> dict[str, int]:
    """What the formats really take."""
    lab = make_lab(validators=validators)
    with_transactions = lab.open_chain()
    advance(lab, with_transactions)
    anchors = [lab.transaction(lab.gateways[0], AnchorReceipts(size=1000, root=sha256(b"r")))]
    release = lab.manifest()
    block = build_next(with_transactions)
    answer = BlocksAnswer(blocks=(block.encode(),), certificate=lab.certificate(block).encode())
    question = BlocksRequest(from_height=100_000)
    announcement = sign_announcement(
        Announcement(
            era=0,
            author=lab.gateways[0].did,
            topic=f"/swarmd/{lab.chain_id.hex()}/heads/1",
            manifest=None,
            height=100_000,
            block_id=block.block_id,
        ),
        PrivateKey(b"k" * 32),
        lab.chain_id,
    )
    faulty = (validators - 1) // 3
    return {
        "empty_block_bytes": len(encode_ledger_message(answer)),
        "request_bytes": len(encode_ledger_message(question)),
        "announcement_bytes": len(announcement.signed.raw),
        "anchor_bytes": len(anchors[0].signed.raw),
        "manifest_bytes": len(release.signed.raw),
        "freshness_question_bytes": len(
            encode_ledger_message(FreshnessRequest(nonce=b"n" * 32, relay=True))
        ),
        "freshness_answer_bytes": len(
            encode_ledger_message(freshness_answer(lab, faulty + 1, siblings=10))
        ),
        "release_bytes": len(lab.propose(release).signed.raw)
        + len(lab.approve(release.manifest_id).signed.raw),
    }


@pytest.mark.slow
@pytest.mark.parametrize("validators", [4, 7, 16])
def test_sizes_are_those_of_the_formats(validators: int) -> None:
    real, sizes = measured(validators), FormatSizes()
    faulty = (validators - 1) // 3
    assert real.pop("empty_block_bytes") == pytest.approx(
        sizes.block_bytes + (validators - faulty) * sizes.signature_bytes, rel=0.02
    )
    assert real.pop("freshness_answer_bytes") == pytest.approx(
        (faulty + 1) * sizes.statement_bytes, rel=0.02
    )
    assert real.pop("freshness_question_bytes") == sizes.question_bytes
    for name, size in real.items():
        assert size == pytest.approx(getattr(sizes, name), rel=0.03), name


def fleet(**options: Any) -> LedgerScenario:
    return LedgerScenario(**{"gateways": 10**5, **options})


def test_a_tree_serves_everybody_and_no_node_more_than_its_fan_out() -> None:
    assert level_sizes(50, 64) == [50]
    assert level_sizes(10**5, 64) == [25, 1563, 10**5]
    for gateways in (1, 64, 65, 10**4, 10**6):
        levels = run_ledger(fleet(gateways=gateways)).levels
        assert levels[0].name == "validators"
        assert levels[-1].name == "gateways"
        assert levels[-1].nodes == gateways
        assert all(level.children <= 64 for level in levels)
        assert levels[-1].requests_per_s == 0.0


def test_an_idle_chain_costs_a_gateway_its_heartbeats() -> None:
    idle = fleet(releases_per_day=0.0, anchors_per_day=0.0)
    figures = run_ledger(idle)
    assert figures.blocks_per_day == pytest.approx(144)
    assert figures.transactions_per_s == 0.0
    assert figures.gateway_bytes_per_day["transactions"] == 0.0
    assert figures.gateway_bytes_per_day["blocks"] == pytest.approx(144 * 532 * 1.15)
    total = sum(figures.gateway_bytes_per_day.values())
    assert total < 1_000_000
    # A fleet ten times as large costs each of its gateways no more.
    larger = run_ledger(replace(idle, gateways=10**6))
    assert larger.gateway_bytes_per_day == figures.gateway_bytes_per_day


def test_what_every_gateway_writes_every_gateway_fetches() -> None:
    small, large = run_ledger(fleet(gateways=10**4)), run_ledger(fleet(gateways=10**5))
    ratio = (
        large.gateway_bytes_per_day["transactions"] / small.gateway_bytes_per_day["transactions"]
    )
    assert ratio == pytest.approx(10, rel=0.01)
    assert large.transactions_per_s == pytest.approx(10**5 / 86_400, rel=0.01)


@pytest.mark.parametrize("change", [{}, {"anchors_per_day": 0.0}, {"gateways": 30}])
def test_what_the_levels_send_they_receive(change: dict[str, Any]) -> None:
    figures = run_ledger(fleet(**change))
    received = sum(level.nodes * level.download_bytes_per_day for level in figures.levels)
    sent = sum(level.nodes * level.upload_bytes_per_day for level in figures.levels)
    assert sent == pytest.approx(received, rel=1e-9)


def test_blocks_are_heartbeats_or_as_many_as_fit() -> None:
    few = run_ledger(fleet(gateways=1, anchors_per_day=0.0, other_transactions_per_day=1.0))
    assert 140 < few.blocks_per_day < 150
    many = run_ledger(fleet(anchors_per_day=24.0))
    assert many.blocks_per_day == pytest.approx(86_400, rel=1e-6)
    assert set(many.as_dict()) >= {"levels", "gateway_bytes_per_day", "chain_bytes_per_day"}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"gateways": 0}, "gateways: 0"),
        ({"validators": 0}, "validators"),
        ({"fan_out": 1}, "fan_out: 1, expected 2"),
        ({"heartbeat_s": 0.0}, "heartbeat_s"),
        ({"anchors_per_day": 25.0}, "anchors_per_day"),
        ({"anchors_per_day": -1.0}, "anchors_per_day"),
        ({"freshness_s": float("nan")}, "freshness_s"),
        ({"overhead": 0.9}, "overhead"),
    ],
)
def test_a_fleet_that_makes_no_sense_is_refused(change: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        fleet(**change)
