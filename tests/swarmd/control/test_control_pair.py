"""The real server and the real client over a real Unix socket; and clients that misbehave."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import trio

from protocol.errors import (
    ConfigError,
    NotYetError,
    PolicyError,
    RemoteProtocolError,
    StorageError,
    TransportError,
)
from swarmd.control import client, server
from swarmd.control.client import ControlClient
from swarmd.control.protocol import ANSWER_BYTES_MAX, LINE_BYTES_MAX, ControlError, ErrorCode
from swarmd.control.server import Report, serve_control


async def echo(params: Mapping[str, object], report: Report) -> object:
    await report({"stage": "echo", "bytes": 1, "total": 2})
    return dict(params)


async def refuse(params: Mapping[str, object], report: Report) -> object:
    raise PolicyError("group.unknown", "no such group")


async def not_yet(params: Mapping[str, object], report: Report) -> object:
    raise NotYetError("approvals.missing", "1 of 2 approvals")


async def usage(params: Mapping[str, object], report: Report) -> object:
    raise ConfigError("parameter 'x' is missing")


async def broken(params: Mapping[str, object], report: Report) -> object:
    raise ZeroDivisionError("a defect")


async def grouped(params: Mapping[str, object], report: Report) -> object:
    async def fail() -> None:
        raise PolicyError("inner.rule", "refused deep inside")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail)


async def not_json(params: Mapping[str, object], report: Report) -> object:
    return {"bytes": b"raw"}


async def too_long(params: Mapping[str, object], report: Report) -> object:
    return "x" * ANSWER_BYTES_MAX


HANDLERS = {
    "echo": echo,
    "refuse": refuse,
    "not_yet": not_yet,
    "usage": usage,
    "broken": broken,
    "grouped": grouped,
    "not_json": not_json,
    "too_long": too_long,
}


@contextlib.asynccontextmanager
async def serving(path: Path, handlers=HANDLERS):
    async with trio.open_nursery() as nursery:
        await nursery.start(
            lambda task_status: serve_control(path, handlers, task_status=task_status)
        )
        yield
        nursery.cancel_scope.cancel()


@pytest.fixture
def socket_path(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir(mode=0o700)
    return tmp_path / "run" / "control.sock"


def mode_of(path: Path) -> int | None:
    return path.stat().st_mode & 0o777 if path.exists() else None


def call(path: Path, method: str, params=None, on_progress=None):
    with ControlClient(path) as connection:
        return connection.call(method, params or {}, on_progress)


async def in_thread(function: Callable[..., object], *arguments: object):
    with trio.fail_after(10):
        return await trio.to_thread.run_sync(function, *arguments, abandon_on_cancel=True)


async def exchange(path: Path, data: bytes, *, half_close: bool = False) -> list[dict[str, object]]:
    """Sends raw bytes and returns the answer lines until the server ends or answers once."""
    stream = await trio.open_unix_socket(path)
    async with stream:
        # A server that has seen enough stops reading; its answer is still to be read.
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.send_all(data)
        received = b""
        with trio.fail_after(10):
            while not received.endswith(b"\n"):
                part = await stream.receive_some(65536)
                if not part:
                    break
                received += part
    return [json.loads(line) for line in received.splitlines()]


async def test_result_and_progress_reach_the_client(socket_path: Path) -> None:
    seen: list[Mapping[str, object]] = []
    async with serving(socket_path):
        result = await in_thread(call, socket_path, "echo", {"a": [1, "ü"]}, seen.append)
    assert result == {"a": [1, "ü"]}
    assert seen == [{"stage": "echo", "bytes": 1, "total": 2}]


@pytest.mark.parametrize(
    ("method", "code", "rule", "words"),
    [
        ("refuse", ErrorCode.REFUSED, "group.unknown", "no such group"),
        ("not_yet", ErrorCode.NOT_YET, "approvals.missing", "1 of 2"),
        ("usage", ErrorCode.USAGE, "", "'x' is missing"),
        ("grouped", ErrorCode.REFUSED, "inner.rule", "deep inside"),
        ("nothing", ErrorCode.USAGE, "control.method", "unknown method"),
        ("not_json", ErrorCode.INTERNAL, "", "not JSON"),
        ("too_long", ErrorCode.INTERNAL, "", "line bound"),
    ],
)
async def test_errors_keep_their_meaning(
    socket_path: Path, method: str, code: ErrorCode, rule: str, words: str
) -> None:
    async with serving(socket_path):
        with pytest.raises(ControlError, match=words) as caught:
            await in_thread(call, socket_path, method)
        assert await in_thread(call, socket_path, "echo", {"alive": True}) == {"alive": True}
    assert (caught.value.code, caught.value.rule) == (code, rule)


async def test_a_defect_is_logged_with_its_traceback_and_the_server_lives(
    socket_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(socket_path):
        with pytest.raises(ControlError, match="internal error in broken") as caught:
            await in_thread(call, socket_path, "broken")
        assert await in_thread(call, socket_path, "echo") == {}
    assert caught.value.code is ErrorCode.INTERNAL
    assert "a defect" not in str(caught.value)
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"nonsense\n",
        b"\xff\xfe\n",
        b"[]\n",
        b"{}\n",
        b'{"swarmd":2,"method":"echo"}\n',
        b'{"swarmd":true,"method":"echo"}\n',
        b'{"swarmd":1}\n',
        b'{"swarmd":1,"method":7}\n',
        b'{"swarmd":1,"method":"echo","params":[]}\n',
        b'{"swarmd":1,"method":"echo","extra":1}\n',
        b'{"swarmd":1,"swarmd":1,"method":"echo"}\n',
        b'{"swarmd":1,"method":"echo","params":{"x":NaN}}\n',
        b'{"swarmd":1,"method":"' + b"m" * 65 + b'"}\n',
        b'{"swarmd":1,"method":"echo","params":' + b"[" * 100_000 + b"\n",
        b'{"swarmd":1,"method":"echo","params":{"x":' + b"9" * 5000 + b"}}\n",
        b"x" * (LINE_BYTES_MAX + 1),
    ],
)
async def test_malformed_input_gets_an_error_and_the_server_lives(
    socket_path: Path, line: bytes
) -> None:
    async with serving(socket_path):
        [answer] = await exchange(socket_path, line)
        assert answer["error"]["code"] == "usage"
        assert answer["error"]["rule"] == "control.protocol"
        assert "\n" not in answer["error"]["message"]
        assert await in_thread(call, socket_path, "echo") == {}


async def test_two_requests_on_one_connection(socket_path: Path) -> None:
    def twice() -> list[object]:
        with ControlClient(socket_path) as connection:
            return [connection.call("echo", {"n": 1}), connection.call("echo", {"n": 2})]

    async with serving(socket_path):
        assert await in_thread(twice) == [{"n": 1}, {"n": 2}]


async def test_a_client_that_hangs_up_cancels_its_request(socket_path: Path) -> None:
    started, cancelled = trio.Event(), trio.Event()

    async def slow(params: Mapping[str, object], report: Report) -> object:
        started.set()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async with serving(socket_path, {"slow": slow}):
        stream = await trio.open_unix_socket(socket_path)
        await stream.send_all(b'{"swarmd":1,"method":"slow","params":{}}\n')
        with trio.fail_after(5):
            await started.wait()
            await stream.aclose()
            await cancelled.wait()


async def test_heartbeats_tell_a_slow_daemon_from_a_hung_one(
    socket_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async def slow(params: Mapping[str, object], report: Report) -> object:
        await trio.sleep(12)
        return "done"

    async with serving(socket_path, {"slow": slow}):
        stream = await trio.open_unix_socket(socket_path)
        async with stream:
            await stream.send_all(b'{"swarmd":1,"method":"slow","params":{}}\n')
            received = b""
            while b"result" not in received:
                received += await stream.receive_some(65536)
    lines = [json.loads(line) for line in received.splitlines()]
    assert lines == [{"progress": {}}, {"progress": {}}, {"result": "done"}]


async def test_a_silent_client_is_hung_up_on(
    socket_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with serving(socket_path):
        stream = await trio.open_unix_socket(socket_path)
        async with stream:
            begin = trio.current_time()
            assert await stream.receive_some(1) == b""
            assert trio.current_time() - begin == pytest.approx(server.IDLE_S)


async def test_clients_beyond_the_bound_are_told_so(
    socket_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "CONNECTIONS_MAX", 2)
    async with serving(socket_path):
        idle = [await trio.open_unix_socket(socket_path) for _ in range(2)]
        with pytest.raises(ControlError, match="too many clients"):
            await in_thread(call, socket_path, "echo")
        for stream in idle:
            await stream.aclose()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert await in_thread(call, socket_path, "echo") == {}


async def test_a_stale_socket_is_replaced_and_a_stopped_one_removed(socket_path: Path) -> None:
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(socket_path))
    stale.close()
    async with serving(socket_path):
        assert await in_thread(call, socket_path, "echo") == {}
        assert mode_of(socket_path) == 0o600
    assert mode_of(socket_path) is None


@pytest.fixture
def deep(tmp_path: Path) -> Path:
    path = tmp_path.joinpath(*["d" * 100] * 5)
    path.mkdir(parents=True)
    return path


async def test_a_path_far_beyond_the_address_limit_works(deep: Path) -> None:
    async with serving(deep / "control.sock"):
        assert await in_thread(call, deep / "control.sock", "echo", {"deep": 1}) == {"deep": 1}


async def test_a_socket_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="control socket"):
        await serve_control(tmp_path / "missing" / "control.sock", {})


def test_no_daemon_is_said_with_the_command_that_starts_one(socket_path: Path) -> None:
    with pytest.raises(TransportError, match=r"no daemon runs on .*; start it with: swarmd run -C"):
        ControlClient(socket_path)


def ask_as_nobody(path: Path) -> dict[str, object]:
    """Forks a child that drops root, asks, and hands the answer back through a pipe."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgid(65534)
            os.setuid(65534)
            nobody = socket.socket(socket.AF_UNIX)
            nobody.connect(str(path))
            with contextlib.suppress(BrokenPipeError):  # it may be refused before it asks
                nobody.sendall(b'{"swarmd":1,"method":"echo"}\n')
            os.write(writer, nobody.recv(65536))
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with open(reader, "rb") as file:
        data = file.read()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    return json.loads(data)


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A socket path that any user can reach, unlike those below a data directory."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder) / "control.sock"


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
async def test_another_user_is_refused(open_path: Path) -> None:
    async with serving(open_path):
        os.chmod(open_path, 0o666)
        answer = await in_thread(ask_as_nobody, open_path)
        assert await in_thread(call, open_path, "echo") == {}
    assert answer["error"]["rule"] == "control.user"
    assert "65534" in answer["error"]["message"]


def answering(path: Path, *parts: bytes) -> threading.Thread:
    """A server that is not ours: takes one request, sends `parts`, hangs up."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        with listener:
            stream, _ = listener.accept()
            with stream:
                stream.recv(65536)
                for part in parts:
                    with contextlib.suppress(OSError):
                        stream.sendall(part)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("parts", "error", "words"),
    [
        ((), TransportError, "ended before it answered"),
        ((b'{"result"',), TransportError, "ended before it answered"),
        ((b"HTTP/1.1 400 Bad Request\r\n",), RemoteProtocolError, "not a JSON line"),
        ((b'{"answer": 1}\n',), RemoteProtocolError, "neither progress, result nor error"),
        ((b"x" * 65536,) * 40, RemoteProtocolError, "answer line over"),
    ],
)
def test_the_client_survives_what_is_no_daemon(
    socket_path: Path, parts: tuple[bytes, ...], error: type[Exception], words: str
) -> None:
    thread = answering(socket_path, *parts)
    with pytest.raises(error, match=words):
        call(socket_path, "status")
    thread.join()


def test_an_answer_cut_into_pieces_is_read(socket_path: Path) -> None:
    line = b'{"progress":{"n":1}}\n{"progress":{}}\n{"result":[1,2]}\n'
    thread = answering(socket_path, *(bytes((byte,)) for byte in line))
    seen: list[Mapping[str, object]] = []
    assert call(socket_path, "status", {}, seen.append) == [1, 2]
    assert seen == [{"n": 1}]
    thread.join()


def test_a_hung_daemon_is_given_up(socket_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "SILENCE_S", 0.02)
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(socket_path))
        listener.listen()
        with pytest.raises(TransportError, match=r"silent for 0\.02 s"):
            call(socket_path, "status")


def test_a_socket_that_may_not_be_opened_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "control.sock").mkdir()
    with pytest.raises(TransportError):
        ControlClient(tmp_path / "run" / "control.sock")


async def test_a_client_that_sends_too_much_while_it_waits_is_hung_up_on(
    socket_path: Path,
) -> None:
    async def slow(params: Mapping[str, object], report: Report) -> object:
        await trio.sleep_forever()

    async with serving(socket_path, {"slow": slow, "echo": echo}):
        flood = b'{"swarmd":1,"method":"slow"}\n' + b"x" * (LINE_BYTES_MAX + 1)
        [answer] = await exchange(socket_path, flood)
        assert answer["error"]["rule"] == "control.protocol"
        assert await in_thread(call, socket_path, "echo") == {}


async def test_a_client_that_does_not_read_is_hung_up_on(
    socket_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    ended = trio.Event()

    async def talk(params: Mapping[str, object], report: Report) -> object:
        try:
            while True:
                await report({"text": "x" * 60_000})
        finally:
            ended.set()

    async with serving(socket_path, {"talk": talk}):
        stream = await trio.open_unix_socket(socket_path)
        async with stream:
            await stream.send_all(b'{"swarmd":1,"method":"talk"}\n')
            await ended.wait()
    assert trio.current_time() >= server.SEND_S


async def test_nothing_follows_a_line_that_was_cut_short(
    socket_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async def hasty(params: Mapping[str, object], report: Report) -> object:
        with trio.move_on_after(1):
            await report({"text": "x" * 1_000_000})
        return "done"

    async with serving(socket_path, {"hasty": hasty}):
        stream = await trio.open_unix_socket(socket_path)
        async with stream:
            await stream.send_all(b'{"swarmd":1,"method":"hasty"}\n')
            await trio.sleep(5)
            received = b""
            while part := await stream.receive_some(65536):
                received += part
    assert received.startswith(b'{"progress":{"text":"xxx')
    assert b"\n" not in received
