"""Fixtures of the command line's tests: a node's folder, its daemon, and how to run a command."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from swarmd.cli.main import run
from swarmd.config import Config
from swarmd.config_template import render_config
from swarmd.datadir import DataDir
from tests.support.ledger import Lab, make_lab


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out)

    @property
    def reason(self) -> str:
        """The one line on stderr."""
        (line,) = self.err.splitlines()
        assert line.startswith("swarmd: ")
        return line.removeprefix("swarmd: ")


Run = Callable[..., Ended]


@pytest.fixture
def swarmd(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command line in this process."""

    def command(*arguments: object) -> Ended:
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    return command


@pytest.fixture(scope="session")
def ledger_lab() -> Lab:
    """A chain with every key at hand."""
    return make_lab()


@pytest.fixture
def node(tmp_path: Path, ledger_lab: Lab) -> DataDir:
    """The folder of a node of that chain, without keys."""
    directory = DataDir(tmp_path / "node")
    directory.create()
    directory.config.write_text(render_config(Config()))
    directory.genesis.write_bytes(ledger_lab.genesis.encode())
    return directory
