"""Writes the conformance vectors: `python -m tests.support.conformance_vectors`.

Each story is a file: a genesis document and blocks upon named states, with the root or the code
that follows. docs/spec/conformance.md and the README beside the files say how to read them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tests.support.conformance.defence import (
    capabilities_story,
    convictions_story,
    opinions_story,
    sites_story,
)
from tests.support.conformance.envelopes import envelope_story, shares_story
from tests.support.conformance.groups import (
    creation_story,
    places_story,
    policies_story,
    roots_story,
    selectors_story,
)
from tests.support.conformance.manifests import (
    decisions_story,
    fewer_owners_story,
    proposals_story,
    separation_story,
)
from tests.support.conformance.rollouts import (
    commands_story,
    emergencies_story,
    reports_story,
    shares_of_failure_story,
)
from tests.support.conformance.rules import rules_story
from tests.support.conformance.story import Story
from tests.support.conformance.subjects import enrolment_story, keys_story, status_story
from tests.support.conformance.validators import epochs_story, keys_of_epochs_story, seats_story

DIRECTORY: Final = Path(__file__).parents[1] / "vectors" / "conformance"
STORIES: Final[dict[str, Callable[[], Story]]] = {
    "envelope": envelope_story,
    "shares": shares_story,
    "enrolment": enrolment_story,
    "keys": keys_story,
    "status": status_story,
    "creation": creation_story,
    "policies": policies_story,
    "roots": roots_story,
    "places": places_story,
    "selectors": selectors_story,
    "rules": rules_story,
    "proposals": proposals_story,
    "decisions": decisions_story,
    "fewer": fewer_owners_story,
    "separation": separation_story,
    "commands": commands_story,
    "reports": reports_story,
    "failures": shares_of_failure_story,
    "emergencies": emergencies_story,
    "opinions": opinions_story,
    "sites": sites_story,
    "convictions": convictions_story,
    "capabilities": capabilities_story,
    "certified": keys_of_epochs_story,
    "seats": seats_story,
    "epochs": epochs_story,
}
"""Every file by name, without its suffix."""


def render(document: dict[str, Any]) -> str:
    """A document as it stands in its file."""
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def build(name: str) -> str:
    """The text of one file."""
    return render(STORIES[name]().document())


if __name__ == "__main__":
    DIRECTORY.mkdir(exist_ok=True)
    for story in STORIES:
        (DIRECTORY / f"{story}.json").write_text(build(story), encoding="utf-8")
