"""Emergency keys in the wrong hands: everything is held back, for as long as the rules allow."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Final

from ledger.bodies.emergency import DecidePause
from ledger.bodies.manifest import ApproveManifest, RevokeManifest
from ledger.chain import Chain
from ledger.offer import UNKNOWN_DEVICE, OfferPermit, offer_verdict
from ledger.transition.kind import Body
from protocol.approval import Action
from protocol.group import Group
from protocol.keys import PrivateKey
from protocol.manifest import SignedManifest
from protocol.owner_root import EMERGENCY_ROLE
from swarmd.simulation.attacks.attack import Attack, AttackResult, Family, at_most, never
from swarmd.simulation.byzantine.pause_abuser import PauseAbuser
from swarmd.simulation.lab import (
    HOUR_MS,
    Lab,
    make_key,
    make_lab,
    make_policy,
    make_root,
    owner_keys,
)
from swarmd.simulation.lab_chain import advance, attempt

_GROUP: Final = "clinic"
_STEP_H: Final = 6
_DAYS: Final = 30
"""Three rounds of pause and rest."""
_HELD_MAX: Final = 1 / 3
_KEYS: Final = 4
"""As many as hold everything back for ever by taking turns, if owners do not step in."""
_CHANGES: Final = 3
"""Releases that are authorised, and others that are revoked, while offers are held back."""


def _emergency_keys() -> list[PrivateKey]:
    keys = [make_key(f"emergency/{number}") for number in range(_KEYS)]
    return sorted(keys, key=lambda key: key.public.raw)


def _lab() -> Lab:
    holders = tuple((key.public, f"duty {number}") for number, key in enumerate(_emergency_keys()))
    root = replace(make_root(owner_keys(_GROUP)), roles=((EMERGENCY_ROLE, holders),))
    policy = make_policy(publishers=(make_lab().publisher.did,))
    return make_lab(groups=(Group(name=_GROUP, owner_root=root, policy=policy),))


class _Clinic:
    """A group with a release for good, and others to be authorised and revoked meanwhile."""

    def __init__(self) -> None:
        self.lab = _lab()
        self.origin: Chain = self.lab.open_chain()
        self.releases = [self._propose(sequence) for sequence in range(1, 2 * _CHANGES + 2)]
        for release in self.releases[: _CHANGES + 1]:
            advance(self.lab, self.origin, [self.lab.approve(release.manifest_id, group=_GROUP)])
        self.kept = self.releases[0]

    def _propose(self, sequence: int) -> SignedManifest:
        image = b"release %d" % sequence
        release = self.lab.manifest(sequence=sequence, image=image, groups=(_GROUP,))
        advance(self.lab, self.origin, [self.lab.propose(release)])
        return release

    def submit(self, body: Body) -> bool:
        """Whether a decision of owners becomes final at once."""
        until_ms = self.origin.head.time_ms + 20 * HOUR_MS
        lab = self.lab
        signed = lab.transaction(lab.gateways[0], body, valid_until_ms=until_ms)
        return attempt(lab, self.origin, signed) is None

    def change(self, number: int) -> bool:
        """Authorises one release and revokes another; whether both became final at once."""
        new, old = self.releases[_CHANGES + 1 + number], self.releases[1 + number]
        lab = self.lab
        approve = ApproveManifest(
            manifest=new.manifest_id,
            group=_GROUP,
            approvals=lab.approvals(Action.AUTHORISE, new.manifest_id, group=_GROUP),
        )
        revoke = RevokeManifest(
            manifest=old.manifest_id,
            group=_GROUP,
            approvals=lab.approvals(Action.REVOKE, old.manifest_id, group=_GROUP),
        )
        return self.submit(approve) and self.submit(revoke)

    def lift(self, key: PrivateKey, sequence: int) -> bool:
        """Two owners lift a pause; whether that is final at once."""
        body = DecidePause(
            group=_GROUP,
            key_id=key.public.key_id,
            sequence=sequence,
            until_ms=0,
            approvals=(),
        )
        approvals = self.lab.approvals(Action.CONFIRM, body.subject, group=_GROUP)
        return self.submit(replace(body, approvals=approvals))


def _is_offered(origin: Chain, release: SignedManifest) -> bool:
    verdict = offer_verdict(
        origin.state,
        release,
        _GROUP,
        device=UNKNOWN_DEVICE,
        now_ms=origin.head.time_ms,
        block_id=origin.head.block_id,
    )
    return isinstance(verdict, OfferPermit)


def _run(_seed: int, *, keys: int) -> AttackResult:
    clinic, held_keys = _Clinic(), _emergency_keys()[:keys]
    abuser = PauseAbuser(clinic.lab, _GROUP, held_keys)
    held = tries = steps = changes = stuck = 0
    for _ in range(_DAYS * 24 // _STEP_H):
        advance(clinic.lab, clinic.origin, after_ms=_STEP_H * HOUR_MS)
        is_held = keys > 1 and not _is_offered(clinic.origin, clinic.kept)
        wanted = [] if is_held else abuser.tries(clinic.origin.head.time_ms)
        for number, signed in wanted:
            tries += 1
            if attempt(clinic.lab, clinic.origin, signed) is None:
                abuser.went_through(number)
                break  # the others keep theirs for later
        is_held = not _is_offered(clinic.origin, clinic.kept)
        held, steps = held + is_held, steps + 1
        if is_held and changes < _CHANGES:
            stuck += not clinic.change(changes)
            changes += 1
    verdicts = [
        at_most("time in which offers are held back", _HELD_MAX, held / steps),
        never("decisions of owners held up", stuck),
    ]
    if keys == 1:
        verdicts.append(never("pauses that owners cannot lift", _unliftable(keys)))
    return AttackResult(verdicts=tuple(verdicts), attempts=tries)


def _unliftable(keys: int) -> int:
    """Whether owners fail to lift a pause, or the lifted key can pause again at once."""
    clinic, (key, *_) = _Clinic(), _emergency_keys()[:keys]
    abuser = PauseAbuser(clinic.lab, _GROUP, [key])
    ((number, signed),) = abuser.tries(clinic.origin.head.time_ms)
    assert attempt(clinic.lab, clinic.origin, signed) is None, "the first pause of a key counts"
    abuser.went_through(number)
    is_lifted = clinic.lift(key, 1) and _is_offered(clinic.origin, clinic.kept)
    ((_, again),) = abuser.tries(clinic.origin.head.time_ms)
    is_back = attempt(clinic.lab, clinic.origin, again) is None
    return int(not is_lifted or is_back)


PAUSE_ABUSE: Final = Attack(
    name="pause-key-abuse",
    family=Family.AUTHORITY,
    known_as="deny installation of updates: Uptane, by an insider",
    attacker="a thief of one emergency key pauses every release of a group, again and again for 30"
    " days, while owners do nothing; the control has four keys take turns",
    counter="a pause ends after 72 h and its key rests for 7 days (R61, R62); it stops offers only,"
    " and owners lift it (R63, R65, R82)",
    run=partial(_run, keys=1),
    control=partial(_run, keys=_KEYS),
)
"""See its fields."""
