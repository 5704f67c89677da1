"""Shows an incident, its repair, and an import. With `ONCE=1` it ends after the proofs."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import threading
from pathlib import Path
from types import FrameType

from demo import history, incident
from demo.curl import CallFailed
from demo.proof import NotWhole
from demo.terminal import Terminal
from tests.harness.client import REPAIR_API, MatrixError
from tests.harness.federation import Pair, running
from tests.harness.incident import Incident
from tests.harness.server import Server
from tests.oldworld import OldRoom


def main() -> int:
    terminal = Terminal()
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, _end)
    folder = Path(tempfile.mkdtemp(prefix="rejection-repair-demo-"))
    try:
        return _demo(terminal, folder, once=os.environ.get("ONCE", "") not in ("", "0"))
    except KeyboardInterrupt:
        terminal.failed("Interrupted before the proof was complete.")
        return 130
    except (NotWhole, CallFailed, MatrixError, RuntimeError, TimeoutError) as e:
        terminal.failed(f"The demo has failed. {e}")
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _end(signum: int, frame: FrameType | None) -> None:
    # Through the stack, so that the servers are stopped and the folder is removed.
    sys.exit(128 + signum)


def _demo(terminal: Terminal, folder: Path, *, once: bool) -> int:
    terminal.act("First act: events are lost, and repaired")
    terminal.heading("Two servers")
    a, b = Server(folder / "a", modules=[]), Server(folder / "b")
    terminal.say(
        f"Two real Synapse {b.install.version} start on this machine, both from "
        "example_homeserver.yaml, and federate. B loads the module. All that they keep is in "
        f"{folder}."
    )
    with running(a, b):
        terminal.table(("", "name", "for clients"), ("A", a.name, a.url), ("B", b.name, b.url))
        repaired = incident.play(terminal, Pair(a, b))
        terminal.act("Second act: a server is gone, and its history comes back")
        old = Server(folder / "old", modules=[])
        imported = history.play(terminal, old, b, (a, repaired.room.alice))
        if once:
            return 0
        return _keep_up(terminal, repaired, imported)


def _keep_up(terminal: Terminal, incident: Incident, world: OldRoom) -> int:
    terminal.act("To play with")
    room = incident.room
    terminal.say("A and B stay up. Log in with a client that lets you name a homeserver.")
    users = (room.alice, incident.late, room.bob, room.carol, world.bob)
    rows = [
        (user.user_id, "password of " + user.user_id[1:].split(":")[0], user.access_token, user.url)
        for user in users
    ]
    terminal.table(("user", "password", "access token", "homeserver"), *rows)
    terminal.say(
        f"The endpoints: {room.b.url}{REPAIR_API}/rooms (administrators: {room.bob.user_id}, "
        f"{world.bob.user_id}). The room of the first act: {room.room_id}; of the second, which "
        f"only {world.bob.user_id} is in: {world.room_id}. "
        f"The servers' logs: {room.a.log_path}, {room.b.log_path}."
    )
    terminal.say("Ctrl-C stops the servers and removes everything.")
    try:
        while room.a.running and room.b.running:
            threading.Event().wait(1)
    except KeyboardInterrupt:
        terminal.say("Stopping.")
        return 0
    raise RuntimeError("A server has ended by itself:\n" + room.b.log_text()[-2000:])


if __name__ == "__main__":
    sys.exit(main())
