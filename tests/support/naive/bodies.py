"""Bodies of transactions, kind by kind, as in swarmd.cddl, with each kind's lane (Q2)."""

from __future__ import annotations

from tests.support.naive.forms import (
    Form,
    ascending,
    blob,
    digest,
    display,
    fields,
    group_name,
    identifier,
    key,
    many,
    maybe,
    need,
    positive,
    row,
    signature,
    uint,
    whole,
)
from tests.support.naive.objects import approvals, join_form, keys_form, parameters_form

_CONTRADICTION_1 = row(whole(1, 1), blob(0, 1024), blob(0, 1024))
_CONTRADICTION_2 = row(whole(2, 2), blob(0, 1024), blob(0, 4096), blob(0, 12_288))


def _attributes(value: object) -> object:
    pairs = many(row(identifier, display()), 0, 16)(value)
    ascending([name for name, _ in pairs])
    return pairs


def _distinct(value: object) -> object:
    members = many(digest, 4, 32)(value)
    need(len(set(members)) == len(members))
    return members


_seat = row(many(blob(0, 4096), 1, 32), signature)
_million = whole(0, 1_000_000)


def _contradiction(value: object) -> object:
    first = isinstance(value, list) and value[:1] == [1]
    found: list[bytes] = (_CONTRADICTION_1 if first else _CONTRADICTION_2)(value)
    need(not first or found[1] < found[2])
    return found


def _by_group(last: Form) -> Form:
    return fields({0: digest, 1: group_name, 2: last})


def _command(required: dict[int, Form]) -> Form:
    """A priority comes with the command to set one only."""
    form = fields(required)

    def check(value: object) -> object:
        found: dict[int, int] = form(value)
        need(found[2] == 3 or found[3] == 0)
        return found

    return check


BODIES: dict[str, Form] = {
    "did.create": fields({0: join_form, 1: many(approvals, 0, 16), 2: maybe(_seat)}),
    "did.rotate": fields({0: digest, 1: keys_form, 2: maybe(digest), 3: many(signature, 0, 4)}),
    "did.suspend": _by_group(approvals),
    "did.resume": _by_group(approvals),
    "did.revoke": fields({0: digest, 1: maybe(group_name), 2: approvals}),
    "did.recover": fields(
        {
            0: digest,
            1: keys_form,
            2: maybe(digest),
            3: many(signature, 0, 4),
            4: whole(1, 2),
            5: many(approvals, 1, 16),
        }
    ),
    "did.claim": fields({0: digest, 1: keys_form, 2: maybe(digest)}),
    "did.certify": fields({0: digest, 1: group_name, 2: _attributes, 3: approvals}),
    "group.create": fields({0: blob(0, 15_360), 1: approvals}),
    "group.update": fields(
        {0: group_name, 1: blob(0, 4224), 2: approvals, 3: many(blob(0, 512), 0, 32)}
    ),
    "group.rotate": fields({0: group_name, 1: blob(0, 8192), 2: many(blob(0, 512), 1, 64)}),
    "policy.set": fields({0: group_name, 1: blob(0, 8192), 2: approvals}),
    "policy.veto": fields({0: group_name, 1: digest, 2: approvals}),
    "manifest.propose": fields({0: blob(0, 16_384)}),
    "manifest.approve": _by_group(approvals),
    "manifest.revoke": _by_group(approvals),
    "manifest.attest": _by_group(approvals),
    "manifest.settle": fields({0: digest, 1: group_name}),
    "manifest.override": _by_group(approvals),
    "receipt.anchor": fields({0: uint, 1: digest}),
    "validator.certify": fields({0: uint, 1: key, 2: signature}),
    "validator.accuse": fields({0: blob(0, 512)}),
    "validators.set": fields({0: _distinct, 1: many(join_form, 0, 10), 2: approvals}),
    "gov.parameters": fields({0: parameters_form, 1: approvals}),
    "gov.upgrade": fields({0: whole(0, 65_535), 1: uint, 2: approvals}),
    "gov.checkpoint": fields({0: blob(0, 1024), 1: approvals}),
    "report.tamper": fields({0: digest, 1: group_name, 2: whole(1, 4), 3: maybe(digest)}),
    "report.contradiction": fields({0: digest, 1: _contradiction}),
    "quarantine.set": fields(
        {0: digest, 1: group_name, 2: whole(1, 2), 3: maybe(uint), 4: approvals}
    ),
    "quarantine.release": _by_group(approvals),
    "cap.grant": fields({0: blob(0, 512), 1: approvals}),
    "cap.revoke": fields({0: digest, 1: approvals}),
    "rollout.command": _command(
        {
            0: digest,
            1: group_name,
            2: whole(1, 3),
            3: whole(0, 9),
            4: uint,
            5: many(blob(0, 512), 0, 32),
        }
    ),
    "rollout.stop": fields({0: digest, 1: group_name, 2: whole(4, 5), 3: uint, 4: approvals}),
    "report.health": fields({0: digest, 1: group_name, 2: _million, 3: _million, 4: _million}),
    "emergency.pause": fields(
        {
            0: maybe(group_name),
            1: maybe(identifier),
            2: maybe(digest),
            3: positive,
            4: blob(0, 512),
        }
    ),
    "emergency.confirm": fields(
        {0: maybe(group_name), 1: digest, 2: positive, 3: uint, 4: approvals}
    ),
}
PROTECTING = {
    "manifest.revoke",
    "manifest.override",
    "did.rotate",
    "did.suspend",
    "did.revoke",
    "did.recover",
    "did.claim",
    "policy.veto",
    "group.rotate",
    "rollout.stop",
    "emergency.pause",
    "emergency.confirm",
    "validator.certify",
    "validator.accuse",
    "validators.set",
    "gov.parameters",
    "gov.upgrade",
    "gov.checkpoint",
    "report.contradiction",
    "quarantine.set",
    "cap.revoke",
}
"""All other kinds are ordinary."""
HOURLY = {"did.rotate": 8}
"""Q13."""
