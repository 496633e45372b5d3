"""libtorrent in the roles of benchmarks/peer_swarmd.py, tuned for a fast local network.

`--opt` takes JSON: {"listen": "ip:port", "piece_kib": 1024}. Plain TCP, no encryption, no
discovery. The torrent file lies beside the seeder's image, the parent of each leecher's folder.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import libtorrent

FULL_SPEED = {
    "aio_threads": 4,
    "hashing_threads": 2,
    "max_queued_disk_bytes": 64 << 20,
    "max_out_request_queue": 500,
    "max_allowed_in_request_queue": 6000,
    "request_queue_time": 10,
    "send_buffer_low_watermark": 1 << 20,
    "send_buffer_watermark": 2 << 20,
    "send_buffer_watermark_factor": 200,
    "recv_socket_buffer_size": 4 << 20,
    "send_socket_buffer_size": 4 << 20,
    "connection_speed": 500,
    "unchoke_slots_limit": 100,
    "mixed_mode_algorithm": 0,
    "allow_multiple_connections_per_ip": True,
}
CLOSED = {
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_incoming_utp": False,
    "enable_outgoing_utp": False,
    "in_enc_policy": 2,
    "out_enc_policy": 2,
}


def say(line: str) -> None:
    """Tells the driver."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def write_torrent(folder: Path, target: Path, piece_bytes: int) -> None:
    """Describes the image."""
    files = libtorrent.file_storage()
    files.add_file("fw.bin", (folder / "fw.bin").stat().st_size)
    maker = libtorrent.create_torrent(
        files, piece_size=piece_bytes, flags=libtorrent.create_torrent.v1_only
    )
    libtorrent.set_piece_hashes(maker, str(folder))
    target.write_bytes(libtorrent.bencode(maker.generate()))


def wait_until_settled(session: Any, handle: Any) -> None:
    """Waits until it listens and has looked at what is on the disk."""
    while not session.is_listening() or "check" in str(handle.status().state):
        time.sleep(0.01)


def run(role: str, folder: Path, options: dict[str, Any]) -> None:
    """Plays a role until the process is killed."""
    listen = str(options.get("listen", "127.0.0.1:0"))
    torrent = (folder if role == "seed" else folder.parent) / "fw.torrent"
    if role == "seed":
        write_torrent(folder, torrent, int(options.get("piece_kib", 1024)) * 1024)
    session = libtorrent.session({**CLOSED, **FULL_SPEED, "listen_interfaces": listen})
    what = libtorrent.load_torrent_file(str(torrent))
    what.save_path = str(folder)
    flags = libtorrent.torrent_flags
    what.flags &= ~(flags.auto_managed | flags.paused)
    if role == "seed":
        what.flags |= flags.seed_mode
    handle = session.add_torrent(what)
    wait_until_settled(session, handle)
    say(f"READY {listen.rsplit(':', 1)[0]}:{session.listen_port()}")
    if role == "leech":
        for word in sys.stdin.readline().split()[1:]:
            host, port = word.rsplit(":", 1)
            handle.connect_peer((host, int(port)))
        while not handle.status().is_seeding:
            session.wait_for_alert(20)
            session.pop_alerts()
        say("DONE")
    sys.stdin.read()


def main() -> None:
    """Reads the role."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--role", choices=("seed", "leech"), required=True)
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--leechers", type=int, default=1)
    parser.add_argument("--opt", default="{}")
    arguments = parser.parse_args()
    run(arguments.role, arguments.dir, json.loads(arguments.opt))


if __name__ == "__main__":
    main()
