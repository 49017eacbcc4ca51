"""Ports for servers that must be told theirs before they start."""

from __future__ import annotations

import random
import socket

# Below the kernel's own range (32768 and up on Linux), from which every outgoing connection takes one: a port from
# there may be gone between the look and the server's start.
RANGE = range(10_000, 32_000)
_given: set[int] = set()


def free_port() -> int:
    """Return a port of 127.0.0.1 on which nothing listens and that this process has not been given before."""
    while True:
        port = random.SystemRandom().choice(RANGE)
        if port in _given:
            continue
        _given.add(port)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
