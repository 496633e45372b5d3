"""`swarmd traffic`: arguments passed on, answers shown."""

from __future__ import annotations

from typing import Any

import pytest

from swarmd.datadir import DataDir
from tests.support.control_daemon import ControlDaemon
from tests.swarmd.cli.conftest import Run

ON = {"is_off": False, "up": 65_536, "down": None, "is_by_hand": False}
LIMITED = {**ON, "is_by_hand": True}
OFF = {**ON, "is_off": True}


@pytest.mark.parametrize(
    ("words", "method", "params", "answer", "text"),
    [
        ((), "traffic", {}, ON, "on; up 64.0 KiB/s, down unlimited\n"),
        (("off",), "traffic.switch", {"to": "off"}, OFF,
         "off: no image goes to or comes from peers\n"),
        (("on",), "traffic.switch", {"to": "on"}, ON, "on; up 64.0 KiB/s, down unlimited\n"),
        (("limit", "--up", "64"), "traffic.limit", {"up_kib_s": 64}, LIMITED,
         "on; up 64.0 KiB/s, down unlimited (set by hand)\n"),
        (("limit", "--up", "0", "--down", "256"), "traffic.limit",
         {"up_kib_s": 0, "down_kib_s": 256}, LIMITED,
         "on; up 64.0 KiB/s, down unlimited (set by hand)\n"),
        (("limit",), "traffic.limit", {}, ON, "on; up 64.0 KiB/s, down unlimited\n"),
    ],
)  # fmt: skip
def test_what_is_asked_and_shown(
    swarmd: Run,
    node: DataDir,
    words: tuple[str, ...],
    method: str,
    params: dict[str, Any],
    answer: dict[str, Any],
    text: str,
) -> None:
    with ControlDaemon({method: lambda _params: answer}).running(node.control_socket) as daemon:
        shown = swarmd("traffic", *words, "-C", node.path)
        as_json = swarmd("traffic", *words, "-C", node.path, "--json")
    assert (shown.code, shown.out, shown.err) == (0, text, "")
    assert as_json.document == answer
    assert daemon.requests == [(method, params), (method, params)]


def test_a_folder_is_needed(swarmd: Run) -> None:
    assert swarmd("traffic").code == 2
