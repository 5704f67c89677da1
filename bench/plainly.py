"""A Synapse module for benchmarks alone: Synapse's persistence, fed in the shortest loop.

State groups are reused, so that contexts are ready for all but state events and merges. Nothing is
checked, nothing is done ahead, and nothing is done for speed or for the order of events.
"""

from __future__ import annotations

from typing import Any

from synapse.api.room_versions import KNOWN_ROOM_VERSIONS
from synapse.events import EventBase, make_event_from_dict
from synapse.events.snapshot import EventContext
from synapse.module_api import ModuleApi

from synapse_rejection_repair.adapter.import_writer import SynapseImportWriter
from synapse_rejection_repair.arrival_order import ArrivalOrder
from synapse_rejection_repair.domain.imports import ImportJob
from synapse_rejection_repair.domain.source import BEGINNING
from synapse_rejection_repair.import_jobs import ImportRunner
from synapse_rejection_repair.ports_imports import Source

_AT_ONCE = 100


class Plainly:
    """Puts that loop in the place of the import's own."""

    def __init__(self, config: dict[str, Any], api: ModuleApi) -> None:
        federation = api._hs.get_federation_event_handler()

        async def loop(
            self: ImportRunner, job: ImportJob, source: Source, writer: SynapseImportWriter
        ) -> ImportJob:
            version = KNOWN_ROOM_VERSIONS[writer._room_version]
            states, room_id = writer._states, job.room_id
            arrivals = ArrivalOrder(source, self.target, room_id, BEGINNING, _AT_ONCE)

            async def store(pairs: list[tuple[EventBase, EventContext]]) -> int:
                if pairs:
                    await federation.persist_events_and_notify(room_id, pairs, backfilled=True)
                states.stored()
                return len(pairs)

            imported = 0
            async for batch, _, _ in arrivals.batches():
                events = [make_event_from_dict(found.pdu or {}, version) for found in batch]
                await states.read({p for event in events for p in event.prev_event_ids()})
                pairs: list[tuple[EventBase, EventContext]] = []
                for event in events:
                    groups = states.groups(event.prev_event_ids())
                    if len(set(groups.values())) > 1:
                        # Synapse resolves states with the events as they are stored.
                        imported += await store(pairs)
                        pairs = []
                    context = await states.after(event, groups)
                    states.take(event.event_id, context)
                    pairs.append((event, context))
                imported += await store(pairs)
            return job.with_progress(imported=imported)

        ImportRunner._loop = loop  # type: ignore[assignment,method-assign]
