"""A tiny DNS server on 127.0.0.1, for tests: answers from a table, counts, and fails on command."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import trio


@dataclass
class DNSServer:
    """What it answers; records are (name, type) -> texts."""

    records: dict[tuple[str, str], list[str]]
    port: int = 0
    life_s: int = 60
    is_silent: bool = False
    asked: list[tuple[str, str]] = field(default_factory=list)

    def answer(self, data: bytes) -> bytes | None:
        query = dns.message.from_wire(data)
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True)
        kind = dns.rdatatype.to_text(question.rdtype)
        self.asked.append((name, kind))
        if self.is_silent:
            return None
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA
        known = [key for key in self.records if key[0] == name]
        if not known:
            response.set_rcode(dns.rcode.NXDOMAIN)
        texts = self.records.get((name, kind), [])
        if texts:
            response.answer.append(
                dns.rrset.from_text_list(question.name, self.life_s, "IN", kind, texts)
            )
        return response.to_wire()


@asynccontextmanager
async def dns_server(records: dict[tuple[str, str], list[str]]) -> AsyncIterator[DNSServer]:
    """Serves on a free UDP port of 127.0.0.1 for the duration of a block."""
    server = DNSServer(records)
    sock = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    await sock.bind(("127.0.0.1", 0))
    server.port = sock.getsockname()[1]

    async def serve() -> None:
        while True:
            data, client = await sock.recvfrom(4096)
            reply = server.answer(data)
            if reply is not None:
                await sock.sendto(reply, client)

    with sock:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            yield server
            nursery.cancel_scope.cancel()
