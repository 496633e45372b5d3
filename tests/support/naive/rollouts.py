"""Rollouts, health and emergencies: rollout.md."""

from __future__ import annotations

from typing import Any

from tests.support.naive.crypto import key_id
from tests.support.naive.defence import marks
from tests.support.naive.objects import role_keys
from tests.support.naive.world import GOVERNANCE, ZERO, World, check, digest_of, known

ROLLOUT, PAUSE, CONFIRM = 16, 17, 18
RUNNING, PAUSED, HALTED, DONE = 1, 2, 3, 4
HOUR = 3_600_000
_FROM = {1: (1,), 2: (2, 3), 3: (1, 2, 3, 4), 4: (1, 4), 5: (1, 2, 4)}


def _plan(world: World, manifest_id: bytes, group: str) -> dict[int, Any]:
    record = world.get("m/", manifest_id, group)
    return dict(world.policy(record[5])[15])


def _begin(rollout: dict[int, Any]) -> dict[int, Any]:
    """A new period with zero counters."""
    return {**rollout, 7: rollout[7] + 1, 8: 0, 9: 0, 10: 0, 11: 0}


def _promoted(world: World, rollout: dict[int, Any], plan: dict[int, Any]) -> dict[int, Any]:
    """R30."""
    if rollout[2] == len(plan[1]) - 1:
        return {**rollout, 1: DONE}
    return {**_begin(rollout), 2: rollout[2] + 1, 3: world.now}


def _halting(rollout: dict[int, Any], stage: dict[int, Any]) -> int:
    """The cause of R33, or 0."""
    if rollout[9] > stage[4]:
        return 2
    total = rollout[10] + rollout[11]
    too_many = rollout[11] * 10_000 > stage[5] * total
    return 3 if rollout[9] >= 2 and total >= stage[6] and too_many else 0


def _is_due(world: World, rollout: dict[int, Any], plan: dict[int, Any]) -> bool:
    stage = plan[1][rollout[2]]
    return (
        rollout[1] == RUNNING
        and world.now >= rollout[3] + stage[2]
        and rollout[8] >= stage[3]
        and not _halting(rollout, stage)
    )


def command(world: World, signer: bytes, body: dict[int, Any]) -> None:
    """`rollout.command` (R20 to R24, R30, R31)."""
    _decide(world, body, body[3], body[4], body[5])


def stop(world: World, signer: bytes, body: dict[int, Any]) -> None:
    """`rollout.stop`."""
    _decide(world, body, 0, body[3], body[4])


def _decide(
    world: World, body: dict[int, Any], priority: int, sequence: int, raws: list[bytes]
) -> None:
    manifest_id, group, number = body[0], body[1], body[2]
    rollout = known(world.get("ro/", manifest_id, group), "rollout.unknown")
    record = world.get("m/", manifest_id, group)
    check(record[1] == 2, "rollout.manifest")
    lowest = rollout[6] if number >= 4 else rollout[5]
    check(sequence >= lowest, "rollout.sequence")
    check(sequence <= rollout[5], "rollout.ahead", later=True)
    plan = _plan(world, manifest_id, group)
    if raws:
        _agree(world, body, record, priority, sequence, raws)
    else:
        check(number == 1 and plan[3] == 2, "rollout.consent")
    check(rollout[1] in _FROM[number], "rollout.status")
    check(number != 3 or priority != rollout[4], "rollout.same")
    if not raws:
        check(_is_due(world, rollout, plan), "rollout.conditions", later=True)
    after = _commanded(world, rollout, plan, number, priority)
    after[5] = rollout[5] + 1
    if raws:
        after[6] = after[5]
    world.put(after, "ro/", manifest_id, group)


def _agree(
    world: World,
    body: dict[int, Any],
    record: dict[int, Any],
    priority: int,
    sequence: int,
    raws: list[bytes],
) -> None:
    manifest_id, group, number = body[0], body[1], body[2]
    policy = world.policy(record[5])
    threshold = {4: 1, 5: policy[2]}.get(number, policy[1])
    content = [manifest_id, group, number, priority, sequence]
    subject = digest_of("swarmd/rollout-command/1", content)
    owners = role_keys(world.root(group), "owner")
    threshold = min(threshold, len(owners))
    found = world.accept(raws, ROLLOUT, subject, group, record[5], owners)
    check(len(found) >= threshold, "approval.threshold")
    world.note(found, ROLLOUT, subject, group)


def _commanded(
    world: World, rollout: dict[int, Any], plan: dict[int, Any], number: int, priority: int
) -> dict[int, Any]:
    if number == 1:
        return _promoted(world, rollout, plan)
    if number == 2:
        base = _begin(rollout) if rollout[1] == HALTED else rollout
        return {**base, 1: RUNNING, 3: world.now, 12: 0}
    if number == 3:
        return {**rollout, 4: priority}
    if number == 4:
        return {**rollout, 1: PAUSED}
    return {**rollout, 1: HALTED, 12: 1}


def report(world: World, signer: bytes, body: dict[int, Any]) -> None:
    """`report.health` (R40 to R45)."""
    manifest_id, group, good, bad = body[0], body[1], body[2], body[3]
    subject = world.subject(signer)
    check(subject[1] == 2 and group in world.groups_of(signer), "health.reporter")
    record = world.get("m/", manifest_id, group)
    check(record is not None and record[1] == 2, "health.manifest")
    check(record[6] is None or world.now <= record[6], "health.manifest")
    before = world.get("h/", manifest_id, signer, group)
    last = before or {1: 0, 2: 0, 3: 0, 4: None}
    check(good >= last[1] and bad >= last[2], "health.falling")
    check(before is None or body[4] != last[3] or [good, bad] != [last[1], last[2]], "health.same")
    if before is not None and not (bad and not last[2]):
        check(world.now >= last[4] + 300_000, "health.early", later=True)
    counts = {0: 1, 1: good, 2: bad, 3: body[4], 4: world.now}
    world.put(counts, "h/", manifest_id, signer, group)
    rollout = world.get("ro/", manifest_id, group)
    if rollout is not None:
        site = marks(world, signer, group)[0]
        _count(world, body, rollout, site, good - last[1], bad - last[2])


def _capped(good: int, bad: int) -> tuple[int, int]:
    """R44."""
    total = good + bad
    if total <= 100:
        return good, bad
    failures = -(-bad * 100 // total)
    return 100 - failures, failures


def _count(
    world: World, body: dict[int, Any], rollout: dict[int, Any], site: bytes, good: int, bad: int
) -> None:
    manifest_id, group = body[0], body[1]
    stored = world.get("hs/", manifest_id, site, group)
    old = stored if stored and stored[1] == rollout[7] else {0: 1, 1: rollout[7], 2: 0, 3: 0}
    new = {**old, 2: old[2] + good, 3: old[3] + bad}
    world.put(new, "hs/", manifest_id, site, group)
    old_share, new_share = _capped(old[2], old[3]), _capped(new[2], new[3])
    after = dict(rollout)
    after[8] += (new[2] > 0) - (old[2] > 0)
    after[9] += (new[3] > 0) - (old[3] > 0)
    after[10] += new_share[0] - old_share[0]
    after[11] += new_share[1] - old_share[1]
    plan = _plan(world, manifest_id, group)
    cause = _halting(after, plan[1][after[2]])
    if cause and after[1] != HALTED:
        after = {**after, 1: HALTED, 12: cause, 5: after[5] + 1}
    elif plan[3] == 2 and _is_due(world, after, plan):
        after = _promoted(world, after, plan)
        after[5] += 1
    world.put(after, "ro/", manifest_id, group)


def _authority(world: World, group: str | None) -> tuple[dict[int, Any], str, bytes]:
    """The root, group name and policy that emergency statements name."""
    if group is None:
        return world.get("c/governance"), GOVERNANCE, ZERO
    return world.root(group), group, world.policy_id(group)


def pause(world: World, signer: bytes, body: dict[int, Any]) -> None:
    """`emergency.pause` (R61, R62)."""
    group, product, release, sequence, raw = (body[at] for at in range(5))
    root, name, policy = _authority(world, group)
    keys = role_keys(root, "emergency")
    check(keys, "pause.role")
    content = [group, product, release, sequence]
    subject = digest_of("swarmd/emergency-pause/1", content)
    found = world.accept([raw], PAUSE, subject, name, policy, keys)
    public = next(iter(found))
    check(not world.has_approved(subject, PAUSE, public, name), "approval.used")
    where = "" if group is None else group
    entries = (world.get("em/", where) or {1: []})[1]
    own = [entry for entry in entries if entry[1] == key_id(public)]
    for entry in own:
        check(sequence > entry[4], "pause.sequence")
        check(world.now >= entry[6], "pause.active")
        check(world.now >= entry[6] + 168 * HOUR, "pause.cool_down", later=True)
    kept = [entry for entry in entries if entry not in own and world.now < entry[6] + 168 * HOUR]
    check(len(kept) < 64, "pause.full", later=True)
    world.note(found, PAUSE, subject, name)
    entry = {1: key_id(public), 2: product, 3: release, 4: sequence, 5: world.now}
    entry |= {6: world.after(72 * HOUR), 7: False, 8: False}
    world.put({0: 1, 1: sorted([*kept, entry], key=lambda each: each[1])}, "em/", where)


def confirm(world: World, signer: bytes, body: dict[int, Any]) -> None:
    """`emergency.confirm` (R63, R64)."""
    group, holder, sequence, until, raws = (body[at] for at in range(5))
    where = "" if group is None else group
    if group is not None:
        world.group(group)
    entries = (world.get("em/", where) or {1: []})[1]
    own = [each for each in entries if each[1] == holder and each[4] >= sequence]
    check(own, "pause.unknown", later=True)
    entry = own[0]
    check(entry[4] == sequence and world.now < entry[6], "pause.ended")
    content = [group, holder, sequence, until]
    subject = digest_of("swarmd/emergency-decision/1", content)
    if group is None:
        world.govern(raws, CONFIRM, subject, once=False)
    else:
        world.agree(raws, CONFIRM, subject, group, world.in_force(group)[3])
    if until:
        in_time = entry[6] < until <= world.now + 90 * 24 * HOUR
        check(in_time, "pause.until")
    after = {**entry, 6: until, 7: True} if until else {**entry, 6: world.now, 8: True}
    following = [after if each is entry else each for each in entries]
    world.put({0: 1, 1: following}, "em/", where)


KINDS = {
    "rollout.command": command,
    "rollout.stop": stop,
    "report.health": report,
    "emergency.pause": pause,
    "emergency.confirm": confirm,
}
