"""Shows an incident and its repair. Environment: `ONCE=1` to end after the proof."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import FrameType

from demo.curl import CallFailed, Shell
from demo.proof import NotWhole, prove
from demo.terminal import Terminal
from tests.harness.client import REPAIR_API, MatrixError, quoted
from tests.harness.federation import Pair, running
from tests.harness.incident import Incident, make_incident
from tests.harness.server import Server

_ROOM_VERSION = "10"
_REPAIR_TIMEOUT = 120.0


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
    terminal.heading("Two servers")
    a, b = Server(folder / "a", modules=[]), Server(folder / "b")
    terminal.say(
        f"Two real Synapse {b.install.version} start on this machine, both from "
        "example_homeserver.yaml, and federate. B loads the module. All that they keep is in "
        f"{folder}."
    )
    with running(a, b):
        terminal.table(("", "name", "for clients"), ("A", a.name, a.url), ("B", b.name, b.url))
        incident = _break(terminal, Pair(a, b))
        _show_broken(terminal, incident)
        shell = _shell(terminal, incident)
        _understand(terminal, shell)
        _repair(terminal, shell)
        _show_whole(terminal, incident)
        if once:
            return 0
        return _keep_up(terminal, incident)


def _break(terminal: Terminal, pair: Pair) -> Incident:
    terminal.heading("The incident")
    room = pair.room(_ROOM_VERSION)
    terminal.say(
        f"{room.alice.user_id} of A has made a room; {room.bob.user_id} and {room.carol.user_id} "
        "of B are in it. Now she makes carol a moderator. B's auth check errs once, and rejects "
        "that one m.room.power_levels event. All that A sends from then on cites it, so B rejects "
        "that too: messages, a thread, edits, reactions, redactions, a topic, a join. B's own "
        "messages still go out."
    )
    return make_incident(room)


def _show_broken(terminal: Terminal, incident: Incident) -> None:
    terminal.heading("What B's users see of it")
    room = incident.room
    rows: list[tuple[str, ...]] = [("", "on A", "on B")]
    seen = [
        (
            str(len(user.messages(room.room_id))),
            repr(user.get_state(room.room_id, "m.room.topic")["topic"]),
            str(len(user.members(room.room_id))),
            str(len(user.search(incident.WORD, [room.room_id]))),
        )
        for user in (room.alice, room.bob)
    ]
    what = ("events in the room", "topic", "members", f"messages with the word {incident.WORD}")
    rows += [(name, *found) for name, *found in zip(what, *seen, strict=True)]
    terminal.table(*rows)
    try:
        room.carol.send_state(room.room_id, "m.room.topic", {"topic": "I am a moderator"})
    except MatrixError as e:
        terminal.say(f"Carol, a moderator in A's eyes, sets the topic on B: {e.status}, {e.error}.")
    else:
        raise NotWhole("B let the moderator act, so there has been no incident")


def _shell(terminal: Terminal, incident: Incident) -> Shell:
    terminal.heading("What B's administrator finds")
    room = incident.room
    terminal.say(f"{room.bob.user_id} is an administrator of B, and has a shell.")
    shell = Shell(
        terminal,
        {
            "TOKEN": room.bob.access_token,
            "API": room.b.url + REPAIR_API,
            "ROOM": quoted(room.room_id)[1:],
        },
    )
    shell.show_variables()
    return shell


def _understand(terminal: Terminal, shell: Shell) -> None:
    terminal.say("Which rooms have rejected events?")
    (room,) = shell.call("$API/rooms")["rooms"]
    terminal.say("What happened in this one? One root, which passes the checks today; a cascade.")
    (root,) = shell.call("$API/rooms/$ROOM/diagnosis")["roots"]
    if root["verdict"] != "accept" or root["cascade"]["count"] + 1 != room["rejected_events"]:
        raise NotWhole("that is not the diagnosis of the incident that was made")
    terminal.say("And what would have to be mended?")
    if shell.call("$API/rooms/$ROOM/health")["healthy"]:
        raise NotWhole("the room is said to be healthy")


def _repair(terminal: Terminal, shell: Shell) -> None:
    terminal.heading("The repair")
    terminal.say("What would a repair do? This only looks:")
    plan = shell.call("$API/rooms/$ROOM/repair", {})
    terminal.say("That is what we want: the same again for real, bound to what we have just seen.")
    started = shell.call("$API/rooms/$ROOM/repair", {"dry_run": False, "plan": plan["fingerprint"]})
    status = f"$API/repairs/{started['repair_id']}"
    deadline = time.monotonic() + _REPAIR_TIMEOUT
    while (repair := shell.call(status, show=False))["status"] in ("scheduled", "active"):
        if time.monotonic() > deadline:
            raise TimeoutError(f"The repair is not over after {_REPAIR_TIMEOUT:g} s: {repair}")
        time.sleep(0.1)
    terminal.say("It runs in the background, on the live server. A moment later:")
    repair = shell.call(status)
    foretold = plan["summary"]
    if (repair["status"], repair["accepted"], repair["rejected"], repair["state_changes"]) != (
        "complete",
        foretold["accept"],
        foretold["reject"],
        foretold["state_changes"],
    ):
        raise NotWhole("the repair did not do what the dry run foretold")
    terminal.say("Is the room healthy now?")
    if not shell.call("$API/rooms/$ROOM/health")["healthy"]:
        raise NotWhole("the room is not healthy after the repair")


def _show_whole(terminal: Terminal, incident: Incident) -> None:
    terminal.heading("The proof: B, held against A, which never erred")
    terminal.say("What users of B see and can do now:")
    for what, detail in prove(incident):
        terminal.proved(what, detail)
    terminal.say("The room is whole.")


def _keep_up(terminal: Terminal, incident: Incident) -> int:
    terminal.heading("To play with")
    room = incident.room
    terminal.say("Both servers stay up. Log in with a client that lets you name a homeserver.")
    users = (room.alice, incident.late, room.bob, room.carol)
    rows = [
        (user.user_id, "password of " + user.user_id[1:].split(":")[0], user.access_token, user.url)
        for user in users
    ]
    terminal.table(("user", "password", "access token", "homeserver"), *rows)
    terminal.say(
        f"The endpoints: {room.b.url}{REPAIR_API}/rooms (administrator: {room.bob.user_id}). "
        f"The room: {room.room_id}. The servers' logs: {room.a.log_path}, {room.b.log_path}."
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
