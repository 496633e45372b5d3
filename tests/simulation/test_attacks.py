"""Every attack is withstood, its control loses, and the page says what the runs say."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

import pytest

from protocol.errors import ConfigError
from swarmd.simulation.attacks.attack import (
    Attack,
    AttackResult,
    Family,
    at_least,
    at_most,
    never,
)
from swarmd.simulation.attacks.table import (
    ATTACKS,
    AttackRecord,
    attack,
    control_text,
    measured_text,
    render,
    replay_command,
    row,
    rows_of,
    went_as_it_must,
)

SEED = 1
"""The one whose figures the page shows."""
PAGE = Path(__file__).resolve().parents[2] / "docs" / "attacks.md"
SHORT = [name for name, item in ATTACKS.items() if not item.is_long]


@lru_cache(maxsize=1)
def page_rows() -> dict[str, tuple[str, ...]]:
    """Cells of each row of the page, by the attack's name."""
    return rows_of(PAGE.read_text("utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("name", SHORT)
def test_it_is_withstood_and_the_page_says_how(name: str) -> None:
    item = ATTACKS[name]
    result = item.run(SEED)
    control = item.control(SEED) if item.control is not None else None
    assert result.held, f"{measured_text(result)}; replay: {replay_command(name, SEED)}"
    assert result.attempts > 0, "the attacker never tried"
    assert control is None or not control.held, "it fails without the defence, too"
    record = AttackRecord(result=result, control=control, seeds_held=1, seeds_run=1)
    assert page_rows()[name][:-1] == row(item, record)[:-1], "make attacks"


def test_the_page_has_a_row_for_each_attack_and_no_other() -> None:
    assert list(page_rows()) == list(ATTACKS)


def test_what_an_attack_says_of_itself_is_whole() -> None:
    for name, item in ATTACKS.items():
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)
        assert item.known_as, name
        for text in (item.attacker, item.counter):
            assert text, name
            assert not text.endswith("."), "cells of a table"


def test_an_unknown_attack_is_an_error_that_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match="no attack 'none'"):
        attack("none")


def result_of(*, measured: float, attempts: int = 1) -> AttackResult:
    return AttackResult(verdicts=(never("kept", measured),), attempts=attempts)


def test_what_went_as_it_must() -> None:
    kept, broken = result_of(measured=0), result_of(measured=1)
    assert went_as_it_must(kept, None)
    assert went_as_it_must(kept, broken)
    assert not went_as_it_must(kept, kept), "a control must lose"
    assert not went_as_it_must(broken, broken)
    assert not went_as_it_must(result_of(measured=0, attempts=0), broken), "nobody tried"


def test_rows_show_what_broke_and_escape_what_would_break_the_table() -> None:
    item = Attack(
        name="one",
        family=Family.LEDGER,
        known_as="a|b",
        attacker="Somebody.",
        counter="Nothing.",
        run=lambda seed: result_of(measured=seed),
    )
    record = AttackRecord(
        result=item.run(2), control=result_of(measured=0), seeds_held=0, seeds_run=1
    )
    cells = row(item, record)
    assert cells[0] == "**one** (a\\|b)"
    assert cells[4] == "**broken**: kept 2 (≤ 0)"
    assert cells[5] == "**does not lose**"
    assert control_text(None) == "-"
    assert control_text(result_of(measured=3)) == "loses (kept)"


def test_rows_that_were_not_run_again_stay() -> None:
    one, other = list(ATTACKS)[:2]
    record = AttackRecord(result=result_of(measured=0), control=None, seeds_held=1, seeds_run=1)
    page = render({one: record})
    assert list(rows_of(page)) == [one]
    changed = AttackRecord(result=result_of(measured=3), control=None, seeds_held=0, seeds_run=1)
    both = rows_of(render({other: changed}, page))
    assert both == {one: row(ATTACKS[one], record), other: row(ATTACKS[other], changed)}


def test_bounds_from_above_and_below() -> None:
    assert at_most("time", 2, 2, "s").passed
    assert not at_most("time", 2, 2.1, "s").passed
    never_ended = at_most("time", 2, float("inf"), "s")
    assert (never_ended.passed, never_ended.measured) == (False, None)
    assert at_least("complete", 1, 1).passed
    assert not at_least("complete", 1, 0.9).passed
    assert measured_text(
        AttackResult(verdicts=(at_least("complete", 1, 1), at_most("time", 2, 1, "s")), attempts=1)
    ) == ("complete 1 (≥ 1); time 1 s (≤ 2)")
