"""The states before and after events, as they will be once a plan is carried out."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from synapse_rejection_repair.domain.model import Node
from synapse_rejection_repair.domain.state import StateRef, replaced
from synapse_rejection_repair.planning.states import States
from synapse_rejection_repair.ports import DagReader


class EventStates:
    """Which event has which state: what the plan has found for it, or else what is stored.

    Args:
        states: the states themselves.
        dag: knows the stored state groups of events.
    """

    def __init__(self, states: States, dag: DagReader) -> None:
        self.states = states
        self._dag = dag
        self._groups: dict[str, int] = {}
        self._replaced: dict[str, str | None] | None = None
        self._restatable: Collection[str] = ()
        self._found: dict[str, StateRef] = {}

    async def read(self, event_ids: Collection[str], restatable: Collection[str] = ()) -> None:
        """Reads what is stored of some events; of all others that is forgotten.

        Args:
            event_ids: the events.
            restatable: those of them that may be restated.
        """
        self._groups = await self._dag.state_groups(event_ids)
        self._restatable, self._replaced = restatable, None

    def stored(self, event_id: str) -> StateRef | None:
        """The stored state of an event; `None` if it has none."""
        return self._groups.get(event_id)

    def after(self, event_id: str) -> StateRef | None:
        """The state after an event; `None` where none is known."""
        found = self._found.get(event_id)
        return self.stored(event_id) if found is None else found

    async def after_all(self, event_ids: Collection[str]) -> StateRef | None:
        """The state after some events together; `None` where none is known."""
        await self.read(event_ids)
        refs = {ref for i in event_ids if (ref := self.after(i)) is not None}
        return await self.states.merge(refs) if refs else None

    async def before(self, node: Node) -> StateRef | None:
        """The state before an event; `None` where it is not known here."""
        behind = {self.after(prev) for prev in node.prev_event_ids}
        refs = {ref for ref in behind if ref is not None}
        if not behind or None in behind:
            # Synapse asked another server for the state at the gap when it received the
            # event, and that is what it stored. Only m.room.create has nothing before it.
            stored = self.stored(node.event_id)
            if stored is None:
                return None
            refs.add(stored)
        return await self.states.merge(refs)

    def follows_found(self, node: Node) -> bool:
        """Whether the state after an event that it follows has been looked at already."""
        return any(prev in self._found for prev in node.prev_event_ids)

    def keep(self, node: Node) -> None:
        """Leaves an event the state that is stored, if one is."""
        self._go_on(node, self.stored(node.event_id))

    def accept(self, node: Node, before: StateRef | None) -> None:
        """Has an event change the state before it."""
        self._go_on(node, None if before is None else self.states.after(before, node))

    def pass_by(self, node: Node, before: StateRef | None) -> None:
        """Has a rejected event change nothing: what follows it takes over the state before it."""
        self._go_on(node, before)

    async def restate(self, node: Node) -> bool:
        """Finds the state at an accepted event anew; gives whether that is not what is stored."""
        stored, before = self._groups[node.event_id], await self.before(node)
        after = stored if before is None else self.states.after(before, node)
        changed = not await self.states.equal(stored, after)
        notes = await self._notes() if changed or node.key is not None else {}
        # Nothing can be done about what cannot be read.
        changed = changed and node.event_id in notes
        self._go_on(node, after if changed else stored)
        return changed or await self._replaces_another(node, before, notes)

    async def _notes(self) -> Mapping[str, str | None]:
        """What the events that may be restated replace, as noted; read where one has to be."""
        if self._replaced is None:
            self._replaced = await self._dag.replaced(self._restatable)
        return self._replaced

    async def _replaces_another(
        self, node: Node, before: StateRef | None, notes: Mapping[str, str | None]
    ) -> bool:
        """Whether a state event replaces another one than is noted with it.

        An event that overwrites what is wrong in the state before it has the right state after it.
        """
        if before is None or node.key is None or node.event_id not in notes:
            return False
        noted = notes[node.event_id]
        entry = (await self.states.lookup(before)([node.key])).get(node.key)
        return replaced(node.event_id, entry, noted) != noted

    def _go_on(self, node: Node, after: StateRef | None) -> None:
        if after is not None:
            self._found[node.event_id] = after
