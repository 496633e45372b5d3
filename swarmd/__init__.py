"""The daemon: services, network adapter, control interface, command line and simulation.

The only package that knows trio, libp2p, the clock, randomness and threads. It wires the pure
machines of `protocol`, `chunks` and `ledger` to the world.
"""

__project__ = "swarmd"
