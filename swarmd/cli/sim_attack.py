"""`swarmd sim --attack`: one attack of `docs/attacks.md`, from one seed."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import TYPE_CHECKING, cast

import click

from swarmd.cli.output import Output, table

if TYPE_CHECKING:
    from swarmd.control.protocol import JSON
    from swarmd.simulation.attacks.attack import Attack, AttackResult


def show_attack(output: Output, name: str, seed: int) -> None:
    """Runs an attack and its control, shows both, and exits with 1 if it went as it must not.

    Args:
        output: where to.
        name: of the attack.
        seed: of the run.

    Raises:
        ConfigError: there is no attack of this name.
    """
    from swarmd.simulation.attacks.table import attack, replay_command, went_as_it_must

    item = attack(name)
    # Alarms that an attack is meant to raise are its verdicts' matter.
    logging.getLogger("swarmd").addHandler(logging.NullHandler())
    result = item.run(seed)
    control = item.control(seed) if item.control is not None else None
    replay = replay_command(name, seed)
    if output.json:
        document = {"attack": name, "seed": seed, "replay": replay, **_document(result)}
        document["control"] = _document(control) if control is not None else None
        output.result(cast("JSON", document))
    else:
        output.result(None, _text(item, seed, result, control))
    if went_as_it_must(result, control):
        return
    _explain(output, result)
    click.echo(f"seed {seed}; replay: {replay}", err=True)
    click.get_current_context().exit(1)


def attack_list() -> list[dict[str, str]]:
    """All attacks as `--list` has them."""
    from swarmd.simulation.attacks.table import ATTACKS

    return [
        {"name": each.name, "family": each.family.value, "attacker": each.attacker}
        for each in ATTACKS.values()
    ]


def _document(result: AttackResult) -> dict[str, object]:
    verdicts = [asdict(verdict) | {"passed": verdict.passed} for verdict in result.verdicts]
    return {"held": result.held, "attempts": result.attempts, "verdicts": verdicts}


def _text(item: Attack, seed: int, result: AttackResult, control: AttackResult | None) -> str:
    from swarmd.simulation.attacks.table import control_text

    lines = [
        f"{item.name}, seed {seed}: {result.attempts} attempts",
        f"attacker: {item.attacker}",
        f"what stops it: {item.counter}",
        "",
        table(("verdict", "measured", "bound", "unit", "result"), _rows(result)),
        f"without the defence: {control_text(control)}",
        "withstood" if result.held else "BROKEN",
    ]
    return "\n".join(lines)


def _rows(result: AttackResult) -> list[tuple[str, str, str, str, str]]:
    from swarmd.simulation.swarm_outcome import text_of

    return [
        (
            verdict.name,
            text_of(verdict.measured),
            f"{'>=' if verdict.is_minimum else '<='} {verdict.bound:g}",
            verdict.unit or "-",
            "kept" if verdict.passed else "broken",
        )
        for verdict in result.verdicts
    ]


def _explain(output: Output, result: AttackResult) -> None:
    """Says which bounds were broken, or that the attack proved nothing."""
    broken = [verdict.name for verdict in result.verdicts if not verdict.passed]
    if broken:
        output.reason(f"sim: broken bounds: {', '.join(broken)}")
    elif result.attempts < 1:
        output.reason("sim: the attacker never tried")
    else:
        output.reason("sim: the attack fails without the defence, too, so it proves nothing")
