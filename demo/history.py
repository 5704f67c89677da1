"""The second act: a room's old history, out of the database of a server that is gone."""

from __future__ import annotations

import yaml

from demo.curl import Shell
from demo.history_proof import CHECKS
from demo.proof import NotWhole, prove
from demo.terminal import Terminal
from tests.harness.client import Client
from tests.harness.federation import running
from tests.harness.server import Server
from tests.harness.waiting import wait_for
from tests.oldworld import OldRoom, begin, come_late, live, sources, with_third

_ROOM_VERSION = "11"
_MESSAGES = 12
_SOURCE = "old"


def play(terminal: Terminal, old: Server, b: Server, guest: tuple[Server, Client]) -> OldRoom:
    """Plays the act, and returns the room, which has its history then.

    Args:
        terminal: Where it is played.
        old: The old server. It runs in the first scene alone.
        b: B, which runs.
        guest: A server that runs too, and its user who is in the room for a while.

    Raises:
        NotWhole: something is not as it is to be.
    """
    with running(old):
        world = _remember(terminal, old, b, *guest)
    _show_lost(terminal, world)
    _configure(terminal, world)
    shell = _look(terminal, world)
    _import(terminal, shell)
    _show_found(terminal, world)
    return world


def _remember(terminal: Terminal, old: Server, b: Server, other: Server, guest: Client) -> OldRoom:
    terminal.heading("An old server, and its last day")
    world = with_third(begin(old, b, _ROOM_VERSION), other, guest)
    live(world, _MESSAGES)
    # Or B could ask the guest's server for the history, now or later.
    guest.leave(world.room_id)
    wait_for(
        lambda: guest.user_id not in world.alice.members(world.room_id),
        what="the old server to see the guest leave",
    )
    come_late(world)
    terminal.say(
        f"A third server, {old.name}, has a room with a past: {world.alice.user_id} and "
        f"{world.anna.user_id} have written there, with a thread, an edit, a reaction, a "
        f"redaction, new topics; {guest.user_id} of A has been there, has written at the same time "
        f"as they did, so that the history branches, and has left. Then {world.bob.user_id} of B, "
        "an administrator, joins. The old server is stopped, for good: nobody can be asked for "
        "the history any more. Its database is left."
    )
    return world


def _show_lost(terminal: Terminal, world: OldRoom) -> None:
    terminal.heading("What B's users see of that room")
    seen = world.bob.messages(world.room_id)
    terminal.table(
        ("", "on the old server", "on B"),
        ("events in the room", str(len(world.order)), str(len(seen))),
        ("the oldest of them", "m.room.create", seen[-1]["type"]),
        ("messages with Wörd10", "1", str(len(world.bob.search("Wörd10", [world.room_id])))),
    )
    if len(seen) >= len(world.order):
        raise NotWhole("B has the history already, so there is nothing to import")


def _configure(terminal: Terminal, world: OldRoom) -> None:
    terminal.heading("What B's administrator does about it")
    terminal.say("The old database gets a name in B's homeserver.yaml, and B is restarted.")
    modules = sources(**{_SOURCE: world.a.database.synapse_config()})
    terminal.file(yaml.safe_dump({"modules": modules}, sort_keys=False))
    world.b.load_modules(modules)
    world.b.restart()


def _look(terminal: Terminal, world: OldRoom) -> Shell:
    shell = Shell(terminal, world.bob, world.room_id)
    terminal.say("Which rooms are in there, and what does B lack of them?")
    (room,) = shell.call(f"$API/sources/{_SOURCE}/rooms")["rooms"]
    if not room["joined"] or not 0 < room["missing"] < len(world.order):
        raise NotWhole("that is not what B lacks")
    return shell


def _import(terminal: Terminal, shell: Shell) -> None:
    terminal.heading("The import")
    terminal.say("What would an import bring? This only looks:")
    summary = shell.call("$API/rooms/$ROOM/import", {"source": _SOURCE})["summary"]
    terminal.say("All of it can come. The same again for real:")
    body = {"source": _SOURCE, "dry_run": False}
    status = f"$API/imports/{shell.call('$API/rooms/$ROOM/import', body)['import_id']}"
    shell.wait_until_over(status)
    terminal.say("It runs in the background, on the live server. A moment later:")
    job = shell.call(status)
    if (job["status"], job["imported"], job["skipped"]) != ("complete", summary["to_import"], {}):
        raise NotWhole("the import did not do what the dry run foretold")


def _show_found(terminal: Terminal, world: OldRoom) -> None:
    terminal.heading("The proof: B, held against what the old server showed on its last day")
    terminal.say("What B's user sees now:")
    for what, detail in prove(CHECKS, world):
        terminal.proved(what, detail)
    terminal.say("The history is there.")
