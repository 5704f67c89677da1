"""Who may see an event, by the room's history visibility at the time."""

from __future__ import annotations

from collections.abc import Iterable


def hidden_from(visibility: object, members: Iterable[object]) -> bool:
    """Whether an event is hidden from all of a server's users who are in the room later.

    Args:
        visibility: the content of the event that set the history visibility.
        members: the contents of the membership events of the server's users at the time.
    """
    setting = visibility.get("history_visibility") if isinstance(visibility, dict) else None
    if setting not in ("invited", "joined"):
        # `shared` is also what is taken for anything that makes no sense.
        return False
    memberships = {m.get("membership") for m in members if isinstance(m, dict)}
    return "join" not in memberships and not (setting == "invited" and "invite" in memberships)
