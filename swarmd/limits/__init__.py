"""How many bytes of images may go to and come from peers: limits, schedules, the off switch.

`traffic` is the pure machine, `service` runs it. Nothing here sleeps in a worker thread or keeps
anybody from reading: sending waits for its turn, asking is withheld.
"""
