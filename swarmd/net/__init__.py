"""The network: authenticated connections, bounded streams and gossip between nodes.

`network.py` holds the public interface; everything below it hides libp2p, which is imported only
when a network is opened.
"""
