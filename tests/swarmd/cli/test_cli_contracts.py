"""`swarmd policy`, `group` and `ledger explain` against the real desk over a real chain."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ledger.transition.envelope import judge_transaction
from ledger.transition.kinds import decode_body
from protocol.did import did_key_text
from protocol.errors import EncodingError
from protocol.group import Group
from protocol.keys import PrivateKey
from swarmd.datadir import DataDir
from swarmd.decision import decode_decision, draft_decision
from swarmd.keys.key_writer import write_key_file
from swarmd.ledger_host import LedgerHost
from swarmd.questions import Denial
from swarmd.services.policy_desk import PolicyDesk
from tests.support.contracts import AUDITOR, OWNERS, SITE, site_group, site_policy
from tests.support.control_daemon import ControlDaemon
from tests.support.ledger import GENESIS_MS, Lab, advance, make_lab, owner_keys
from tests.swarmd.cli.conftest import Run

POLICY = f"""
approve_threshold = 2
revoke_threshold = 1
amend_threshold = 3
enrol_threshold = 1
amend_delay = "48h"
soak = "4h"
attestations = 2
separation = [["owner", "auditor"]]
freezes = [{{from = 2026-12-20T00:00:00Z, to = 2027-01-06T00:00:00+01:00}}]
maintenance = [{{days = ["Sun", "Sat"], from = "01:00", to = "05:30"}}]
[rule]
all = [
  {{k_of = {{count = 1, of = ["auditor", "{did_key_text(OWNERS[0].public)}"]}}}},
  {{not = {{compare = ["size", ">", 1_000_000]}}}},
  {{any = [
    {{in = ["product", ["pump"]]}},
    {{window = {{days = ["Mon"], from = "00:00", to = "24:00"}}}},
  ]}},
  {{count = {{of = "authorised", within = "7d", is = ["<", 3]}}}},
  {{age = ["proposed", ">=", "4h"]}},
  {{in_group = "fleet"}},
]
[rollout]
stages = [{{share = 100, soak = "1d"}}, {{share = 10000}}]
promotion = "automatic"
[defence]
voices_min = 2
window = "12h"
"""


class Answers:
    """A daemon's answers, computed by the desk over a chain with one proposed manifest."""

    def __init__(self, *groups: Group) -> None:
        self.lab: Lab = make_lab(groups=(site_group(), *groups))
        self.chain = self.lab.open_chain()
        self.manifest = self.lab.manifest(groups=(SITE,))
        advance(self.lab, self.chain, [self.lab.propose(self.manifest)])
        self.host = LedgerHost(self.chain, lambda: GENESIS_MS)
        old = Denial("freshness", "my knowledge is too old for serving", True)
        desk = PolicyDesk(
            self.host, lambda: self.chain.head.time_ms, lambda _manifest, _device: {"fetch": old}
        )
        self.methods: dict[str, Callable[[dict[str, Any]], Any]] = {
            name: lambda params, call=call: call(params, None)  # type: ignore[misc]
            for name, call in desk.handlers().items()
        }
        self.methods["epoch"] = lambda _params: {
            "chain": self.lab.chain_id.hex(),
            "era": 0,
            "epoch": 1,
            "now_ms": self.chain.head.time_ms,
        }
        self.methods["submit_decision"] = self._submit

    def _submit(self, params: dict[str, Any]) -> Any:
        decision = decode_decision(bytes.fromhex(params["decision"][0]))
        signed = self.lab.transaction(self.lab.gateways[0], decision.body())
        context = self.lab.context(height=2, time_ms=self.chain.head.time_ms + 1000)
        judge_transaction(self.chain.state, signed, context)  # raises what the ledger would say
        advance(self.lab, self.chain, [signed])
        return {"kind": decision.kind, "height": self.chain.head.height, "transaction": "ab"}


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
def daemon(node: DataDir, answers: Answers) -> Iterator[ControlDaemon]:
    node.genesis.write_bytes(answers.lab.genesis.encode())
    with ControlDaemon(answers.methods).running(node.control_socket) as running:
        yield running


def key_file(tmp_path: Path, key: PrivateKey) -> Path:
    path = tmp_path / f"{key.public.raw.hex()[:12]}.key"
    if not path.exists():
        write_key_file(path, key)
    return path


def keys(tmp_path: Path, *signers: PrivateKey) -> list[object]:
    return [part for key in signers for part in ("--key", key_file(tmp_path, key))]


def written(tmp_path: Path, text: str, name: str = "file.toml") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_check_needs_no_node(swarmd: Run, tmp_path: Path) -> None:
    ended = swarmd("policy", "check", written(tmp_path, POLICY), "--json")
    assert ended.code == 0, ended.err
    rule = ended.document["rule"]
    assert (rule["nodes"], rule["depth"]) == (13, 3)
    said = " ".join(ended.document["means"])
    for words in (
        "2 owners to approve",
        "4h",
        "2 builders",
        "1 approvals by auditor or",
        "Sat,Sun",
    ):
        assert words in said


PLAIN = "approve_threshold = 2\nrevoke_threshold = 1\namend_threshold = 2\nenrol_threshold = 1\n"


def test_check_for_a_number_of_owners(swarmd: Run, tmp_path: Path) -> None:
    file = written(tmp_path, PLAIN)
    assert "warnings" in swarmd("policy", "check", file, "--json").document
    for owners, warned, unfit in (
        (1, "", "policy needs 2 approvals of 1 owners"),
        (2, "If one owner key is lost, nothing can be authorised.", None),
        (3, "", None),
    ):
        ended = swarmd("policy", "check", file, "--owners", owners, "--json")
        assert ended.code == 0, ended.err
        assert ended.document.get("unfit") == unfit
        assert (not warned) or warned in ended.document["warnings"]
        assert f"2 of {owners} owners to approve" in ended.document["means"][0]
    assert "REFUSED for these owners" in swarmd("policy", "check", file, "--owners", 1).out
    for number in (0, 33):
        assert swarmd("policy", "check", file, "--owners", number).code == 2
    both = swarmd("policy", "check", file, "--owners", 3, "--root", file)
    assert (both.code, "one of --owners, --root" in both.err) == (2, True)


def test_check_for_owners_in_a_file(swarmd: Run, tmp_path: Path) -> None:
    file = written(
        tmp_path, PLAIN + 'attestations = 1\nrule = {k_of = {count = 2, of = ["auditor"]}}'
    )
    root = owners_file(tmp_path, list(OWNERS), 1)
    ended = swarmd("policy", "check", file, "--root", root, "--json")
    assert ended.code == 0, ended.err
    assert ended.document["unfit"] == "policy needs 1 attestations of 0"
    assert "Only 1 keys could ever give 2 approvals by auditor." in ended.document["warnings"]
    assert swarmd("policy", "check", file, "--root", file).code == 2


EXAMPLES = sorted((Path(__file__).parents[3] / "examples" / "policies").glob("*.toml"))


@pytest.mark.parametrize("file", EXAMPLES, ids=[file.stem for file in EXAMPLES])
def test_example_files_stand(swarmd: Run, file: Path) -> None:
    owners = [] if "[owners]" in file.read_text() else ["--owners", 5]
    ended = swarmd("policy", "check", file, *owners, "--json")
    assert ended.code == 0, ended.err
    assert "unfit" not in ended.document
    assert "of" in ended.document["means"][0]


def test_there_are_examples_of_both_files() -> None:
    has_owners = {"[owners]" in file.read_text() for file in EXAMPLES}
    assert has_owners == {True, False}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ("approve_threshold = 4", "as many owners as approving"),
        ("approve_threshold = true", "no integer"),
        ("soak = 4", "no duration"),
        ("soak = '4 h'", "no duration"),
        ("unheard = 1", "unknown key 'unheard'"),
        ("amend_delay = '1s'", "amend delay"),
        ("rule = {}", "one entry"),
        ("rule = {perhaps = 1}", "none of all, any, not, k_of"),
        ("rule = {compare = ['size', '=', 1]}", "none of =="),
        ("rule = {compare = ['vendor', '==', 'x']}", "cannot ask for vendor"),
        ("rule = {compare = ['size', '==', 1.5]}", "no integer"),
        ("rule = {all = []}", "parts"),
        ("rule = {k_of = {count = 1, of = ['did:key:zz']}}", "did:key|base58"),
        ("rule = " + "{not = " * 9 + "{in_group = 'a'}" + "}" * 9, "deeper than 8"),
        ("freezes = [{from = 2026-01-01, to = 2026-01-02}]", "with an offset"),
        ("maintenance = [{days = ['Mo'], from = '1:00', to = '2:00'}]", "none of Mon"),
        ("maintenance = [{days = ['Mon'], from = '02:00', to = '01:00'}]", "begin"),
        ("separation = [['a']]", "two names"),
        ("witnesses = {threshold = 1, keys = ['x']}", "verifier key"),
        ("rollout = {stages = [{share = 5}]}", "last share"),
        ("closed = 1", "true or false"),
    ],
)
def test_what_no_ledger_would_take(swarmd: Run, tmp_path: Path, changed: str, message: str) -> None:
    plain = (
        "approve_threshold = 2\nrevoke_threshold = 1\namend_threshold = 2\nenrol_threshold = 1\n"
    )
    name = changed.split(" = ", maxsplit=1)[0]
    lines = [line for line in plain.splitlines() if not line.startswith(name)]
    file = written(tmp_path, "\n".join([*lines, changed]))
    ended = swarmd("policy", "check", file)
    assert ended.code == 2
    assert re.search(message, ended.err), ended.err


def test_check_tells_what_changes_and_what_it_would_say(
    swarmd: Run, node: DataDir, daemon: ControlDaemon, tmp_path: Path
) -> None:
    file = written(tmp_path, POLICY)
    ended = swarmd("policy", "check", file, "--group", SITE, "-C", node.path, "--json")
    assert ended.code == 0, ended.err
    document = ended.document
    assert any(line.startswith("amend_threshold: 2 -> 3") for line in document["changes"])
    (release,) = document["releases"]
    assert release["would_be_authorised"] is False
    assert any(line.startswith("policy.attestations") for line in release["missing"])
    assert any("lost, this policy" in line for line in document["warnings"])
    text = swarmd("policy", "check", file, "--group", SITE, "-C", node.path)
    assert "beware:" in text.out
    assert "what changes:" in text.out
    greedy = written(tmp_path, POLICY.replace("attestations = 2", "attestations = 3"))
    ended = swarmd("policy", "check", greedy, "--group", SITE, "-C", node.path)
    assert "REFUSED for these owners: policy needs 3 attestations of 2" in ended.out


def test_a_policy_is_set_and_vetoed_by_owners(
    swarmd: Run, node: DataDir, daemon: ControlDaemon, answers: Answers, tmp_path: Path
) -> None:
    file = written(tmp_path, POLICY)
    at = ["--group", SITE, "-C", node.path, "--yes"]
    alone = swarmd("policy", "set", file, *at, *keys(tmp_path, OWNERS[0]))
    assert (alone.code, "approval.threshold" in alone.err) == (1, True)
    foreign = swarmd("policy", "set", file, *at, *keys(tmp_path, OWNERS[0], AUDITOR))
    assert "approval.owner" in foreign.err
    ended = swarmd("policy", "set", file, *at, *keys(tmp_path, *OWNERS[:2]))
    assert ended.code == 0, ended.err
    record = answers.chain.state.group(SITE)
    assert record is not None
    assert record.waiting(answers.chain.head.time_ms) is not None
    ended = swarmd("policy", "veto", *at, *keys(tmp_path, *OWNERS[1:]))
    assert ended.code == 0, ended.err
    record = answers.chain.state.group(SITE)
    assert record is not None
    assert record.scheduled is None
    ended = swarmd("policy", "veto", *at, *keys(tmp_path, *OWNERS[1:]))
    assert (ended.code, "no policy that waits" in ended.err) == (2, True)


def test_nobody_is_asked_to_sign_unseen(
    swarmd: Run, node: DataDir, daemon: ControlDaemon, tmp_path: Path
) -> None:
    at = ["--group", SITE, "-C", node.path]
    file = written(tmp_path, POLICY)
    assert "give --key to sign" in swarmd("policy", "set", file, *at).err
    assert "nobody to ask" in swarmd("policy", "set", file, *at, *keys(tmp_path, OWNERS[0])).err


def owners_file(tmp_path: Path, owners: list[PrivateKey], version: int) -> Path:
    rows = ", ".join(
        f'["owner {index}", "{did_key_text(key.public)}"]' for index, key in enumerate(owners)
    )
    roles = f'[roles]\nauditor = [["auditor", "{did_key_text(AUDITOR.public)}"]]'
    text = f"version = {version}\nthreshold = 2\nkeys = [{rows}]\n{roles}"
    return written(tmp_path, text, "owners.toml")


def test_owners_rotate_by_a_file_that_passes_from_hand_to_hand(
    swarmd: Run, node: DataDir, daemon: ControlDaemon, answers: Answers, tmp_path: Path
) -> None:
    fresh = owner_keys("fresh")
    decision = tmp_path / "r.decision"
    wrong = owners_file(tmp_path, fresh, 3)
    at = ["--group", SITE, "-C", node.path]
    assert "the next root is 2" in swarmd("group", "rotate", wrong, *at, "-o", decision).err
    file = owners_file(tmp_path, fresh, 2)
    assert swarmd("group", "rotate", file, *at, "-o", decision).code == 0
    for key in (*OWNERS[:2], *fresh[:2]):
        path = key_file(tmp_path, key)
        ended = swarmd("gov", "sign", decision, "--key", path, "--yes")
        assert ended.code == 0, ended.err
    assert "auditor" in swarmd("gov", "show", decision).out
    ended = swarmd("gov", "submit", decision, "-C", node.path)
    assert ended.code == 0, ended.err
    record = answers.chain.state.group(SITE)
    assert record is not None
    assert record.owner_root.version == 2
    shown = swarmd("group", "show", SITE, "-C", node.path)
    assert "root version" in shown.out
    assert did_key_text(fresh[0].public) in shown.out


def test_a_group_moves_below_another(
    swarmd: Run, node: DataDir, daemon: ControlDaemon, answers: Answers, tmp_path: Path
) -> None:
    place = written(
        tmp_path, 'parent = "fleet"\nselector = {compare = ["vendor", "==", "acme"]}', "place.toml"
    )
    consents: list[object] = []
    for index, key in enumerate(owner_keys("fleet")[:2]):
        target = tmp_path / f"consent-{index}"
        at = ["--group", "fleet", "-C", node.path, "-o", target]
        ended = swarmd("group", "adopt", SITE, *at, "--key", key_file(tmp_path, key))
        assert ended.code == 0, ended.err
        consents += ["--adoption", target]
    at = ["--group", SITE, "-C", node.path, "--yes", *keys(tmp_path, *OWNERS[:2])]
    assert "approval.threshold" in swarmd("group", "update", place, *at).err
    ended = swarmd("group", "update", place, *at, *consents)
    assert ended.code == 0, ended.err
    assert answers.chain.state.children("fleet") == (SITE,)
    assert "vendor == acme" in swarmd("group", "show", SITE, "-C", node.path).out


def test_governance_creates_a_group_from_a_file(
    swarmd: Run, node: DataDir, daemon: ControlDaemon, answers: Answers, tmp_path: Path
) -> None:
    rows = ", ".join(
        f'["owner {index}", "{did_key_text(key.public)}"]'
        for index, key in enumerate(owner_keys("pumps"))
    )
    text = f"""
name = "pumps"
parent = "fleet"
[owners]
threshold = 2
keys = [{rows}]
[policy]
approve_threshold = 2
revoke_threshold = 1
amend_threshold = 2
enrol_threshold = 1
freezes = [{{from = 2026-12-20T00:00:00Z, to = 2027-01-06T00:00:00Z}}]
"""
    file = written(tmp_path, text)
    signers = keys(tmp_path, *answers.lab.governance[:2])
    ended = swarmd("group", "create", file, "-C", node.path, "--yes", *signers)
    assert ended.code == 0, ended.err
    assert answers.chain.state.children("fleet") == ("pumps",)
    record = answers.chain.state.group("pumps")
    assert record is not None
    assert len(answers.chain.state.policy(record.policy).freezes) == 1


def test_explain_says_rule_by_rule(
    swarmd: Run, node: DataDir, daemon: ControlDaemon, answers: Answers
) -> None:
    manifest = answers.manifest.manifest_id.hex()
    ended = swarmd("ledger", "explain", manifest, "-C", node.path, "--json")
    assert ended.code == 0, ended.err
    (group,) = ended.document["groups"]
    assert group["status"] == "proposed"
    rules = {one["rule"]: one["truth"] for one in group["conditions"]}
    assert rules == {
        "policy.approvals": False,
        "policy.attestations": True,
        "policy.soak": True,
        "policy.freeze": True,
    }
    assert group["offer"][-1]["rule"] == "manifest.proposed"
    text = swarmd("ledger", "explain", manifest, "--device", "pump-7", "-C", node.path)
    assert "NO  policy.approvals: 2 of 3 owners approve; so far nobody" in text.out
    assert "offered to device pump-7" in text.out
    assert "NO  may fetch it: freshness: my knowledge is too old for serving" in text.out
    assert swarmd("ledger", "explain", "00" * 32, "-C", node.path).code == 3


def test_decisions_of_groups_name_a_policy_and_others_do_not() -> None:
    body = decode_body("policy.set", {0: SITE, 1: site_policy().encode(), 2: [b"x"]})
    common: dict[str, Any] = {
        "chain": make_lab().chain_id,
        "era": 0,
        "epoch": 1,
        "valid_until_ms": 1,
    }
    with pytest.raises(EncodingError, match="names a policy"):
        draft_decision(body, **common)
    decision = draft_decision(body, **common, policy=site_policy().policy_id)
    assert decode_decision(decision.encode()) == decision
