"""Runs a program that ends when whoever started it ends, however that happens.

The starter holds the writing end of a pipe. The kernel closes it even after a SIGKILL, and the
reading end, in here, then tells. (Linux's parent-death signal would not do: it fires as soon as the
*thread* that started the program ends.)

    python -m tests.harness.lifeline FD module NAME [ARGUMENT ...]
    python -m tests.harness.lifeline FD command UID GID PROGRAM [ARGUMENT ...]
"""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Callable


def _when_cut(fd: int, action: Callable[[], None]) -> None:
    """Calls `action` once nobody holds the other end of the pipe `fd` any more."""

    def watch() -> None:
        os.read(fd, 1)
        action()

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def _run_module(fd: int, name: str, arguments: list[str]) -> None:
    _when_cut(fd, lambda: os.kill(os.getpid(), signal.SIGKILL))
    sys.argv = [name, *arguments]
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def _run_command(fd: int, uid: int, gid: int, command: list[str]) -> int:
    switch = os.getuid() != uid
    child = subprocess.Popen(
        command,
        user=uid if switch else None,
        group=gid if switch else None,
        extra_groups=[] if switch else None,
    )
    # PostgreSQL's immediate shutdown. Anything else that is run here ends on it as well.
    _when_cut(fd, lambda: child.send_signal(signal.SIGQUIT))
    signal.signal(signal.SIGTERM, lambda *_: child.send_signal(signal.SIGINT))
    return child.wait()


def _main(arguments: list[str]) -> int:
    fd = int(arguments[0])
    if arguments[1] == "module":
        _run_module(fd, arguments[2], arguments[3:])
        return 0
    return _run_command(fd, int(arguments[2]), int(arguments[3]), arguments[4:])


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
