"""A bundle that holds some components of a release: nothing says that the release is here."""

from __future__ import annotations

import random

from chunks.store import ImageState
from swarmd.services.bundle_import import Outcome
from swarmd.simulation.lab import make_lab
from swarmd.simulation.lab_bundle import (
    LabRelease,
    blocks_of,
    bundle,
    component_of,
    head_of,
    take_bundle,
)
from swarmd.simulation.lab_chain import authorise
from swarmd.simulation.lab_gateway import LabGateway
from swarmd.simulation.lab_image import LabImage


def test_a_release_is_reported_whole_with_its_last_component() -> None:
    lab, chance = make_lab(), random.Random(1)
    images = tuple(LabImage.drawn(chance, chunk_count=3, chunk_bytes=64) for _ in range(2))
    parts = tuple(image.component(name) for image, name in zip(images, "ab", strict=True))
    release = LabRelease(signed=lab.manifest(components=parts), images=images)
    origin = lab.open_chain()
    authorise(lab, origin, release.signed)
    gateway = LabGateway(lab)
    name, facts = release.manifest_id.hex(), [head_of(origin, [release.manifest_id])]

    def take(*numbers: int) -> Outcome:
        objects = [section for number in numbers for section in component_of(release, number)]
        outcome = take_bundle(gateway, bundle([*facts, blocks_of(origin), *objects]))
        assert isinstance(outcome, Outcome)
        return outcome

    first = take(1)
    assert gateway.store.record(images[1].digest).state is ImageState.COMPLETE
    assert (first.complete, first.stored, first.partial) == ([], [], [name])
    second = take(0)
    assert (second.complete, second.stored, second.partial) == ([name], [name], [])
    again = take(0, 1)
    assert (again.complete, again.stored, again.partial) == ([name], [], [])
    assert isinstance(take_bundle(LabGateway(lab), bundle(facts)), Outcome)
