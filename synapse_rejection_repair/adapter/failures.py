"""Events that Synapse fails to store, though nothing foretells it."""

from __future__ import annotations

from synapse_rejection_repair.adapter.database import Database
from synapse_rejection_repair.domain.model import Check, Node, Outcome, Verdict
from synapse_rejection_repair.errors import RepairError


def raise_unless_of_an_event(database: Database, error: Exception) -> None:
    """Raises what no event is to blame for, when some could not be stored.

    Args:
        database: Synapse's, which may be in trouble.
        error: what storing them has raised.
    """
    if isinstance(error, RepairError) or database.trouble(error) is not None:
        raise error


def in_words(error: Exception) -> str:
    """What to say of an error that Synapse has failed with.

    Its message could hold anything; where it was raised is in the log.
    """
    return f"Synapse failed to store it, with {type(error).__name__}: see Synapse's log"


class Failures:
    """Remembers them on the process where they failed, until the room's next repair begins."""

    def __init__(self) -> None:
        self._rooms: dict[str, list[str]] = {}
        self._errors: dict[str, str] = {}

    def note(self, room_id: str, event_id: str, error: Exception) -> None:
        """Remembers an event that could not be stored.

        Args:
            room_id: its room.
            event_id: the event.
            error: what storing it alone has raised.
        """
        self._rooms.setdefault(room_id, []).append(event_id)
        self._errors[event_id] = in_words(error)

    def forget(self, room_id: str) -> None:
        """Forgets a room's, so that they are tried again."""
        for event_id in self._rooms.pop(room_id, ()):
            self._errors.pop(event_id, None)

    def of(self, room_id: str) -> list[str]:
        """Those of a room, in the order in which they failed."""
        return list(self._rooms.get(room_id, ()))

    def verdict(self, node: Node) -> Verdict | None:
        """The verdict on an event that could not be stored; `None` on all others.

        What is accepted, however badly, stays so.
        """
        error = self._errors.get(node.event_id)
        if error is None:
            return None
        outcome = Outcome.REJECT if node.rejected else Outcome.UNKNOWN
        return Verdict(outcome, Check.VALIDITY, error)
