"""A control server in a thread of its own, for tests of the blocking client and its commands.

Server, socket and protocol are the real ones; the methods are what a test says they are.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio

from swarmd.control.server import Report, serve_control

Method = Callable[[dict[str, Any]], Any]
"""Parameters in, result out, or something to await for it; raises to refuse."""


class ControlDaemon:
    """Answers the methods of a test and remembers what it was asked."""

    def __init__(self, methods: Mapping[str, Method]) -> None:
        """Serves `methods`; more may be added while it runs."""
        self.methods = dict(methods)
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.progress: list[Mapping[str, Any]] = []

    def params_of(self, method: str) -> list[dict[str, Any]]:
        """The parameters of each request for one method."""
        return [params for name, params in self.requests if name == method]

    async def _answer(self, method: str, params: Mapping[str, object], report: Report) -> Any:
        self.requests.append((method, dict(params)))
        for fields in self.progress:
            await report(fields)
        result = self.methods[method](dict(params))
        return await result if inspect.isawaitable(result) else result

    @contextmanager
    def running(self, path: Path) -> Iterator[ControlDaemon]:
        """Serves the socket at `path` while the block runs."""
        started = threading.Event()
        tokens: list[tuple[trio.lowlevel.TrioToken, trio.CancelScope]] = []
        handlers = {name: partial(self._answer, name) for name in self.methods}

        async def main() -> None:
            async with trio.open_nursery() as nursery:
                await nursery.start(partial(serve_control, path, handlers))
                tokens.append((trio.lowlevel.current_trio_token(), nursery.cancel_scope))
                started.set()

        thread = threading.Thread(target=trio.run, args=(main,))
        thread.start()
        assert started.wait(5), "the control server did not start"
        try:
            yield self
        finally:
            token, scope = tokens[0]
            token.run_sync_soon(scope.cancel)
            thread.join(5)
            assert not thread.is_alive(), "the control server did not stop"
