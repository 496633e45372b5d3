"""`status`, `images`, `peers`, `ledger`, `run`, `demo`: arguments passed on, answers shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from protocol.errors import StorageError
from swarmd import demo as demo_package
from swarmd.datadir import DataDir
from swarmd.demo import DemoOptions
from tests.support.control_daemon import ControlDaemon
from tests.swarmd.cli.conftest import Run

IMAGE = {
    "manifest": "ab",
    "groups": ["fleet"],
    "complete": False,
    "components": [
        {"name": "a", "sha256": "00", "size": 1024, "have": 1, "chunks": 2},
        {"name": "b", "sha256": "01", "size": 512, "have": 3, "chunks": 3},
    ],
}
IMAGE_TABLE = """\
manifest  groups  complete  size     chunks
ab        fleet   no        1.5 KiB  4/5
"""


@pytest.mark.parametrize(
    ("command", "answer", "text"),
    [
        ("status", {"height": 7, "alarm": None}, "height  7\nalarm   -\n"),
        ("images", [IMAGE], IMAGE_TABLE),
        ("images", [], "no images yet\n"),
        ("peers", [{"name": "a\x1b", "height": 3}], "name   height\na\\x1b  3\n"),
        ("peers", [], "no peers\n"),
        ("ledger", {"height": 1, "blocks": [{"height": 1}]},
         "height  1\nblocks:\n  height\n  1\n"),
    ],
)  # fmt: skip
def test_answers_are_shown_to_people_and_scripts(
    swarmd: Run, node: DataDir, command: str, answer: Any, text: str
) -> None:
    with ControlDaemon({command: lambda _params: answer}).running(node.control_socket) as daemon:
        shown = swarmd(command, "-C", node.path)
        as_json = swarmd(command, "-C", node.path, "--json")
    assert (shown.code, shown.out, shown.err) == (0, text, "")
    assert as_json.document == answer
    assert daemon.requests == [(command, {}), (command, {})]


REACH: dict[str, Any] = {
    "reachability": "unreachable",
    "peers": [
        {
            "peer": "01",
            "name": "gateway-7",
            "addresses": [
                {
                    "address": "/ip4/192.0.2.1/tcp/7001/p2p/12D3KooW",
                    "origin": "stated",
                    "good_s_ago": None,
                    "tried_s_ago": 12,
                    "failures": 3,
                    "error": "cannot connect",
                }
            ],
        }
    ],
}
REACH_TABLE = """\
name       address                 origin  good_s_ago  tried_s_ago  error
gateway-7  /ip4/192.0.2.1/tcp/7001  stated  -           12           cannot connect
"""


def test_every_address_is_shown_with_its_last_error(swarmd: Run, node: DataDir) -> None:
    with ControlDaemon({"reach": lambda _params: REACH}).running(node.control_socket):
        shown = swarmd("peers", "--addresses", "-C", node.path)
        as_json = swarmd("peers", "--addresses", "-C", node.path, "--json")
    lines = [line.split() for line in shown.out.splitlines()]
    assert lines == [line.split() for line in REACH_TABLE.splitlines()]
    assert as_json.document == REACH


def test_without_addresses_it_says_so(swarmd: Run, node: DataDir) -> None:
    with ControlDaemon({"reach": lambda _params: {"peers": []}}).running(node.control_socket):
        assert swarmd("peers", "--addresses", "-C", node.path).out == "no addresses\n"


def test_the_first_block_may_be_chosen(swarmd: Run, node: DataDir) -> None:
    with ControlDaemon({"ledger": lambda _params: {}}).running(node.control_socket) as daemon:
        swarmd("ledger", "-C", node.path, "--from", 10)
    assert daemon.params_of("ledger") == [{"from": 10}]


@pytest.mark.slow
def test_run_refuses_a_folder_in_use_with_one_line(swarmd: Run, node: DataDir) -> None:
    with node.lock():
        ended = swarmd("run", "-C", node.path)
    assert ended.code == 1
    assert "is in use by the daemon with process id" in ended.err.splitlines()[-1]


def report(**checks: bool) -> dict[str, Any]:
    return {"elapsed_s": 1.0, "validators": 4, "gateways": 4, "images": [], "checks": checks}


def test_the_demo_passes_options_on_and_reports(
    swarmd: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[DemoOptions] = []

    def run_demo(options: DemoOptions) -> dict[str, Any]:
        seen.append(options)
        return report(identical=True)

    monkeypatch.setattr(demo_package, "run_demo", run_demo)
    ended = swarmd(
        "demo", "--gateways", 2, "--image", __file__, "--image", __file__, "--keep", tmp_path,
        "--json",
    )  # fmt: skip
    assert (ended.code, ended.document) == (0, report(identical=True))
    file = Path(__file__)
    assert seen == [DemoOptions(gateways=2, images=(file, file), keep=tmp_path, json=True)]


def test_a_demo_with_a_false_check_fails_after_its_report(
    swarmd: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        demo_package, "run_demo", lambda _options: report(identical=True, corrupt_refused=False)
    )
    ended = swarmd("demo", "--json")
    assert ended.code == 1
    assert ended.document["checks"]["corrupt_refused"] is False
    assert ended.reason == "demo: failed checks: corrupt_refused"


def test_a_demo_that_cannot_start_is_one_line(swarmd: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_options: DemoOptions) -> None:
        raise StorageError("disk full")

    monkeypatch.setattr(demo_package, "run_demo", fail)
    ended = swarmd("demo")
    assert (ended.code, ended.reason) == (1, "disk full")
