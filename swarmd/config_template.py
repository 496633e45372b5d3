"""Writes `config.toml` with every setting, its meaning and its range, for people to edit."""

from __future__ import annotations

import dataclasses
import json
from enum import Enum
from typing import Final

from protocol.errors import LocalProtocolError
from swarmd.config import SECTIONS, Config, Endpoint
from swarmd.net.address import DNSAddress, PeerAddress

_HEADER: Final = """\
# Configuration of a swarmd node. Every setting is listed with its value; a line may be deleted to
# take the default. Unknown names are errors. Restart the daemon after a change;
# `swarmd doctor -C DIR` checks this file.
"""

COMMENTS: Final[dict[str, str]] = {
    "node": "What this node is to the people who run it.",
    "node.name": "For people, at most 64 bytes. Shown in status and logs.",
    "node.groups": "Device groups whose images this node holds and serves (at most 16). The node\n"
    "must belong to them in the ledger too.",
    "node.log_level": "error, warning, info or debug; the log goes to stderr.",
    "network": "Where this node listens, whom it calls first, what peers may cost it.",
    "network.listen": "Addresses for peers, such as 0.0.0.0:7001 or [::]:7001 (at most 8).\n"
    "Empty: this node only calls others.",
    "network.bootstrap": "Peers to call first: /ip4/ADDRESS/tcp/PORT/p2p/PEER, or with\n"
    "/ip6/ or /dns4/NAME, or /dnsaddr/NAME whose TXT records list such (at most 128).",
    "network.resolver": "DNS server for names, such as 192.0.2.53:53; empty: the system's.",
    "network.peers_wanted": "Members to be connected to, 0 to 1024; beyond the bootstrap,\n"
    "peers that other members tell of are called for it.",
    "network.peer_exchange": "Whether addresses are exchanged with other members.",
    "network.announce": "Addresses at which others reach this node, such as 203.0.113.7:7001, for\n"
    "members to know (at most 8). Those that members find by themselves are added.",
    "network.forward": "Whether this node passes connections on between members that cannot reach\n"
    "each other directly. They are encrypted from end to end.",
    "network.forward_streams_max": "Connections passed on at a time, 1 to 1024.",
    "network.forward_bytes_per_s": "Bytes passed on each second, 65536 to 1073741824; one member\n"
    "gets at most a quarter.",
    "network.lan_interface": "Interface, by name or IPv4 address, on which peers are looked for\n"
    "by multicast DNS, and on no other; empty: nowhere.",
    "network.lan_networks": 'Networks whose peers count as near, such as "192.168.1.0/24"; "auto"\n'
    "stands for those this machine is on. Empty: no peer is near.",
    "network.member_connections_max": "Connections of members at a time, 4 to 4096; about 100\n"
    "KiB of memory each.",
    "network.stranger_connections_max": "Connections of peers that have not shown yet that they\n"
    "are members, 1 to 256.",
    "network.metered": "Whether bytes cost money here. Such a node listens nowhere, keeps to two\n"
    "of its bootstrap peers (eight while it fetches), hears no gossip (it asks them instead,\n"
    "every one and a half heartbeats), and relays nothing for others. Name members\n"
    "that hold images among its bootstrap.",
    "network.keepalive_s": "Seconds of silence after which a called peer is probed, so that\n"
    "address translation on the way does not forget the connection: 30 to 7200, or 0 for\n"
    "120, on a metered node 300. Each probe costs 104 bytes.",
    "network.lane_port": "TCP port of bulk lanes, which carry image data beside the connections\n"
    'for peers; let it through the firewall too. 0 takes a free one, "off" does without lanes.',
    "network.packing": 'Whether chunks are compressed on their way to peers: "auto" does unless a\n'
    'peer takes more than 8 MiB/s, "always" or "never".',
    "network.relay": "Whether chunks of images that are fetched are taken unasked and passed on:\n"
    '"on", "leaf" (taken, never passed on: metered links) or "off".',
    "network.site": "Name of this node's local network, at most 32 bytes: nodes of the same name\n"
    "are served first, and an image crosses between two names once. Empty: none.",
    "http": "Read-only access to authorised images, for the devices behind this gateway.",
    "http.listen": 'Address for devices, or "off". It has no passwords: keep it on loopback or on\n'
    "a network that only devices share.",
    "http.serve_plain": "true: devices may also have sealed images opened here, by their plain\n"
    "digest. That sends plain bytes over this address; false: devices open them themselves.",
    "storage": "How much disk images may take.",
    "storage.quota_bytes": "Bytes of images and downloads together, 1 MiB to 1 PiB.",
    "storage.files_max": "Images and downloads, one file each, 1 to 65536.",
    "storage.reserve_bytes": "Bytes of the disk that images leave free, so that the ledger and a\n"
    "validator's votes can always be written; 0 to 1 TiB.",
    "storage.keep_releases": "Newest whole releases of each product in each group that are kept\n"
    "while there is room, 1 to 64. What devices run and what is pinned stays in any case.",
    "storage.scrub_days": "Within so many days everything stored is read and hashed again, and\n"
    "what rotted is fetched anew, 0 to 3650; 0: never.",
    "storage.scrub_bytes_per_s": "How fast that reads at most, 65536 to 1073741824 bytes a\n"
    "second. It waits while peers are busy with this node.",
    "floor": "What this gateway demands beyond the policy of a group. It can only tighten.",
    "floor.approvals_min": "Owner approvals an image needs here, 1 to 32. The policy holds if it\n"
    "asks for more.",
    "floor.products": "The only products this node takes; empty: any.",
    "floor.roles": 'Roles of which one holder each must have approved, such as ["auditor"].',
    "floor.rule": "A rule, as JSON, about the manifest and its approvals; empty: none. Such as\n"
    '\'{"k_of": {"count": 1, "of": ["auditor"]}}\'.',
    "floor.offer_freshness_ms": "Milliseconds without news after which nothing is offered; 0: the\n"
    "policy's limit alone.",
    "floor.soak_ms": "Milliseconds between authorisation and the first offer.",
    "floor.witnesses": "Verifier keys of outside witnesses that must have cosigned the log;\n"
    "empty: none beyond those of the policies.",
    "floor.witness_threshold": "How many of them must have, 1 to 16.",
    "floor.witness_age_ms": "How old their cosignatures may be, milliseconds.",
    "floor.windows": 'When releases are offered, such as "Sat,Sun 01:00-05:00" (UTC); empty:\n'
    "whenever the policy allows.",
    "ledger": "How this node follows the chain, or takes part in it.",
    "ledger.view_timeout_ms": "Validators: first estimate of a message's delay, milliseconds,\n"
    "50 to 60000. It grows while views fail.",
    "traffic": "How many bytes of images may go to and come from peers, in KiB per second; 0: no\n"
    "limit, else at least 16. The ledger is not counted. `swarmd traffic` changes it by hand.",
    "traffic.up_kib_s": "To all peers beyond the site together.",
    "traffic.down_kib_s": "From all of them together.",
    "traffic.peer_up_kib_s": "To each of them.",
    "traffic.peer_down_kib_s": "From each of them.",
    "traffic.lan_up_kib_s": "To all peers of the same site (private addresses) together.",
    "traffic.lan_down_kib_s": "From all of them together.",
    "traffic.schedule": "Other rates at some times of the week (UTC), the first entry that holds,\n"
    'such as "Mon,Tue,Wed,Thu,Fri 08:00-18:00 up=64 down=256"; at most 16.',
    "ledger.keep_blocks": "Bodies of final blocks to keep, the newest ones; 0 keeps all. Headers,\n"
    "certificates and the present state stay in any case.",
}
"""What the file says about each section and setting."""


def _toml(value: object) -> str:
    """Writes one value; JSON's text form is also TOML's."""
    match value:
        case bool():
            return "true" if value else "false"
        case Enum():
            return json.dumps(value.value, ensure_ascii=False)
        case int():
            return str(value)
        case None:
            return '"off"'
        case Endpoint() | PeerAddress() | DNSAddress():
            return json.dumps(str(value))
        case str():
            return json.dumps(value, ensure_ascii=False)
        case tuple() if len(value) > 1:
            return "[\n" + "".join(f"    {_toml(item)},\n" for item in value) + "]"
        case tuple():
            return "[" + ", ".join(_toml(item) for item in value) + "]"
        case _:
            raise LocalProtocolError(f"a setting of type {type(value).__name__} cannot be written")


def _comment(name: str) -> str:
    return "".join(f"# {line}\n" for line in COMMENTS[name].split("\n"))


def render_config(config: Config) -> str:
    """The whole file; `parse_config` reads back an equal `Config`."""
    parts = [_HEADER]
    for section in SECTIONS:
        parts.append(f"\n{_comment(section)}[{section}]\n")
        values = getattr(config, section)
        for item in dataclasses.fields(values):
            value = _toml(getattr(values, item.name))
            parts.append(f"{_comment(f'{section}.{item.name}')}{item.name} = {value}\n")
    return "".join(parts)
