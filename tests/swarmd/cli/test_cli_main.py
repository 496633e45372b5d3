"""How commands end, and what `--help` costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest

from protocol.errors import (
    ConfigError,
    NotYetError,
    PolicyError,
    StorageError,
    TransportError,
)
from swarmd import __main__ as entry
from swarmd.cli.main import COMMANDS, LazyGroup, run
from swarmd.control.protocol import ControlError, ErrorCode
from swarmd.datadir import DataDir
from tests.support.control_daemon import ControlDaemon
from tests.swarmd.cli.conftest import Run

NAMES = [name for entries in COMMANDS.values() for name in entries]
HEAVY = ("trio", "libp2p", "rich", "cryptography", "cbor2", "starlette", "sqlite3", "asyncio")


@pytest.mark.slow
def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; before = dict(sys.modules);"  # what measures the test run is not ours
        "from swarmd.cli.main import run; code = run(['--help']);"
        f"heavy = [name for name in {HEAVY} if name in sys.modules and name not in before];"
        "print('heavy', heavy, 'code', code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("heavy [] code 0\n")


@pytest.mark.slow
def test_a_control_command_does_not_pay_for_the_daemon(node: DataDir) -> None:
    program = (
        "import sys; from swarmd.cli.main import run; code = run(sys.argv[1:]);"
        "print([name for name in ('trio', 'libp2p', 'rich', 'starlette') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "status", "-C", str(node.path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"


def test_every_name_of_the_contract_is_there() -> None:
    contract = (
        "demo",
        "init",
        "keys",
        "network",
        "run",
        "publish",
        "approve",
        "revoke",
        "status",
        "images",
        "peers",
        "ledger",
        "doctor",
        "fetch",
        "prove",
        "verify",
    )
    assert [name for name in contract if name not in NAMES] == []


@pytest.mark.parametrize("name", NAMES)
def test_each_command_has_help_with_an_example(name: str) -> None:
    group = LazyGroup("swarmd")
    command = group.get_command(click.Context(group), name)
    assert command is not None
    assert command.help
    commands = command.commands.values() if isinstance(command, click.Group) else [command]
    for leaf in commands:
        assert leaf.help
        assert leaf.epilog is not None
        assert "swarmd " in leaf.epilog
        options = {option for parameter in leaf.params for option in parameter.opts}
        assert "--json" in options or name == "run"
        for parameter in leaf.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, parameter.opts


def test_the_summaries_fit_one_line(swarmd: Run) -> None:
    ended = swarmd("--help")
    assert ended.code == 0
    for name in NAMES:
        assert f"\n  {name}" in ended.out
    assert max(map(len, ended.out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("error", "code", "rule"),
    [
        (PolicyError("group.unknown", "no such group"), 1, "group.unknown"),
        (StorageError("disk full"), 1, ""),
        (TransportError("connection lost"), 1, ""),
        (ConfigError("bad parameter"), 2, ""),
        (NotYetError("approvals.missing", "1 of 2"), 3, "approvals.missing"),
        (ControlError(ErrorCode.INTERNAL, "a defect"), 1, ""),
        (RuntimeError("unexpected"), 1, ""),
    ],
)
def test_errors_of_the_daemon_become_exit_codes(
    swarmd: Run, node: DataDir, error: Exception, code: int, rule: str
) -> None:
    def fail(_params: object) -> object:
        raise error

    with ControlDaemon({"status": fail}).running(node.control_socket):
        plain = swarmd("status", "-C", node.path)
        as_json = swarmd("status", "-C", node.path, "--json")
    assert (plain.code, plain.out) == (code, "")
    assert plain.reason
    assert as_json.code == code
    assert as_json.document["error"]["rule"] == rule
    assert as_json.document["error"]["message"] == as_json.reason


def test_without_a_daemon_one_line_says_how_to_start_it(swarmd: Run, node: DataDir) -> None:
    ended = swarmd("status", "-C", node.path)
    assert ended.code == 1
    assert ended.reason.startswith(f"no daemon runs on {node.path}; start it with: swarmd run")


def test_a_folder_that_is_no_node_is_a_usage_error(swarmd: Run, tmp_path: Path) -> None:
    ended = swarmd("status", "-C", tmp_path)
    assert ended.code == 2
    assert "no data directory" in ended.reason


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["status"],
        ["status", "-C", "x", "surplus"],
        ["approve", "abc", "-C", "x", "--key", __file__],
        ["init", "x", "--role", "king"],
        ["ledger", "-C", "x", "--from", "-1"],
        ["keys", "show", "/does/not/exist"],
        ["demo", "--image", __file__],
    ],
)
def test_mistakes_on_the_command_line_end_with_two(swarmd: Run, arguments: list[str]) -> None:
    ended = swarmd(*arguments)
    assert (ended.code, ended.out) == (2, "")
    as_json = swarmd(*arguments, "--json")
    assert as_json.code == 2
    assert as_json.document["error"]["code"] == "usage"


def test_no_command_shows_help_and_is_a_usage_error(swarmd: Run) -> None:
    ended = swarmd()
    assert ended.code == 2
    assert "Set up" in ended.err


def test_the_version_is_shown(swarmd: Run) -> None:
    ended = swarmd("--version")
    assert ended.code == 0
    assert ended.out.startswith("swarmd ")


def test_the_environment_may_name_the_folder(
    swarmd: Run, node: DataDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWARMD_DIR", str(node.path))
    with ControlDaemon({"status": lambda _params: {"height": 7}}).running(node.control_socket):
        assert swarmd("status", "--json").document == {"height": 7}


def test_a_reader_that_leaves_ends_the_command_quietly(
    node: DataDir, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def leave(*_arguments: object, **_options: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("swarmd.cli.main.os.dup2", lambda *_descriptors: None)
    monkeypatch.setattr("swarmd.cli.query.call", leave)
    assert run(["status", "-C", str(node.path)]) == 1
    assert capfd.readouterr().err == ""


def test_ctrl_c_ends_with_130(swarmd: Run, node: DataDir, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("swarmd.cli.query.call", interrupt)
    ended = swarmd("status", "-C", node.path)
    assert (ended.code, ended.err.strip()) == (130, "swarmd: interrupted")


def test_an_unexpected_system_error_is_one_line(
    swarmd: Run, node: DataDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise PermissionError(13, "Permission denied", "/some/file")

    monkeypatch.setattr("swarmd.cli.query.call", fail)
    ended = swarmd("status", "-C", node.path)
    assert (ended.code, ended.reason) == (1, "/some/file: Permission denied")


def test_a_package_of_the_same_name_is_noticed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(entry, "_PACKAGES", ("protocol", "json"))
    with pytest.raises(SystemExit) as ended:
        entry.main()
    assert ended.value.code == 1
    assert "package 'json' is not swarmd's" in capsys.readouterr().err


def test_the_entry_point_runs_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["swarmd", "--version"])
    with pytest.raises(SystemExit) as ended:
        entry.main()
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("swarmd ")
