"""The first act: an incident, and its repair."""

from __future__ import annotations

from demo.curl import Shell
from demo.incident_proof import CHECKS
from demo.proof import NotWhole, prove
from demo.terminal import Terminal
from tests.harness.client import MatrixError
from tests.harness.federation import Pair
from tests.harness.incident import Incident, make_incident

_ROOM_VERSION = "10"


def play(terminal: Terminal, pair: Pair) -> Incident:
    """Plays the act, and returns the incident, which is repaired.

    Raises:
        NotWhole: something is not as it is to be.
    """
    incident = _break(terminal, pair)
    _show_broken(terminal, incident)
    shell = _understand(terminal, incident)
    _repair(terminal, shell)
    _show_whole(terminal, incident)
    return incident


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


def _understand(terminal: Terminal, incident: Incident) -> Shell:
    terminal.heading("What B's administrator finds")
    bob = incident.room.bob
    terminal.say(f"{bob.user_id} is an administrator of B, and has a shell.")
    shell = Shell(terminal, bob, incident.room.room_id)
    terminal.say("Which rooms have rejected events?")
    (room,) = shell.call("$API/rooms")["rooms"]
    terminal.say(
        "What happened in this one? One root, which passes the checks today; a cascade. Nothing is "
        "recorded of why the root was rejected, because the demo made its rejection up: Synapse's "
        "own would be in its log, and here under recorded."
    )
    (root,) = shell.call("$API/rooms/$ROOM/diagnosis")["roots"]
    if root["verdict"] != "accept" or root["cascade"]["count"] + 1 != room["rejected_events"]:
        raise NotWhole("that is not the diagnosis of the incident that was made")
    terminal.say("And what would have to be mended?")
    if shell.call("$API/rooms/$ROOM/health")["healthy"]:
        raise NotWhole("the room is said to be healthy")
    return shell


def _repair(terminal: Terminal, shell: Shell) -> None:
    terminal.heading("The repair")
    terminal.say("What would a repair do? This only looks:")
    plan = shell.call("$API/rooms/$ROOM/repair", {})
    terminal.say("That is what we want: the same again for real, bound to what we have just seen.")
    started = shell.call("$API/rooms/$ROOM/repair", {"dry_run": False, "plan": plan["fingerprint"]})
    status = f"$API/repairs/{started['repair_id']}"
    shell.wait_until_over(status)
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
    for what, detail in prove(CHECKS, incident):
        terminal.proved(what, detail)
    terminal.say("The room is whole.")
