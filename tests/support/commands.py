"""Commands of the command line, run beside nodes in one process."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

import trio

from swarmd.cli.main import run


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


async def command(*arguments: object) -> Ended:
    """Runs a command in a thread, while the nodes go on."""
    out, err = io.StringIO(), io.StringIO()

    def call() -> int:
        with redirect_stdout(out), redirect_stderr(err):
            return run([str(argument) for argument in arguments])

    code = await trio.to_thread.run_sync(call)
    return Ended(code, out.getvalue(), err.getvalue())


async def rule_of(*arguments: object) -> str:
    """The rule that refuses a command."""
    ended = await command(*arguments, "--json")
    assert ended.code in (1, 3), ended
    rule: str = ended.document["error"]["rule"]
    return rule
