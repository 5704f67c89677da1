"""Gives out TCP ports that no other test process on this machine is given."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path

# Below the range from which Linux takes the local ports of outgoing connections: one of those could
# sit on our port just when a server is restarted.
_RANGE = range(20000, 32000)

# A lock lives as long as its file is open, that is, until this process ends in whatever way.
_held: list[int] = []


def free_port() -> int:
    """Returns a port of 127.0.0.1 that is free, and reserved until this process ends."""
    folder = Path(tempfile.gettempdir()) / f"rejection-repair-ports-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    for port in random.sample(_RANGE, len(_RANGE)):
        lock = os.open(folder / str(port), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port))
        except OSError:
            os.close(lock)
            continue
        _held.append(lock)
        return port
    raise RuntimeError("no free port on 127.0.0.1")
