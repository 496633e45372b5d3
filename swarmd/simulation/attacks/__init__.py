"""Attacks on a swarm, each with what must hold all the same; `docs/attacks.md` is made from them."""
