"""A call of receiving that does not return is ended; others are left alone."""

from __future__ import annotations

import socket
import threading

from swarmd.net.lane_watch import ReceiveWatch

LOOK_S = 0.002
LIMIT_S = 20.0


def test_a_call_that_does_not_return_is_ended() -> None:
    watch = ReceiveWatch(look_s=LOOK_S)
    near, far = socket.socketpair()
    with near, far:
        near.settimeout(LIMIT_S)
        watch.begins(near)
        assert near.recv(1) == b""
        watch.ends()


def test_calls_that_return_are_not_ended_however_many_there_are() -> None:
    watch = ReceiveWatch(look_s=LOOK_S)
    near, far = socket.socketpair()
    stuck, other = socket.socketpair()
    with near, far, stuck, other:
        stuck.settimeout(LIMIT_S)
        ended = threading.Event()

        def hang() -> None:
            watch.begins(stuck)
            stuck.recv(1)
            watch.ends()
            ended.set()

        thread = threading.Thread(target=hang)
        thread.start()
        while not ended.is_set():  # at least as many looks as end the other call
            watch.begins(near)
            far.send(b"x")
            assert near.recv(1) == b"x"
            watch.ends()
        thread.join()
