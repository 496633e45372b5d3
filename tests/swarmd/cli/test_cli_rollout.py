"""`rollout` and `pause`: commands against the node's real methods over a real ledger."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from ledger.chain import Chain
from ledger.transition.kind import Body
from protocol.digest import TransactionId
from protocol.errors import NotYetError
from protocol.keys import PrivateKey
from protocol.manifest import SignedManifest
from protocol.rollout import Promotion
from swarmd.control.server import Handler
from swarmd.datadir import DataDir
from swarmd.keys.key_writer import write_key_file
from swarmd.ledger_host import LedgerHost
from swarmd.services.rollouts import Rollouts
from swarmd.services.submission import SubmissionService
from tests.support.control_daemon import ControlDaemon
from tests.support.ledger import (
    FLEET,
    HOUR_MS,
    Lab,
    advance,
    authorise,
    build_next,
    make_lab,
    owner_keys,
)
from tests.support.rollout import emergency_group, emergency_keys, health, make_plan, rollout_policy
from tests.swarmd.cli.conftest import Ended, Run

PUMPS = "pumps"


class Submission:
    """Puts what is submitted into the next block."""

    def __init__(self, lab: Lab, chain: Chain) -> None:
        self.lab, self.chain = lab, chain

    async def submit(self, body: Body) -> TransactionId:
        signed = self.lab.transaction(self.lab.gateways[0], body, nonce=self.nonce)
        block = build_next(self.chain, [signed])
        self.chain.commit(block.block_id, self.lab.certificate(block))
        if not block.transactions:
            raise NotYetError("tx.pending", "not final yet")
        return signed.transaction_id

    @property
    def nonce(self) -> int:
        return self.chain.state.account(self.lab.gateways[0].did).nonce

    async def wait_final(self, _transaction: TransactionId, _timeout_s: float) -> int:
        return self.chain.head.height


def finished(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waits")


def method(handler: Handler) -> Callable[[dict[str, Any]], Any]:
    async def report(_fields: object) -> None:
        raise AssertionError("nothing to report")

    return lambda params: finished(cast("Coroutine[Any, Any, Any]", handler(params, report)))


@pytest.fixture(scope="session")
def ledger_lab() -> Lab:
    plan = make_plan(promotion=Promotion.AUTOMATIC)
    return make_lab(policy=rollout_policy(plan), groups=[emergency_group(PUMPS)])


class Case:
    """A node's folder, its methods, and what commands need."""

    def __init__(self, lab: Lab, node: DataDir, path: Path, swarmd: Run) -> None:
        self.lab, self.node, self.path, self._swarmd = lab, node, path, swarmd
        lab.nonces.clear()
        self.chain = lab.open_chain()
        self.manifest: SignedManifest = lab.manifest()
        authorise(lab, self.chain, self.manifest)
        rollouts = Rollouts(
            LedgerHost(self.chain, lambda: 0),
            cast("SubmissionService", Submission(lab, self.chain)),
            lambda: self.chain.head.time_ms,
            lambda: (FLEET, PUMPS),
        )
        self.active_pauses = rollouts.active_pauses
        self.daemon = ControlDaemon(
            {name: method(handler) for name, handler in rollouts.handlers().items()}
        )

    def key(self, key: PrivateKey) -> Path:
        path = self.path / f"{key.public.raw.hex()[:8]}.key"
        if not path.exists():
            write_key_file(path, key)
        return path

    def rollout(self, command: str, *options: object) -> Ended:
        manifest = self.manifest.manifest_id.hex()
        return self._swarmd("rollout", command, manifest, "-C", self.node.path, *options)

    def command(self, name: str, owner: int, *options: object) -> Ended:
        key = self.key(owner_keys(FLEET)[owner])
        return self.rollout(name, "--key", key, "--yes", *options)

    def pause(self, *options: object) -> Ended:
        return self._swarmd("pause", *options)

    @property
    def group(self) -> dict[str, Any]:
        ended = self.rollout("show", "--json")
        assert ended.code == 0, ended.err
        (group,) = ended.document["groups"]
        return dict(group)


@pytest.fixture
def case(ledger_lab: Lab, node: DataDir, tmp_path: Path, swarmd: Run) -> Iterator[Case]:
    made = Case(ledger_lab, node, tmp_path, swarmd)
    with made.daemon.running(node.control_socket):
        yield made


def test_one_owner_pauses_two_resume_by_a_file(case: Case) -> None:
    assert case.group["status"] == "running"
    ended = case.command("pause", 0)
    assert ended.code == 0, ended.err
    assert case.group["status"] == "paused"
    alone = case.command("resume", 0)
    assert (alone.code, "approval.threshold" in alone.err) == (1, True)
    file = case.path / "resume.txt"
    first = case.command("resume", 0, "--collect", file)
    assert first.code == 3
    assert "1 of 2 signatures" in first.err
    assert case.command("resume", 0, "--collect", file).code == 3
    second = case.command("resume", 1, "--collect", file)
    assert second.code == 0, second.err
    assert case.group["status"] == "running"


def test_signatures_about_an_earlier_step_are_left_out(case: Case) -> None:
    file = case.path / "go.txt"
    assert case.command("promote", 0, "--collect", file).code == 3
    assert case.command("pause", 2).code == 0
    assert case.command("halt", 1, "--collect", file).code == 3
    assert case.command("halt", 2, "--collect", file).code == 0
    assert case.group["status"] == "halted"


def test_priority_and_promotion(case: Case) -> None:
    file = case.path / "rank.txt"
    case.command("priority", 0, "--collect", file, "--to", 7)
    assert case.command("priority", 1, "--collect", file, "--to", 7).code == 0
    assert case.group["priority"] == 7
    file = case.path / "go.txt"
    case.command("promote", 0, "--collect", file)
    ended = case.command("promote", 1, "--collect", file, "--json")
    assert ended.document["command"] == "promote"
    assert (case.group["stage"], case.group["share"]) == (2, 5000)


def test_a_due_promotion_needs_no_key(case: Case) -> None:
    due = ("promote-due", "--group", FLEET)
    good = health(case.lab, case.manifest.manifest_id, case.lab.gateways[1], good=1)
    advance(case.lab, case.chain, [good])
    assert case.rollout(*due).code == 3
    assert (case.group["due"], case.group["stage"]) == (False, 1)
    advance(case.lab, case.chain, [], after_ms=HOUR_MS)
    assert case.group["stage"] == 2  # what was pointed out too early has waited
    assert case.rollout(*due).code == 3


def test_who_may_not_command(case: Case) -> None:
    stranger = case.key(emergency_keys(PUMPS)[0])
    ended = case.rollout("pause", "--key", stranger, "--yes")
    assert ended.code == 1
    assert "owns no group" in ended.err
    key = case.key(owner_keys(FLEET)[0])
    assert case.rollout("pause", "--key", key).code == 2
    assert case.command("pause", 0, "--group", PUMPS).code == 1
    assert case.group["status"] == "running"


def test_a_file_that_is_none_is_refused(case: Case) -> None:
    file = case.path / "go.txt"
    for text in ("zz", "abcd", "ab" * 40_000):
        file.write_text(text)
        assert case.command("promote", 0, "--collect", file).code == 2


def test_an_emergency_key_pauses_and_owners_answer(case: Case) -> None:
    where = ("-C", case.node.path, "--group", PUMPS)
    emergency = case.key(emergency_keys(PUMPS)[0])
    ended = case.pause(*where, "--key", emergency, "--product", "pump", "--yes", "--json")
    assert ended.code == 0, ended.err
    assert ended.document["product"] == "pump"
    (row,) = case.active_pauses()
    assert isinstance(row, dict)
    assert (row["group"], row["product"]) == (PUMPS, "pump")
    shown = case.pause("show", "-C", case.node.path, "--json").document["pauses"]
    assert [item["active"] for item in shown] == [True]
    again = case.pause(*where, "--key", emergency, "--yes")
    assert (again.code, "pause.active" in again.err or "holds a pause" in again.err) == (1, True)
    owners = [case.key(key) for key in owner_keys(PUMPS)]
    file = case.path / "decision.txt"
    for owner, code in zip(owners[:2], (3, 0), strict=True):
        options = ("--key", owner, "--collect", file, "--yes")
        assert case.pause("confirm", "--hours", 200, *where, *options).code == code
    (row,) = case.active_pauses()
    assert isinstance(row, dict)
    assert row["confirmed"] is True
    for owner, code in zip(owners[1:], (3, 0), strict=True):
        options = ("--key", owner, "--collect", file, "--yes")
        assert case.pause("lift", *where, *options).code == code
    assert case.active_pauses() == []


def test_what_a_pause_needs(case: Case) -> None:
    where = ("-C", case.node.path)
    owner = case.key(owner_keys(PUMPS)[0])
    emergency = case.key(emergency_keys(PUMPS)[0])
    for options, code in (
        (("--group", PUMPS, "--key", owner, "--yes"), 1),
        (("--chain", "--key", emergency, "--yes"), 1),
        (("--key", emergency, "--yes"), 2),
        (("--group", PUMPS, "--chain", "--key", emergency, "--yes"), 2),
        (("--group", PUMPS), 2),
        (("--group", PUMPS, "--key", emergency), 2),
        (("--group", "nowhere", "--key", emergency, "--yes"), 1),
    ):
        assert case.pause(*where, *options).code == code, options
    assert case.pause("lift", *where, "--group", PUMPS, "--key", owner, "--yes").code == 1
    assert case.active_pauses() == []
