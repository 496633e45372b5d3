"""`swarmd access`, `quarantine` and `receipts` against a running network."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from ledger.standing import quarantine_level
from protocol.defence import QuarantineLevel
from protocol.did import did_text
from swarmd.cli.main import run
from tests.support.swarm import GROUP, VALIDATORS, Swarm, swarm, until

NODES = (*VALIDATORS, "publisher-1", "gateway-1")


class Console:
    """Runs command lines beside the nodes, on the folder of one of them."""

    def __init__(self, lab: Swarm, capsys: pytest.CaptureFixture[str]) -> None:
        self.lab = lab
        self.capsys = capsys

    async def __call__(self, *words: str, code: int = 0) -> Any:
        folder = str(self.lab.path / "publisher-1")
        self.capsys.readouterr()
        call: Callable[[], int] = partial(run, [*words, "-C", folder, "--json"])
        ended = await trio.to_thread.run_sync(call)
        captured = self.capsys.readouterr()
        assert ended == code, captured.err
        return json.loads(captured.out)

    def key(self, number: int) -> tuple[str, str]:
        return "--key", str(self.lab.path / "keys" / f"owner-{number}.key")

    def did(self, name: str) -> str:
        return did_text(self.lab.chain, self.lab.did(name))


@pytest.mark.slow
async def test_owners_grant_quarantine_and_take_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with swarm(tmp_path) as lab:
        await lab.start(*NODES)
        await lab.until_met(*NODES)
        console = Console(lab, capsys)
        subject, group = console.did("gateway-1"), ("--group", GROUP)

        # One owner is too few; what she signed goes to the second one as a file.
        grant = ("access", "grant", subject, *group, "--can", "approver", "--days", "3")
        await console(*grant, *console.key(1), "--yes", code=3)
        signed = str(tmp_path / "signatures")
        written = await console(*grant, *console.key(1), "--yes", "-o", signed)
        assert written["signatures"] == 1
        await console(*grant, "--add", signed, *console.key(1), "--yes", code=3)
        await console(*grant, "--until-ms", "1", *console.key(2), "--add", signed, "--yes", code=1)
        done = await console(*grant, "--add", signed, *console.key(2), "--yes")
        assert done["kind"] == "cap.grant"
        (row,) = await console("access", "list")
        assert (row["verbs"], row["in_force"]) == (["fetch", "approve-staging"], True)
        assert row["subject"] == subject
        stranger = str(lab.path / "keys" / "governance-1.key")
        await console("access", "revoke", row["capability"], "--key", stranger, "--yes", code=1)
        owners = (*console.key(1), *console.key(2), "--yes")
        await console("access", "revoke", row["capability"], *owners)
        assert await console("access", "list") == []

        await console("quarantine", "set", subject, *group, "--level", "1", *owners)
        state = lab["publisher-1"].ledger.chain.state
        now_ms = lab["publisher-1"].ledger.chain.head.time_ms
        level = quarantine_level(state, lab.did("gateway-1"), GROUP, now_ms)
        assert level is QuarantineLevel.NO_SERVING
        listed = await console("quarantine", "list")
        assert [(row["level"], row["cause"]) for row in listed["quarantines"]] == [(1, "owners")]
        await console("quarantine", "release", subject, *group, *owners)
        listed = await console("quarantine", "list")
        assert [(row["level"], row["cause"]) for row in listed["quarantines"]] == [(0, "release")]
        await console("quarantine", "release", subject, *group, *owners, code=1)

        # The receipts tell what happened, from the oldest asked for.
        log = lab["publisher-1"].receipts
        await until(lambda: log.size >= 4, "receipts are written")
        rows = await console("receipts", "--since", "2020-01-01", "--count", "100")
        kinds = [row["detail"] for row in rows if row["kind"] == "standing"]
        assert kinds == ["cap.grant", "cap.revoke", "quarantine.set", "quarantine.release"]
        assert await console("receipts", "--since", "2999-01-01") == []
        await console("receipts", "--since", "yesterday", code=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("access", "grant", "did:swarm:x:y", "--group", GROUP, "--can", "fetch"),
        ("quarantine", "set", "did:key:z6Mk", "--group", GROUP),
    ],
)
async def test_names_that_are_no_dids_are_usage_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    async with swarm(tmp_path) as lab:
        await lab.start("publisher-1")
        await Console(lab, capsys)(*words, code=2)
