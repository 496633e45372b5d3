"""Whole daemons in one process, on a clock that jumps and a network in memory.

Nothing of a node is left out but sockets: stores on disk, libp2p with its handshakes and gossip,
ledger, exchange, reach and operators' calls run as in the daemon. One seed decides what is random.
"""
