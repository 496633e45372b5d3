"""`swarmd images` with its subcommands: arguments passed on, answers shown."""

from __future__ import annotations

from typing import Any

from protocol.errors import NotYetError
from swarmd.datadir import DataDir
from tests.support.control_daemon import ControlDaemon
from tests.swarmd.cli.conftest import Run

MANIFEST = "ab" * 32
KEPT = [
    {"image": "01" * 32, "releases": ["pump 1.2", "pump 1.1"], "size": 2048, "goes": False,
     "deleted": False, "reason": "newest release"},
    {"image": "02" * 32, "releases": [], "size": 1024, "goes": True,
     "deleted": True, "reason": "superseded by newer releases"},
    {"image": "03" * 32, "releases": ["a\x1b"], "size": 1024, "goes": True,
     "deleted": False, "reason": "superseded by newer releases"},
]  # fmt: skip


def daemon(**answers: Any) -> ControlDaemon:
    return ControlDaemon({name: lambda _params, a=answer: a for name, answer in answers.items()})


def test_pins_come_and_go(swarmd: Run, node: DataDir) -> None:
    changed = {"manifest": MANIFEST, "changed": True}
    same = {**changed, "changed": False}
    with daemon(pin=changed, unpin=same).running(node.control_socket) as asked:
        pinned = swarmd("images", "pin", MANIFEST, "-C", node.path)
        unpinned = swarmd("images", "unpin", MANIFEST, "-C", node.path, "--json")
    assert (pinned.code, pinned.out) == (0, "pinned\n")
    assert unpinned.document == same
    assert asked.requests == [("pin", {"manifest": MANIFEST}), ("unpin", {"manifest": MANIFEST})]


def test_pins_are_listed(swarmd: Run, node: DataDir) -> None:
    with daemon(pins=[]).running(node.control_socket):
        assert swarmd("images", "pins", "-C", node.path).out == "nothing is pinned\n"


def test_the_folder_may_stand_before_the_subcommand(swarmd: Run, node: DataDir) -> None:
    with daemon(pins=[], images=[]).running(node.control_socket) as asked:
        assert swarmd("images", "-C", node.path, "pins").code == 0
        assert swarmd("images", "-C", node.path).out == "no images yet\n"
    assert [name for name, _ in asked.requests] == ["pins", "images"]


def test_collecting_says_why(swarmd: Run, node: DataDir) -> None:
    with daemon(collect=KEPT).running(node.control_socket) as asked:
        shown = swarmd("images", "collect", "-C", node.path, "--room-mib", 3)
        dry = swarmd("images", "collect", "-C", node.path, "--dry-run")
    assert asked.params_of("collect") == [
        {"dry_run": False, "room_bytes": 3 << 20},
        {"dry_run": True, "room_bytes": 0},
    ]
    rows = [line.split() for line in shown.out.splitlines()]
    assert rows[1][:6] == ["0101010101010101", "pump", "1.2,", "pump", "1.1", "2.0"]
    assert "stays" in rows[1]
    assert "deleted" in rows[2]
    assert rows[3][-6:-4] == ["in", "use"]
    assert "\x1b" not in shown.out
    assert "would go" in dry.out


def test_what_is_wrong_is_one_line(swarmd: Run, node: DataDir) -> None:
    for arguments in (["images"], ["images", "pin", "xyz", "-C", node.path], ["images", "collect"]):
        assert swarmd(*arguments).code == 2


def test_publish_waits_for_copies(swarmd: Run, node: DataDir) -> None:
    arguments = ["publish", __file__, "-C", node.path, "--product", "p", "--version", "2",
                 "--group", "fleet", "--no-patch", "--wait-copies", 2, "--timeout", 5]  # fmt: skip

    def late(_params: object) -> object:
        raise NotYetError("copies.timeout", "1 of 2 other members hold the image after 5 s")

    asked = daemon(publish={"manifest": MANIFEST, "patches": []}, wait={"height": 8})
    asked.methods["wait_copies"] = late
    asked.progress = [{"stage": "copies", "copies": 1, "wanted": 2}]
    with asked.running(node.control_socket):
        ended = swarmd(*arguments)
        assert ended.code == 3
        assert "1 of 2 copies" in ended.err
        assert "1 of 2 other members hold the image" in ended.err
        asked.methods["wait_copies"] = lambda _params: {"manifest": MANIFEST, "copies": 2}
        done = swarmd(*arguments, "--json")
    assert done.document == {
        "manifest": MANIFEST, "patches": [], "authorised": {"height": 8}, "copies": 2,
    }  # fmt: skip
    assert asked.params_of("wait_copies")[0] == {
        "manifest": MANIFEST, "copies": 2, "timeout_s": 5.0,
    }  # fmt: skip
