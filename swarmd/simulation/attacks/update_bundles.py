"""Mix and match: genuine parts of releases in combinations that nobody authorised."""

from __future__ import annotations

import random
from typing import Final

from chunks.memory_store import MemoryStore
from chunks.store import ImageState
from protocol.errors import SwarmError
from swarmd.simulation.attacks.attack import Attack, AttackResult, Family, at_least, never
from swarmd.simulation.attacks.trials import Trials
from swarmd.simulation.attacks.trusting_store import TrustingStore, wrong_images
from swarmd.simulation.byzantine.bundle_mixer import BundleMixer
from swarmd.simulation.lab import FLEET, Lab, make_group, make_lab, make_policy
from swarmd.simulation.lab_bundle import LabRelease, take_bundle
from swarmd.simulation.lab_chain import advance, authorise
from swarmd.simulation.lab_gateway import LabGateway
from swarmd.simulation.lab_image import LabImage

_CHUNKS: Final = 12
_CHUNK_BYTES: Final = 256
_OTHERS: Final = "others"
"""A group to which the gateway does not belong."""


class _Site:
    """A chain with two releases for the gateway, and three that it may not have."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)  # noqa: S311 - replayed by seed, guards nothing
        publisher = make_lab().publisher.did
        others = make_group(_OTHERS, make_policy(publishers=(publisher,)))
        self.lab: Lab = make_lab(groups=(others,))
        self.origin = self.lab.open_chain()
        self.one, self.two, self.revoked = (self._authorised(number) for number in (1, 2, 3))
        advance(self.lab, self.origin, [self.lab.revoke(self.revoked.manifest_id)])
        self.foreign = self._release(4, _OTHERS)
        authorise(self.lab, self.origin, self.foreign.signed, group=_OTHERS)
        self.unapproved = self._release(5, FLEET)
        advance(self.lab, self.origin, [self.lab.propose(self.unapproved.signed)])

    def _release(self, number: int, group: str) -> LabRelease:
        images = tuple(
            LabImage.drawn(self.chance, chunk_count=_CHUNKS, chunk_bytes=_CHUNK_BYTES)
            for _ in range(2)
        )
        components = tuple(
            image.component(name) for image, name in zip(images, ("boot", "main"), strict=True)
        )
        signed = self.lab.manifest(sequence=number, components=components, groups=(group,))
        return LabRelease(signed=signed, images=images)

    def _authorised(self, number: int) -> LabRelease:
        release = self._release(number, FLEET)
        authorise(self.lab, self.origin, release.signed)
        return release

    @property
    def others(self) -> tuple[LabRelease, ...]:
        """Releases that the gateway may not have."""
        return self.foreign, self.revoked, self.unapproved


def _held(store: MemoryStore, release: LabRelease) -> int:
    """How many components of a release are complete."""
    complete = [one.image for one in store.images() if one.state is ImageState.COMPLETE]
    return sum(image.digest in complete for image in release.images)


def _mix(seed: int, store_type: type[MemoryStore]) -> tuple[Trials, int]:
    """Imports every mixture; returns the tries, and how many gateways were whole in the end."""
    site, trials, whole = _Site(seed), Trials(), 0
    mixer = BundleMixer(site.origin, site.one, site.two)
    for mixture in mixer.mixtures(site.others):
        store = store_type()
        gateway = LabGateway(site.lab, store=store)
        ended = take_bundle(gateway, mixture.data)
        is_whole = any(_held(store, release) == 2 for release in (site.one, site.two))
        trials.note("whole by parts", is_taken=is_whole)
        trials.note("wrong images", is_taken=wrong_images(store) > 0)
        foreign = {image.digest for release in site.others for image in release.images}
        is_foreign = any(record.image in foreign for record in store.images())
        trials.note("images for others", is_taken=is_foreign)
        told = [] if isinstance(ended, SwarmError) else [*ended.complete, *ended.stored]
        trials.note("reported whole", is_taken=bool(told))
        take_bundle(gateway, mixer.honest())
        whole += all(_held(store, release) == 2 for release in (site.one, site.two))
    return trials, whole


_KINDS: Final = 4
"""What is looked at after each bundle."""


def _run(seed: int) -> AttackResult:
    trials, whole = _mix(seed, MemoryStore)
    bundles = trials.attempts // _KINDS
    verdicts = [never(kind, count) for kind, count in trials.taken.items()]
    verdicts.append(at_least("whole by an honest bundle later", bundles, whole))
    return AttackResult(verdicts=tuple(verdicts), attempts=bundles)


def _control(seed: int) -> AttackResult:
    """A store that compares no chunk with the recipe."""
    trials, _ = _mix(seed, TrustingStore)
    wrong = never("wrong images", trials.taken["wrong images"])
    return AttackResult(verdicts=(wrong,), attempts=trials.attempts // _KINDS)


MIX_AND_MATCH: Final = Attack(
    name="mix-and-match",
    family=Family.UPDATE,
    known_as="mix-and-match, extraneous dependencies: TUF 1.5.2; mixed bundles, partial bundle"
    " installation: Uptane",
    attacker="a courier makes new bundles of genuine sections: components and chunks exchanged,"
    " left out, repeated, disordered, releases added that are revoked, unapproved or for others",
    counter="chunks and pages go under the manifest's root (N21), objects under the head and the"
    " gateway's own ledger (N7, N18); a release is whole when every component is (N22)",
    run=_run,
    control=_control,
)
"""See its fields."""
