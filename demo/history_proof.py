"""Whether a room's old history is on B: held against A, the old server, which is gone."""

from __future__ import annotations

from collections.abc import Callable

from demo.proof import NotWhole, same
from tests.oldworld import OldRoom, accepted, signed, states, untouched

Check = Callable[[OldRoom], str]
"""Looks at one thing, and says in a few words what it saw.

Raises `NotWhole`, or `MatrixError` where B refuses what A had.
"""

_PAGE = 7
"""Events on a page: so many pages that their seams are looked at."""


def _gone(world: OldRoom) -> str:
    if world.a.running:
        raise NotWhole(f"{world.a.name} still runs")
    return f"{world.a.name} is off"


def _in_order(world: OldRoom) -> str:
    seen = world.bob.messages(world.room_id, limit=_PAGE)
    ids = [event["event_id"] for event in seen]
    if len(ids) != len(set(ids)):
        raise NotWhole("an event comes twice")
    same(world.order, ids, "what the pages have, newest first")
    same("m.room.create", seen[-1]["type"], "the oldest event")
    return f"{len(ids)} events, {_PAGE} to a page"


def _unaltered(world: OldRoom) -> str:
    theirs = accepted(world.a, world.room_id)
    same(signed(world.a, theirs), signed(world.b, theirs), "what the events say")
    return "signatures and all"


def _states(world: OldRoom) -> str:
    theirs = accepted(world.a, world.room_id)
    a, b = states(world.a, theirs), states(world.b, theirs)
    same(a, b, "the state at each event")
    return "who was in the room, what its topic was"


def _search(world: OldRoom) -> str:
    found = world.bob.search("Wörd10", [world.room_id])
    same([world.messages[10]], found, "what is found for 'Wörd10'")
    return "a word that stands in one old message"


def _relations(world: OldRoom) -> str:
    bob, r = world.bob, world.room_id
    root = bob.event(r, world.thread_root)["unsigned"]["m.relations"]["m.thread"]
    replies = bob.relations(r, world.thread_root, "m.thread")
    same((3, 3), (root["count"], len(replies)), "the replies of the thread")
    edited = bob.event(r, world.edited)
    new = edited["unsigned"]["m.relations"]["m.replace"]["content"]["m.new_content"]["body"]
    same("Corrected5", new, "the edited message")
    (reaction,) = bob.relations(r, world.reacted, "m.annotation")
    same("👍", reaction["content"]["m.relates_to"]["key"], "the reaction")
    return "a thread of 3 replies, an edit, a reaction"


def _redacted(world: OldRoom) -> str:
    bob, r = world.bob, world.room_id
    shown = {event["event_id"]: event["content"] for event in bob.messages(r)}
    same({}, bob.event(r, world.redacted)["content"], "the redacted message")
    same({}, shown.get(world.redacted), "the redacted message on its page")
    same([], bob.search("Wörd7", [r]), "what is found for its word")
    return "neither on its page nor in the search"


def _not_told(world: OldRoom) -> str:
    told = world.bob.sync(world.since).get("rooms", {}).get("join", {})
    if world.room_id in told:
        raise NotWhole("a client that syncs is told of the room")
    return "an incremental /sync has nothing of the room"


def _untouched(world: OldRoom) -> str:
    same(world.facts, untouched(world.b, world.bob, world.room_id), "what is to stay as it was")
    return "state, members, unread counts"


def _goes_on(world: OldRoom) -> str:
    sent = world.bob.send_message(world.room_id, "I have read it all")
    newest = world.bob.messages(world.room_id)[0]["event_id"]
    same(sent, newest, "the newest message")
    return f"{world.bob.user_id} has sent a message on top of it"


def _logs(world: OldRoom) -> str:
    errors = world.b.errors_in_log()
    if errors:
        raise NotWhole(f"the log of {world.b.name} speaks of an error:\n{errors[0][:2000]}")
    return "over the restart, too"


CHECKS: dict[str, Check] = {
    "The old server is gone": _gone,
    "Every event is there once, in the old server's order, back to m.room.create": _in_order,
    "Each of them is the very event that the old server had": _unaltered,
    "The state at each of them is the old server's": _states,
    "The search finds an old message": _search,
    "The thread, the edit and the reaction are there": _relations,
    "The redacted message shows nothing": _redacted,
    "A client that was syncing all along is not told of it": _not_told,
    "Nothing that is new has changed": _untouched,
    "The room goes on": _goes_on,
    "No error is in B's log": _logs,
}
