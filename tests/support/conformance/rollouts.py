"""Rollouts, health reports, emergencies (rollout.md)."""

from __future__ import annotations

from dataclasses import replace

from ledger.bodies.health import ReportHealth
from ledger.bodies.rollout import Command
from ledger.transition.kind import Body
from protocol.digest import ManifestId, sha256
from protocol.rollout import Promotion
from protocol.transaction import SignedTransaction
from tests.support.conformance.story import Story
from tests.support.ledger import FLEET, GENESIS_MS, HOUR_MS, PRODUCT, make_key
from tests.support.rollout import (
    certify_site,
    command,
    decide,
    emergency_group,
    emergency_keys,
    health,
    make_plan,
    pause,
    rollout_policy,
)

NOBODY = ManifestId(sha256(b"no release"))
MINUTE_MS = 60_000


def _begin(story: Story, sites: int = 2) -> ManifestId:
    """A release whose rollout runs, and gateways of certified sites."""
    lab = story.lab
    for index in range(sites):
        story.ok(f"site {index}", certify_site(lab, lab.gateways[index], f"site {index}"))
    manifest = lab.manifest(expires_ms=GENESIS_MS + 100 * 24 * HOUR_MS)
    story.ok("proposed", lab.propose(manifest))
    story.no(
        "rollout.unknown", "a command too early", command(lab, manifest.manifest_id, Command.HALT)
    )
    early = health(lab, manifest.manifest_id, lab.gateways[0], good=1)
    story.no("health.manifest", "a report of a mere proposal", early)
    story.ok("authorised", lab.approve(manifest.manifest_id))
    return manifest.manifest_id


def commands_story() -> Story:
    """`rollout.command` and `rollout.stop` where owners promote."""
    story = Story("commands", policy=rollout_policy(make_plan()))
    lab = story.lab
    release = _begin(story)
    for code, name, signed in (
        ("rollout.unknown", "no such rollout", command(lab, NOBODY, Command.PROMOTE)),
        ("rollout.ahead", "a command ahead", command(lab, release, Command.PROMOTE, sequence=1)),
        ("rollout.status", "resuming what runs", command(lab, release, Command.RESUME)),
        ("rollout.same", "the same priority", command(lab, release, Command.PRIORITY)),
        ("rollout.consent", "nobody's promotion", command(lab, release, Command.PROMOTE, owners=0)),
        (
            "approval.threshold",
            "one owner's promotion",
            command(lab, release, Command.PROMOTE, owners=1),
        ),
        ("approval.threshold", "one owner's halt", command(lab, release, Command.HALT, owners=1)),
        ("approval.policy", "another policy", _other_policy(story, release)),
    ):
        story.no(code, name, signed)
    story.ok("rollout.command: promote", command(lab, release, Command.PROMOTE))
    story.no("rollout.sequence", "promoted by the same", command(lab, release, Command.PROMOTE))
    story.ok(
        "rollout.command: priority", command(lab, release, Command.PRIORITY, priority=7, sequence=1)
    )
    story.ok("rollout.stop: pause", command(lab, release, Command.PAUSE, owners=1, sequence=2))
    story.no(
        "rollout.status", "paused twice", command(lab, release, Command.PAUSE, owners=1, sequence=3)
    )
    story.no(
        "rollout.status",
        "promoting what is paused",
        command(lab, release, Command.PROMOTE, sequence=3),
    )
    story.ok("resumed after a pause", command(lab, release, Command.RESUME, sequence=3))
    story.ok("rollout.stop: halt", command(lab, release, Command.HALT, sequence=4))
    story.no("rollout.status", "halted twice", command(lab, release, Command.HALT, sequence=5))
    story.no(
        "rollout.sequence",
        "a stop from before",
        command(lab, release, Command.PAUSE, owners=1, sequence=4),
    )
    story.ok("resumed after a halt", command(lab, release, Command.RESUME, sequence=5))
    story.ok("the last stage", command(lab, release, Command.PROMOTE, sequence=6))
    story.ok("done", command(lab, release, Command.PROMOTE, sequence=7))
    story.no(
        "rollout.status",
        "promoting what is done",
        command(lab, release, Command.PROMOTE, sequence=8),
    )
    story.ok("what is done is halted", command(lab, release, Command.HALT, sequence=8))
    story.back("authorised")
    story.ok("the release is revoked", lab.revoke(release))
    story.no(
        "rollout.manifest", "promoting what is revoked", command(lab, release, Command.PROMOTE)
    )
    return story


def _other_policy(story: Story, release: ManifestId) -> SignedTransaction:
    return command(story.lab, release, Command.PROMOTE, policy=sha256(b"policy"))


def reports_story() -> Story:
    """`report.health`, automatic promotion and both halts."""
    plan = make_plan(promotion=Promotion.AUTOMATIC)
    story = Story("reports", policy=rollout_policy(plan), gateways=4)
    lab = story.lab
    release = _begin(story, sites=3)
    one, two, three, founder = lab.gateways

    for code, name, signed in (
        ("health.reporter", "a validator reports", health(lab, release, lab.validators[0], good=1)),
        ("health.reporter", "a group it is not in", _elsewhere(story, release)),
        ("health.manifest", "no such release", health(lab, NOBODY, one, good=1)),
        (
            "rollout.conditions",
            "promotion before any success",
            command(lab, release, Command.PROMOTE, owners=0),
        ),
        ("rollout.consent", "nobody's resumption", command(lab, release, Command.RESUME, owners=0)),
    ):
        story.no(code, name, signed)
    story.ok("a first report of nothing", health(lab, release, one))
    story.back("authorised")
    story.ok("report.health", health(lab, release, one, good=3, devices=3))
    story.no(
        "health.early", "a report a moment later", health(lab, release, one, good=4, devices=4)
    )
    story.ok("the first failure may hurry", health(lab, release, one, good=3, bad=1, devices=3))
    story.no(
        "health.early", "the second may not", health(lab, release, one, good=3, bad=2, devices=3)
    )
    story.wait(5 * MINUTE_MS)
    story.no("health.falling", "a count that falls", health(lab, release, one, good=2, bad=1))
    story.no("health.same", "nothing new", health(lab, release, one, good=3, bad=1, devices=3))
    story.ok("fewer run it now", health(lab, release, one, good=3, bad=1, devices=2))
    story.back("report.health")
    story.no(
        "rollout.conditions",
        "promotion within the soak",
        command(lab, release, Command.PROMOTE, owners=0),
    )
    story.wait(HOUR_MS)
    story.ok("rollout.command by nobody", command(lab, release, Command.PROMOTE, owners=0))
    story.back("report.health")
    story.wait(HOUR_MS)
    story.ok("a report promotes", health(lab, release, two, good=1))
    story.ok("a founder's report", health(lab, release, founder, good=1))
    _halts(story, release)
    story.back("authorised")
    story.wait(101 * 24 * HOUR_MS)
    story.no("health.manifest", "a report of what expired", health(lab, release, three, good=1))
    return story


def _elsewhere(story: Story, release: ManifestId) -> SignedTransaction:
    body = ReportHealth(manifest=release, group="nowhere", successes=1, failures=0, devices=1)
    return story.lab.transaction(story.lab.gateways[0], body)


def _halts(story: Story, release: ManifestId) -> None:
    lab = story.lab
    one, two = lab.gateways[:2]
    story.back("authorised")
    story.ok("one site fails much and halts nothing", health(lab, release, one, good=1, bad=900))
    story.ok(
        "two sites fail: more than the stage tolerates", health(lab, release, two, good=9, bad=1)
    )
    story.ok("a report while halted counts", health(lab, release, lab.gateways[2], good=5))
    story.ok("resumed in a new period", command(lab, release, Command.RESUME, sequence=1))
    story.wait(5 * MINUTE_MS)
    story.ok("it counts anew", health(lab, release, two, good=10, bad=1))


def shares_of_failure_story() -> Story:
    """The share of failures halts where more sites may fail (R33, R44)."""
    plan = make_plan(failure_sites_max=9, sample_min=20)
    story = Story("failures", policy=rollout_policy(plan), gateways=3)
    lab = story.lab
    release = _begin(story, sites=3)
    one, two, three = lab.gateways
    story.ok("a big site counts as a hundred", health(lab, release, one, good=400, bad=101))
    story.ok("a second site with failures", health(lab, release, two, good=5, bad=1))
    story.wait(5 * MINUTE_MS)
    story.ok("a share above the tolerated one halts", health(lab, release, two, good=5, bad=40))
    story.back("authorised")
    story.ok("one site alone", health(lab, release, one, bad=60))
    story.ok("a second that is well", health(lab, release, two, good=60))
    story.ok("two sites, but too small a sample is none", health(lab, release, three, bad=1))
    return story


def emergencies_story() -> Story:
    """`emergency.pause` and `emergency.confirm`."""
    story = Story("emergencies", groups=[emergency_group("pumps")])
    lab = story.lab
    key, other = emergency_keys("pumps")
    now_ms = story.bench.time_ms

    def send(body: Body) -> SignedTransaction:
        return lab.transaction(lab.gateways[0], body)

    nowhere = replace(pause(lab, key), group="nowhere")
    lost = replace(decide(lab, key, 0), group="nowhere")
    for code, name, body in (
        ("group.unknown", "a pause of no group", nowhere),
        ("pause.role", "a group without emergency keys", pause(lab, key, group=FLEET)),
        ("pause.role", "a chain without emergency keys", pause(lab, key, group=None)),
        ("approval.owner", "a key without the role", pause(lab, make_key("nobody"))),
        ("group.unknown", "a decision in no group", lost),
        ("pause.unknown", "a decision about nothing", decide(lab, key, 0)),
        ("pause.unknown", "nothing on the chain", decide(lab, key, 0, group=None)),
    ):
        story.no(code, name, send(body))
    story.ok("emergency.pause", send(pause(lab, key, product=PRODUCT)))
    until = now_ms + 100 * HOUR_MS
    for code, name, body in (
        ("approval.used", "the same pause again", pause(lab, key, product=PRODUCT)),
        ("pause.sequence", "no later sequence", pause(lab, key)),
        ("pause.active", "a second pause at once", pause(lab, key, sequence=2)),
        ("pause.unknown", "a decision about a later one", decide(lab, key, 0, sequence=2)),
        ("pause.until", "shorter than it is", decide(lab, key, now_ms + HOUR_MS)),
        ("pause.until", "longer than 90 days", decide(lab, key, now_ms + 91 * 24 * HOUR_MS)),
        ("approval.threshold", "one owner decides", _by_one(story)),
    ):
        story.no(code, name, send(body))
    story.ok("another key's pause", send(pause(lab, other)))
    story.ok("emergency.confirm: prolonged", send(decide(lab, key, until)))
    story.ok("emergency.confirm: lifted", send(decide(lab, key, 0)))
    story.no("pause.ended", "lifted twice", send(decide(lab, key, 0)))
    story.no("pause.cool_down", "a pause at once after it", send(pause(lab, key, sequence=2)))
    story.wait(7 * 24 * HOUR_MS - 2000)
    story.no("pause.cool_down", "a pause a moment too early", send(pause(lab, key, sequence=2)))
    story.wait(1000)
    story.ok("a pause after the rest", send(pause(lab, key, sequence=2)))
    story.no("pause.ended", "a decision about the first", send(decide(lab, key, until)))
    story.back("emergency.pause")
    story.wait(72 * HOUR_MS)
    story.no("pause.ended", "a decision too late", send(decide(lab, key, until)))
    return story


def _by_one(story: Story) -> Body:
    from tests.support.ledger import owner_keys

    return decide(story.lab, emergency_keys("pumps")[0], 0, owners=owner_keys("pumps")[:1])
